"""The API as kubectl and the Python client see it: verbs, patches, selectors, errors."""

import json
import subprocess
import threading

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

from cluster import BINARY, deployment, pod, service


@pytest.fixture
def core(cluster):
    """The Python client's core/v1 API."""
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_health_version_and_discovery(cluster):
    for path in ("/healthz", "/livez", "/readyz"):
        assert cluster.raw(path) == "ok"
    assert json.loads(cluster.raw("/version"))["minor"] == "36"
    resources = cluster.kubectl("api-resources")
    for kind in ("Namespace Node Pod Service Endpoints EndpointSlice ConfigMap Secret ServiceAccount Event Lease "
                 "ReplicaSet Deployment Job DaemonSet").split():
        assert any(line.split()[-1] == kind for line in resources.splitlines()), kind
    assert "apiserver_request_total{" in cluster.raw("/metrics")


def test_explain_knows_fields(cluster):
    text = cluster.kubectl("explain", "deployment.spec.template.spec.containers.livenessProbe")
    assert "periodSeconds" in text and "DESCRIPTION" in text
    assert "containers" in cluster.kubectl("explain", "pod", "--recursive")


def test_apply_merges_and_prunes_what_it_owned(ns):
    ns.apply(config_map("m", a="1", b="2"))
    ns.kubectl("patch", "configmap", "m", "-p", '{"data": {"c": "3"}}')
    ns.apply(config_map("m", a="9"))
    assert ns.get("configmap", "m")["data"] == {"a": "9", "c": "3"}
    unchanged = ns.kubectl("apply", "-f", "-", input=config_map("m", a="9"))
    assert "unchanged" in unchanged


def test_apply_merges_lists_by_key(ns):
    ns.apply(deployment("web", 0))
    changed = deployment("web", 0)
    changed["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "e2e.test/busybox:1", "command": ["sleep", "1"]})
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    ns.apply(changed)
    containers = ns.get("deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [c["name"] for c in containers] == ["main", "side"] and containers[0]["env"][0]["value"] == "1"
    ns.apply(deployment("web", 0))
    containers = ns.get("deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [c["name"] for c in containers] == ["main"] and "env" not in containers[0]


def test_server_side_apply_owns_fields(ns):
    apply = lambda manager, *more, **data: ns.run(
        "apply", "--server-side", f"--field-manager={manager}", *more, "-f", "-", input=config_map("m", **data), check=False)
    assert apply("one", a="1", b="1").returncode == 0
    conflict = apply("two", a="2")
    assert conflict.returncode != 0 and 'conflict with "one"' in conflict.stderr and ".data.a" in conflict.stderr
    assert apply("two", "--force-conflicts", a="2").returncode == 0
    assert apply("one", b="1").returncode == 0
    assert ns.get("configmap", "m")["data"] == {"a": "2", "b": "1"}
    assert apply("two").returncode == 0
    assert ns.get("configmap", "m")["data"] == {"b": "1"}


def test_diff_shows_what_would_change(ns):
    ns.apply(deployment("web", 0))
    result = ns.run("diff", "-f", "-", input=deployment("web", 1), check=False)
    assert result.returncode == 1 and "+  replicas: 1" in result.stdout, result.stdout + result.stderr
    assert ns.run("diff", "-f", "-", input=deployment("web", 0), check=False).returncode == 0
    assert ns.get("deployment", "web")["spec"]["replicas"] == 0


def test_dry_run_changes_nothing(ns):
    ns.kubectl("create", "configmap", "m", "--from-literal=a=1", "--dry-run=server")
    assert "NotFound" in ns.refused("get", "configmap", "m")


def test_every_patch_type(ns):
    ns.apply(config_map("m", a="1", b="2"))
    patch = lambda kind, body: ns.kubectl("patch", "configmap", "m", f"--type={kind}", "-p", json.dumps(body))
    patch("json", [{"op": "replace", "path": "/data/a", "value": "x"}, {"op": "remove", "path": "/data/b"}])
    patch("merge", {"data": {"a": None, "c": "y"}})
    patch("strategic", {"metadata": {"labels": {"k": "v"}}})
    seen = ns.get("configmap", "m")
    assert seen["data"] == {"c": "y"} and seen["metadata"]["labels"] == {"k": "v"}
    assert "422" in ns.refused("patch", "configmap", "m", "--type=json", "-v=6", "-p", '[{"op": "test", "path": "/data/c", "value": "no"}]')


def test_labels_annotations_and_selectors(ns):
    for name, tier in (("a", "x"), ("b", "y"), ("c", "z")):
        ns.apply(config_map(name))
        ns.kubectl("label", "configmap", name, f"tier={tier}")
    listed = lambda *a: sorted(ns.kubectl("get", "configmap", "-o", "name", *a).split())
    assert listed("-l", "tier in (x, y)") == ["configmap/a", "configmap/b"]
    assert listed("-l", "tier,tier!=x") == ["configmap/b", "configmap/c"]
    assert listed("--field-selector", "metadata.name=c") == ["configmap/c"]
    ns.kubectl("delete", "configmap", "-l", "tier!=z", "--field-selector", "metadata.name!=kube-root-ca.crt")
    assert "configmap/c" in listed() and "configmap/a" not in listed()
    assert "unable to parse" in ns.refused("get", "configmap", "-l", "a in b c")


def test_optimistic_concurrency(ns, core):
    ns.apply(config_map("m", a="1"))
    stale = core.read_namespaced_config_map("m", ns.name)
    ns.kubectl("patch", "configmap", "m", "-p", '{"data": {"a": "2"}}')
    stale.data["a"] = "3"
    with pytest.raises(ApiException) as refused:
        core.replace_namespaced_config_map("m", ns.name, stale)
    assert refused.value.status == 409 and json.loads(refused.value.body)["reason"] == "Conflict"


def test_lists_are_paged_and_consistent(ns, core):
    for i in range(7):
        ns.apply(config_map(f"m{i}"))
    seen, token, revisions = [], None, set()
    while True:
        page = core.list_namespaced_config_map(ns.name, limit=3, _continue=token)
        seen += [m.metadata.name for m in page.items]
        revisions.add(page.metadata.resource_version)
        token = page.metadata._continue
        if not token:
            break
        if len(seen) == 3:
            ns.apply(config_map("late"))
    assert sorted(seen) == sorted(["kube-root-ca.crt"] + [f"m{i}" for i in range(7)])
    assert len(revisions) == 1


def test_watch_sees_every_change_in_order(ns, core):
    start = core.list_namespaced_config_map(ns.name).metadata.resource_version
    events = []
    done = threading.Event()

    def follow():
        for event in kubernetes.watch.Watch().stream(
            core.list_namespaced_config_map, ns.name, resource_version=start, timeout_seconds=20, label_selector="w=1"
        ):
            events.append((event["type"], event["object"].metadata.name))
            if len(events) == 4:
                done.set()
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    labelled = config_map("m", a="1")
    labelled["metadata"]["labels"] = {"w": "1"}
    ns.apply(labelled)
    ns.kubectl("patch", "configmap", "m", "-p", '{"data": {"a": "2"}}')
    ns.kubectl("label", "configmap", "m", "w-")
    ns.kubectl("label", "configmap", "m", "w=1")
    assert done.wait(20), events
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]


def test_the_python_client_creates_and_reads_pods(ns, core):
    core.create_namespaced_pod(ns.name, pod("it", "sh", "-c", "echo hello; sleep 3600"))
    ns.wait_ready("it")
    assert core.read_namespaced_pod_log("it", ns.name) == "hello\n"
    stream = kubernetes.stream.stream
    out = stream(core.connect_get_namespaced_pod_exec, "it", ns.name, command=["sh", "-c", "echo $((6*7))"], stdout=True, stderr=True)
    assert out.strip() == "42"
    ws = stream(core.connect_get_namespaced_pod_exec, "it", ns.name, command=["sh", "-c", "exit 3"], stdout=True, stderr=True, _preload_content=False)
    ws.run_forever(timeout=10)
    assert ws.returncode == 3
    deleted = core.delete_namespaced_pod("it", ns.name)
    assert deleted.metadata.deletion_timestamp is not None


def test_the_python_client_forwards_ports(ns, core):
    core.create_namespaced_pod(ns.name, pod("it", "sh", "-c", "echo deep > /www/index.html; exec httpd -f -p 8080 -h /www"))
    ns.wait_ready("it")
    forward = kubernetes.stream.portforward(core.connect_get_namespaced_pod_portforward, "it", ns.name, ports="8080")
    sock = forward.socket(8080)
    sock.setblocking(True)
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    data = b""
    while chunk := sock.recv(1024):
        data += chunk
    assert data.endswith(b"deep\n"), data


def test_finalizers_hold_an_object(ns):
    held = config_map("m")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    ns.apply(held)
    ns.kubectl("delete", "configmap", "m", "--wait=false")
    assert ns.get("configmap", "m")["metadata"]["deletionTimestamp"]
    ns.kubectl("patch", "configmap", "m", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    assert "NotFound" in ns.refused("get", "configmap", "m")


def test_status_is_written_apart(ns):
    ns.apply(deployment("web", 0))
    ns.kubectl("patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", '{"status": {"replicas": 0}, "spec": {"replicas": 7}}')
    assert ns.get("deployment", "web")["spec"]["replicas"] == 0
    scale = json.loads(ns.kubectl("get", "--raw", f"/apis/apps/v1/namespaces/{ns.name}/deployments/web/scale"))
    assert scale["kind"] == "Scale" and scale["status"]["selector"] == "app=web"


def status_of(cluster, method, path, body, content="application/json"):
    """Code and Status of a raw request."""
    import ssl
    import urllib.error
    import urllib.request
    import base64
    import tempfile
    import yaml

    config = yaml.safe_load(cluster.kubeconfig.read_text())
    user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pem.flush()
        context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
        context.load_cert_chain(pem.name)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server["server"] + path, data=data, method=method, headers={"Content-Type": content})
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_bad_input_gets_the_status_that_kubernetes_gives(ns, cluster):
    maps = f"/api/v1/namespaces/{ns.name}/configmaps"
    deployments = f"/apis/apps/v1/namespaces/{ns.name}/deployments"
    ns.apply(deployment("web", 0), config_map("m", a="1"), service("web"))
    other = {**config_map("x"), "metadata": {"name": "x", "namespace": "elsewhere"}}
    selector = deployment("web", 0)
    selector["spec"]["selector"]["matchLabels"] = {"app": "other"}
    selector["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    stale = {**config_map("m"), "metadata": {"name": "m", "resourceVersion": "1"}}
    big = config_map("big", a="x" * 1_600_000)
    wrong_type = deployment("w", 0)
    wrong_type["spec"]["replicas"] = "three"
    cases = [
        ("POST", maps, b'{"kind": "ConfigMap", ', 400, "BadRequest", None),
        ("POST", maps, b"\xff\xfe", 400, "BadRequest", None),
        ("POST", "/api/v1/namespaces/nowhere/configmaps", config_map("x"), 404, "NotFound", None),
        ("POST", f"/api/v1/namespaces/{ns.name}/widgets", config_map("x"), 404, "NotFound", None),
        ("POST", maps, {**config_map("x"), "kind": "Secret"}, 400, "BadRequest", None),
        ("POST", maps, other, 400, "BadRequest", None),
        ("POST", maps, config_map("Not_A_Name"), 422, "Invalid", "metadata.name"),
        ("POST", maps, config_map("m"), 409, "AlreadyExists", None),
        ("POST", deployments, wrong_type, 400, "BadRequest", None),
        ("PUT", f"{deployments}/web", selector, 422, "Invalid", "spec.selector"),
        ("PUT", f"{maps}/m", stale, 409, "Conflict", None),
        ("PUT", f"{maps}/other", config_map("m"), 400, "BadRequest", None),
        ("POST", f"/api/v1/namespaces/{ns.name}/pods", pod("p", image=""), 422, "Invalid", "spec.containers[0].image"),
        ("PATCH", f"{maps}/none", {}, 415, "UnsupportedMediaType", None),
        ("GET", f"{maps}?limit=x", b"", 400, "BadRequest", None),
        ("GET", f"{maps}?labelSelector=%3D%3D", b"", 400, "BadRequest", None),
        ("GET", f"{maps}?fieldSelector=spec.no=1", b"", 400, "BadRequest", None),
        ("DELETE", f"{maps}/none", b"", 404, "NotFound", None),
    ]
    for method, path, body, code, reason, field in cases:
        got, status = status_of(cluster, method, path, body or b"" if method == "GET" else body)
        assert (got, status.get("reason"), status.get("kind")) == (code, reason, "Status"), (method, path, status)
        if field:
            assert field in [c["field"] for c in status["details"]["causes"]], status
    code, status = status_of(cluster, "POST", maps, big)
    assert code in (413, 422) and status["kind"] == "Status", status
    code, _ = status_of(cluster, "PATCH", f"{maps}/m", b"[1]", "application/merge-patch+json")
    assert code in (400, 422)
    code, _ = status_of(cluster, "PATCH", f"{maps}/m", b'[{"op": "fly"}]', "application/json-patch+json")
    assert code in (400, 422)
    deep = b'{"kind":"ConfigMap","apiVersion":"v1","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    code, _ = status_of(cluster, "POST", maps, deep)
    assert code == 400
    assert ns.get("configmap", "m")["data"] == {"a": "1"}


def test_unknown_fields_are_refused_or_warned_about(ns):
    odd = {**config_map("m"), "dat": {}}
    assert 'unknown field "dat"' in ns.refused("apply", "--validate=strict", "-f", "-", input=odd)
    warned = ns.run("apply", "--validate=warn", "-f", "-", input=odd)
    assert 'unknown field "dat"' in warned.stderr
    assert "dat" not in ns.get("configmap", "m")


def test_strangers_are_turned_away(cluster):
    strange = subprocess.run(
        ["kubectl", "--server", f"https://127.0.0.1:{cluster.port}", "--token", "no.such.token", "--insecure-skip-tls-verify", "get", "pods"],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    assert strange.returncode != 0 and ("Unauthorized" in strange.stderr or "forbidden" in strange.stderr.lower() or "logged in" in strange.stderr), strange.stderr


def test_tables_are_what_people_expect(ns, cluster):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    assert ns.kubectl("get", "pods").splitlines()[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert ns.kubectl("get", "pods").splitlines()[1].split()[1:4] == ["1/1", "Running", "0"]
    wide = ns.kubectl("get", "pods", "-o", "wide").splitlines()[0]
    assert "NODE" in wide and "READINESS GATES" in wide
    assert ns.kubectl("get", "deploy,rs").count("web") >= 2
    node = cluster.kubectl("get", "nodes").splitlines()[1].split()
    assert node[1] == "Ready" and node[4].startswith("v1.36")
    assert "Successfully assigned" in ns.kubectl("describe", "pod")


def test_the_verbs_of_the_binary_itself(ns):
    def orlop(verb, *arguments, **more):
        return ns.cluster.orlop(verb, "--kubeconfig", ns.cluster.kubeconfig, *arguments, **more).stdout

    manifest = json.dumps(pod("it", "sh", "-c", "echo hi; sleep 3600"))
    assert "pod/it created" in orlop("apply", "-n", ns.name, "-f", "-", input=manifest)
    ns.wait_ready("it")
    assert "Running" in orlop("get", "pods", "-n", ns.name)
    assert orlop("logs", "it", "-n", ns.name).strip() == "hi"
    assert orlop("exec", "-n", ns.name, "it", "--", "echo", "there").strip() == "there"
    assert "deleted" in orlop("delete", "pod", "it", "-n", ns.name)
    assert "busybox" in subprocess.run([BINARY, "image", "ls", "--data-dir", ns.cluster.data], capture_output=True, text=True, check=True).stdout
    help_ = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
    assert "server" in help_ and "reset" in help_

"""The rest of kubectl's commands, as they are typed."""

import http.client
import json
import os
import socket
import subprocess
import urllib.request

from cluster import deployment, eventually, pod, service

IMAGE = "e2e.test/busybox:1"


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"g": "p"}}, "data": data}


class Started:
    """A kubectl that runs until it is left; `line` is what it says first."""

    def __init__(self, cluster, *arguments):
        command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        self.line = self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


def test_proxy_serves_the_api_on_a_port_and_on_a_socket(cluster, tmp_path):
    with Started(cluster, "proxy", "-p", "0", "--disable-filter") as proxy:
        port = int(proxy.line.rsplit(":", 1)[1])
        answer = json.load(urllib.request.urlopen(f"http://localhost:{port}/api/", timeout=5))
        assert answer["kind"] == "APIVersions" and answer["versions"] == ["v1"]
    path = tmp_path / "socket"
    with Started(cluster, "proxy", f"--unix-socket={path}"):
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/api")
        assert json.load(connection.getresponse())["versions"] == ["v1"]


def test_every_generator_of_create(ns, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "crt.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
                    "-out", certificate, "-subj", "/CN=x", "-days", "1"], check=True, capture_output=True)
    for words in (
        ("clusterrole", ns.name, "--verb=get", "--resource=pods", "--non-resource-url=/logs/*"),
        ("clusterrolebinding", ns.name, f"--clusterrole={ns.name}", "--user=jane", "--group=dev"),
        ("cronjob", "cj", f"--image={IMAGE}", "--schedule=0 0 1 1 *", "--", "date"),
        ("job", "from", "--from=cronjob/cj"),
        ("ingress", "ing", "--rule=foo.test/bar*=svc:80,tls=secret", "--class=x"),
        ("poddisruptionbudget", "pdb", "--selector=app=x", "--min-available=1"),
        ("priorityclass", ns.name, "--value=1000", "--preemption-policy=Never"),
        ("quota", "q", "--hard=pods=100", "--scopes=NotTerminating"),
        ("role", "r", "--verb=get", "--resource=pods,deployments.apps/scale"),
        ("rolebinding", "rb", "--role=r", f"--serviceaccount={ns.name}:default"),
        ("secret", "tls", "tls", f"--cert={certificate}", f"--key={key}"),
        ("service", "loadbalancer", "lb", "--tcp=80:80"),
        ("service", "nodeport", "np", "--tcp=80:80"),
        ("namespace", f"{ns.name}-more"),
    ):
        ns.kubectl("create", *words)
    try:
        assert ns.get("role", "r")["rules"][1] == {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}
        assert "from" in ns.kubectl("get", "jobs", "-o", "name")
        everything = ns.kubectl("get", "all,ing,pdb,quota", "-o", "name")
        assert "service/lb" in everything and "ingress.networking.k8s.io/ing" in everything
        assert "spec.scopes: Invalid value" in ns.refused("create", "quota", "wrong", "--hard=pods=1", "--scopes=Foo")
        bound = ns.kubectl("create", "token", "default", "--audience=x", "--bound-object-kind=Secret", "--bound-object-name=tls")
        assert bound.count(".") == 2
    finally:
        ns.cluster.kubectl("delete", "clusterrole/" + ns.name, "clusterrolebinding/" + ns.name, "priorityclass/" + ns.name,
                           f"namespace/{ns.name}-more", "--wait=false")


def test_apply_looks_at_edits_and_prunes_what_was_applied(ns, tmp_path):
    both, one = tmp_path / "both.json", tmp_path / "one.json"
    both.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [config_map("a", x="1"), config_map("b", x="1")]}))
    one.write_text(json.dumps(config_map("a", x="1")))
    ns.kubectl("apply", "-f", both)
    assert json.loads(ns.kubectl("apply", "view-last-applied", "configmap/a", "-o", "json"))["data"] == {"x": "1"}
    one.write_text(json.dumps(config_map("a", x="2")))
    ns.kubectl("apply", "set-last-applied", "-f", one)
    assert json.loads(ns.kubectl("apply", "view-last-applied", "configmap/a", "-o", "json"))["data"] == {"x": "2"}
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/x: \"2\"/x: \"3\"/' \"$1\"\n")
    editor.chmod(0o755)
    command = ["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "-n", ns.name, "apply", "edit-last-applied", "configmap/a"]
    subprocess.run(command, env={**os.environ, "KUBE_EDITOR": str(editor)}, check=True, capture_output=True, timeout=30)
    assert json.loads(ns.kubectl("apply", "view-last-applied", "configmap/a", "-o", "json"))["data"] == {"x": "3"}
    assert "configmap/b pruned" in ns.kubectl("apply", "-f", one, "--prune", "-l", "g=p", "--prune-allowlist=core/v1/ConfigMap")
    os.environ["KUBECTL_APPLYSET"] = "true"
    try:
        ns.kubectl("apply", "-f", both, "--prune", "--applyset=mine")
        assert "configmap/b pruned" in ns.kubectl("apply", "-f", one, "--prune", "--applyset=mine")
    finally:
        del os.environ["KUBECTL_APPLYSET"]
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(config_map("a", x="1")))
    (folder / "kustomization.yaml").write_text("resources: [a.json]\nnamePrefix: kz-\n")
    assert "configmap/kz-a created" in ns.kubectl("apply", "-k", folder)
    assert "kz-a" in ns.kubectl("kustomize", folder)
    assert "kz-a" in ns.kubectl("delete", "-k", folder)


def test_diff_replace_and_server_side_dry_run(ns):
    here = deployment("web", 1)
    ns.apply(here)
    other = json.loads(json.dumps(here).replace(IMAGE, "e2e.test/other:1"))
    said = ns.run("diff", "-f", "-", input=other, check=False)
    assert said.returncode == 1 and f"image: {IMAGE}" in said.stdout and "image: e2e.test/other:1" in said.stdout
    ns.kubectl("run", "it", f"--image={IMAGE}", "--labels=run=it", "--", "sleep", "3600")
    ns.wait_ready("it")
    changed = json.loads(json.dumps(ns.get("pod", "it")).replace(IMAGE, "e2e.test/other:1"))
    assert "replaced (server dry run)" in ns.kubectl("replace", "-f", "-", "--dry-run=server", input=changed)
    assert ns.get("pod", "it")["spec"]["containers"][0]["image"] == IMAGE
    ns.kubectl("replace", "-f", "-", input=changed)
    assert ns.get("pod", "it")["spec"]["containers"][0]["image"] == "e2e.test/other:1"
    before = ns.get("configmap", "kube-root-ca.crt")["metadata"]["uid"]
    ns.apply(config_map("m", a="1"))
    uid = ns.get("configmap", "m")["metadata"]["uid"]
    ns.kubectl("replace", "--force", "-f", "-", input=config_map("m", a="2"))
    assert ns.get("configmap", "m")["metadata"]["uid"] not in (uid, before)
    assert "(server dry run)" in ns.kubectl("delete", "configmap", "--all", "--dry-run=server")
    assert ns.get("configmap", "m")["data"] == {"a": "2"}


def test_set_changes_parts_of_workloads(ns):
    ns.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--replicas=0")
    ns.apply(config_map("m", key="value"))
    ns.kubectl("set", "env", "deployment/web", "A=1", "--from=configmap/m", "--prefix=M_")
    assert {"M_KEY=value", "M_A=1"} <= set(ns.kubectl("set", "env", "deployment/web", "--list", "--resolve").splitlines())
    ns.kubectl("set", "resources", "deployment", "web", "--limits=cpu=200m", "--requests=cpu=10m")
    ns.kubectl("set", "serviceaccount", "deployment", "web", "default")
    ns.kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    ns.kubectl("create", "rolebinding", "rb", "--role=r", "--user=a")
    ns.kubectl("set", "subject", "rolebinding", "rb", "--user=b", "--group=c")
    ns.kubectl("create", "service", "clusterip", "s", "--tcp=80")
    ns.kubectl("set", "selector", "service", "s", "a=b")
    spec = ns.get("deployment", "web")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "default"
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "200m"}, "requests": {"cpu": "10m"}}
    assert [s["name"] for s in ns.get("rolebinding", "rb")["subjects"]] == ["a", "b", "c"]
    assert ns.get("service", "s")["spec"]["selector"] == {"a": "b"}


def test_get_prints_in_every_form(ns, tmp_path):
    ns.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--replicas=0")
    file = tmp_path / "columns"
    file.write_text("NAME REPLICAS\n.metadata.name .spec.replicas\n")
    get = lambda *more: ns.kubectl("get", "deployment", "web", *more)
    assert get("-o", f"custom-columns-file={file}").split() == ["NAME", "REPLICAS", "web", "0"]
    assert get("-o", "go-template={{.spec.replicas}}") == "0" and get("-o", "name") == "deployment.apps/web\n"
    assert json.loads(get("-o", "jsonpath-as-json={.metadata.name}")) == ["web"]
    assert "kind: Deployment" in get("-o", "yaml") and "CONTAINERS" in get("-o", "wide")
    assert "deployment.apps/web" in get("--show-kind") and "APP" in get("-L", "app") and "app=web" in get("--show-labels")
    header, row = (line.split() for line in get("--subresource=scale").splitlines())
    assert header == ["NAME", "DESIRED", "AVAILABLE", "AGE"] and row[:3] == ["web", "0", "0"]
    assert ns.kubectl("get", "deployment", "none", "--ignore-not-found") == ""
    for number in (3, 1, 2):
        ns.apply(config_map(f"m{number}", a=str(number)))
    assert ns.kubectl("get", "configmap", "-l", "g=p", "--sort-by={.metadata.name}", "-o", "name").split() == [
        f"configmap/m{n}" for n in (1, 2, 3)]
    assert len(ns.kubectl("get", "configmap,deployment", "-l", "g=p", "--chunk-size=1", "--no-headers").splitlines()) == 3


def test_wait_sees_things_come_and_go(ns):
    waiting = Started(ns.cluster, "-n", ns.name, "wait", "--for=create", "configmap/late", "--timeout=20s")
    ns.apply(config_map("late", a="1"))
    with waiting:
        assert "condition met" in waiting.line
    ns.kubectl("wait", "--for=jsonpath={.data.a}=1", "configmap/late", "--timeout=5s")
    with Started(ns.cluster, "-n", ns.name, "get", "configmap", "late", "-w", "-o", "name") as watch:
        assert watch.line == "configmap/late\n"
        ns.kubectl("delete", "configmap", "late", "--wait=false")
    ns.kubectl("wait", "--for=delete", "configmap/late", "--timeout=5s")


def test_logs_are_cut_by_lines_bytes_and_time(ns):
    ns.kubectl("run", "gen", f"--image={IMAGE}", "--restart=Never", "--", "sh", "-c",
               "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); sleep 0.1; done")
    eventually(lambda: len(ns.logs("gen").splitlines()) > 12)
    assert len(ns.logs("gen", "gen", "--tail=1").splitlines()) == 1
    assert ns.logs("gen", "gen", "--limit-bytes=1") == "l"
    [line] = ns.logs("gen", "gen", "--tail=1", "--timestamps").splitlines()
    assert line.split()[0].endswith("Z") and line.split()[0].startswith("20")
    assert 0 < len(ns.logs("gen", "gen", "--since=1s").splitlines()) < len(ns.logs("gen", "gen", "--since=24h").splitlines())
    assert "previous terminated container" in ns.refused("logs", "gen", "-p")


def test_kinds_are_explained_and_all_of_them_described(cluster):
    listed = set(cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split())
    assert len(listed) > 40
    # Also what can only be created.
    for name in ("bindings", "tokenreviews", "localsubjectaccessreviews", "deployments", "crd"):
        assert "FIELDS:" in cluster.kubectl("explain", name, "--recursive"), name
    assert "FIELDS:" in cluster.kubectl("explain", "pods", "--recursive", "--output=plaintext-openapiv2")
    assert "targetCPUUtilizationPercentage" in cluster.kubectl("explain", "hpa", "--api-version=autoscaling/v1", "--recursive")
    assert 'field "nope" does not exist' in cluster.refused("explain", "pod.spec.nope")
    # This kubectl reads ServiceCIDRs in a version of its own.
    described = cluster.run("describe", ",".join(sorted(listed - {"servicecidrs.networking.k8s.io"})), "-A", check=False)
    # What other tests made may go between its listing and its description.
    assert [line for line in described.stderr.splitlines() if "(NotFound)" not in line] == [
        "Warning: v1 ComponentStatus is deprecated in v1.19+"]


def test_a_dump_of_the_cluster_has_its_pods_and_their_logs(ns, tmp_path):
    ns.apply(pod("it", "sh", "-c", "echo in the dump; sleep 3600"))
    ns.wait_ready("it")
    eventually(lambda: ns.logs("it"))
    ns.cluster.kubectl("cluster-info", "dump", f"--namespaces={ns.name}", f"--output-directory={tmp_path}")
    assert (tmp_path / ns.name / "it" / "logs.txt").read_text().splitlines()[1] == "in the dump"
    assert json.loads((tmp_path / ns.name / "pods.json").read_text())["items"][0]["metadata"]["name"] == "it"
    assert "Kubernetes control plane" in ns.cluster.kubectl("cluster-info")


def test_auth_reconcile_and_can_i_say_what_they_found(ns):
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r", "namespace": ns.name},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    reconcile = lambda: (lambda done: done.stdout + done.stderr)(ns.run("auth", "reconcile", "-f", "-", input=role))
    assert "reconciliation required create" in reconcile()
    role["rules"][0]["verbs"] = ["get", "list"]
    assert "missing rules added" in reconcile()
    assert ns.run("auth", "can-i", "create", "pods/exec", "--as=jane", check=False).stdout.strip() == "no"
    assert "selfsubjectreviews.authentication.k8s.io" in ns.kubectl("auth", "can-i", "--list", "--as=jane")


def test_rollouts_are_paused_resumed_and_known_by_their_history(ns):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    ns.kubectl("rollout", "pause", "deployment/web")
    assert "is already paused" in ns.refused("rollout", "pause", "deployment/web")
    ns.kubectl("set", "env", "deployment/web", "A=1")
    assert "REVISION" in ns.kubectl("rollout", "history", "deployment/web")
    ns.kubectl("rollout", "resume", "deployment/web")
    ns.wait_rollout("deployment/web")
    ns.kubectl("rollout", "undo", "deployment/web")
    ns.wait_rollout("deployment/web")
    assert "env" not in ns.get("deployment", "web")["spec"]["template"]["spec"]["containers"][0]


def test_a_label_is_put_on_a_pod_and_taken_off(ns):
    ns.apply(pod("pause", "sleep", "3600"))
    ns.wait_ready("pause")
    ns.kubectl("label", "pods", "pause", "testing-label=testing-label-value")
    assert "testing-label-value" in ns.kubectl("get", "pod", "pause", "-L", "testing-label")
    ns.kubectl("label", "pods", "pause", "testing-label-")
    assert "testing-label-value" not in ns.kubectl("get", "pod", "pause", "-L", "testing-label")


STORE = """mkdir -p /www/cgi-bin; cat > /www/cgi-bin/store <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
case "$QUERY_STRING" in *cmd=set*) echo "${QUERY_STRING##*value=}" > /tmp/value ;; esac
cat /tmp/value 2>/dev/null || echo nothing
END
chmod +x /www/cgi-bin/store; exec httpd -f -p 8080 -h /www"""

FRONT = """mkdir -p /www/cgi-bin; cat > /www/cgi-bin/guestbook <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
fetch "http://primary/cgi-bin/store?$QUERY_STRING"
END
chmod +x /www/cgi-bin/guestbook; echo ready > /www/index.html; exec httpd -f -p 8080 -h /www"""


def test_a_guestbook_of_two_tiers_answers_through_its_service(ns):
    unnamed = [{"port": 80, "targetPort": "http"}]
    port = {"readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1}}
    ns.apply(deployment("primary", 1, ["sh", "-c", STORE], container=port), deployment("frontend", 2, ["sh", "-c", FRONT], container=port),
             service("primary", ports=unnamed), service("frontend", ports=unnamed))
    ns.wait_rollout("deployment/primary")
    ns.wait_rollout("deployment/frontend")
    ask = lambda words: ns.kubectl("get", "--raw", f"/api/v1/namespaces/{ns.name}/services/frontend/proxy/cgi-bin/guestbook?{words}").strip()
    eventually(lambda: ask("cmd=get&key=messages&value=") == "nothing")
    assert ask("cmd=set&key=messages&value=TestEntry") == "TestEntry"
    assert ask("cmd=get&key=messages&value=") == "TestEntry"
    ns.kubectl("delete", "--grace-period=0", "--force", "deployment,service", "primary", "frontend")
    assert ns.kubectl("get", "deployment,service", "--no-headers") == ""

"""What a cluster tells of itself: the audit log, what nodes and pods use."""

import json
import subprocess

import pytest

import cluster as clusters
from cluster import eventually, pod
from host_server import Handler, SelfSigned, Server

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  users: [admin]
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
  users: [admin]
  resources: [{group: "", resources: [secrets, pods/exec]}]
- level: None
"""


def test_the_audit_log_says_who_did_what_as_its_policy_wants(own_cluster, tmp_path):
    policy, log = tmp_path / "policy.yaml", tmp_path / "log" / "audit.log"
    policy.write_text(POLICY)
    own_cluster.more_arguments = ["--audit-policy-file", policy, "--audit-log-path", log, "--audit-log-maxsize", 10]
    own_cluster.start()
    own_cluster.kubectl("create", "configmap", "shown", "--from-literal=k=v")
    own_cluster.kubectl("create", "secret", "generic", "hidden", "--from-literal=k=top-secret")
    assert "not found" in own_cluster.refused("get", "secret", "missing")

    def lines():
        return [json.loads(line) for line in log.read_text().splitlines()]

    def of(resource, verb):
        return [e for e in lines() if e["objectRef"]["resource"] == resource and e["verb"] == verb]

    created, = eventually(lambda: of("configmaps", "create"), what="the line about the ConfigMap")
    assert (created["kind"], created["apiVersion"], created["stage"]) == ("Event", "audit.k8s.io/v1", "ResponseComplete")
    assert created["user"]["username"] == "admin" and created["sourceIPs"] == ["127.0.0.1"]
    assert created["userAgent"].startswith("kubectl") and created["objectRef"]["name"] == "shown"
    assert created["requestObject"]["data"] == created["responseObject"]["data"] == {"k": "v"}
    assert created["annotations"]["authorization.k8s.io/decision"] == "allow"
    missing, = eventually(lambda: [e for e in of("secrets", "get") if e["objectRef"]["name"] == "missing"])
    assert missing["responseStatus"]["code"] == 404 and missing["responseStatus"]["reason"] == "NotFound"
    assert not any(secret in log.read_text() for secret in ("top-secret", "dG9wLXNlY3JldA"))

    own_cluster.import_image(own_cluster.archive)
    own_cluster.apply(pod("p", "sleep", "60"), "default")
    eventually(lambda: own_cluster.run("exec", "p", "--", "true").returncode == 0, what="an exec")
    stages = lambda: [e["stage"] for e in lines() if e["objectRef"].get("subresource") == "exec"][-2:]
    eventually(lambda: stages() == ["ResponseStarted", "ResponseComplete"], what="the lines about the exec")
    assert "apiserver_audit_event_total" in own_cluster.raw("/metrics")


class Collector(Handler):
    """Takes lists of audit events, the first of them only when it comes again."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(503 if len(self.server.seen) == 1 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def collector(tmp_path):
    """A receiver of audit events on this machine, and the kubeconfig file that names it."""
    identity = SelfSigned(tmp_path, "IP:127.0.0.1", "basicConstraints=critical,CA:FALSE")
    server = Server(("127.0.0.1", 0), Collector, identity, seen=[])
    server.config = tmp_path / "audit.kubeconfig"
    address = {"server": f"https://127.0.0.1:{server.server_port}/events", "certificate-authority": "cert.pem"}
    server.config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": address}], "users": [{"name": "u", "user": {"token": "let-me-in"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
    yield server
    server.end()


def test_the_audit_log_is_sent_to_whom_a_file_names(own_cluster, tmp_path, collector):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    own_cluster.more_arguments = [
        "--audit-policy-file", policy, "--audit-webhook-config-file", collector.config,
        "--audit-webhook-batch-max-wait", "200ms", "--audit-webhook-initial-backoff", "100ms"]
    own_cluster.start()
    own_cluster.kubectl("create", "configmap", "shown", "--from-literal=k=v")

    def sent():
        return [e for _, _, body in collector.seen[1:] for e in body["items"] if e["objectRef"].get("name") == "shown"]

    event = eventually(sent, what="the event")[0]
    assert (event["verb"], event["stage"], event["requestObject"]["data"]) == ("create", "ResponseComplete", {"k": "v"})
    (path, who, first), (_, _, second) = collector.seen[:2]
    assert (path, who, first["kind"], first["apiVersion"]) == ("/events", "Bearer let-me-in", "EventList", "audit.k8s.io/v1")
    assert first == second, "what was not taken comes again"
    own_cluster.kubectl("delete", "configmap", "shown")
    own_cluster.end()
    assert "delete" in [e["verb"] for e in sent()], "nothing is lost at the end"


def test_a_bad_audit_policy_is_refused_at_the_start_with_its_field(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Everything\n")
    arguments = ["--data-dir", tmp_path / "data", "--audit-policy-file", policy, "--https-port", "0", "--kubelet-port", "0"]
    server = [clusters.BINARY, "server", *map(str, arguments)]
    alone = subprocess.run(server, capture_output=True, text=True, timeout=30)
    assert alone.returncode != 0 and "--audit-log-path" in alone.stderr
    result = subprocess.run([*server, "--audit-log-path", "-"], capture_output=True, text=True, timeout=30)
    assert result.returncode != 0
    assert 'rules[0].level: Unsupported value: "Everything"' in result.stderr
    assert not (tmp_path / "data" / "store").exists()


BUSY = ["sh", "-c", "while :; do :; done"]


def test_kubectl_top_shows_what_nodes_and_containers_use(cluster, ns):
    busy = pod("busy", *BUSY, spec={"containers": [
        {"name": "spins", "image": "e2e.test/busybox:1", "command": BUSY, "resources": {"limits": {"cpu": "200m"}}},
        {"name": "sleeps", "image": "e2e.test/busybox:1", "command": ["sleep", "600"]},
    ]})
    ns.apply(busy, pod("idle", "sleep", "600"))
    ns.wait_ready("busy")
    ns.wait_ready("idle")

    def rows(*arguments):
        return [line.split() for line in ns.kubectl("top", *arguments, "--no-headers").splitlines()]

    def measured():
        found = {row[1]: row for row in rows("pod", "busy", "--containers")}
        return found if int(found["spins"][2].removesuffix("m")) >= 20 else None

    containers = eventually(measured, what="the rate of a busy container")
    # Its start may fall into the window.
    assert int(containers["sleeps"][2].removesuffix("m")) < int(containers["spins"][2].removesuffix("m"))
    assert containers["sleeps"][3].endswith("Mi")
    by_cpu = [row[0] for row in rows("pod", "--sort-by=cpu")]
    assert by_cpu == ["busy", "idle"]
    assert [row[0] for row in rows("pod", "-l", "app=idle")] == ["idle"]
    node, = rows("node", "--sort-by=memory")
    assert node[0] == cluster.node and node[1].endswith("m") and node[2].endswith("%") and node[3].endswith("Mi")

    metrics = json.loads(cluster.raw(f"/apis/metrics.k8s.io/v1beta1/namespaces/{ns.name}/pods/busy"))
    assert metrics["kind"] == "PodMetrics" and metrics["metadata"]["labels"] == {"app": "busy"}
    assert metrics["window"].endswith("s") and metrics["containers"][0]["usage"]["cpu"].endswith("n")
    table = ns.kubectl("get", "pods.metrics.k8s.io").splitlines()
    assert table[0].split() == ["NAME", "CPU", "MEMORY", "WINDOW"] and len(table) == 3
    assert 'pods.metrics.k8s.io "' in ns.refused("get", "pods.metrics.k8s.io", "missing")
    scraped = cluster.raw(f"/api/v1/nodes/{cluster.node}/proxy/metrics/resource")
    assert f'container_cpu_usage_seconds_total{{container="spins",namespace="{ns.name}",pod="busy"}}' in scraped


def test_who_may_view_a_namespace_may_see_what_its_pods_use(ns):
    ns.kubectl("create", "rolebinding", "jane", "--clusterrole=view", "--user=jane")
    assert ns.kubectl("auth", "can-i", "list", "pods.metrics.k8s.io", "--as=jane").strip() == "yes"
    assert "cannot list resource" in ns.refused("top", "node", "--as=jane")

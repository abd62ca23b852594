"""What a cluster tells of itself: the audit log."""

import json
import subprocess

import cluster as clusters
from cluster import eventually, pod

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
    stages = eventually(lambda: [e["stage"] for e in lines() if e["objectRef"].get("subresource") == "exec"][-2:])
    assert stages == ["ResponseStarted", "ResponseComplete"]
    assert "apiserver_audit_event_total" in own_cluster.raw("/metrics")


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

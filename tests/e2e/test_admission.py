"""Admission as users meet it: quotas, limits, pod security, policies in CEL, and a webhook of their own over TLS."""

import base64
import json

import pytest

from cluster import eventually, pod
from host_server import Handler, SelfSigned, Server, bundle


def test_a_quota_counts_and_refuses(ns):
    hard = {"configmaps": "3", "requests.cpu": "100m"}
    ns.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}})
    # The root certificate of the cluster is one ConfigMap already.
    eventually(lambda: ns.get("resourcequota", "q")["status"]["used"]["configmaps"] == "1")
    ns.kubectl("create", "configmap", "a")
    ns.kubectl("create", "configmap", "b")
    refused = ns.refused("create", "configmap", "c")
    assert 'configmaps "c" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3' in refused
    ns.kubectl("delete", "configmap", "a")
    ns.kubectl("create", "configmap", "c")
    refused = ns.refused("run", "c", "--image=e2e.test/busybox:1", "--", "sleep", "1")
    assert "failed quota: q: must specify requests.cpu for: c" in refused
    assert "3" in ns.kubectl("describe", "resourcequota", "q")


def test_a_limit_range_gives_defaults(ns):
    limit = {"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "128Mi"}}
    ns.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [limit]}})
    ns.apply(pod("small", "sleep", "60"))
    resources = ns.get("pod", "small")["spec"]["containers"][0]["resources"]
    assert resources == {"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}}


def test_pod_security_denies_and_warns(ns):
    labels = [f"pod-security.kubernetes.io/{mode}" for mode in ("enforce=baseline", "warn=restricted")]
    ns.kubectl("label", "namespace", ns.name, *labels)
    refused = ns.refused("run", "p", "--image=e2e.test/busybox:1", "--privileged", "--", "sleep", "1")
    assert 'violates PodSecurity "baseline:latest": privileged (container "p" must not set securityContext.privileged=true)' in refused
    made = ns.run("run", "q", "--image=e2e.test/busybox:1", "--", "sleep", "1")
    assert 'Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in made.stderr


def test_a_policy_in_cel_denies(cluster, ns):
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]
    validation = {"expression": "size(object.data) <= 1", "messageExpression": "'one key, not ' + string(size(object.data))"}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1"}
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [validation]}
    bound = {
        "policyName": ns.name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name}}},
    }
    cluster.apply({**kind, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": ns.name}, "spec": spec})
    cluster.apply({**kind, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": ns.name}, "spec": bound})
    try:
        refused = ns.refused("create", "configmap", "two", "--from-literal=a=1", "--from-literal=b=2")
        assert f"ValidatingAdmissionPolicy '{ns.name}' with binding '{ns.name}' denied request: one key, not 2" in refused
        ns.kubectl("create", "configmap", "one", "--from-literal=a=1")
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding", ns.name)
        cluster.kubectl("delete", "validatingadmissionpolicy", ns.name)


class Review(Handler):
    """Adds a key to every ConfigMap and refuses the one called bad."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        patch = json.dumps([{"op": "add", "path": "/data", "value": {"seen": request["operation"]}}])
        response = {"uid": request["uid"], "allowed": request["name"] != "bad", "status": {"message": "bad name"}}
        if response["allowed"]:
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def webhook(tmp_path):
    """The URL and certificate of a webhook on this machine, known by a certificate that it signed itself."""
    identity = SelfSigned(tmp_path, "IP:127.0.0.1")
    server = Server(("127.0.0.1", 0), Review, identity)
    yield f"https://127.0.0.1:{server.server_port}/review", bundle(identity)
    server.end()


def test_a_webhook_changes_and_refuses(cluster, ns, webhook):
    url, bundle = webhook
    hook = {
        "name": "maps.example.com",
        "clientConfig": {"url": url, "caBundle": bundle},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    }
    api = "admissionregistration.k8s.io/v1"
    cluster.apply({"apiVersion": api, "kind": "MutatingWebhookConfiguration", "metadata": {"name": ns.name}, "webhooks": [hook]})
    try:
        ns.kubectl("create", "configmap", "good")
        assert ns.get("configmap", "good")["data"] == {"seen": "CREATE"}
        refused = ns.refused("create", "configmap", "bad")
        assert 'admission webhook "maps.example.com" denied the request: bad name' in refused
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", ns.name)

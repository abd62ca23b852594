"""Priority and fairness: who may keep the API how busy."""

import ssl
import urllib.error
import urllib.request

import pytest

from cluster import eventually

API = "flowcontrol.apiserver.k8s.io/v1"


def test_the_schemas_of_every_cluster_are_there(cluster):
    rows = [line.split() for line in cluster.kubectl("get", "flowschemas", "--no-headers").splitlines()]
    assert ["exempt", "exempt", "1", "<none>"] in [row[:4] for row in rows]
    assert ["catch-all", "catch-all", "10000", "ByUser"] in [row[:4] for row in rows]
    assert {row[5] for row in rows} == {"False"}, rows
    levels = cluster.kubectl("get", "prioritylevelconfigurations", "--no-headers").splitlines()
    assert ["workload-low", "Limited", "100", "128", "6", "50"] in [line.split()[:6] for line in levels]
    refused = cluster.refused("patch", "flowschema", "exempt", "--type=merge", "-p", '{"spec": {"matchingPrecedence": 3}}')
    assert "spec of 'exempt' must equal the fixed value" in refused


@pytest.fixture
def closed(cluster, ns):
    """A level without seats for a service account of the test's namespace; its requests, as codes and headers."""
    ns.kubectl("create", "serviceaccount", "jane")
    token = ns.kubectl("create", "token", "jane").strip()
    limited = {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    cluster.apply({"apiVersion": API, "kind": "PriorityLevelConfiguration", "metadata": {"name": ns.name}, "spec": {"type": "Limited", "limited": limited}})
    rule = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": ns.name, "name": "jane"}}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}],
    }
    spec = {"priorityLevelConfiguration": {"name": ns.name}, "matchingPrecedence": 500, "rules": [rule]}
    cluster.apply({"apiVersion": API, "kind": "FlowSchema", "metadata": {"name": ns.name}, "spec": spec})

    def ask(path):
        request = urllib.request.Request(f"https://127.0.0.1:{cluster.port}{path}", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=30, context=ssl._create_unverified_context()) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers

    yield ask
    cluster.kubectl("delete", "flowschema", ns.name, "--ignore-not-found")
    cluster.kubectl("delete", "prioritylevelconfiguration", ns.name, "--ignore-not-found")


def test_a_level_without_seats_turns_its_requests_away(cluster, ns, closed):
    eventually(lambda: closed("/version")[0] == 429)
    code, headers = closed("/version")
    uid = cluster.get("flowschema", ns.name)["metadata"]["uid"]
    assert (code, headers["Retry-After"], headers["X-Kubernetes-PF-FlowSchema-UID"]) == (429, "1", uid)
    assert closed("/livez")[0] == 200, "probes are beyond limits"
    # Others, and other requests of the same account, go on.
    assert "gitVersion" in cluster.raw("/version")
    code, headers = closed("/apis")
    assert (code, headers["X-Kubernetes-PF-FlowSchema-UID"]) != (429, uid)
    cluster.kubectl("delete", "flowschema", ns.name)
    eventually(lambda: closed("/version")[0] == 200)

"""API servers behind this one: what is registered, what reaches them, and what happens while they are not there. The steps are those
of the conformance programme's aggregator test."""

import base64
import socket
import urllib.parse

import pytest
import urllib3
import yaml

from cluster import Namespace, eventually
from extension_server import Extension

SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
NAME = "v1.sample.example.com"


@pytest.fixture(scope="module")
def sample(cluster, tmp_path_factory):
    """An extension server in a namespace of its own, for all tests."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sample-system"}})
    config = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(config["certificate-authority-data"]).decode()
    sample = Extension(tmp_path_factory.mktemp("extension"), Namespace(cluster, "sample-system"), config["server"], authority)
    yield sample
    sample.end()
    sample.unregister()
    cluster.kubectl("delete", "namespace", "sample-system", "--wait=false")


@pytest.fixture
def extension(api, sample):
    """The extension server, registered for one test."""
    made = api.post(SERVICES, sample.api_service())
    assert made.code == 201, made.text
    available(api, "Passed")
    yield sample
    api.delete(f"{SERVICES}/{NAME}")
    sample.objects.clear()


def available(api, reason):
    """The condition of the APIService once it has a reason."""
    def look():
        found = api.get(f"{SERVICES}/{NAME}").ok()
        condition = found.get("status", {}).get("conditions", [{}])[0]
        return condition if condition.get("reason") == reason else None

    return eventually(look, timeout=20, what=f"reason {reason}")


def absent(group="absent.example.com"):
    return {
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"v1.{group}"},
        "spec": {"group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
                 "insecureSkipTLSVerify": True, "service": {"namespace": "default", "name": "nowhere"}},
    }


def test_what_is_served_here_is_listed_as_local(cluster):
    def rows():
        lines = cluster.kubectl("get", "apiservices", "--no-headers").splitlines()
        found = {line.split()[0]: line.split()[1:3] for line in lines}
        return found if all(row == ["Local", "True"] for row in found.values()) else None

    found = eventually(rows, what="all APIServices available")
    assert {"v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io", "v1beta1.metrics.k8s.io"} <= set(found)
    config = cluster.get("configmap", "extension-apiserver-authentication", "-n", "kube-system")["data"]
    assert config["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert config["requestheader-client-ca-file"] != config["client-ca-file"]
    cluster.kubectl("wait", "--for=condition=Available", "apiservice/v1.apps", "--timeout=10s")


def test_objects_of_an_extension_server_are_used_like_all_others(cluster, ns, api, extension):
    condition = available(api, "Passed")
    assert (condition["status"], condition["message"]) == ("True", "all checks passed")
    row = cluster.kubectl("get", "apiservice", NAME, "--no-headers").split()
    assert row[:3] == [NAME, "sample-system/sample-api", "True"]

    samples = f"{extension.root}/namespaces/{ns.name}/samples"
    sample = {"apiVersion": extension.api_version, "kind": "Sample", "metadata": {"name": "rest"}}
    answer = api.post(samples, sample)
    assert (answer.code, answer.json["metadata"]["name"]) == (201, "rest")
    assert [o["metadata"]["name"] for o in api.get(samples).ok()["items"]] == ["rest"]
    api.delete(f"{samples}/rest").ok()
    assert api.get(samples).ok()["items"] == []

    # By discovery: kubectl, its short names, explanations, and a watch.
    listed = cluster.kubectl("api-resources", "--api-group", extension.group, "--no-headers").split()
    assert listed == ["samples", "smp", "sample.example.com/v1", "true", "Sample"]
    ns.kubectl("create", "-f", "-", input={**sample, "metadata": {"name": "dynamic"}})
    assert ns.kubectl("get", "smp", "-o", "name") == "sample.sample.example.com/dynamic\n"
    assert "What is wanted of a sample." in cluster.kubectl("explain", "samples.spec")
    with api.watch(samples) as events:
        kind, found = next(events)
        assert (kind, found["metadata"]["name"]) == ("ADDED", "dynamic")
    ns.kubectl("delete", "sample", "dynamic")
    assert "not found" in ns.refused("get", "sample", "dynamic")


def test_an_extension_server_is_told_who_asks_and_asks_whether_they_may(cluster, ns, api, extension):
    samples = f"{extension.root}/namespaces/{ns.name}/samples"
    ns.kubectl("create", "role", "reader", "--verb=list", "--resource=samples.sample.example.com")
    ns.kubectl("create", "rolebinding", "jane", "--role=reader", "--user=jane")
    jane = {"Impersonate-User": "jane", "Impersonate-Group": "people", "Impersonate-Uid": "7",
            "Impersonate-Extra-example.com%2fscopes": "some", "X-Remote-User": "root", "X-Remote-Group": "system:masters"}
    answer = api.get(samples, headers=jane)
    assert answer.code == 200, answer.text
    asked = extension.seen[-1]
    assert asked["user"] == {"username": "jane", "groups": ["people", "system:authenticated"], "uid": "7",
                             "extra": {"example.com/scopes": ["some"]}}
    assert not any(key.lower().startswith(("impersonate-", "authorization")) for key in asked["headers"])
    told = {key.lower(): value for key, value in asked["headers"].items()}
    assert (told["x-forwarded-for"], told["audit-id"]) == ("127.0.0.1", answer.headers["Audit-Id"])

    # Who may not is stopped here already; without the proxy's certificate nobody is believed, and a token says who asks.
    before = len(extension.seen)
    refused = api.post(samples, {"metadata": {"name": "x"}}, headers={"Impersonate-User": "jane"})
    assert refused.code == 403 and 'User "jane" cannot create resource "samples"' in refused.json["message"]
    assert len(extension.seen) == before
    direct = urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False)
    urllib3.disable_warnings()
    url = f"https://127.0.0.1:{extension.port}{samples}"
    assert direct.request("GET", url, headers={"X-Remote-User": "root"}, retries=False).status == 401
    token = ns.kubectl("create", "token", "default").strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert direct.request("GET", url, headers=headers, retries=False).status == 403
    ns.kubectl("create", "rolebinding", "account", "--role=reader", f"--serviceaccount={ns.name}:default")
    eventually(lambda: direct.request("GET", url, headers=headers, retries=False).status == 200)
    assert extension.seen[-1]["user"]["username"] == f"system:serviceaccount:{ns.name}:default"


def test_connections_are_turned_over_to_the_extension_server(api, extension):
    server = urllib.parse.urlsplit(api.server)
    context = api.pool.connection_pool_kw["ssl_context"]
    with socket.create_connection((server.hostname, server.port), 10) as plain:
        with context.wrap_socket(plain, server_hostname=server.hostname) as stream:
            path = f"{extension.root}/namespaces/default/samples/a/echo"
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".encode())
            lines = stream.makefile("rb")
            assert lines.readline().startswith(b"HTTP/1.1 101 ")
            while lines.readline() != b"\r\n":
                pass
            stream.sendall(b"hello\n")
            assert lines.readline() == b"HELLO\n"


def test_an_extension_server_that_is_gone_is_said_to_be_so(cluster, api, extension):
    samples = f"{extension.root}/namespaces/default/samples"
    extension.endpoints(ready=False)
    condition = available(api, "MissingEndpoints")
    wanted = 'endpointslices for service/sample-api in "sample-system" have no addresses with port name ""'
    assert (condition["status"], condition["message"]) == ("False", wanted)
    answer = api.get(samples)
    assert (answer.code, answer.text) == (503, "service unavailable\n")
    assert "False (MissingEndpoints)" in cluster.kubectl("get", "apiservice", NAME)
    assert f'aggregator_unavailable_apiservice{{name="{NAME}"}} 1' in api.get("/metrics", accept="*/*").text
    extension.endpoints(ready=True)
    available(api, "Passed")
    assert api.get(samples).code == 200

    # Its process ends and begins again.
    extension.end()
    api.patch(f"{SERVICES}/{NAME}", {"spec": {"versionPriority": 100}}).ok()
    condition = available(api, "FailedDiscoveryCheck")
    assert "https://sample-api.sample-system.svc:7443/apis/sample.example.com/v1" in condition["message"]
    assert api.get(samples).code == 503
    extension.start(extension.port)
    available(api, "Passed")
    assert api.get(samples).code == 200

    # A certificate that its bundle does not vouch for is not taken, unless nobody looks.
    wrong = base64.b64encode(extension.known["client-ca-file"].encode()).decode()
    api.patch(f"{SERVICES}/{NAME}", {"spec": {"caBundle": wrong}}).ok()
    assert "tls: failed to verify certificate" in available(api, "FailedDiscoveryCheck")["message"]
    api.patch(f"{SERVICES}/{NAME}", {"spec": {"caBundle": None, "insecureSkipTLSVerify": True}}).ok()
    available(api, "Passed")
    cluster.kubectl("delete", "apiservice", NAME)
    eventually(lambda: api.get(samples).code == 404, what="requests that nobody serves")


def test_apiservices_are_changed_and_deleted_as_conformance_does(api, extension):
    one = f"{SERVICES}/{NAME}"
    status = api.get(f"{one}/status").ok()
    assert status["status"]["conditions"][0]["message"] == "all checks passed"
    assert api.patch(one, {"spec": {"versionPriority": 400}}).ok()["spec"]["versionPriority"] == 400
    assert NAME in [item["metadata"]["name"] for item in api.get(SERVICES).ok()["items"]]
    api.patch(one, {"metadata": {"labels": {"e2e-apiservice": "patched"}}}, type="strategic-merge-patch").ok()
    assert api.get(one).ok()["metadata"]["labels"] == {"e2e-apiservice": "patched"}

    def conditions():
        return {c["type"]: c for c in api.get(f"{one}/status").ok()["status"]["conditions"]}

    def update_status():
        status = api.get(f"{one}/status").ok()
        mine = {"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set from e2e test", "lastTransitionTime": None}
        status["status"]["conditions"].append(mine)
        return api.put(f"{one}/status", status).code == 200

    eventually(update_status)
    assert conditions()["StatusUpdated"]["message"] == "Set from e2e test"

    def replace():
        found = api.get(one).ok()
        found["metadata"]["labels"] = {NAME: "updated"}
        return api.put(one, found).code == 200

    eventually(replace)
    both = list(conditions().values())
    api.patch(f"{one}/status", {"status": {"conditions": [*both, {"type": "StatusPatched", "status": "True", "reason": "E2E",
                                                               "message": "Set by e2e test"}]}}).ok()
    assert {"Available", "StatusUpdated", "StatusPatched"} <= set(conditions())
    api.delete(SERVICES, {}, labelSelector=f"{NAME}=updated").ok()
    assert api.get(SERVICES, labelSelector=f"{NAME}=updated").ok()["items"] == []


def test_a_server_that_is_not_there_hinders_no_other_group(cluster):
    cluster.apply(absent())
    try:
        eventually(lambda: "False (ServiceNotFound)" in cluster.kubectl("get", "apiservice", "v1.absent.example.com"))
        assert "ServiceUnavailable" in cluster.refused("get", "--raw", "/apis/absent.example.com/v1")
        assert "deployments" in cluster.kubectl("api-resources")
        cluster.kubectl("get", "pods", "-A")
    finally:
        cluster.kubectl("delete", "apiservice", "v1.absent.example.com")
    eventually(lambda: "absent" not in cluster.raw("/apis"), what="the group gone from discovery")


def test_what_is_wrong_with_an_apiservice_is_named(cluster):
    wrong = absent("wrong.example.com")
    wrong["spec"]["groupPriorityMinimum"] = 0
    assert "spec.groupPriorityMinimum: Invalid value: 0: must be positive" in cluster.refused("apply", "-f", "-", input=wrong)
    wrong = absent("wrong.example.com")
    wrong["metadata"]["name"] = "other"
    assert 'must be `spec.version+"."+spec.group`: "v1.wrong.example.com"' in cluster.refused("apply", "-f", "-", input=wrong)

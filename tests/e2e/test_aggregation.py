"""API servers behind this one: what is registered, and what happens while one is not there."""

from cluster import eventually


def remote(group, service="nowhere"):
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{group}"},
        "spec": {
            "group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "insecureSkipTLSVerify": True, "service": {"namespace": "default", "name": service},
        },
    }


def test_what_is_served_here_is_listed_as_local(cluster):
    def rows():
        lines = cluster.kubectl("get", "apiservices", "--no-headers").splitlines()
        found = {line.split()[0]: line.split()[1:3] for line in lines}
        return found if all(row == ["Local", "True"] for name, row in found.items() if "example" not in name) else None

    found = eventually(rows, what="all APIServices available")
    assert {"v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io", "v1beta1.metrics.k8s.io"} <= set(found)
    config = cluster.get("configmap", "extension-apiserver-authentication", "-n", "kube-system")["data"]
    assert config["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert config["requestheader-client-ca-file"] != config["client-ca-file"]
    cluster.kubectl("wait", "--for=condition=Available", "apiservice/v1.apps", "--timeout=10s")


def test_a_server_that_is_not_there_hinders_no_other_group(cluster):
    cluster.apply(remote("absent.example.com"))
    try:
        eventually(lambda: "False (ServiceNotFound)" in cluster.kubectl("get", "apiservice", "v1.absent.example.com"))
        assert "ServiceUnavailable" in cluster.refused("get", "--raw", "/apis/absent.example.com/v1")
        listed = cluster.run("api-resources", check=False)
        assert "deployments" in listed.stdout and "absent.example.com/v1" in listed.stderr
        cluster.kubectl("get", "pods", "-A")
    finally:
        cluster.kubectl("delete", "apiservice", "v1.absent.example.com")
    eventually(lambda: "absent" not in cluster.raw("/apis"), what="the group gone from discovery")


def test_what_is_wrong_with_an_apiservice_is_named(cluster):
    wrong = remote("wrong.example.com")
    wrong["spec"]["groupPriorityMinimum"] = 0
    assert "spec.groupPriorityMinimum: Invalid value: 0: must be positive" in cluster.refused("apply", "-f", "-", input=wrong)
    wrong = remote("wrong.example.com")
    wrong["metadata"]["name"] = "other"
    assert 'must be `spec.version+"."+spec.group`: "v1.wrong.example.com"' in cluster.refused("apply", "-f", "-", input=wrong)

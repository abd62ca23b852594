"""What the conformance programme asks of namespaces and their end."""

import json

import kubernetes
import pytest

from cluster import eventually, pod


@pytest.fixture
def core(cluster):
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))


def exists(cluster, *what):
    return cluster.run("get", *what, check=False).returncode == 0


def test_its_status_and_its_labels_can_be_changed(ns, core):
    assert core.read_namespace_status(ns.name).status.phase == "Active"
    new = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by a test"}
    patched = core.patch_namespace_status(ns.name, {"metadata": {"annotations": {"patched": ns.name}}, "status": {"conditions": [new]}})
    assert patched.metadata.annotations["patched"] == ns.name
    assert [(c.reason, c.message) for c in patched.status.conditions] == [("E2E", "Patched by a test")]
    patched.status.conditions.append(kubernetes.client.V1NamespaceCondition(
        type="StatusUpdate", status="True", reason="E2E", message="Updated by a test"))
    updated = core.replace_namespace_status(ns.name, patched)
    assert [c.type for c in updated.status.conditions] == ["StatusPatch", "StatusUpdate"]
    updated.metadata.labels[ns.name] = "updated"
    assert core.replace_namespace(ns.name, updated).metadata.labels[ns.name] == "updated"
    assert core.patch_namespace(ns.name, {"metadata": {"labels": {"testLabel": "testValue"}}}).metadata.labels["testLabel"] == "testValue"


def test_a_finalizer_is_put_on_and_taken_off_through_finalize(ns, core):
    namespace = core.read_namespace(ns.name)
    assert namespace.spec.finalizers == ["kubernetes"]
    namespace.spec.finalizers.append("e2e.test/fake")
    assert core.replace_namespace_finalize(ns.name, namespace).spec.finalizers == ["kubernetes", "e2e.test/fake"]
    namespace = core.read_namespace(ns.name)
    namespace.spec.finalizers.remove("e2e.test/fake")
    assert core.replace_namespace_finalize(ns.name, namespace).spec.finalizers == ["kubernetes"]


def test_pods_go_before_all_else(cluster, core):
    name = "ordered-deletion"
    cluster.kubectl("create", "namespace", name)
    eventually(lambda: exists(cluster, "-n", name, "serviceaccount", "default"))
    held = pod("held", "sleep", "3600")
    held["metadata"]["finalizers"] = ["e2e.test/finalizer"]
    cluster.apply(held, name)
    cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod/held", "--timeout=30s")
    cluster.kubectl("-n", name, "create", "configmap", "needed", "--from-literal=key=value")
    cluster.kubectl("delete", "namespace", name, "--wait=false")

    def conditions():
        status = cluster.get("namespace", name)["status"]
        assert status["phase"] == "Terminating"
        return {c["type"]: (c["status"], c["message"]) for c in status.get("conditions", [])}

    said = eventually(lambda: conditions().get("NamespaceFinalizersRemaining", ("",))[0] == "True" and conditions())
    assert said["NamespaceDeletionContentFailure"] == ("False", "All content successfully deleted, may be waiting on finalization")
    assert said["NamespaceContentRemaining"] == ("True", "Some resources are remaining: pods. has 1 resource instances")
    assert said["NamespaceFinalizersRemaining"] == (
        "True", "Some content in the namespace has finalizers remaining: e2e.test/finalizer in 1 resource instances")
    assert cluster.get("-n", name, "pod", "held")["metadata"]["deletionTimestamp"]
    assert "deletionTimestamp" not in cluster.get("-n", name, "configmap", "needed")["metadata"]
    last = core.read_namespaced_pod("held", name)
    last.metadata.finalizers = []
    core.replace_namespaced_pod("held", name, last)
    eventually(lambda: not exists(cluster, "-n", name, "pod", "held"))
    eventually(lambda: not exists(cluster, "namespace", name))


def test_pods_and_services_of_a_deleted_namespace_are_not_in_a_new_one_of_its_name(cluster):
    name = "made-twice"
    cluster.kubectl("create", "namespace", name)
    eventually(lambda: exists(cluster, "-n", name, "serviceaccount", "default"))
    cluster.apply(pod("it", "sleep", "3600"), name)
    cluster.kubectl("-n", name, "create", "service", "clusterip", "it", "--tcp=80")
    cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod/it", "--timeout=30s")
    cluster.kubectl("delete", "namespace", name, "--timeout=30s")
    cluster.kubectl("create", "namespace", name)
    try:
        assert "NotFound" in cluster.refused("-n", name, "get", "pod", "it")
        assert "NotFound" in cluster.refused("-n", name, "get", "service", "it")
        eventually(lambda: exists(cluster, "-n", name, "serviceaccount", "default"))
        refused = json.loads(cluster.kubectl("get", "namespace", name, "-o", "json"))
        assert refused["status"]["phase"] == "Active" and refused["metadata"]["labels"] == {"kubernetes.io/metadata.name": name}
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")

"""Mutating admission policies through kubectl."""

import pytest

API = "admissionregistration.k8s.io/v1"


@pytest.fixture
def bind(cluster, ns):
    """Makes a policy that holds in the test's namespace only."""

    def make(resource, expression, **spec):
        group, _, plural = resource.rpartition("/")
        rules = [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [plural]}]
        apply = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}
        patch = {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}
        spec = {
            "matchConstraints": {"resourceRules": rules},
            "mutations": [apply if expression.startswith("Object") else patch],
            "reinvocationPolicy": "Never",
            **spec,
        }
        bound = {
            "policyName": ns.name,
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name}}},
        }
        cluster.apply({"apiVersion": API, "kind": "MutatingAdmissionPolicy", "metadata": {"name": ns.name}, "spec": spec})
        cluster.apply({"apiVersion": API, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": ns.name}, "spec": bound})

    yield make
    cluster.kubectl("delete", "mutatingadmissionpolicybinding", ns.name, "--ignore-not-found")
    cluster.kubectl("delete", "mutatingadmissionpolicy", ns.name, "--ignore-not-found")


def test_a_policy_changes_what_is_created(cluster, ns, bind):
    bind("apps/deployments", "Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, spec: Object.spec{replicas: 0}}")
    ns.kubectl("create", "deployment", "d", "--image=e2e.test/busybox:1", "--replicas=3")
    made = ns.get("deployment", "d")
    assert (made["metadata"]["annotations"]["by"], made["spec"]["replicas"]) == ("policy", 0)
    row = cluster.kubectl("get", "mutatingadmissionpolicies", ns.name, "--no-headers").split()
    assert row[1:3] == ["1", "<unset>"]
    assert "apply configuration" in cluster.kubectl("explain", "mutatingadmissionpolicy.spec.mutations.applyConfiguration")


def test_a_policy_patches_and_refuses_what_it_cannot_patch(ns, bind):
    add = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('e2e.test/size'), value: string(size(object.data))}]"
    bind("configmaps", add)
    labelled = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"x": "y"}}
    ns.apply(labelled)
    assert ns.get("configmap", "a")["metadata"]["labels"] == {"x": "y", "e2e.test/size": "1"}
    # Without data there is nothing to count.
    refused = ns.refused("create", "configmap", "empty")
    assert f"policy '{ns.name}' with binding '{ns.name}' denied request: no such key: data" in refused


def test_an_expression_that_makes_no_object_is_refused(cluster, ns, bind):
    with pytest.raises(Exception, match="must evaluate to list\\(JSONPatch\\) but got int"):
        bind("configmaps", "1 + 1")

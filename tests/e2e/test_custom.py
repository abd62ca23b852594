"""Custom resources as kubectl and the Python dynamic client see them: the CronTab of the documentation in whole."""

import itertools
import json

import kubernetes
import pytest
from kubernetes.dynamic import DynamicClient

_numbers = itertools.count(1)

SPEC = {
    "type": "object", "required": ["cronSpec"],
    "properties": {
        "cronSpec": {"type": "string", "description": "When it runs.",
                     "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
        "image": {"type": "string", "default": "busybox"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
        "jobs": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                 "items": {"type": "object", "required": ["name"],
                           "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
    },
    "x-kubernetes-validations": [
        {"rule": "self.replicas <= 5 || self.image != 'small'", "message": "small is small"},
        {"rule": "self.image == oldSelf.image", "message": "image is fixed"},
    ],
}


def definition(group, spec=SPEC):
    """The CronTab of the documentation."""
    status = {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"crontabs.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"],
                      "categories": [group.split(".")[0]]},
            "versions": [{
                "name": "v1", "served": True, "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.image"}],
            }],
        },
    }


@pytest.fixture
def group(cluster):
    """The group of a CronTab that is defined and established."""
    group = f"g{next(_numbers)}.example.com"
    cluster.apply(definition(group))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/crontabs.{group}", "--timeout=10s")
    yield group
    cluster.kubectl("delete", "crd", f"crontabs.{group}", "--ignore-not-found", "--wait=false")


def tab(group, name="a", **spec):
    return {"apiVersion": f"{group}/v1", "kind": "CronTab", "metadata": {"name": name},
            "spec": {"cronSpec": "* * * * */5", **spec}}


def test_an_object_is_defaulted_pruned_and_listed(ns, group):
    ns.kubectl("apply", "--validate=false", "-f", "-", input=tab(group, odd=1))
    made = ns.get("crontab", "a")
    assert made["spec"] == {"cronSpec": "* * * * */5", "image": "busybox", "replicas": 1}
    lines = ns.kubectl("get", "ct").splitlines()
    assert lines[0].split() == ["NAME", "SPEC", "REPLICAS", "AGE"] and lines[1].startswith("a ")
    assert "crontab" in ns.kubectl("get", group.split(".")[0], "-o", "name"), "by category"
    assert "a" in ns.kubectl("get", "ct", "--field-selector", "spec.image=busybox", "-o", "name")
    assert ns.kubectl("get", "ct", "--field-selector", "spec.image=x", "-o", "name") == ""


def test_a_wrong_object_is_refused_with_the_reason(ns, group):
    assert "spec.replicas in body should be less than or equal to 10" in ns.refused("create", "-f", "-", input=tab(group, replicas=11))
    assert "small is small" in ns.refused("create", "-f", "-", input=tab(group, image="small", replicas=6))
    assert 'unknown field "spec.odd"' in ns.refused("create", "-f", "-", input=tab(group, odd=1))
    ns.apply(tab(group))
    assert "image is fixed" in ns.refused("patch", "ct", "a", "--type=merge", "-p", '{"spec": {"image": "x"}}')


def test_explain_tells_the_schema(cluster, group):
    text = cluster.kubectl("explain", "crontabs.spec", "--api-version", f"{group}/v1")
    assert "cronSpec" in text and "When it runs." in text


def test_scale_and_status(ns, group):
    ns.apply(tab(group))
    ns.kubectl("scale", "ct/a", "--replicas=3")
    assert ns.get("crontab", "a")["spec"]["replicas"] == 3
    ns.kubectl("patch", "ct", "a", "--subresource=status", "--type=merge", "-p", '{"status": {"replicas": 2}}')
    made = ns.get("crontab", "a")
    assert made["status"] == {"replicas": 2} and made["metadata"]["generation"] == 2


def test_server_side_apply_merges_lists_by_key(ns, group):
    for manager, job in (("one", "x"), ("two", "y")):
        ns.kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-",
                   input=tab(group, jobs=[{"name": job, "n": 1}]))
    assert [j["name"] for j in ns.get("crontab", "a")["spec"]["jobs"]] == ["x", "y"]
    error = ns.refused("apply", "--server-side", "--field-manager=two", "-f", "-",
                    input=tab(group, jobs=[{"name": "x", "n": 5}]))
    assert "conflict" in error


def test_a_bad_schema_is_refused(cluster):
    bad = json.loads(json.dumps(definition("bad.example.com")))
    fields = bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["x"] = {}
    error = cluster.refused("create", "-f", "-", input=bad)
    assert "properties[x].type: Required value: must not be empty for specified object fields" in error
    fields["x"] = {"type": "string", "x-kubernetes-validations": [{"rule": "self.nope"}]}
    assert "compilation failed" in cluster.refused("create", "-f", "-", input=bad)


def test_the_dynamic_client_works_on_custom_objects(cluster, ns, group):
    client = DynamicClient(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))
    api = client.resources.get(api_version=f"{group}/v1", kind="CronTab")
    api.create(body=tab(group), namespace=ns.name)
    patched = api.patch(name="a", namespace=ns.name, body={"spec": {"replicas": 4}},
                        content_type="application/merge-patch+json")
    assert patched.spec.replicas == 4
    assert [o.metadata.name for o in api.get(namespace=ns.name).items] == ["a"]
    api.delete(name="a", namespace=ns.name)


def test_deleting_the_definition_deletes_the_objects(cluster, ns, group):
    ns.apply(tab(group))
    cluster.kubectl("delete", "crd", f"crontabs.{group}", "--timeout=10s")
    assert "the server doesn't have a resource type" in ns.refused("get", f"crontabs.{group}")

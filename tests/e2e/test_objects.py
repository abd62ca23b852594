"""Rules of every object: names, revisions, owners, namespaces."""

import json
import threading

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

from cluster import deployment, eventually, pod


@pytest.fixture
def core(cluster):
    """The Python client's core/v1 API."""
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))


def config_map(name=None, owner=None, **metadata):
    if name:
        metadata["name"] = name
    if owner:
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        metadata["ownerReferences"] = [reference]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_names_are_generated(ns, core):
    made = {core.create_namespaced_config_map(ns.name, config_map(generateName="part-")).metadata.name for _ in range(20)}
    assert len(made) == 20 and all(n.startswith("part-") and len(n) == 10 for n in made)


def test_resource_versions_follow_the_rules(ns, core):
    first = core.create_namespaced_config_map(ns.name, config_map("m")).metadata.resource_version
    listed = core.list_namespaced_config_map(ns.name)
    at = listed.metadata.resource_version
    assert int(at) >= int(first)
    core.create_namespaced_config_map(ns.name, config_map("later"))
    names = lambda **how: {m.metadata.name for m in core.list_namespaced_config_map(ns.name, **how).items}
    assert "later" in names(resource_version=at) and "later" in names(resource_version="0")
    assert "later" not in names(resource_version=at, resource_version_match="Exact")
    with pytest.raises(ApiException) as future:
        core.list_namespaced_config_map(ns.name, resource_version="999999999", resource_version_match="NotOlderThan")
    assert future.value.status == 504 and "Too large resource version" in future.value.body
    with pytest.raises(ApiException) as nonsense:
        core.list_namespaced_config_map(ns.name, resource_version="x")
    assert nonsense.value.status == 400
    # A write that changes nothing makes no new version.
    before = core.read_namespaced_config_map("m", ns.name)
    assert core.replace_namespaced_config_map("m", ns.name, before).metadata.resource_version == before.metadata.resource_version


def test_a_watch_gives_bookmarks_and_starts_with_what_is_there(ns, core):
    core.create_namespaced_config_map(ns.name, config_map("m"))
    path = f"/api/v1/namespaces/{ns.name}/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan" \
        "&allowWatchBookmarks=true&timeoutSeconds=2"
    events = [json.loads(line) for line in ns.cluster.raw(path).splitlines()]
    kinds = [e["type"] for e in events]
    assert kinds[: kinds.index("BOOKMARK")].count("ADDED") == len(core.list_namespaced_config_map(ns.name).items)
    mark = events[kinds.index("BOOKMARK")]["object"]["metadata"]
    assert mark["annotations"]["k8s.io/initial-events-end"] == "true"


def test_owned_objects_go_with_their_owner(ns):
    make = lambda *a, **k: json.loads(ns.kubectl("create", "-o", "json", "-f", "-", input=config_map(*a, **k)))
    owner = make("owner")
    child = make("child", owner=owner)
    make("grandchild", owner=child)
    make("stranger")
    absent = {"metadata": {"name": "gone", "uid": "00000000-0000-0000-0000-000000000000"}}
    make("orphan", owner=absent)
    ns.kubectl("delete", "configmap", "owner")
    left = lambda: set(ns.kubectl("get", "configmaps", "-o", "name").split())
    eventually(lambda: left() == {"configmap/stranger", "configmap/kube-root-ca.crt"}, what="collection")


def test_a_namespace_ends_its_pods_gracefully_and_takes_no_more(cluster):
    name = "ending"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    slow = pod("slow", "sh", "-c", "trap 'sleep 1; echo bye; exit 0' TERM; while true; do sleep 0.05; done",
               spec={"terminationGracePeriodSeconds": 20})
    cluster.apply(slow, name)
    cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod/slow", "--timeout=30s")
    follow = threading.Thread(target=lambda: said.append(cluster.kubectl("-n", name, "logs", "-f", "slow")))
    said = []
    follow.start()
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    assert cluster.get("namespace", name)["status"]["phase"] == "Terminating"
    assert "being terminated" in cluster.refused("-n", name, "create", "configmap", "late")
    cluster.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=40s")
    follow.join(20)
    assert said and "bye" in said[0]
    assert "kubernetes" in cluster.kubectl("-n", "default", "get", "services", "-o", "name")
    assert "forbidden" in cluster.refused("delete", "namespace", "default")


def test_collections_are_deleted_by_selector(ns, core):
    for i in range(4):
        core.create_namespaced_config_map(ns.name, config_map(f"m{i}", labels={"half": str(i % 2)}))
    core.delete_collection_namespaced_config_map(ns.name, label_selector="half=1")
    assert {m.metadata.name for m in core.list_namespaced_config_map(ns.name).items} == {"m0", "m2", "kube-root-ca.crt"}


def test_preconditions_guard_a_delete(ns, core):
    made = core.create_namespaced_config_map(ns.name, config_map("m"))
    for guard in ({"uid": "another"}, {"resourceVersion": "1"}):
        with pytest.raises(ApiException) as refused:
            core.delete_namespaced_config_map("m", ns.name, body={"preconditions": guard})
        assert refused.value.status == 409
    core.delete_namespaced_config_map("m", ns.name, body={"preconditions": {"uid": made.metadata.uid}})


def test_immutable_things_stay(ns):
    ns.apply({**config_map("m"), "data": {"a": "1"}, "immutable": True})
    assert "immutable" in ns.refused("patch", "configmap", "m", "-p", '{"data": {"a": "2"}}')
    ns.apply(pod("it", "sleep", "3600"))
    assert "pod updates may not change fields" in ns.refused("patch", "pod", "it", "-p", '{"spec": {"hostname": "other"}}')
    ns.apply(deployment("web", 0))
    said = ns.refused("patch", "deployment", "web", "--type=merge", "-p", '{"spec": {"selector": {"matchLabels": {"x": "y"}}}}')
    assert "field is immutable" in said or "selector" in said


@pytest.mark.parametrize("text, said", [
    ("kind: ConfigMap\n  bad: [", "error"),
    ("apiVersion: v1\nkind: Widget\nmetadata: {name: w}\n", "no matches for kind"),
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: UPPER}\n", "RFC 1123"),
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, labels: {a: 'b c'}}\n", "metadata.labels"),
    ("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: '%%'}\n", "illegal base64"),
    ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 70000}]}\n", "spec.ports[0].port"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "spec.containers"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, resources: {limits: {cpu: lots}}}]}\n", "quantities"),
])
def test_bad_manifests_name_what_is_wrong(ns, text, said):
    assert said in ns.refused("apply", "--validate=ignore", "-f", "-", input=text)

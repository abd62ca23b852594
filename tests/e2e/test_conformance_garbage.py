"""Garbage collection as the conformance programme tries it, with owners of every kind."""

import itertools

import pytest

from cluster import eventually, pod

_numbers = itertools.count(1)


def options(policy, uid):
    return {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy, "preconditions": {"uid": uid}}


def template(label):
    container = {"name": "main", "image": "e2e.test/busybox:1", "command": ["sleep", "600"]}
    return {"metadata": {"labels": {"app": label}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}


class Place:
    """The objects of one namespace."""

    def __init__(self, api, ns):
        self.api, self.core, self.apps = api, f"/api/v1/namespaces/{ns.name}", f"/apis/apps/v1/namespaces/{ns.name}"

    def items(self, resource):
        return self.api.get(f"{self.apps if resource in ('deployments', 'replicasets') else self.core}/{resource}").ok()["items"]

    def counts(self, **wanted):
        eventually(lambda: {r: len(self.items(r)) for r in wanted} == wanted, timeout=15, what=str(wanted))

    def rc(self, name, replicas):
        body = {"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"app": name}, "template": template(name)}}
        made = self.api.post(f"{self.core}/replicationcontrollers", body).ok()
        url = f"{self.core}/replicationcontrollers/{name}"
        eventually(lambda: self.api.get(url).ok()["status"].get("replicas") == (replicas or 0), timeout=15)
        return url, made["metadata"]["uid"]

    def deployment(self, name):
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template(name)}
        made = self.api.post(f"{self.apps}/deployments", {"metadata": {"name": name}, "spec": spec}).ok()
        self.counts(replicasets=1)
        return f"{self.apps}/deployments/{name}", made["metadata"]["uid"]


@pytest.fixture
def place(api, ns):
    return Place(api, ns)


def owner(kind, name, uid, version="v1", **more):
    return {"metadata": {"ownerReferences": [{"apiVersion": version, "kind": kind, "name": name, "uid": uid, **more}]}}


def test_pods_go_with_their_controller(api, place):
    url, uid = place.rc("a", 2)
    api.delete(url, options("Background", uid)).ok()
    place.counts(replicationcontrollers=0, pods=0)


def test_pods_stay_when_they_are_orphaned(api, place):
    url, uid = place.rc("a", 3)
    api.delete(url, options("Orphan", uid)).ok()
    place.counts(replicationcontrollers=0, pods=3)
    assert all("ownerReferences" not in p["metadata"] and "deletionTimestamp" not in p["metadata"] for p in place.items("pods"))


def test_a_replica_set_goes_with_its_deployment(api, place):
    url, uid = place.deployment("a")
    api.delete(url, options("Background", uid)).ok()
    place.counts(deployments=0, replicasets=0, pods=0)


def test_a_replica_set_is_orphaned(api, place):
    url, uid = place.deployment("a")
    api.delete(url, options("Orphan", uid)).ok()
    place.counts(deployments=0, replicasets=1)
    [left] = place.items("replicasets")
    assert "ownerReferences" not in left["metadata"] and "deletionTimestamp" not in left["metadata"]


def test_a_controller_stays_until_its_pods_are_gone(api, place):
    url, uid = place.rc("a", 4)
    marked = api.delete(url, options("Foreground", uid)).ok()
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    eventually(lambda: api.get(url).code == 404, timeout=15)
    assert place.items("pods") == []


def test_what_has_another_owner_stays(api, place):
    url, uid = place.rc("a", 4)
    _, stays = place.rc("b", 0)
    for one in place.items("pods")[:2]:
        patch = owner("ReplicationController", "b", stays)
        api.patch(f"{place.core}/pods/{one['metadata']['name']}", patch, "strategic-merge-patch").ok()
    api.delete(url, options("Foreground", uid)).ok()
    eventually(lambda: api.get(url).code == 404, timeout=15)
    left = place.items("pods")
    assert len(left) == 2 and all("deletionTimestamp" not in p["metadata"] for p in left)
    assert [[o["uid"] for o in p["metadata"]["ownerReferences"]] for p in left] == [[stays]] * 2


def test_a_circle_of_owners_is_no_hindrance(api, place):
    pods = {n: api.post(f"{place.core}/pods", pod(f"pod{n}", "sleep", "600")).ok() for n in (1, 2, 3)}
    for n, of in ((1, 3), (2, 1), (3, 2)):
        patch = owner("Pod", f"pod{of}", pods[of]["metadata"]["uid"], controller=True, blockOwnerDeletion=True)
        api.patch(f"{place.core}/pods/pod{n}", patch, "strategic-merge-patch").ok()
    api.delete(f"{place.core}/pods/pod1", options("Foreground", pods[1]["metadata"]["uid"])).ok()
    place.counts(pods=0)


def test_objects_of_a_kind_that_has_just_been_defined_are_collected_too(api):
    group = f"gc{next(_numbers)}.example.com"
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    version = {"name": "v1", "served": True, "storage": True,
               "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    names = {"plural": "things", "kind": "Thing"}
    path, api_version = f"/apis/{group}/v1/things", f"{group}/v1"
    body = {"metadata": {"name": f"things.{group}"}, "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [version]}}
    for _ in range(2):
        api.post(definitions, body).ok()
        eventually(lambda: api.get(path).code == 200, timeout=5)
        thing = lambda name, **metadata: {"apiVersion": api_version, "kind": "Thing", "metadata": {"name": name, **metadata}}
        first = api.post(path, thing("owner")).ok()
        reference = owner("Thing", "owner", first["metadata"]["uid"], api_version)["metadata"]
        api.post(path, thing("dependent", **reference)).ok()
        api.delete(f"{path}/owner", {"propagationPolicy": "Background"}).ok()
        eventually(lambda: api.get(f"{path}/dependent").code == 404, timeout=5)
        api.post(path, thing("canary")).ok()
        api.delete(f"{path}/canary", {"propagationPolicy": "Foreground"}).ok()
        eventually(lambda: api.get(f"{path}/canary").code == 404, timeout=5)
        api.delete(f"{definitions}/things.{group}").ok()
        eventually(lambda: api.get(f"{definitions}/things.{group}").code == 404, timeout=5)

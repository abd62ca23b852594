"""The steps of the conformance programme's sig-scheduling names, on a real node."""

import contextlib
import itertools
import json
import time

import pytest
from cluster import condition, eventually, pod

PAUSE = ["sleep", "3600"]
EXTENDED = "scheduling.k8s.io/foo"


def amounts(cpu, memory, storage):
    return {"cpu": cpu, "memory": memory, "ephemeral-storage": storage}


def limit_range(name, low, labels=None):
    limit = {
        "type": "Container", "min": low, "max": amounts("500m", "500Mi", "500Gi"),
        "default": amounts("500m", "500Mi", "500Gi"), "defaultRequest": amounts("100m", "200Mi", "200Gi"),
    }
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": name, "labels": labels or {}}, "spec": {"limits": [limit]}}


def resources(ns, name):
    return ns.get("pod", name)["spec"]["containers"][0]["resources"]


def test_a_limit_range_gives_pods_its_defaults(ns):
    ns.apply(limit_range("limits", amounts("50m", "100Mi", "100Gi")))
    assert ns.get("limitrange", "limits")["spec"] == limit_range("limits", amounts("50m", "100Mi", "100Gi"))["spec"]
    ns.apply(pod("none", *PAUSE))
    assert resources(ns, "none") == {"requests": amounts("100m", "200Mi", "200Gi"), "limits": amounts("500m", "500Mi", "500Gi")}
    some = {"requests": {"cpu": "300m", "memory": "150Mi", "ephemeral-storage": "150Gi"}, "limits": {"cpu": "300m"}}
    ns.apply(pod("some", *PAUSE, resources=some))
    assert resources(ns, "some") == {"requests": amounts("300m", "150Mi", "150Gi"), "limits": amounts("300m", "500Mi", "500Gi")}
    low = pod("low", *PAUSE, resources={"requests": amounts("10m", "50Mi", "50Gi")})
    assert "minimum cpu usage per Container is 50m, but request is 10m" in ns.refused("create", "-f", "-", input=low)
    high = pod("high", *PAUSE, resources={"requests": amounts("600m", "600Mi", "600Gi"), "limits": amounts("600m", "600Mi", "600Gi")})
    assert "maximum cpu usage per Container is 500m, but limit is 600m" in ns.refused("create", "-f", "-", input=high)
    ns.kubectl("replace", "-f", "-", input=limit_range("limits", amounts("9m", "49Mi", "49Gi")))
    assert ns.get("limitrange", "limits")["spec"]["limits"][0]["min"] == amounts("9m", "49Mi", "49Gi")
    ns.kubectl("create", "-f", "-", input=low)
    assert "maximum cpu usage per Container is 500m" in ns.refused("create", "-f", "-", input=high)
    ns.kubectl("delete", "limitrange", "limits")
    assert ns.get("limitrange")["items"] == []
    ns.kubectl("create", "-f", "-", input=high)


def test_limit_ranges_are_listed_patched_and_deleted_by_collection(ns):
    mine = {"e2e-test": "limits"}
    ns.apply(limit_range("limits", amounts("50m", "100Mi", "100Gi"), mine))
    everywhere = ns.cluster.get("limitrange", "-A", "-l", "e2e-test=limits")["items"]
    assert [l["metadata"]["name"] for l in everywhere] == ["limits"]
    patch = {"metadata": {"labels": {"limits": "patched"}},
             "spec": {"limits": [{"type": "Container", "min": {"cpu": "40m"}, "max": {"cpu": "400m"}}]}}
    ns.kubectl("patch", "limitrange", "limits", "--type=strategic", "-p", json.dumps(patch))
    changed = ns.get("limitrange", "limits")
    assert changed["metadata"]["labels"] == {**mine, "limits": "patched"}
    assert changed["spec"]["limits"][0]["min"]["cpu"] == "40m"
    ns.apply(limit_range("other", amounts("50m", "100Mi", "100Gi")))
    ns.kubectl("delete", "limitrange", "-l", "limits=patched")
    assert [l["metadata"]["name"] for l in ns.get("limitrange")["items"]] == ["other"]


def why_not(ns, name):
    """What the pod's condition says of why it has no node."""
    def look():
        found = [c for c in ns.get("pod", name)["status"].get("conditions", []) if c["type"] == "PodScheduled"]
        return next((c["message"] for c in found if c["status"] == "False" and c["reason"] == "Unschedulable"), None)
    return eventually(look)


@contextlib.contextmanager
def extended(cluster, name, amount):
    """The node has so much of something that nobody else knows, as a test says that patches its capacity only."""
    change = lambda value: cluster.kubectl("patch", "node", cluster.node, "--subresource=status", "--type=strategic",
                                           "-p", json.dumps({"status": {"capacity": {name: value}}}))
    offered = lambda: cluster.get("node", cluster.node)["status"]["allocatable"].get(name)
    change(amount)
    try:
        eventually(lambda: offered() is not None, what="it is offered")
        yield
    finally:
        change(None)
        eventually(lambda: offered() is None, what="it is withdrawn")


def asks(name, amount):
    return {"requests": {name: amount}, "limits": {name: amount}}


def test_pods_get_what_they_ask_for_or_wait(ns, cluster):
    with extended(cluster, "example.com/beardsecond", "1k"):
        ns.apply(pod("filler", *PAUSE, resources=asks("example.com/beardsecond", "700")))
        ns.wait_ready("filler")
        ns.apply(pod("additional", *PAUSE, resources=asks("example.com/beardsecond", "400")))
        assert "1 Insufficient example.com/beardsecond" in why_not(ns, "additional")
        ns.kubectl("delete", "pod", "filler", "--wait=false")
        ns.wait_ready("additional")


def test_node_selectors_are_heeded(ns, cluster):
    ns.apply(pod("restricted", *PAUSE, spec={"nodeSelector": {"label": "nonempty"}}))
    assert "1 node(s) didn't match Pod's node affinity/selector" in why_not(ns, "restricted")
    key = "kubernetes.io/e2e-" + ns.name
    cluster.kubectl("label", "node", cluster.node, f"{key}=42")
    try:
        ns.apply(pod("with-labels", *PAUSE, spec={"nodeSelector": {key: "42"}}))
        assert ns.wait_ready("with-labels")["spec"]["nodeName"] == cluster.node
    finally:
        cluster.kubectl("label", "node", cluster.node, f"{key}-")


def test_a_port_on_all_addresses_conflicts_with_the_same_on_one(ns, cluster):
    port = lambda address: [{"containerPort": 80, "hostPort": 31922, "protocol": "TCP", **({"hostIP": address} if address else {})}]
    ns.apply(pod("everywhere", *PAUSE, ports=port(None)))
    ns.wait_ready("everywhere")
    ns.apply(pod("one", *PAUSE, ports=port("127.0.0.1")))
    assert "didn't have free ports for the requested pod ports" in why_not(ns, "one")


_classes = itertools.count(1)


@pytest.fixture
def classes(cluster):
    """Priority classes by value, removed afterwards."""
    made = []

    def make(value):
        name = f"e2e-priority-{value}-{next(_classes)}"
        cluster.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value})
        made.append(name)
        return name

    yield make
    cluster.kubectl("delete", "priorityclass", *made)


@pytest.mark.parametrize("critical", [False, True], ids=["basic", "critical"])
def test_the_pod_of_lower_priority_makes_room(ns, cluster, classes, critical):
    with extended(cluster, EXTENDED, "5"):
        low, medium = classes(1), classes(100)
        ns.apply(pod("low", *PAUSE, resources=asks(EXTENDED, "2"), spec={"priorityClassName": low}))
        ns.apply(pod("medium", *PAUSE, resources=asks(EXTENDED, "2"), spec={"priorityClassName": medium}))
        ns.wait_ready("low"), ns.wait_ready("medium")
        name = "system-cluster-critical" if critical else classes(1000)
        high = pod("high", *PAUSE, resources=asks(EXTENDED, "2"), spec={"priorityClassName": name})
        where = "kube-system" if critical else ns.name
        try:
            cluster.apply(high, where)
            eventually(lambda: condition(cluster.get("-n", where, "pod", "high"), "Ready") == "True")
            left = [p["metadata"]["name"] for p in ns.pods() if "deletionTimestamp" not in p["metadata"]]
            assert "low" not in left and "medium" in left
        finally:
            cluster.kubectl("-n", where, "delete", "pod", "high", "--grace-period=0", "--force")


def test_a_preempted_pod_says_so_in_its_conditions(ns, cluster, classes):
    with extended(cluster, EXTENDED, "1"):
        victim = pod("victim", *PAUSE, resources=asks(EXTENDED, "1"), spec={"priorityClassName": classes(1)})
        victim["metadata"]["finalizers"] = ["example.com/test-finalizer"]
        ns.apply(victim)
        ns.wait_ready("victim")
        ns.apply(pod("preemptor", *PAUSE, resources=asks(EXTENDED, "1"), spec={"priorityClassName": classes(1000)}))
        ns.wait_pod("preemptor", lambda p: p["spec"].get("nodeName"))
        held = ns.get("pod", "victim")
        disrupted = [c for c in held["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        assert [(c["status"], c["reason"]) for c in disrupted] == [("True", "PreemptionByScheduler")]
        assert "deletionTimestamp" in held["metadata"]
        ns.kubectl("patch", "pod", "victim", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_replica_sets_are_preempted_once(ns, cluster, classes):
    fake = "example.com/fakecpu"

    def replica_set(number, amount):
        template = pod("x", *PAUSE, labels={"name": f"pod{number}"}, resources=asks(fake, amount),
                       spec={"priorityClassName": classes(number), "nodeSelector": {"kubernetes.io/hostname": cluster.node}})
        return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": f"rs-pod{number}"},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"name": f"pod{number}"}},
                         "template": {"metadata": {"labels": template["metadata"]["labels"]}, "spec": template["spec"]}}}

    def made():
        said = [e for e in ns.get("events")["items"] if e["reason"] == "SuccessfulCreate"]
        return [sum(e.get("count", 1) for e in said if e["involvedObject"]["name"] == f"rs-pod{n}") for n in (1, 2, 3)]

    with extended(cluster, fake, "1k"):
        for number, amount in ((1, "200"), (2, "300"), (3, "450")):
            ns.apply(replica_set(number, amount))
            ns.kubectl("wait", "--for=jsonpath={.status.availableReplicas}=1", f"rs/rs-pod{number}", "--timeout=30s")
        assert made() == [1, 1, 1]
        ns.apply(pod("pod4", *PAUSE, resources=asks(fake, "500"), spec={"priorityClassName": classes(4)}))
        ns.wait_ready("pod4")
        eventually(lambda: made() == [2, 2, 1], what="the first two are made anew")
        time.sleep(1)
        assert made() == [2, 2, 1]


def test_priority_classes_are_changed_where_they_may_be(cluster, classes):
    one, two = classes(1), classes(2)
    assert "may not be changed in an update" in cluster.refused("patch", "priorityclass", one, "-p", '{"value": 10}')
    raised = {**cluster.get("priorityclass", two), "value": 20}
    assert "may not be changed in an update" in cluster.refused("replace", "-f", "-", input=raised)
    cluster.kubectl("patch", "priorityclass", one, "-p", '{"description": "updated description"}')
    cluster.kubectl("replace", "-f", "-", input={**cluster.get("priorityclass", two), "description": "updated description"})
    for name, value in ((one, 1), (two, 2)):
        now = cluster.get("priorityclass", name)
        assert (now["value"], now["description"]) == (value, "updated description")

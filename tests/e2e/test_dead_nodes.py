"""A node that dies: its pods run elsewhere within the configured time, and when it comes back it removes what moved away."""

import itertools
import signal

import pytest

from cluster import Namespace, deployment, eventually
from test_hosts import World

GRACE = 8
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory, archive):
    """A server that takes nodes for dead after eight seconds, and two workers."""
    world = World(tmp_path_factory.mktemp("dead"), archive, "--node-monitor-grace-period", f"{GRACE}s")
    try:
        world.start().worker()
        world.worker()
        world.server.orlop("node", "cordon", "host-1")
        yield world
    finally:
        world.end()


@pytest.fixture
def space(world):
    name = f"dead-{next(NUMBERS)}"
    world.server.kubectl("create", "namespace", name)
    yield Namespace(world.server, name)
    world.server.kubectl("delete", "namespace", name, "--wait=false")


def living(space):
    return [p for p in space.get("pod")["items"] if "deletionTimestamp" not in p["metadata"]]


def moved(world, space, away):
    """Waits until the one pod runs on another worker, and says which."""
    def look():
        pods = [p for p in living(space) if p["spec"].get("nodeName") not in (None, away)]
        return [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
    return eventually(look, timeout=60, what=f"the pod away from {away}")[0]


def sandboxes(worker):
    """The uids of the pods that a worker keeps something of."""
    pods = worker.data / "node" / "pods"
    return [p.name for p in pods.iterdir()] if pods.exists() else []


def run_one(world, space):
    space.apply(deployment("web", 1))
    space.wait_rollout("deployment/web")
    pod = living(space)[0]
    return pod, world.workers[pod["spec"]["nodeName"]]


def test_nodes_say_that_they_live_as_often_as_is_asked_of_them(world):
    for name in ("host-1", "host-2", "host-3"):
        lease = lambda: world.server.get("lease", "-n", "kube-node-lease", name)["spec"]
        assert lease()["leaseDurationSeconds"] == GRACE
        first = lease()["renewTime"]
        eventually(lambda: lease()["renewTime"] != first, timeout=30, what="the next heartbeat")


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_pods_of_a_dead_node_run_elsewhere_and_it_removes_them_when_it_is_back(world, space, how):
    pod, worker = run_one(world, space)
    name, uid = worker.host.name, pod["metadata"]["uid"]
    assert uid in sandboxes(worker)
    tolerations = {t["key"]: t["tolerationSeconds"] for t in pod["spec"]["tolerations"]}
    assert tolerations == {"node.kubernetes.io/not-ready": 300, "node.kubernetes.io/unreachable": 0}
    if how == "killed":
        worker.end(signal.SIGKILL)
    else:
        worker.host.cut()
    try:
        new = moved(world, space, name)
        assert new["metadata"]["uid"] != uid
        line = next(line for line in world.server.orlop("node", "list").stdout.splitlines() if line.startswith(name))
        assert line.split()[1] == "NotReady"
        taints = {(t["key"], t["effect"]) for t in world.server.get("node", name)["spec"]["taints"]}
        assert ("node.kubernetes.io/unreachable", "NoExecute") in taints
        assert uid in sandboxes(worker), "nobody could tell the node"
    finally:
        if how == "killed":
            worker.start()
        else:
            worker.host.join()
    world.server.wait_node(name, timeout=60)
    eventually(lambda: uid not in sandboxes(worker), timeout=60, what="what moved away removed")
    eventually(lambda: uid not in [p["metadata"]["uid"] for p in space.get("pod")["items"]], what="the old pod gone")
    eventually(lambda: not world.server.get("node", name)["spec"].get("taints"), what="no taints")


def test_times_that_cannot_work_are_refused(world, tmp_path):
    done = world.server.orlop("server", "--data-dir", tmp_path / "x", "--node-monitor-grace-period", "1s", check=False)
    assert done.returncode != 0 and "it is from 5s to 1h" in done.stderr
    assert not (tmp_path / "x").exists()

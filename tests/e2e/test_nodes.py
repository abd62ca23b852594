"""What people do with machines: `orlop node` on hosts in network namespaces."""

import json
import signal
import subprocess

import pytest

from cluster import Namespace, deployment, eventually, pod
from test_hosts import World, on


@pytest.fixture(scope="module")
def world(tmp_path_factory, archive):
    """A server and two workers."""
    world = World(tmp_path_factory.mktemp("nodes"), archive)
    try:
        world.start().worker()
        world.worker()
        yield world
    finally:
        world.end()


@pytest.fixture
def space(world, request):
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    world.server.kubectl("create", "namespace", name)
    yield Namespace(world.server, name)
    world.server.kubectl("delete", "namespace", name)
    for node in ("host-1", "host-2", "host-3"):
        world.server.orlop("node", "uncordon", node, check=False)


def node(world, *words, check=True):
    return world.server.orlop("node", *words, check=check)


def refused(world, *words):
    done = node(world, *words, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def row(world, name):
    lines = [line.split() for line in node(world, "list").stdout.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name)))


def nodes_of(space, app):
    return {p["metadata"]["name"]: p["spec"].get("nodeName") for p in space.get("pod", "-l", f"app={app}")["items"]
            if "deletionTimestamp" not in p["metadata"]}


def test_nodes_are_listed_shown_and_labelled(world):
    first = row(world, "host-1")
    assert (first["STATUS"], first["ROLES"], first["ADDRESS"]) == ("Ready", "control-plane", world.server.host.address)
    eventually(lambda: row(world, "host-2")["CPU"].endswith("%"), what="what the node uses")
    assert len(json.loads(node(world, "list", "--json").stdout)["items"]) == 3
    assert "labeled" in node(world, "label", "host-2", "rack=4", "topology.kubernetes.io/zone=a").stdout
    assert row(world, "host-2")["ZONE"] == "a"
    assert "not labeled" in node(world, "label", "host-2", "rack=4").stdout
    assert "--overwrite" in refused(world, "label", "host-2", "rack=5")
    assert world.server.get("node", "host-2")["metadata"]["labels"]["rack"] == "4"
    shown = node(world, "show", "host-2").stdout
    for part in ("rack=4", "Ready", "KubeletReady", "10.42.1.0/24", "cpu", "Heard of:"):
        assert part in shown, shown
    assert [line.split()[0] for line in node(world, "list", "-l", "rack=4").stdout.splitlines()[1:]] == ["host-2"]
    node(world, "label", "host-2", "rack-", "topology.kubernetes.io/zone-")
    assert "rack" not in world.server.get("node", "host-2")["metadata"]["labels"]
    assert "not found" in refused(world, "show", "host-9") and "must" in refused(world, "label", "host-2", "a/b/c=d")


def test_a_node_is_drained_as_budgets_allow_and_what_would_be_lost_is_named(world, space):
    node(world, "cordon", "host-3")
    assert "already cordoned" in node(world, "cordon", "host-3").stdout
    assert row(world, "host-3")["STATUS"] == "Ready,SchedulingDisabled"
    node(world, "cordon", "host-1")
    web = deployment("web", 2)
    space.apply(web, {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                      "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}})
    everywhere = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "all"},
                  "spec": {"selector": {"matchLabels": {"app": "all"}}, "template": {**web["spec"]["template"], "metadata": {"labels": {"app": "all"}}}}}
    scratch = on(world.workers["host-2"].host, "scratch", "sleep", "1000")
    scratch["spec"]["volumes"] = [{"name": "s", "emptyDir": {}}]
    space.apply(everywhere, scratch, on(world.workers["host-2"].host, "alone", "sleep", "1000"))
    space.wait_rollout("deployment/web")
    space.wait_ready("scratch")
    space.wait_ready("alone")
    assert set(nodes_of(space, "web").values()) == {"host-2"}
    why = refused(world, "drain", "host-2")
    assert "no pod was evicted" in why and "/scratch: it has data in an emptyDir" in why and "/alone: no controller makes it anew" in why
    assert len(nodes_of(space, "web")) == 2, "nothing has happened"
    assert "would be evicted" in node(world, "drain", "host-2", "--force", "--delete-emptydir-data", "--dry-run").stdout
    # The budget allows nothing: only the two others go.
    why = refused(world, "drain", "host-2", "--force", "--delete-emptydir-data", "--grace-period", "0", "--timeout", "3s")
    assert "timed out" in why and "web-" in why
    assert set(nodes_of(space, "web").values()) == {"host-2"}
    node(world, "uncordon", "host-3")
    space.kubectl("patch", "pdb", "web", "-p", '{"spec": {"minAvailable": 1}}')
    said = node(world, "drain", "host-2", "--force", "--delete-emptydir-data", "--grace-period", "0", "--timeout", "2m").stdout
    assert "a DaemonSet runs it on every node" in said and said.endswith("node/host-2 drained\n"), said
    eventually(lambda: list(nodes_of(space, "web").values()) == ["host-3", "host-3"], what="the pods elsewhere")
    assert nodes_of(space, "all") and "host-2" in nodes_of(space, "all").values(), "pods of DaemonSets stay"


def test_maintenance_is_shown_keeps_pods_away_and_ends(world, space):
    space.apply(deployment("web", 1, pod={"nodeSelector": {"kubernetes.io/hostname": "host-2"}}))
    space.wait_rollout("deployment/web")
    node(world, "maintenance", "host-2", "--reason", "a new disk", "--grace-period", "0")
    assert row(world, "host-2")["STATUS"] == "Ready,Maintenance"
    assert "a new disk" in node(world, "show", "host-2").stdout
    made = world.server.get("node", "host-2")
    assert {"key": "orlop.dev/maintenance", "effect": "NoSchedule"} in made["spec"]["taints"]
    told = next(c for c in made["status"]["conditions"] if c["type"] == "Maintenance")
    assert (told["status"], told["reason"], told["message"]) == ("True", "Drained", "a new disk")
    assert list(nodes_of(space, "web").values()) == [None], "it waits"
    node(world, "uncordon", "host-2")
    space.wait_rollout("deployment/web")
    assert row(world, "host-2")["STATUS"] == "Ready"
    made = world.server.get("node", "host-2")
    assert not made["spec"].get("taints") and "orlop.dev/maintenance" not in made["metadata"]["annotations"]


def certificate(worker, folder):
    text = (worker.data / "tls" / "node-client.pem").read_text()
    (folder / "node.pem").write_text(text)
    return ["--kubeconfig=/dev/null", f"--server={worker.server.url}", f"--certificate-authority={worker.server.data / 'tls' / 'ca.crt'}",
            f"--client-certificate={folder / 'node.pem'}", f"--client-key={folder / 'node.pem'}"]


def test_a_removed_node_comes_back_with_a_new_token_only(world, tmp_path):
    server = world.server
    assert "stop that `orlop server` first" in refused(world, "remove", "host-1")
    worker = world.worker(image=False)
    name = worker.host.name
    shown = certificate(worker, tmp_path)
    assert f"system:node:{name}" in server.kubectl(*shown, "auth", "whoami", "-o", "json")
    assert "removed" in node(world, "remove", name).stdout
    assert name not in node(world, "list").stdout
    assert server.run("get", "lease", "-n", "kube-node-lease", name, check=False).returncode == 1
    assert "must be logged in" in server.refused(*shown, "get", "node", name)
    # The agent that runs finds out, ends and says what to do; so does the next one.
    worker.process.wait(30)
    assert worker.process.returncode != 0
    assert "removed from the cluster: join it again with a new token" in worker.log.read_text()
    done = subprocess.run(worker.host.inside(*worker.arguments()), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "removed from the cluster" in done.stderr, done.stderr
    assert name not in node(world, "list").stdout
    worker.joins(server.token())
    server.wait_node(name)
    assert "must be logged in" in server.refused(*shown, "get", "node", name), "the old certificate stays refused"
    node(world, "remove", name)
    worker.process.wait(30)


def test_a_silent_node_is_removed_with_its_pods(world, space):
    worker = world.worker()
    name = worker.host.name
    space.apply(on(worker.host, "there", "sleep", "1000"))
    space.wait_ready("there")
    worker.end(signal.SIGKILL)
    status = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}
    world.server.kubectl("patch", "node", name, "--subresource=status", "-p", json.dumps(status))
    assert "is silent" in node(world, "remove", name).stdout
    eventually(lambda: space.get("pod")["items"] == [], what="its pods gone")

"""Networks that people make, over several machines: members reach each other through VXLANs of their own, wherever the machines are;
who comes, goes or is cut off is followed; nothing is left when the machines are reset."""

import json
import signal

import pytest

from cluster import Namespace, eventually
from test_hosts import World, on
from test_networks import address_in, attachment, connected, fetched, links, network, reaches


@pytest.fixture(scope="module")
def world(tmp_path_factory, archive):
    """A server and a worker on one segment, and a worker on another."""
    world = World(tmp_path_factory.mktemp("networks"), archive)
    try:
        world.start()
        world.worker()
        world.worker(segment=3)
        yield world
    finally:
        world.end()


@pytest.fixture
def space(world, request):
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    world.server.kubectl("create", "namespace", name)
    space = Namespace(world.server, name)
    yield space
    space.kubectl("delete", "pods", "--all", "--force")


def member(host, name, of=None):
    made = on(host, name)
    if of:
        made["metadata"]["annotations"] = {"orlop.dev/networks": of}
    return made


def hosts_of(world):
    return [world.server.host, *(worker.host for worker in world.workers.values())]


def test_members_on_three_machines_reach_each_other_in_both_families(space, world):
    server = world.server
    server.apply(network("wide", families=["IPv4", "IPv6"]))
    names = ["one", "two", "three"]
    space.apply(*[member(host, name, "wide") for host, name in zip(hosts_of(world), names)])
    at = {}
    for name in names:
        space.wait_ready(name)
        at[name] = connected(space, name, "wide")["spec"]["addresses"]
    for client in names:
        for to in names:
            assert fetched(space, client, f"{at[to][0]}:8080") == to, f"{client} to {to}"
            eventually(lambda: space.run("exec", client, "--", "ping", "-c1", "-W1", at[to][1], check=False).returncode == 0,
                       what=f"{client} pings {to} by IPv6")
            assert fetched(space, client, f"{to}.{space.name}.wide.net.cluster.local:8080") == to
    # 50 bytes less than the link, and a full packet of that size passes undivided.
    assert "mtu 1450" in space.exec("one", "ip", "link", "show", "wide")
    space.exec("one", "sh", "-c", "yes 0123456789 | head -c 2000000 > /www/big")
    assert int(space.exec("three", "sh", "-c", f"timeout 10 fetch http://{at['one'][0]}:8080/big | wc -c")) >= 2_000_000
    # A pod that moves takes its network along.
    space.kubectl("delete", "pod", "three")
    space.apply(member(hosts_of(world)[1], "three", "wide"))
    space.wait_ready("three")
    assert fetched(space, "one", f"{address_in(space, 'three', 'wide')}:8080") == "three"
    far = world.workers["host-3"].host
    eventually(lambda: "master b" not in far.run("ip", "-o", "link"), what="nothing is left on the machine without members")


def test_machines_without_members_reach_an_isolated_network_as_little_as_pods(space, world):
    near, far = world.workers["host-2"].host, world.workers["host-3"].host
    world.server.apply(network("alone"))
    space.apply(member(near, "a", "alone"), member(far, "b", "alone"), member(far, "stranger"))
    for name in ("a", "b", "stranger"):
        space.wait_ready(name)
    where = address_in(space, "a", "alone")
    assert fetched(space, "b", f"{where}:8080") == "a"
    assert reaches(space, "stranger", f"{where}:8080") is None
    asks = lambda host, ip: host.run("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{ip}/8080 && echo answered", check=False)
    assert "answered" in asks(far, space.get("pod", "stranger")["status"]["podIP"]), "machines reach pods otherwise"
    for host in (near, far, world.server.host):
        assert asks(host, where) == ""
    # Even where somebody makes a route to the bridge.
    bridge = json.loads(far.run("ip", "-json", "link", "show", "type", "bridge"))[0]["ifname"]
    far.run("ip", "route", "add", f"{where}/32", "dev", bridge)
    try:
        assert reaches(space, "stranger", f"{where}:8080") is None
    finally:
        far.run("ip", "route", "delete", f"{where}/32")


def test_an_open_network_leads_on_and_is_reached_from_its_nodes(space, world):
    near = world.workers["host-2"].host
    world.server.apply(network("open", isolation="Open"))
    space.apply(member(near, "a", "open"), member(near, "stranger"))
    space.wait_ready("a"), space.wait_ready("stranger")
    where = address_in(space, "a", "open")
    assert fetched(space, "stranger", f"{where}:8080") == "a"
    world.server.kubectl("patch", "network", "open", "--type=merge", "-p", '{"spec": {"isolation": "Isolated"}}')
    eventually(lambda: reaches(space, "stranger", f"{where}:8080") is None, what="it is closed")


def test_what_was_asked_for_while_a_worker_was_away_is_done_when_it_comes(space, world):
    worker = world.workers["host-2"]
    world.server.apply(network("later"))
    space.apply(member(world.server.host, "a", "later"), member(worker.host, "b", "later"), member(worker.host, "c"))
    for name in "abc":
        space.wait_ready(name)
    where = address_in(space, "b", "later")
    assert fetched(space, "a", f"{where}:8080") == "b"
    worker.end(signal.SIGKILL)
    assert fetched(space, "a", f"{where}:8080") == "b", "without the agent all stays as it is"
    space.apply(attachment("c", "later"))
    space.kubectl("annotate", "pod", "b", "orlop.dev/networks-")
    eventually(lambda: space.run("get", "networkattachment", "b.later", check=False).returncode != 0)
    worker.start()
    assert fetched(space, "a", f"{address_in(space, 'c', 'later')}:8080") == "c"
    eventually(lambda: "later" not in links(space, "b"), what="b is disconnected")


def test_members_stay_connected_when_their_machine_gets_another_address(space, world):
    worker = world.workers["host-2"]
    world.server.apply(network("moving"))
    space.apply(member(world.server.host, "a", "moving"), member(worker.host, "b", "moving"))
    for name in "ab":
        space.wait_ready(name)
    where = address_in(space, "b", "moving")
    assert fetched(space, "a", f"{where}:8080") == "b"
    index = space.exec("b", "cat", "/sys/class/net/moving/ifindex")
    before = worker.host.address
    for address in (worker.host.segment.address(77), before):
        worker.end()
        worker.host.set_address(address)
        worker.start()
        eventually(lambda: connected(space, "b", "moving")["status"]["nodeAddresses"] == [address], what="others hear of the address")
        assert fetched(space, "a", f"{where}:8080") == "b"
    assert space.exec("b", "cat", "/sys/class/net/moving/ifindex") == index

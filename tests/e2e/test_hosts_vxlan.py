"""Machines on different segments: pods reach each other through the VXLAN, at its MTU; on one segment directly."""

import json

import pytest

from cluster import Namespace, eventually
from test_hosts import World, address, on, reaches


@pytest.fixture(scope="module")
def world(tmp_path_factory, archive):
    """A server and a worker on one segment, and a worker on another."""
    world = World(tmp_path_factory.mktemp("vxlan"), archive)
    try:
        world.start()
        world.worker()
        world.worker(segment=3)
        yield world
    finally:
        world.end()


def test_pods_of_two_segments_reach_each_other_at_the_right_size(world):
    server = world.server
    server.kubectl("create", "namespace", "far")
    space = Namespace(server, "far")
    near, far = world.workers["host-2"].host, world.workers["host-3"].host
    space.apply(on(server.host, "one"), on(near, "two"), on(far, "three"))
    at = {name: address(space, name) for name in ("one", "two", "three")}
    for client in at:
        for to, ip in at.items():
            assert eventually(lambda: reaches(space, client, f"{ip}:8080"), what=f"{client} to {to}") == to
    routes = server.host.routes()
    assert routes["10.42.1.0/24"]["dev"] == "eth0" and routes["10.42.2.0/24"]["dev"].startswith("vx-")
    assert all(route["dev"].startswith("vx-") for dst, route in far.routes().items() if dst in ("10.42.0.0/24", "10.42.1.0/24"))
    # 50 bytes less than the link, and a full packet of that size passes undivided.
    assert "mtu 1450" in space.exec("one", "ip", "link", "show", "eth0")
    space.exec("one", "sh", "-c", "yes 0123456789 | head -c 2000000 > /www/big")
    assert int(space.exec("three", "sh", "-c", f"timeout 5 fetch http://{at['one']}:8080/big | wc -c")) >= 2_000_000
    # Nothing is learned from packets: each entry is one that was programmed.
    device = routes["10.42.2.0/24"]["dev"]
    link = json.loads(server.host.run("ip", "-json", "-details", "link", "show", device))[0]
    data = link["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["learning"]) == (4097, 8472, False)
    entries = json.loads(server.host.run("bridge", "-json", "fdb", "show", "dev", device))
    assert [e["dst"] for e in entries if "dst" in e] == [far.address]


def test_what_somebody_removed_comes_back_when_the_agent_does(world):
    worker = world.workers["host-3"]
    device = worker.host.routes()["10.42.0.0/24"]["dev"]
    worker.host.run("ip", "link", "delete", device)
    assert "10.42.0.0/24" not in worker.host.routes()
    worker.end()
    worker.start()
    eventually(lambda: worker.host.routes()["10.42.0.0/24"]["dev"] == device, what="the way back")
    assert len([line for line in worker.host.run("ip", "-o", "link").splitlines() if "vx-" in line]) == 1

"""Networks that people make, on one machine: pods are connected and disconnected while they run or before they start, find each other
by name, and give their addresses back however they end. What several machines do is in test_hosts_networks.py."""

import itertools
import json
import signal

import pytest

from cluster import Namespace, condition, deployment, eventually, pod

WEB = ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
_numbers = itertools.count(1)


def network(name, **spec):
    return {"apiVersion": "orlop.dev/v1", "kind": "Network", "metadata": {"name": name}, "spec": spec}


def attachment(name, of, **spec):
    return {"apiVersion": "orlop.dev/v1", "kind": "NetworkAttachment", "metadata": {"name": f"{name}.{of}"},
            "spec": {"podName": name, "networkName": of, **spec}}


def web(name, networks=None, **more):
    made = pod(name, *WEB, **more)
    if networks:
        made["metadata"]["annotations"] = {"orlop.dev/networks": networks}
    return made


def connected(space, name, of):
    """The attachment when the pod's node has connected it."""

    def look():
        found = space.get("networkattachment", f"{name}.{of}")
        return found if condition(found, "Ready") == "True" else None

    return eventually(look, what=f"{name} is connected to {of}")


def address_in(space, name, of):
    return connected(space, name, of)["spec"]["addresses"][0]


def links(space, name):
    return {line.split(": ")[1].split("@")[0] for line in space.exec(name, "ip", "-o", "link").splitlines()}


def reaches(space, name, where):
    done = space.run("exec", name, "--", "timeout", "3", "fetch", f"http://{where}/", check=False)
    return done.stdout.strip() or None


def fetched(space, name, where):
    return eventually(lambda: reaches(space, name, where), what=f"{name} reaches {where}")


@pytest.fixture
def net(cluster, ns):
    """Makes networks that go with the test. Their pods go first."""
    made = []

    def make(**spec):
        name = f"net{next(_numbers)}"
        cluster.apply(network(name, **spec))
        made.append(name)
        return name

    yield make
    ns.kubectl("delete", "pods,deployments", "--all", "--force")
    for name in made:
        eventually(lambda: cluster.run("delete", "network", name, "--ignore-not-found", check=False).returncode == 0, what=f"{name} goes")


def test_a_running_pod_is_connected_and_disconnected(ns, net):
    back = net()
    ns.apply(web("a"), web("b"))
    ns.wait_ready("a"), ns.wait_ready("b")
    assert links(ns, "a") == {"lo", "eth0"}
    ns.apply(attachment("a", back), attachment("b", back))
    found = connected(ns, "a", back)
    status, where = found["status"], address_in(ns, "b", back)
    assert (status["interface"], status["nodeName"]) == (back, ns.cluster.node)
    assert back in links(ns, "a")
    assert f"{found['spec']['addresses'][0]}/24" in ns.exec("a", "ip", "-o", "-4", "address", "show", back)
    assert status["macAddress"] in ns.exec("a", "ip", "link", "show", back)
    assert fetched(ns, "a", f"{where}:8080") == "b"
    started = ns.get("pod", "a")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    ns.kubectl("delete", "networkattachment", f"a.{back}")
    eventually(lambda: links(ns, "a") == {"lo", "eth0"}, what="the interface leaves the pod")
    assert ns.get("pod", "a")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] == started
    assert back in links(ns, "b")


def test_a_pod_whose_annotation_asks_for_networks_starts_when_it_is_connected(ns, net, cluster):
    back, front = net(), net(families=["IPv4", "IPv6"])
    seen = pod("early", "sh", "-c", "ip -o link; ip -o address; sleep 1000")
    seen["metadata"]["annotations"] = {"orlop.dev/networks": f"{back}, {front}"}
    ns.apply(seen)
    ns.wait_ready("early")
    log = eventually(lambda: ns.logs("early"))
    assert f": {back}@" in log and f": {front}@" in log, "they are there when the first process starts"
    for address in ns.get("networkattachment", f"early.{front}")["spec"]["addresses"]:
        assert f" {address}/" in log
    # Another list on the live pod.
    ns.kubectl("annotate", "pod", "early", f"orlop.dev/networks={back}", "--overwrite")
    eventually(lambda: links(ns, "early") == {"lo", "eth0", back})
    # A network that is not there yet holds the pod up, and says so.
    ns.apply(web("late", "not-yet"))
    eventually(lambda: [e for e in ns.events("late") if 'network "not-yet"' in e["message"]], what="an event says why")
    assert ns.get("pod", "late")["status"]["phase"] == "Pending"
    cluster.apply(network("not-yet"))
    try:
        ns.wait_ready("late")
        assert "not-yet" in links(ns, "late")
    finally:
        ns.kubectl("delete", "pod", "late")
        eventually(lambda: cluster.run("delete", "network", "not-yet", check=False).returncode == 0)


def test_pods_of_a_template_find_each_other_by_name(ns, net):
    back = net()
    made = deployment("web", replicas=2)
    made["spec"]["template"]["metadata"]["annotations"] = {"orlop.dev/networks": back}
    ns.apply(made)
    ns.wait_rollout("deployment/web")
    one, other = [p["metadata"]["name"] for p in ns.pods("app=web")]
    where = address_in(ns, other, back)
    zone = f"{ns.name}.{back}.net.cluster.local"
    assert where in eventually(lambda: ns.exec(one, "nslookup", f"{other}.{zone}"))
    assert fetched(ns, one, f"{other}.{zone}:8080") == other
    everybody = ns.exec(one, "nslookup", zone)
    assert where in everybody and address_in(ns, one, back) in everybody
    assert f"{other}.{zone}" in ns.exec(one, "nslookup", where), "and the other way round"
    ns.kubectl("delete", "pod", other)
    eventually(lambda: ns.run("exec", one, "--", "nslookup", f"{other}.{zone}", check=False).returncode != 0, what="the name goes")


def test_an_isolated_network_is_its_members_alone(ns, net, cluster):
    back = net()
    ns.apply(web("member", back), web("stranger"))
    ns.wait_ready("member"), ns.wait_ready("stranger")
    where = address_in(ns, "member", back)
    assert reaches(ns, "stranger", f"{where}:8080") is None
    ns.apply(attachment("stranger", back))
    connected(ns, "stranger", back)
    assert fetched(ns, "stranger", f"{where}:8080") == "member"
    # A way out through it is none.
    [way_out] = [line for line in ns.exec("member", "ip", "route").splitlines() if "default" in line]
    assert "eth0" in way_out


def test_a_network_is_not_deleted_under_its_members(ns, net, cluster):
    back = net()
    ns.apply(web("a", back))
    ns.wait_ready("a")
    assert f"{ns.name}/a.{back}" in cluster.refused("delete", "network", back)
    assert eventually(lambda: cluster.get("network", back)["status"]["attachments"]) == 1
    assert back in links(ns, "a")


def test_addresses_come_back_however_a_pod_ends(ns, net, cluster):
    """Room for five members: a sixth gets in only where one has gone."""
    back = net(subnets=[{"cidr": f"10.93.{next(_numbers)}.0/29"}])
    held = lambda: sorted(a["spec"]["addresses"][0] for a in ns.get("networkattachments")["items"])
    again = web("p3", back)
    again["spec"]["containers"][0]["command"][2] = "hostname > /www/index.html; httpd -p 8080 -h /www; while [ ! -e /end ]; do sleep 0.1; done"
    ns.apply(*[web(f"p{n}", back) for n in (0, 1, 2, 4)], again)
    for n in range(5):
        ns.wait_ready(f"p{n}")
    assert len(set(held())) == 5
    ns.apply(web("waits", back))
    eventually(lambda: [e for e in ns.events("waits") if "is left" in e["message"]], what="an event says that no address is left")
    # Deleted in order.
    ns.kubectl("delete", "pod", "p0")
    ns.wait_ready("waits")
    # Deleted at once.
    ns.kubectl("delete", "pod", "p1", "--force")
    ns.apply(web("second", back))
    ns.wait_ready("second")
    # Ended by itself: the object stays, the address does not.
    ends = pod("ends", "true", spec={"restartPolicy": "Never"})
    ends["metadata"]["annotations"] = {"orlop.dev/networks": back}
    ns.kubectl("delete", "pod", "p2")
    ns.apply(ends)
    ns.wait_phase("ends", "Succeeded")
    ns.apply(web("third", back))
    ns.wait_ready("third")
    assert len(set(held())) == 5
    # A container that has ended starts again in the same sandbox and stays connected.
    before = address_in(ns, "p3", back)
    ns.exec("p3", "touch", "/end")
    eventually(lambda: ns.get("pod", "p3")["status"]["containerStatuses"][0]["restartCount"] >= 1, what="it starts again")
    ns.wait_ready("p3")
    assert address_in(ns, "p3", back) == before
    assert fetched(ns, "p4", f"{before}:8080") == "p3"


def test_what_cannot_be_connected_says_why(ns, net):
    back = net()
    holder = web("holder")
    holder["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["NET_ADMIN"]}}
    ns.apply(holder)
    ns.wait_ready("holder")
    ns.exec("holder", "sh", "-c", f"ip link add {back} type bridge")
    ns.apply(attachment("holder", back))

    def failed():
        found = ns.get("networkattachment", f"holder.{back}")
        [ready] = found["status"]["conditions"]
        return ready if ready["status"] == "False" else None

    ready = eventually(failed)
    assert ready["reason"] == "NotConnected" and back in ready["message"], ready
    ns.exec("holder", "ip", "link", "del", back)
    connected(ns, "holder", back)


def test_an_agent_that_comes_again_finds_them_as_they_were(own_cluster):
    cluster = own_cluster.start()
    cluster.import_image(cluster.archive)
    cluster.apply(network("back"))
    ns = Namespace(cluster, "default")
    eventually(lambda: cluster.get("serviceaccount", "default"))
    ns.apply(web("a", "back"), web("b", "back"), web("c", "back"))
    for name in "abc":
        ns.wait_ready(name)
    where = address_in(ns, "b", "back")
    assert fetched(ns, "a", f"{where}:8080") == "b"
    index = ns.exec("a", "cat", "/sys/class/net/back/ifindex")
    for how in (signal.SIGKILL, signal.SIGTERM):
        cluster.end(how)
        cluster.start()
        assert connected(ns, "a", "back")["spec"]["addresses"] != [where]
        assert ns.exec("a", "cat", "/sys/class/net/back/ifindex") == index, "it is the same interface"
        assert fetched(ns, "a", f"{where}:8080") == "b"
    # What is asked for while nobody is there is done afterwards.
    ns.kubectl("delete", "networkattachment", "b.back", "--wait=false")
    cluster.end(signal.SIGKILL)
    cluster.start()
    ns.kubectl("delete", "pod", "c")
    ns.apply(web("d", "back"))
    ns.wait_ready("d")
    # b's annotation asks for the network still: it gets a new address.
    assert fetched(ns, "d", f"{address_in(ns, 'b', 'back')}:8080") == "b"


def test_networks_in_the_verbs_of_docker(ns, cluster):
    name = f"verbs{next(_numbers)}"
    say = lambda *arguments, **more: cluster.orlop("network", *arguments, "-n", ns.name, **more)
    assert say("create", name, "--subnet", "10.94.7.0/24", "--gateway", "10.94.7.9").stdout == f"{name}\n"
    assert "overlaps 10.94.7.0/24 of network" in say("create", "other", "--subnet", "10.94.7.0/25", check=False).stderr
    ns.apply(web("a"), web("b", name))
    ns.wait_ready("a"), ns.wait_ready("b")
    assert say("connect", name, "a", "--ip", "10.94.7.77").stdout == "10.94.7.77\n"
    assert fetched(ns, "b", "10.94.7.77:8080") == "a"
    [shown] = json.loads(say("inspect", name).stdout)
    assert {m["pod"]: m["connected"] for m in shown["members"]} == {"a": True, "b": True}
    assert [line for line in say("ls").stdout.splitlines() if line.startswith(f"{name} ") and "10.94.7.0/24" in line and " 2 " in line]
    assert "disconnect them first" in say("rm", name, check=False).stderr
    # What the whole looks like.
    seen = cluster.orlop("net", "-n", ns.name).stdout
    assert [line for line in seen.splitlines() if line.split()[:2] == ["10.94.7.77", f"pod/{ns.name}/a"] and name in line], seen
    assert [line for line in seen.splitlines() if line.startswith("10.") and "dev orlop-" in line], "the way to the pods here"
    everything = cluster.orlop("net", "services").stdout
    assert "default/kubernetes" in everything and "ADDRESS " not in everything
    for one in "ab":
        say("disconnect", name, one)
        eventually(lambda: name not in links(ns, one), what=f"{one} is disconnected")
    assert not ns.get("pod", "b")["metadata"].get("annotations", {}).get("orlop.dev/networks")
    eventually(lambda: say("rm", name, check=False).returncode == 0)
    assert "not found" in say("connect", name, "a", check=False).stderr.lower()

"""NetworkPolicy, as the upstream suite tries it (test/e2e/network/netpol): three namespaces with three pods each, and for each case a
table of who reaches whom. The pods are real; who asks and who answers are sockets of this process inside their networks, so that a
whole table takes a moment."""

import ctypes
import json
import os
import re
import selectors
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from cluster import deployment, eventually, pod, service

LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES, PODS = "xyz", "abc"
PORTS = [("TCP", 80), ("TCP", 81), ("UDP", 80)]
SILENCE = 0.25


def inside(netns, work):
    """Runs work() on a thread in a network namespace; sockets that it makes stay there."""
    result = {}

    def run():
        with open(netns) as file:
            if LIBC.setns(file.fileno(), 0x40000000) != 0:
                result["error"] = OSError(ctypes.get_errno(), netns)
                return
        try:
            result["value"] = work()
        except Exception as error:  # handed on to who asked
            result["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in result:
        raise result["error"]
    return result["value"]


def serve(netns, protocol, port):
    """Accepts, or answers datagrams, for as long as this process lives."""

    def listen():
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        listener = socket.socket(socket.AF_INET, kind)
        listener.bind(("0.0.0.0", port))
        if protocol == "TCP":
            listener.listen(512)
        return listener

    listener = inside(netns, listen)

    def answer():
        while True:
            try:
                if protocol == "TCP":
                    listener.accept()[0].close()
                else:
                    data, client = listener.recvfrom(64)
                    listener.sendto(data, client)
            except OSError:
                pass

    threading.Thread(target=answer, daemon=True).start()


def ask(netns, targets, patience=SILENCE):
    """Which of the targets {key: (protocol, address, port)} answer, asked all at once from a namespace."""

    def run():
        waiting, reached = selectors.DefaultSelector(), set()
        for key, (protocol, address, port) in targets.items():
            kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
            client = socket.socket(socket.AF_INET, kind)
            client.setblocking(False)
            client.connect_ex((address, port))
            if protocol == "UDP":
                client.send(b"may I?")
            waiting.register(client, selectors.EVENT_WRITE if protocol == "TCP" else selectors.EVENT_READ, (key, protocol))
        deadline = time.monotonic() + patience
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for event, _ in waiting.select(left):
                key, protocol = event.data
                client = event.fileobj
                waiting.unregister(client)
                try:
                    fine = client.recv(64) if protocol == "UDP" else client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                except OSError:
                    fine = False
                if fine:
                    reached.add(key)
                client.close()
        for event in list(waiting.get_map().values()):
            event.fileobj.close()
        return reached

    return inside(netns, run)


def netns_of(cluster, found):
    """The network namespace of a pod."""
    [path] = cluster.data.glob(f"runtime/**/{found['metadata']['uid']}_*/**/net")
    return path


class Matrix:
    """Three namespaces of three pods."""

    def __init__(self, cluster, api):
        self.cluster, self.api = cluster, api
        self.names = {letter: f"netpol-{letter}" for letter in NAMESPACES}
        objects = []
        for letter, name in self.names.items():
            objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"ns": letter}}})
            for short in PODS:
                ports = [{"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol} for protocol, port in PORTS]
                made = pod(short, "sleep", "3600", labels={"pod": short}, ports=ports)
                made["metadata"]["namespace"] = name
                objects.append(made)
        cluster.kubectl("apply", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": objects})
        self.address, self.netns = {}, {}
        for letter, name in self.names.items():
            cluster.kubectl("-n", name, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s")
            for found in cluster.get("pods", "-n", name)["items"]:
                who = f"{letter}/{found['metadata']['name']}"
                self.address[who], self.netns[who] = found["status"]["podIP"], netns_of(cluster, found)
        for who in self.address:
            for protocol, port in PORTS:
                serve(self.netns[who], protocol, port)

    def policies(self, letter):
        return f"/apis/networking.k8s.io/v1/namespaces/{self.names[letter]}/networkpolicies"

    def policy(self, letter, name, spec):
        """Makes a policy, or makes it another one."""
        made = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}
        if self.api.post(self.policies(letter), made).code == 409:
            self.api.put(f"{self.policies(letter)}/{name}", made).ok()

    def clear(self):
        for letter in NAMESPACES:
            self.api.delete(self.policies(letter)).ok()

    def reached(self):
        """All (from, to, protocol, port) that come about."""
        found, threads = set(), []

        def from_one(who):
            targets = {(who, to, *port): (port[0], address, port[1]) for to, address in self.address.items() for port in PORTS}
            found.update(ask(self.netns[who], targets))

        for who in self.netns:
            threads.append(threading.Thread(target=from_one, args=[who]))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return found

    def expect(self, allowed):
        """Waits until exactly those come about for which allowed(from, to, protocol, port) says so; whoever asks itself is heard."""
        everything = {(a, b, *port) for a in self.address for b in self.address for port in PORTS}
        wanted = {key for key in everything if key[0] == key[1] or allowed(*key)}

        def same():
            reached = self.reached()
            missing, more = sorted(wanted - reached), sorted(reached - wanted)
            assert not missing and not more, f"{len(missing)} do not come about: {missing[:5]}; {len(more)} should not: {more[:5]}"
            return True

        eventually(same, timeout=5)


@pytest.fixture(scope="module")
def matrix(cluster, api):
    made = Matrix(cluster, api)
    yield made
    cluster.kubectl("delete", "namespace", *made.names.values(), "--wait=false")


@pytest.fixture
def net(matrix):
    """The matrix without policies, before and after."""
    yield matrix
    matrix.clear()


ALL = {}
A, B = {"matchLabels": {"pod": "a"}}, {"matchLabels": {"pod": "b"}}
DENY = {"podSelector": {}, "ingress": [], "policyTypes": ["Ingress"]}
DENY_ALL = {"podSelector": {}, "ingress": [], "egress": [], "policyTypes": ["Ingress", "Egress"]}


def ns(letter):
    """By the label that every namespace has."""
    return {"matchLabels": {"kubernetes.io/metadata.name": f"netpol-{letter}"}}


def ns_is(operator, *letters):
    return either("kubernetes.io/metadata.name", operator, *(f"netpol-{letter}" for letter in letters))


def either(key, operator, *values):
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def pods(selector, namespaces=None):
    return {"podSelector": selector, **({"namespaceSelector": namespaces} if namespaces is not None else {})}


def rule(peers_field, peers, ports):
    return {**({peers_field: list(peers)} if peers else {}), **({"ports": ports} if ports else {})}


def ingress(selector, *peers, ports=None):
    return {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule("from", peers, ports)]}


def egress(selector, *peers, ports=None):
    return {"podSelector": selector, "policyTypes": ["Egress"], "egress": [rule("to", peers, ports)]}


def tcp(port, **more):
    return {"protocol": "TCP", "port": port, **more}


# What a policy in the namespace x does (name in the upstream suite), its spec, and who may: (from, to, protocol, port). All ports are tried,
# so cases that upstream has once more for UDP are tried with it.
CASES = [
    ("should support a 'default-deny-ingress' policy", DENY,
     lambda f, t, *_: t[0] != "x"),
    ("should support a 'default-deny-all' policy", DENY_ALL,
     lambda f, t, *_: f[0] != "x" and t[0] != "x"),
    ("should enforce policy to allow traffic from pods within server namespace based on PodSelector", ingress(A, pods(B)),
     lambda f, t, *_: t != "x/a" or f == "x/b"),
    ("should enforce policy to allow ingress traffic from pods in all namespaces", ingress(A, {"namespaceSelector": {}}),
     lambda *_: True),
    ("should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector",
     ingress(A, {"namespaceSelector": ns("y")}),
     lambda f, t, *_: t != "x/a" or f[0] == "y"),
    ("should enforce policy based on PodSelector with MatchExpressions", ingress(A, pods(either("pod", "In", "b"))),
     lambda f, t, *_: t != "x/a" or f == "x/b"),
    ("should enforce policy based on NamespaceSelector with MatchExpressions", ingress(A, {"namespaceSelector": ns_is("In", "y")}),
     lambda f, t, *_: t != "x/a" or f[0] == "y"),
    ("should enforce policy based on PodSelector or NamespaceSelector", ingress(A, {"namespaceSelector": ns_is("NotIn", "x")}, pods(B)),
     lambda f, t, *_: t != "x/a" or f[0] != "x" or f == "x/b"),
    ("should enforce policy based on PodSelector and NamespaceSelector", ingress(A, pods(B, ns_is("NotIn", "x"))),
     lambda f, t, *_: t != "x/a" or f in ("y/b", "z/b")),
    ("should enforce policy based on Multiple PodSelectors and NamespaceSelectors",
     ingress(A, pods(either("pod", "In", "b", "c"), ns_is("NotIn", "x"))),
     lambda f, t, *_: t != "x/a" or (f[0] != "x" and f[2] in "bc")),
    ("should enforce policy based on any PodSelectors", ingress(A, pods(B), pods({"matchLabels": {"pod": "c"}})),
     lambda f, t, *_: t != "x/a" or f in ("x/b", "x/c")),
    ("should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector",
     ingress(A, pods(A, ns("y"))),
     lambda f, t, *_: t != "x/a" or f == "y/a"),
    ("should enforce policy based on Ports", ingress(A, {"namespaceSelector": ns("y")}, ports=[tcp(81)]),
     lambda f, t, protocol, port: t != "x/a" or (f[0] == "y" and (protocol, port) == ("TCP", 81))),
    ("should support allow-all policy", {"podSelector": {}, "ingress": [{}]},
     lambda *_: True),
    ("should allow ingress access on one named port", ingress(ALL, ports=[{"port": "serve-81-tcp"}]),
     lambda f, t, protocol, port: t[0] != "x" or (protocol, port) == ("TCP", 81)),
    ("should allow ingress access from namespace on one named port",
     ingress(A, {"namespaceSelector": ns("y")}, ports=[tcp("serve-80-tcp")]),
     lambda f, t, protocol, port: t != "x/a" or (f[0] == "y" and (protocol, port) == ("TCP", 80))),
    ("should allow egress access on one named port", egress(ALL, ports=[{"port": "serve-80-tcp"}]),
     lambda f, t, protocol, port: f[0] != "x" or (protocol, port) == ("TCP", 80)),
    ("should deny ingress from pods on other namespaces", ingress(ALL, pods({})),
     lambda f, t, *_: t[0] != "x" or f[0] == "x"),
    ("should deny egress from pods based on PodSelector", {"podSelector": A, "egress": [], "policyTypes": ["Egress"]},
     lambda f, *_: f != "x/a"),
    ("should deny egress from all pods in a namespace", {"podSelector": {}, "egress": [], "policyTypes": ["Egress"]},
     lambda f, *_: f[0] != "x"),
    ("should work with Ingress, Egress specified together",
     {**ingress(A, pods(B)), "egress": [{"ports": [{"port": 80}]}], "policyTypes": ["Egress", "Ingress"]},
     lambda f, t, protocol, port: (t != "x/a" or f == "x/b") and (f != "x/a" or (protocol, port) == ("TCP", 80))),
    ("should enforce egress policy allowing traffic to a server in a different namespace based on PodSelector and NamespaceSelector",
     egress(A, pods(A, ns("y"))),
     lambda f, t, *_: f != "x/a" or t == "y/a"),
    ("should enforce ingress policy allowing any port traffic to a server on a specific protocol", ingress(A, ports=[{"protocol": "TCP"}]),
     lambda f, t, protocol, port: t != "x/a" or protocol == "TCP"),
    ("should properly isolate pods that are selected by a policy allowing SCTP, even if the plugin doesn't support SCTP",
     ingress(A, ports=[{"protocol": "SCTP", "port": 80}]),
     lambda f, t, *_: t != "x/a"),
    ("should not allow access by TCP when a policy specifies only UDP", ingress(A, ports=[{"protocol": "UDP", "port": 81}]),
     lambda f, t, *_: t != "x/a"),
    ("should enforce policy based on NamespaceSelector with MatchExpressions using default ns label",
     egress(A, {"namespaceSelector": ns_is("NotIn", "y")}),
     lambda f, t, *_: f != "x/a" or t[0] != "y"),
    ("should enforce policy based on Ports, UDP", ingress(A, {"namespaceSelector": ns("y")}, ports=[{"protocol": "UDP", "port": 80}]),
     lambda f, t, protocol, port: t != "x/a" or (f[0] == "y" and protocol == "UDP")),
    ("a range of ports", ingress(A, ports=[tcp(81, endPort=90)]),
     lambda f, t, protocol, port: t != "x/a" or (protocol, port) == ("TCP", 81)),
]


@pytest.mark.parametrize("_name,spec,allowed", CASES, ids=[case[0].replace(" ", "-") for case in CASES])
def test_a_policy_lets_through_what_upstream_expects(net, _name, spec, allowed):
    net.policy("x", "p", spec)
    net.expect(allowed)


def test_blocks_with_holes_are_about_pods_too(net):
    """should allow egress access to server in CIDR block; should enforce except clause while egress access to server in CIDR block;
    should ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed."""
    server = f"{net.address['x/b']}/32"
    net.policy("x", "p", egress(A, {"ipBlock": {"cidr": server}}))
    net.expect(lambda f, t, *_: f != "x/a" or t == "x/b")
    net.policy("x", "p", egress(A, {"ipBlock": {"cidr": net.cluster.pods, "except": [server]}}))
    net.expect(lambda f, t, *_: f != "x/a" or t != "x/b")
    net.policy("x", "q", egress(A, {"ipBlock": {"cidr": server}}))
    net.expect(lambda *_: True)


def test_several_policies_add_up(net):
    """should enforce policy to allow ingress traffic for a target; should enforce multiple, stacked policies with overlapping podSelectors;
    should enforce multiple ingress policies with ingress allow-all policy taking precedence; should stop enforcing policies after they
    are deleted; should not mistakenly treat 'protocol: SCTP' as 'protocol: TCP', even if the plugin doesn't support SCTP."""
    net.policy("x", "deny", DENY)
    net.policy("x", "all-to-a", ingress(A, pods({}, {})))
    net.expect(lambda f, t, *_: t[0] != "x" or t == "x/a")
    net.policy("x", "all-to-a", ingress(A, {"namespaceSelector": ns("y")}, ports=[tcp(81)]))
    net.expect(lambda f, t, protocol, port: t[0] != "x" or (t == "x/a" and f[0] == "y" and (protocol, port) == ("TCP", 81)))
    net.policy("x", "more", ingress(A, {"namespaceSelector": ns("y")}, ports=[tcp(80)]))
    net.expect(lambda f, t, protocol, port: t[0] != "x" or (t == "x/a" and f[0] == "y" and protocol == "TCP"))
    net.policy("x", "more", {"podSelector": {}, "ingress": [{}]})
    net.expect(lambda *_: True)
    net.clear()
    net.policy("x", "deny", DENY)
    net.policy("x", "sctp", ingress(A, ports=[{"protocol": "SCTP", "port": 81}]))
    net.expect(lambda f, t, *_: t[0] != "x")
    net.clear()
    net.expect(lambda *_: True)


def test_what_leaves_and_what_comes_is_decided_apart(net):
    """should enforce multiple egress policies with egress allow-all policy taking precedence; should enforce policies to check ingress and
    egress policies can be controlled independently based on PodSelector; should support denying of egress traffic on the client side
    (even if the server explicitly allows this traffic)."""
    net.policy("x", "p", egress(ALL, ports=[tcp(80)]))
    net.expect(lambda f, t, protocol, port: f[0] != "x" or (protocol, port) == ("TCP", 80))
    net.policy("x", "q", {"podSelector": A, "policyTypes": ["Egress"], "egress": [{}]})
    net.expect(lambda f, t, protocol, port: f[0] != "x" or f == "x/a" or (protocol, port) == ("TCP", 80))
    net.policy("x", "p", {"podSelector": A, "ingress": [], "policyTypes": ["Ingress"]})
    net.expect(lambda f, t, *_: t != "x/a")
    net.clear()
    net.policy("x", "p", egress(A, pods(A, ns("y"))))
    net.policy("y", "a", ingress(A, pods(A, ns("x"))))
    net.policy("y", "b", ingress(B, pods(A, ns("x"))))
    net.expect(lambda f, t, *_: (f != "x/a" or t == "y/a") and (t not in ("y/a", "y/b") or f == "x/a"))


def test_policies_follow_what_changes(net):
    """should enforce updated policy; should allow ingress access from updated namespace; should allow ingress access from updated pod;
    should deny ingress access to updated pod."""

    def label(path, **labels):
        body = {"metadata": {"labels": labels}}
        net.api.ask("PATCH", f"/api/v1/namespaces/{path}", body, type="application/merge-patch+json").ok()

    net.policy("x", "p", {"podSelector": {}, "ingress": [{}]})
    net.expect(lambda *_: True)
    net.policy("x", "p", DENY)
    net.expect(lambda f, t, *_: t[0] != "x")
    net.policy("x", "p", ingress(A, {"namespaceSelector": {"matchLabels": {"ns2": "updated"}}}, pods({"matchLabels": {"pod2": "updated"}})))
    net.expect(lambda f, t, *_: t != "x/a")
    label(net.names["y"], ns2="updated")
    net.expect(lambda f, t, *_: t != "x/a" or f[0] == "y")
    label(f"{net.names['x']}/pods/b", pod2="updated")
    net.expect(lambda f, t, *_: t != "x/a" or f[0] == "y" or f == "x/b")
    label(net.names["y"], ns2=None)
    label(f"{net.names['x']}/pods/b", pod2=None)
    net.expect(lambda f, t, *_: t != "x/a")
    net.policy("x", "p", {"podSelector": {"matchLabels": {"target": "isolated"}}, "policyTypes": ["Ingress"]})
    net.expect(lambda *_: True)
    label(f"{net.names['x']}/pods/a", target="isolated")
    net.expect(lambda f, t, *_: t != "x/a")
    label(f"{net.names['x']}/pods/a", target=None)
    net.expect(lambda *_: True)


def test_the_node_comes_in_whatever_policies_say(net):
    net.policy("x", "deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    net.expect(lambda f, t, *_: f[0] != "x" and t[0] != "x")
    address = net.address["x/a"]
    assert ask("/proc/self/ns/net", {"node": ("TCP", address, 80)}) == {"node"}
    node = next(a["address"] for a in net.cluster.get("node", net.cluster.node)["status"]["addresses"] if a["type"] == "InternalIP")
    assert ask(net.netns["x/a"], {"node": ("TCP", node, net.cluster.port)}) == {"node"}


def test_a_pod_is_isolated_before_its_first_packet(net, api):
    """Eight pods, each of which connects as the first thing that it does, and none may."""
    server = net.address["y/a"]
    net.policy("x", "deny", {"podSelector": {}, "policyTypes": ["Egress"]})
    hasty = "for i in 1 2 3; do timeout 1 nc %s 80 </dev/null && echo reached & done; wait; echo tried" % server
    for number, letter in enumerate("zxxxxxxxx"):
        made = pod(f"hasty-{number}", "sh", "-c", hasty, labels={"hasty": "yes"}, spec={"restartPolicy": "Never"})
        api.post(f"/api/v1/namespaces/{net.names[letter]}/pods", made).ok()

    def ended():
        items = api.get("/api/v1/pods", labelSelector="hasty=yes").ok()["items"]
        assert [i["status"]["phase"] for i in items] == ["Succeeded"] * 9
        return items

    for found in eventually(ended):
        where, name = found["metadata"]["namespace"], found["metadata"]["name"]
        said = api.get(f"/api/v1/namespaces/{where}/pods/{name}/log").text.split()
        assert "tried" in said
        assert said.count("reached") == (3 if where == net.names["z"] else 0), "without a policy it works, with it never"
        api.delete(f"/api/v1/namespaces/{where}/pods/{name}").ok()


def test_services_are_judged_by_the_endpoint_and_the_client(net):
    """should allow ingress access from updated pod through a Service: what was asked for does not count, who answers does."""
    where = net.names["x"]
    web = service("web", {"pod": "a"})
    web["spec"]["ports"] = [{"name": "web", "port": 8080, "targetPort": "serve-80-tcp"}]
    net.cluster.apply(web, where)
    address = net.cluster.get("service", "web", "-n", where)["spec"]["clusterIP"]
    reach = lambda who: bool(ask(net.netns[who], {who: ("TCP", address, 8080)}))
    eventually(lambda: reach("y/a"))
    net.policy("x", "p", ingress(A, pods(B), ports=[tcp(80)]))
    eventually(lambda: not reach("y/a"))
    assert reach("x/b") and reach("x/a") and not reach("x/c")
    net.policy("x", "p", ingress(A, pods(B), ports=[tcp(8080)]))
    eventually(lambda: not reach("x/b"))
    net.cluster.kubectl("-n", where, "delete", "service", "web")


def test_explain_names_the_rule_that_decides(net):
    net.policy("x", "deny", DENY)
    net.policy("x", "a-from-y", {"podSelector": A, "ingress": [{"from": [{"podSelector": A}]}, {"from": [{"namespaceSelector": ns("y")}], "ports": [tcp(80)]}]})
    x, y, z = (net.names[letter] for letter in NAMESPACES)
    explain = lambda *words: net.cluster.orlop("explain", "connection", *words, check=False)
    allowed = explain(f"pod/b.{y}", f"pod/a.{x}", "80")
    assert allowed.returncode == 0 and f"NetworkPolicy {x}/a-from-y, ingress[1]" in allowed.stdout, allowed
    denied = explain(f"pod/b.{z}", f"pod/a.{x}", "tcp/80")
    assert denied.returncode == 1 and f"{x}/deny" in denied.stdout and "denied" in denied.stdout, denied
    free = explain(f"pod/b.{z}", f"pod/a.{y}", "udp/80")
    assert free.returncode == 0 and "no NetworkPolicy selects" in free.stdout, free
    missing = explain("pod/nobody", f"pod/a.{y}", "80")
    assert missing.returncode == 2 and "not found" in missing.stderr, missing


def test_denied_packets_are_counted(net, api):
    net.policy("x", "deny", DENY)
    net.expect(lambda f, t, *_: t[0] != "x")
    text = net.cluster.raw(f"/api/v1/nodes/{net.cluster.node}/proxy/metrics")
    pattern = r'orlop_network_policy_packets_total\{namespace="%s",policy="deny",direction="ingress",verdict="denied"\} (\d+)'
    [count] = re.findall(pattern % net.names["x"], text)
    assert int(count) >= 54, "six pods of others ask three, on three ports"


def test_what_is_wrong_in_a_policy_is_refused(net):
    def refused(spec):
        made = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "wrong"}, "spec": spec}
        answer = net.api.post(net.policies("x"), made)
        assert answer.code == 422, answer.text
        [cause] = answer.json["details"]["causes"]
        return cause["field"], cause["message"]

    port = "spec.ingress[0].ports[0]"
    assert refused(ingress(A, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})) == (
        "spec.ingress[0].from[0].ipBlock.except[0]", 'Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`')
    assert refused(ingress(A, ports=[tcp(80, endPort=70)])) == (
        f"{port}.endPort", "Invalid value: 80: must be greater than or equal to `port`")
    assert refused(ingress(A, ports=[tcp("web", endPort=90)])) == (
        f"{port}.endPort", "Invalid value: 90: may not be specified when `port` is non-numeric")
    assert refused(ingress(A, ports=[{"protocol": "ICMP", "port": 1}])) == (
        f"{port}.protocol", 'Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"')


def test_rules_outlive_the_server_and_reset_takes_them_away(own_cluster):
    """An agent that ends leaves its rules in force; the next one takes over without a gap; `orlop reset` leaves no table."""
    cluster = own_cluster.start()
    cluster.import_image(cluster.archive)
    cluster.apply(pod("server", "sleep", "3600"), "default")
    cluster.apply(pod("client", "sleep", "3600"), "default")
    cluster.kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s")
    pods = {p["metadata"]["name"]: p for p in cluster.get("pods")["items"]}
    client, server = netns_of(cluster, pods["client"]), netns_of(cluster, pods["server"])
    target = pods["server"]["status"]["podIP"]
    serve(server, "TCP", 80)
    reach = lambda: bool(ask(client, {"it": ("TCP", target, 80)}))
    assert reach()
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}, "spec": DENY}, "default")
    eventually(lambda: not reach())
    cluster.end()
    assert not reach()
    leaks = []
    stop = threading.Event()
    watching = threading.Thread(target=lambda: [leaks.append(1) for _ in iter(stop.is_set, True) if reach()])
    watching.start()
    cluster.start()
    time.sleep(0.5)
    stop.set()
    watching.join()
    assert not leaks and not reach()
    cluster.kubectl("delete", "networkpolicy", "deny")
    eventually(reach)
    tables = lambda: subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    instance = cluster.data.joinpath("instance").read_text().strip()
    assert f"inet orlop-{instance}-policy" in tables()
    cluster.end()
    cluster.reset()
    assert f"orlop-{instance}" not in tables()

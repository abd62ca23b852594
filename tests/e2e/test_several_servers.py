"""Three servers that share three members of etcd over TLS: reads see what was written elsewhere, controllers run on one of them,
and what becomes of it when a server dies, is stopped, is frozen, or etcd loses a member."""

import json
import os
import signal
import subprocess

import pytest

from cluster import eventually
from hosts import HostedServer, Hosts, sh

LEASE = ("-n", "kube-system", "lease", "orlop-control-plane")


class Member:
    """A member of etcd on a host."""

    def __init__(self, world, host):
        self.world, self.host = world, host
        self.data = world.root / f"etcd-{host.name}"
        self.process = None

    def start(self):
        tls, at = self.world.tls, self.host.address
        cluster = ",".join(f"{m.host.name}=http://{m.host.address}:2380" for m in self.world.members)
        command = ["etcd", "--name", self.host.name, "--data-dir", self.data, "--initial-cluster", cluster,
                   "--listen-client-urls", f"https://{at}:2379", "--advertise-client-urls", f"https://{at}:2379",
                   "--listen-peer-urls", f"http://{at}:2380", "--initial-advertise-peer-urls", f"http://{at}:2380",
                   "--client-cert-auth", "--trusted-ca-file", tls / "ca.crt", "--cert-file", tls / "etcd.crt", "--key-file", tls / "etcd.key"]
        with open(f"{self.data}.log", "ab") as log:
            self.process = subprocess.Popen(self.host.inside(*command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait(30)
        self.process = None


class World:
    def __init__(self, root):
        self.root, self.tls = root, root / "tls"
        self.tls.mkdir()
        self.hosts = Hosts()
        hosts = [self.hosts.add() for _ in range(3)]
        self.certificates(hosts)
        self.members = [Member(self, host) for host in hosts]
        self.servers = []

    def certificates(self, hosts):
        key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        addresses = ",".join(f"IP:{host.address}" for host in hosts)
        sh(f"cd {self.tls} && openssl req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=etcd-ca 2>&1 && "
           f"openssl req -x509 {key} -CA ca.crt -CAkey ca.key -keyout etcd.key -out etcd.crt -subj /CN=etcd -addext subjectAltName={addresses} "
           f"-addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth 2>&1 && "
           f"openssl req -x509 {key} -CA ca.crt -CAkey ca.key -keyout client.key -out client.crt -subj /CN=orlop "
           f"-addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=clientAuth 2>&1")

    @property
    def datastore(self):
        endpoints = ",".join(f"https://{m.host.address}:2379" for m in self.members)
        return ["--datastore-endpoint", endpoints, "--datastore-cafile", self.tls / "ca.crt",
                "--datastore-certfile", self.tls / "client.crt", "--datastore-keyfile", self.tls / "client.key"]

    def server(self, host, *more):
        server = HostedServer(host, self.root / f"{host.name}-{len(self.servers)}", *self.datastore, *more)
        server.root.mkdir()
        self.servers.append(server)
        return server

    def start(self):
        for member in self.members:
            member.start()
        first = self.server(self.members[0].host).start()
        self.token = (first.data / "tls" / "server-token").read_text().strip()
        for member in self.members[1:]:
            self.server(member.host, "--server-token", self.token).start()
        return self

    def living(self):
        return [s for s in self.servers if s.process and s.process.poll() is None]

    def leader(self, asked=None):
        """The server that leads, as one of them tells."""
        lease = (asked or self.living()[0]).get(*LEASE)
        holder = lease["spec"].get("holderIdentity", "").rsplit("_", 1)[0]
        return next((s for s in self.servers if s.node == holder), None)

    def follower(self, *but):
        leader = self.leader()
        return next(s for s in self.living() if s is not leader and s not in but)

    def end(self):
        for server in self.servers:
            if server.process and server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
        for server in self.servers:
            server.end()
            if server.data.exists():
                server.reset()
        for member in self.members:
            member.end()
        self.hosts.remove()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("servers"))
    try:
        yield world.start()
    finally:
        world.end()


def deploy(server, name, replicas):
    """A Deployment whose pods no node can run: only controllers have to do with it."""
    server.apply({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"nodeSelector": {"none": "such"}, "containers": [{"name": "c", "image": "none"}]}}}}, "default")


def pods(server, name):
    return [p for p in server.get("-n", "default", "pods", "-l", f"app={name}")["items"] if "deletionTimestamp" not in p["metadata"]]


def wait_pods(server, name, count):
    eventually(lambda: len(pods(server, name)) == count, what=f"{count} pods of {name}")


def test_what_one_server_wrote_the_others_show_at_once(world):
    for i in range(12):
        writer = world.servers[i % 3]
        writer.kubectl("create", "configmap", f"written-{i}", f"--from-literal=by={writer.node}")
        versions = {s.get("configmap", f"written-{i}")["metadata"]["resourceVersion"] for s in world.servers}
        assert len(versions) == 1, versions
        reader = world.servers[(i + 1) % 3]
        assert f"written-{i}" in reader.kubectl("get", "configmaps", "-o", "name")
        reader.kubectl("patch", "configmap", f"written-{i}", "-p", json.dumps({"data": {"then": reader.node}}))
        assert writer.get("configmap", f"written-{i}")["data"] == {"by": writer.node, "then": reader.node}
        writer.kubectl("delete", "configmap", f"written-{i}")
        assert "NotFound" in reader.refused("get", "configmap", f"written-{i}")


def test_secrets_are_read_everywhere_and_etcd_holds_neither_them_nor_keys(world):
    a, b, _ = world.servers
    a.kubectl("create", "secret", "generic", "shared", "--from-literal=word=correct-horse")
    assert b.get("secret", "shared")["data"]["word"] == "Y29ycmVjdC1ob3JzZQ=="
    member = world.members[0]
    held = subprocess.run(
        member.host.inside("etcdctl", "--endpoints", f"https://{member.host.address}:2379", "--cacert", world.tls / "ca.crt",
                           "--cert", world.tls / "client.crt", "--key", world.tls / "client.key", "get", "--prefix", "/"),
        capture_output=True, check=True, env={**os.environ, "ETCDCTL_API": "3"}).stdout
    assert b"/registry/core/secrets/default/shared" in held
    for secret in (b"correct-horse", b"PRIVATE KEY", world.token.encode()):
        assert secret not in held


def test_every_server_is_a_node_with_a_range_of_its_own_and_an_endpoint_of_the_api(world):
    a = world.servers[0]
    ranges = [n["spec"]["podCIDR"] for n in a.get("nodes")["items"]]
    assert len(ranges) == 3 and len(set(ranges)) == 3
    wanted = sorted(s.host.address for s in world.servers)

    def published():
        return sorted(e["addresses"][0] for e in a.get("-n", "default", "endpointslice", "kubernetes")["endpoints"]) == wanted

    eventually(published, what="three endpoints of the API")


def test_a_server_with_a_wrong_token_or_another_layout_is_refused_and_leaves_nothing_half_joined(world):
    host = world.hosts.add()
    for more, why in [((), "--server-token"), (("--server-token", "ab" * 32), "not that of this cluster"),
                      (("--server-token", world.token, "--cluster-cidr", "10.99.0.0/16"), "10.99.0.0/16")]:
        server = HostedServer(host, world.root / f"refused-{len(why)}", *world.datastore, *more)
        server.root.mkdir()
        server.start(wait=False)
        assert server.process.wait(60) != 0
        assert why in server.log.read_text()
        assert not (server.data / "tls" / "ca.crt").exists()
        server.reset()


def test_a_backup_is_left_to_etcd_whether_the_server_runs_or_not(world):
    server = world.follower()
    refused = server.orlop("backup", "create", "--data-dir", server.data, server.root / "backup", check=False)
    assert refused.returncode != 0 and "etcdctl snapshot save" in refused.stderr
    server.end()
    refused = server.orlop("backup", "create", "--data-dir", server.data, server.root / "backup", check=False)
    assert refused.returncode != 0 and "--datastore-endpoint" in refused.stderr
    assert not (server.root / "backup").exists()
    server.start()


def test_a_leader_that_is_stopped_hands_over(world):
    leader = world.leader()
    other = world.follower()
    leader.end()
    eventually(lambda: world.leader(other) not in (None, leader), what="another leader")
    deploy(other, "handed-over", 2)
    wait_pods(other, "handed-over", 2)
    leader.start()


def test_a_leader_that_is_killed_is_followed_and_writes_go_on(world):
    leader = world.leader()
    a = world.follower()
    b = world.follower(a)
    leader.end(signal.SIGKILL)
    for i in range(10):
        a.kubectl("create", "configmap", f"after-{i}")
        assert b.get("configmap", f"after-{i}")
    eventually(lambda: world.leader(a) not in (None, leader), what="another leader")
    deploy(b, "followed", 2)
    wait_pods(a, "followed", 2)
    leader.start()
    assert leader.get("configmap", "after-9")


def test_a_leader_that_was_frozen_past_its_lease_does_no_harm(world):
    leader = world.leader()
    other = world.follower()
    deploy(other, "fenced", 3)
    wait_pods(other, "fenced", 3)
    leader.process.send_signal(signal.SIGSTOP)
    eventually(lambda: world.leader(other) not in (None, leader), what="another leader")
    other.kubectl("-n", "default", "scale", "deployment", "fenced", "--replicas=1")
    wait_pods(other, "fenced", 1)
    kept = {p["metadata"]["uid"] for p in pods(other, "fenced")}
    new = world.leader(other)
    leader.process.send_signal(signal.SIGCONT)
    eventually(lambda: "no longer leading" in leader.log.read_text(), what="the old leader noticing")
    deploy(leader, "after-the-frost", 2)
    wait_pods(leader, "after-the-frost", 2)
    assert world.leader(leader) is new
    assert {p["metadata"]["uid"] for p in pods(leader, "fenced")} == kept


def test_all_goes_on_when_etcd_loses_a_member(world):
    lost = world.members[0]
    lost.end()
    deploy(world.servers[1], "one-member-less", 2)
    for server in world.servers:
        wait_pods(server, "one-member-less", 2)
        eventually(lambda: server.run("create", "configmap", f"less-{server.node}").returncode == 0, what="a write")
    lost.start()
    for server in world.servers:
        assert server.get("configmap", f"less-{world.servers[0].node}")

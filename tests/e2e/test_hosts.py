"""Several machines: joining, pods that reach each other from host to host, Services, DNS, logs and exec across them, and what
becomes of it when a machine or its agent goes. Hosts are network namespaces; the first runs the server."""

import json
import signal
import subprocess
import time

import pytest

from cluster import Namespace, eventually, pod
from hosts import HostedServer, Hosts, Worker

WEB = ["sh", "-c", "hostname > /www/index.html; mkdir -p /www/cgi-bin; "
       "printf '#!/bin/sh\\nprintf \"\\\\r\\\\n$REMOTE_ADDR\\\\n\"\\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www"]


class World:
    """A server on one host; workers join when a test wants them."""

    def __init__(self, root, archive, *options):
        self.root, self.archive = root, archive
        self.hosts = Hosts()
        self.workers = {}
        self.server = HostedServer(self.hosts.add(), root / "server", *options)
        self.server.root.mkdir()

    def start(self):
        self.server.start()
        self.server.import_image(self.archive)
        return self

    def worker(self, segment=2, image=True):
        host = self.hosts.add(segment)
        worker = self.workers[host.name] = Worker(host, self.root / host.name, self.server)
        worker.joins(self.server.token())
        self.server.wait_node(host.name)
        if image:
            worker.import_image(self.archive)
        return worker

    def end(self):
        for worker in self.workers.values():
            worker.end()
            if worker.data.exists():
                worker.reset()
        self.server.end()
        self.server.reset()
        left = self.left()
        self.hosts.remove()
        assert not left, f"left behind: {left}"

    def left(self):
        """What Orlop left on hosts after all was reset."""
        found = []
        for host in self.hosts.hosts:
            links = [link["ifname"] for link in json.loads(host.run("ip", "-json", "link"))]
            found += [f"{host.name}: {name}" for name in links if name not in ("lo", "eth0")]
            found += [f"{host.name}: {line}" for line in host.run("ip", "route").splitlines() if "eth0" not in line or "proto 79" in line]
            found += [f"{host.name}: {line}" for line in host.run("nft", "list", "tables").splitlines() if "orlop" in line]
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, archive):
    """A server and one worker on one segment."""
    world = World(tmp_path_factory.mktemp("hosts"), archive)
    try:
        world.start().worker()
        yield world
    finally:
        world.end()


@pytest.fixture
def space(world, request):
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    world.server.kubectl("create", "namespace", name)
    yield Namespace(world.server, name)
    world.server.kubectl("delete", "namespace", name, "--wait=false")


def on(host, name, *command, **more):
    made = pod(name, *(command or WEB), **more)
    made["spec"]["nodeName"] = host.name
    return made


def address(space, name):
    return space.wait_ready(name)["status"]["podIP"]


def reaches(space, name, where):
    return space.exec(name, "timeout", "3", "fetch", f"http://{where}/").strip()


def two(space, world):
    """A pod on the server's host and one on the worker's; their names and addresses."""
    worker = next(iter(world.workers.values()))
    space.apply(on(world.server.host, "here"), on(worker.host, "there"))
    return worker, address(space, "here"), address(space, "there")


def test_a_worker_is_a_node_with_a_range_and_certificates_of_its_own(world):
    node = world.server.get("node", "host-2")
    assert node["spec"]["podCIDRs"] == ["10.42.1.0/24"] and node["spec"]["podCIDR"] == "10.42.1.0/24"
    assert world.server.get("node", "host-1")["spec"]["podCIDRs"] == ["10.42.0.0/24"]
    assert "node-role.kubernetes.io/control-plane" not in node["metadata"]["labels"]
    secrets = world.server.get("secret", "-n", "kube-system", "--field-selector=type=bootstrap.kubernetes.io/token")["items"]
    assert secrets and not any("token-secret" in s["data"] for s in secrets), "tokens are kept as hashes"
    mode = {path.name: oct(path.stat().st_mode & 0o777) for path in (world.workers["host-2"].data / "tls").iterdir()}
    assert mode == {"node-client.pem": "0o600", "node-serving.pem": "0o600"}


def test_policies_hold_from_machine_to_machine(space, world):
    """Each node keeps the policies of its own pods, by the labels and addresses of pods anywhere."""
    worker, here, there = two(space, world)
    space.apply(on(world.server.host, "other"))
    address(space, "other")
    passes = lambda who, where: space.run("exec", who, "--", "timeout", "1", "fetch", f"http://{where}:8080/", check=False).returncode == 0
    assert passes("here", there) and passes("other", there) and passes("there", here)
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "there"}}
    peer = [{"podSelector": {"matchLabels": {"app": "here"}}}]
    policy["spec"] = {"podSelector": {"matchLabels": {"app": "there"}}, "ingress": [{"from": peer}]}
    space.apply(policy)
    eventually(lambda: not passes("other", there))
    assert passes("here", there) and passes("there", here)
    policy["spec"] = {"podSelector": {"matchLabels": {"app": "here"}}, "policyTypes": ["Egress"], "egress": []}
    space.apply(policy)
    eventually(lambda: not passes("here", there))
    assert passes("other", there) and passes("there", here), "answers pass"
    assert "inet orlop-" in worker.host.run("nft", "list", "tables")


def test_pods_on_different_machines_reach_each_other_as_themselves(space, world):
    worker, here, there = two(space, world)
    assert here.startswith("10.42.0.") and there.startswith("10.42.1.")
    assert reaches(space, "here", f"{there}:8080") == "there"
    assert reaches(space, "there", f"{here}:8080") == "here"
    # From node to pod, and no address is translated on the way between pods.
    assert worker.host.run("curl", "-s", f"http://{here}:8080").strip() == "here"
    assert eventually(lambda: there in space.exec("there", "fetch", f"http://{here}:8080/cgi-bin/who"), what="its own address")
    routes = world.server.host.routes()
    assert routes["10.42.1.0/24"]["gateway"] == worker.host.address and "dev" in routes["10.42.1.0/24"]


def test_a_service_has_endpoints_on_other_machines_and_a_name_on_each(space, world):
    worker, _, there = two(space, world)
    space.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                 "spec": {"selector": {"app": "there"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    ip = space.get("service", "web")["spec"]["clusterIP"]
    for client in ("here", "there"):
        assert eventually(lambda: reaches(space, client, ip), what="the Service") == "there"
        assert reaches(space, client, f"web.{space.name}.svc.cluster.local") == "there"
    for host in (world.server.host, worker.host):
        assert host.run("curl", "-s", "-m", "3", f"http://{ip}").strip() == "there", f"from {host.name} itself"
    # The API itself is a Service too, for pods on the worker.
    space.exec("there", "sh", "-c", "nc -w 3 kubernetes.default.svc.cluster.local 443 < /dev/null")


def test_logs_exec_and_port_forward_reach_the_worker(space, world):
    worker, _, _ = two(space, world)
    space.apply(on(worker.host, "speaker", "sh", "-c", "echo said on $(hostname); sleep 100"))
    space.wait_ready("speaker")
    assert space.logs("speaker").strip() == "said on speaker"
    assert space.exec("there", "hostname").strip() == "there"
    assert json.loads(world.server.raw(f"/api/v1/nodes/{worker.host.name}/proxy/stats/summary"))["node"]["nodeName"] == worker.host.name
    assert worker.host.name in eventually(lambda: world.server.kubectl("top", "node"), what="what nodes use")


def test_a_killed_agent_leaves_its_containers_alone_and_goes_on_without_a_token(space, world):
    worker, here, there = two(space, world)
    before = space.get("pod", "there")["status"]["containerStatuses"][0]
    worker.end(signal.SIGKILL)
    assert reaches(space, "here", f"{there}:8080") == "there", "its pods go on without it"
    worker.start()
    eventually(lambda: space.run("exec", "there", "--", "true", check=False).returncode == 0, what="the agent back")
    after = space.get("pod", "there")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert reaches(space, "there", f"{here}:8080") == "here"


def test_a_cut_off_worker_keeps_what_it_knows_and_comes_back(space, world):
    worker, here, there = two(space, world)
    worker.host.cut()
    try:
        assert worker.host.routes()["10.42.0.0/24"]["gateway"] == world.server.host.address
        assert worker.host.run("curl", "-s", f"http://{there}:8080").strip() == "there"
    finally:
        worker.host.join()
    eventually(lambda: reaches(space, "here", f"{there}:8080") == "there", what="the way back")


def test_bad_tokens_are_refused_with_what_to_do_and_leave_nothing(world, tmp_path):
    server = world.server
    host = world.hosts.add()
    newcomer = Worker(host, tmp_path / "newcomer", server)
    made, good = time.monotonic(), server.token("--ttl", "2s")
    token_id, secret, pin = good.split(".")
    wrong = ".".join([token_id, "0" * 16, pin])
    assert "make a new one on the server" in newcomer.refused("--server", server.url, "--token", wrong)
    other_pin = ".".join([token_id, secret, "0" * 64])
    assert "is not of the cluster that the token is for" in newcomer.refused("--server", server.url, "--token", other_pin)
    assert "ID.SECRET.PIN" in newcomer.refused("--server", server.url, "--token", "abc")
    assert "--print-join-command" in newcomer.refused()
    assert "https://" in newcomer.refused("--server", "192.0.2.1", "--token", good)
    revoked = server.token("--description", "for a test")
    assert "for a test" in server.orlop("token", "list").stdout
    server.orlop("token", "delete", revoked)
    assert "was revoked" in newcomer.refused("--server", server.url, "--token", revoked)
    time.sleep(max(0, made + 2.1 - time.monotonic()))
    assert "has expired" in newcomer.refused("--server", server.url, "--token", good)
    # A name that a living node has.
    taken = newcomer.refused("--server", server.url, "--token", server.token(), name="host-2")
    assert 'node "host-2" is alive' in taken and "Choose another name" in taken
    assert server.get("node", "host-2")["spec"]["podCIDR"] == "10.42.1.0/24"


def test_a_server_that_cannot_be_reached_is_waited_for(world, tmp_path):
    host = world.hosts.add()
    newcomer = Worker(host, tmp_path / "newcomer", world.server)
    host.cut()
    newcomer.joins(world.server.token())
    eventually(lambda: "trying again" in newcomer.log.read_text(), what="a clear sentence")
    assert not newcomer.data.exists()
    newcomer.end(signal.SIGINT)
    assert not newcomer.data.exists()


def test_a_removed_worker_takes_its_routes_with_it_and_its_range_can_be_given_again(world):
    worker = world.worker(image=False)
    name, host = worker.host.name, worker.host
    routed = world.server.get("node", name)["spec"]["podCIDR"]
    others = [world.server.host, world.workers["host-2"].host]
    for other in others:
        eventually(lambda: routed in other.routes(), what=f"the route on {other.name}")
    worker.end()
    worker.reset()
    world.server.kubectl("delete", "node", name)
    for other in others:
        eventually(lambda: routed not in other.routes(), what=f"no route on {other.name}")
    assert not [line for line in host.run("ip", "route").splitlines() if "10.4" in line]


def test_a_worker_whose_address_changed_is_reached_at_the_new_one(space, world):
    worker, here, there = two(space, world)
    before = worker.host.address
    worker.end()
    worker.host.set_address(worker.host.segment.address(77))
    worker.start()
    try:
        eventually(lambda: world.server.host.routes()["10.42.1.0/24"]["gateway"] == worker.host.address, what="the new route")
        assert eventually(lambda: reaches(space, "here", f"{there}:8080")) == "there"
        assert eventually(lambda: space.exec("there", "hostname"), what="a certificate for the new address").strip() == "there"
    finally:
        worker.end()
        worker.host.set_address(before)
        worker.start()
        eventually(lambda: world.server.host.routes()["10.42.1.0/24"]["gateway"] == before, what="the old route")


def aged(worker, server):
    """Gives a worker a client certificate that was over yesterday."""
    file = worker.data / "tls" / "node-client.pem"
    fresh = file.read_text()
    folder, tls = worker.root, server.data / "tls"
    (folder / "key.pem").write_text(fresh[fresh.index("-----BEGIN PRIVATE KEY-----"):])
    (folder / "index").write_text("")
    (folder / "serial").write_text("01")
    (folder / "ca.conf").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={folder}/index\nserial={folder}/serial\nnew_certs_dir={folder}\ndefault_md=sha256\n"
        "policy=any\nx509_extensions=use\nunique_subject=no\n[any]\norganizationName=supplied\ncommonName=supplied\n"
        "[use]\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n")
    subject = f"/O=system:nodes/CN=system:node:{worker.host.name}"
    for command in (["req", "-new", "-key", folder / "key.pem", "-subj", subject, "-out", folder / "old.csr"],
                    ["ca", "-batch", "-notext", "-config", folder / "ca.conf", "-cert", tls / "ca.crt", "-keyfile", tls / "ca.key",
                     "-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-in", folder / "old.csr", "-out", folder / "old.pem"]):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    file.write_text((folder / "old.pem").read_text() + (folder / "key.pem").read_text())


def test_a_worker_that_slept_through_the_end_of_its_certificate_renews_it(world):
    worker, server = world.workers["host-2"], world.server
    worker.end()
    aged(worker, server)
    # What such a certificate is good for: a request for a new one.
    certificate = [f"--client-certificate={worker.root / 'old.pem'}", f"--client-key={worker.root / 'key.pem'}"]
    as_node = ["--kubeconfig=/dev/null", f"--server={server.url}", f"--certificate-authority={server.data / 'tls' / 'ca.crt'}", *certificate]
    assert "orlop.dev:expired-nodes" in server.kubectl(*as_node, "auth", "whoami", "-o", "json")
    assert "forbidden" in server.refused(*as_node, "get", "node", "host-2").lower()
    file = worker.data / "tls" / "node-client.pem"
    over = file.read_text()
    worker.start()
    eventually(lambda: file.read_text() != over, what="a new certificate")

    def renewed_after():
        lease = server.get("lease", "-n", "kube-node-lease", "host-2")["spec"]["renewTime"]
        return lease > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))

    began = time.time()
    eventually(lambda: server.node_ready("host-2") and renewed_after(), what="the node alive")


def test_a_removed_worker_does_not_come_back_with_an_old_certificate(world, tmp_path):
    server = world.server
    worker = world.worker(image=False)
    worker.end()
    aged(worker, server)
    server.kubectl("delete", "node", worker.host.name)
    done = subprocess.run(worker.host.inside(*worker.arguments()), capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "removed from the cluster" in done.stderr, done.stderr
    # With a token it does.
    worker.joins(server.token())
    server.wait_node(worker.host.name)
    worker.end()
    worker.reset()
    # And at once again, after a reset, although it was alive a moment ago.
    worker.joins(server.token())
    eventually(lambda: (worker.data / "agent.json").exists(), timeout=5, what="joined again")

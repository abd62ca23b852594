"""Hosts for tests: network namespaces joined by a bridge, each with its own addresses and its own orlop. Links can be cut,
addresses changed, packets lost. By hand: `python3 tests/e2e/hosts.py up 3`, and `down`."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from cluster import BINARY, Cluster, eventually

_names = itertools.count()


def sh(command, check=True):
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.stderr}")
    return done.stdout


class Segment:
    """A network of hosts: a bridge in a namespace of its own. Several segments share that namespace, which routes between them."""

    def __init__(self, router, number):
        self.router, self.number = router, number
        self.bridge = f"seg{number}"
        self.gateway = self.address(254)
        sh(f"ip -n {router} link add {self.bridge} type bridge && ip -n {router} address add {self.gateway}/24 dev {self.bridge} && "
           f"ip -n {router} link set {self.bridge} up")

    def address(self, host):
        return f"192.0.{self.number}.{host}"


class Hosts:
    """Hosts and the segments between them. Nothing of it touches the machine's own network."""

    def __init__(self, prefix=None):
        self.prefix = prefix or f"oh{os.getpid()}x{next(_names)}"
        self.router = f"{self.prefix}-r"
        sh(f"ip netns add {self.router} && ip -n {self.router} link set lo up && ip netns exec {self.router} sysctl -qw net.ipv4.ip_forward=1")
        self.segments, self.hosts = {}, []

    def segment(self, number=2):
        if number not in self.segments:
            self.segments[number] = Segment(self.router, number)
        return self.segments[number]

    def add(self, segment=2):
        host = Host(self, self.segment(segment), len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def remove(self):
        for host in self.hosts:
            host.remove()
        sh(f"ip netns delete {self.router}", check=False)


class Host:
    """One machine."""

    def __init__(self, hosts, segment, number):
        self.hosts, self.segment, self.number = hosts, segment, number
        self.name = f"host-{number}"
        self.netns = f"{hosts.prefix}-{number}"
        self.link = f"to{number}"
        router = hosts.router
        sh(f"ip netns add {self.netns} && ip -n {self.netns} link set lo up && "
           f"ip -n {router} link add {self.link} type veth peer name eth0 netns {self.netns} && "
           f"ip -n {router} link set {self.link} master {segment.bridge} up && ip -n {self.netns} link set eth0 up")
        self.address = None
        self.set_address(segment.address(number))

    def set_address(self, address):
        sh(f"ip -n {self.netns} address flush dev eth0 && ip -n {self.netns} address add {address}/24 dev eth0 && "
           f"ip -n {self.netns} route replace default via {self.segment.gateway}")
        self.address = address

    def inside(self, *command):
        """The command line that runs a command on this host. Mounts are the machine's: they must outlive whoever made them."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", *map(str, command)]

    def run(self, *command, check=True, **more):
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=60, **more)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def routes(self):
        return {r["dst"]: r for r in json.loads(self.run("ip", "-json", "route"))}

    def cut(self):
        """Pulls the cable."""
        sh(f"ip -n {self.hosts.router} link set {self.link} down")

    def join(self):
        """Puts the cable back in."""
        sh(f"ip -n {self.hosts.router} link set {self.link} up")

    def lose(self, percent):
        """Loses so many of the packets that come in; 0 ends it."""
        self.run("sh", "-c", "nft delete table inet lossy 2>/dev/null; true")
        if percent:
            self.run("nft", "add table inet lossy; add chain inet lossy in { type filter hook prerouting priority -400; }; "
                     f"add rule inet lossy in iifname eth0 numgen random mod 100 < {percent} drop")

    def remove(self):
        sh(f"ip netns delete {self.netns}", check=False)


class HostedServer(Cluster):
    """`orlop server` on a host. Everything else works as with any cluster: kubectl runs on the same host."""

    def __init__(self, host, root, *more_arguments):
        self.host = host
        self.root = pathlib.Path(root)
        self.data = self.root / "data"
        self.kubeconfig = self.data / "admin.kubeconfig"
        self.port, self.kubelet_port = 6443, 10250
        self.node = host.name
        self.process = None
        self.more_arguments = list(more_arguments)
        self.pressure = ["--eviction-hard", "memory.available<10Mi", "--image-gc-high-threshold", "100"]

    @property
    def url(self):
        return f"https://{self.host.address}:{self.port}"

    def start(self, wait=True):
        arguments = [BINARY, "server", "--data-dir", self.data, "--node-name", self.node, *self.pressure,
                     "--log", os.environ.get("ORLOP_LOG", "info"), *self.more_arguments]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.host.inside(*arguments), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def reset(self):
        self.host.run(BINARY, "reset", "--data-dir", self.data, "--yes")

    def orlop(self, *arguments, check=True, **more):
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(self.host.inside(BINARY, *arguments), check=check, capture_output=True, text=True, env=environment,
                              timeout=120, **more)

    def run(self, *arguments, check=True, input=None, timeout=120):
        command = self.host.inside("kubectl", "--kubeconfig", self.kubeconfig, *arguments)
        if isinstance(input, (dict, list)):
            input = json.dumps(input)
        return subprocess.run(command, check=check, capture_output=True, text=True, input=input, timeout=timeout)

    def token(self, *options):
        return self.orlop("token", "create", *options).stdout.strip()

    def node_ready(self, name):
        found = self.run("get", "node", name, "-o", "json", check=False)
        if found.returncode != 0:
            return False
        conditions = json.loads(found.stdout).get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def wait_node(self, name, timeout=30):
        eventually(lambda: self.node_ready(name), timeout=timeout, pause=0.02, what=f"node {name} Ready")


class Worker:
    """`orlop agent` on a host."""

    def __init__(self, host, root, server):
        self.host, self.server = host, server
        self.root = pathlib.Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.data = self.root / "data"
        self.log = self.root / "agent.log"
        self.process = None

    def arguments(self, *more, name=None):
        return [BINARY, "agent", "--data-dir", self.data, "--node-name", name or self.host.name, "--eviction-hard", "memory.available<10Mi",
                "--image-gc-high-threshold", "100", "--log", os.environ.get("ORLOP_LOG", "info"), *more]

    def start(self, *more):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.host.inside(*self.arguments(*more)), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True)
        return self

    def joins(self, token):
        return self.start("--server", self.server.url, "--token", token)

    def refused(self, *more, name=None):
        """What an agent says that must end by itself, having left nothing."""
        done = subprocess.run(self.host.inside(*self.arguments(*more, name=name)), capture_output=True, text=True, timeout=30)
        assert done.returncode != 0, f"it joined: {done.stdout}"
        assert not self.data.exists(), f"it left {list(self.data.iterdir())}"
        return done.stderr

    def end(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)
        self.process = None

    def import_image(self, archive):
        eventually(lambda: (self.data / "orlop.sock").exists(), what="the agent's socket")
        self.host.run(BINARY, "image", "import", "--data-dir", self.data, archive)

    def reset(self):
        self.host.run(BINARY, "reset", "--data-dir", self.data, "--yes")


def main():
    """`up N`: a server and N-1 workers on hosts of their own, until Ctrl-C."""
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    root = pathlib.Path(tempfile.mkdtemp(prefix="orlop-hosts-"))
    hosts = Hosts()
    server = HostedServer(hosts.add(), root / "server")
    server.root.mkdir()
    workers = []
    try:
        server.start()
        for _ in range(count - 1):
            host = hosts.add()
            workers.append(Worker(host, root / host.name, server).joins(server.token()))
            server.wait_node(host.name)
        print(f"{count} hosts are up. A shell on one: nsenter --net=/run/netns/{server.host.netns}; then: export KUBECONFIG={server.kubeconfig}; "
              "kubectl get nodes. Ctrl-C ends them and leaves nothing.", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers:
            worker.end()
            worker.reset()
        server.end()
        server.reset()
        hosts.remove()
        shutil.rmtree(root)


if __name__ == "__main__":
    if sys.argv[1:2] != ["up"]:
        sys.exit("usage: hosts.py up [N]")
    main()

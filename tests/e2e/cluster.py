"""A cluster in a temporary folder, driven as a user would: the orlop binary, kubectl, the Python client."""

import fcntl
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

BINARY = os.environ.get("ORLOP_BINARY", "orlop")


def eventually(check, timeout=30, pause=0.05, what="condition"):
    """Returns the first truthy result of check(); its last failure explains a time-out."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            result = check()
            if result:
                return result
            last = result
        except (AssertionError, KeyError, IndexError, subprocess.CalledProcessError) as error:
            last = getattr(error, "stderr", None) or error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout} s; last: {last}")
        time.sleep(pause)


def _numbers():
    """Numbers of clusters whose addresses and ports nobody on this machine uses: another run may be under way, or was killed."""
    ours = {}
    for number in itertools.cycle(range(70)):
        if number not in ours:
            lock = open(pathlib.Path(tempfile.gettempdir()) / f"orlop-test-cluster-{number}.lock", "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            ours[number] = lock  # held as long as this process lives
        routes = json.loads(subprocess.run(["ip", "-json", "route", "show", "table", "all"], capture_output=True, check=True).stdout)
        taken = {route["dst"].split(".")[1] for route in routes if route["dst"].startswith("10.")}
        if {str(100 + 2 * number), str(101 + 2 * number)} & taken:
            continue
        try:
            for port in (16443 + number, 20250 + number):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("0.0.0.0", port))
        except OSError:
            continue
        yield number


_free_numbers = _numbers()


class Cluster:
    """One server. Several can run side by side."""

    def __init__(self, root):
        number = next(_free_numbers)
        self.root = pathlib.Path(root)
        self.data = self.root / "data"
        self.kubeconfig = self.data / "admin.kubeconfig"
        self.port = 16443 + number
        self.kubelet_port = 20250 + number
        self.node = f"node-{number}"
        self.pods, self.services = f"10.{100 + 2 * number}.0.0/16", f"10.{101 + 2 * number}.0.0/16"
        self.node_ports = f"{30000 + 35 * number}-{30034 + 35 * number}"
        self.process = None
        self.more_arguments = []
        # Nobody is evicted because this machine's disk is nearly full.
        self.pressure = ["--eviction-hard", "memory.available<10Mi", "--image-gc-high-threshold", "100"]

    @property
    def log(self):
        return self.root / "server.log"

    def start(self, wait=True):
        arguments = [
            BINARY, "server", "--data-dir", self.data, "--https-port", str(self.port),
            "--kubelet-port", str(self.kubelet_port), "--node-name", self.node,
            "--cluster-cidr", self.pods, "--service-cidr", self.services,
            "--service-node-ports", self.node_ports, *self.pressure, "--log", os.environ.get("ORLOP_LOG", "info"), *self.more_arguments,
        ]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(a) for a in arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.log.read_text()[-4000:]}")
            node = self.get("node", self.node)
            return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])

        eventually(ready, timeout=30, what="node Ready")

    def end(self, how=signal.SIGTERM):
        """Ends the server; containers keep running."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)
        self.process = None

    def reset(self):
        subprocess.run([BINARY, "reset", "--data-dir", self.data, "--yes"], check=True, capture_output=True, text=True)

    def orlop(self, *arguments, check=True, **more):
        command = [BINARY, *map(str, arguments)]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(command, check=check, capture_output=True, text=True, env=environment, timeout=120, **more)

    def import_image(self, archive):
        return self.orlop("image", "import", "--data-dir", self.data, archive)

    def run(self, *arguments, check=True, input=None, timeout=120):
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *map(str, arguments)]
        if isinstance(input, (dict, list)):
            input = json.dumps(input)
        return subprocess.run(command, check=check, capture_output=True, text=True, input=input, timeout=timeout)

    def kubectl(self, *arguments, **more):
        """Standard output of a kubectl that must succeed."""
        try:
            return self.run(*arguments, **more).stdout
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {error.stderr}") from None

    def refused(self, *arguments, **more):
        """Standard error of a kubectl that must fail."""
        result = self.run(*arguments, check=False, **more)
        assert result.returncode != 0, f"accepted: {result.stdout}"
        return result.stderr

    def get(self, *arguments):
        return json.loads(self.run("get", *arguments, "-o", "json").stdout)

    def apply(self, manifest, namespace=None):
        where = ["-n", namespace] if namespace else []
        return self.kubectl("apply", *where, "-f", "-", input=manifest)

    def raw(self, path):
        return self.kubectl("get", "--raw", path)


class Namespace:
    """A namespace of one test; verbs without a namespace of their own work in it."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", self.name, *arguments, **more)

    def refused(self, *arguments, **more):
        return self.cluster.refused("-n", self.name, *arguments, **more)

    def run(self, *arguments, **more):
        return self.cluster.run("-n", self.name, *arguments, **more)

    def get(self, *arguments):
        return self.cluster.get("-n", self.name, *arguments)

    def apply(self, *manifests):
        for manifest in manifests:
            self.cluster.apply(manifest, self.name)

    def pods(self, selector=None):
        return self.get("pods", *(["-l", selector] if selector else []))["items"]

    def wait_ready(self, name, timeout=30):
        return self.wait_pod(name, lambda p: condition(p, "Ready") == "True", timeout, "Ready")

    def wait_phase(self, name, phase, timeout=30):
        return self.wait_pod(name, lambda p: p["status"].get("phase") == phase, timeout, phase)

    def wait_pod(self, name, check, timeout=30, what="as expected"):
        seen = {}

        def look():
            seen["pod"] = self.get("pod", name)
            return seen["pod"] if check(seen["pod"]) else None

        try:
            return eventually(look, timeout, what=f"pod {name} {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(seen.get('pod', {}).get('status'), indent=1)}") from None

    def wait_rollout(self, kind_name, timeout=60):
        self.kubectl("rollout", "status", kind_name, f"--timeout={timeout}s", timeout=timeout + 10)

    def logs(self, pod, *more):
        return self.kubectl("logs", pod, *more)

    def exec(self, pod, *command):
        return self.kubectl("exec", pod, "--", *command)

    def events(self, name):
        return [e for e in self.get("events")["items"] if e["involvedObject"]["name"] == name]


def condition(thing, kind):
    for c in thing.get("status", {}).get("conditions", []):
        if c["type"] == kind:
            return c["status"]
    return None


def pod(name, *command, image="e2e.test/busybox:1", labels=None, spec=None, **container):
    """A pod of one busybox container."""
    main = {"name": "main", "image": image, **container}
    if command:
        main["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"app": name}},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 1, **(spec or {})},
    }


WEB = ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]


def deployment(name, replicas=1, command=WEB, **more):
    """A Deployment of web servers that answer with their pod's name on port 8080."""
    container = {
        "name": "main",
        "image": "e2e.test/busybox:1",
        "command": command,
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        **more.pop("container", {}),
    }
    template = {"containers": [container], "terminationGracePeriodSeconds": 1, **more.pop("pod", {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template},
            **more,
        },
    }


def service(name, selector=None, **spec):
    """A Service on port 80 for `deployment(name)`."""
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector or {"app": name}, "ports": ports, **spec},
    }

#!/usr/bin/env python3
"""Measures a cluster on one machine: cold start, memory and processor at rest, pods to Ready; beside containerd with runc for the
same image in the same run. Run as root with ORLOP_BINARY pointing at a release build:

    ORLOP_BINARY=target/release/orlop python3 benches/cluster.py

Needs the Python client, and for the peer Debian's containerd and runc."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "e2e"))

import images  # noqa: E402
import kubernetes  # noqa: E402
from cluster import Cluster, pod  # noqa: E402

IMAGE = "e2e.test/busybox:1"


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def line(name, value, unit, goal=""):
    print(f"{name:<58}{value:>10.1f} {unit:<4} {goal}", flush=True)


def resident(pid):
    """Resident bytes of a process: all, and what it shares with nobody."""
    fields = {}
    for entry in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = entry.split(":")
        fields[name] = int(value.split()[0]) * 1024
    return fields["Rss"], fields["Private_Clean"] + fields["Private_Dirty"]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cold_start(cluster):
    """Seconds from the command to a Ready node."""
    begun = time.monotonic()
    cluster.start(wait=False)
    while not cluster.kubeconfig.exists():
        time.sleep(0.002)
    api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))
    while True:
        try:
            conditions = api.read_node(cluster.node).status.conditions or []
            if any(c.type == "Ready" and c.status == "True" for c in conditions):
                return time.monotonic() - begun, api
        except Exception:
            pass
        time.sleep(0.005)


def lines(pieces):
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def create(api, name):
    api.create_namespaced_pod("default", pod(name, "sleep", "3600"), _preload_content=False).release_conn()


class Readiness:
    """Notes when each pod was first seen Ready."""

    def __init__(self, api):
        self.seen, self.changed = {}, threading.Condition()
        start = api.list_namespaced_pod("default").metadata.resource_version
        self.thread = threading.Thread(target=self.follow, args=(api, start), daemon=True)
        self.thread.start()

    def follow(self, api, start):
        # Plain JSON: the client's own models cost milliseconds of this machine's processor for each event.
        stream = api.list_namespaced_pod("default", resource_version=start, watch=True, _preload_content=False)
        for event in map(json.loads, lines(stream.stream(amt=None, decode_content=False))):
            pod = event["object"]
            conditions = pod.get("status", {}).get("conditions", [])
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                with self.changed:
                    self.seen.setdefault(pod["metadata"]["name"], time.monotonic())
                    self.changed.notify_all()

    def wait(self, names, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: all(n in self.seen for n in names), timeout):
                missing = [n for n in names if n not in self.seen]
                raise SystemExit(f"not Ready after {timeout} s: {missing[:5]} and {len(missing)} in all")
            return max(self.seen[n] for n in names)


def pods(api, one_by_one, at_once):
    ready = Readiness(api)
    times = []
    for i in range(one_by_one):
        name = f"one-{i}"
        begun = time.monotonic()
        create(api, name)
        times.append(ready.wait([name], 30) - begun)
        api.delete_namespaced_pod(name, "default", grace_period_seconds=0)
    time.sleep(2)
    names = [f"many-{i}" for i in range(at_once)]
    begun = time.monotonic()
    for name in names:
        create(api, name)
    many = ready.wait(names, 120) - begun
    return times, many


def containerd(folder, archive, one_by_one, at_once):
    """The same with containerd and runc: seconds of each `ctr run`, and of many at once."""
    root, state, socket = folder / "root", folder / "state", folder / "containerd.sock"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{state}"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
    )
    with open(folder / "log", "wb") as log:
        daemon = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    ctr = ["ctr", "-a", socket]
    run = lambda *a: subprocess.run([str(x) for x in [*ctr, *a]], check=True, capture_output=True)
    try:
        for _ in range(100):
            if socket.exists() and subprocess.run([str(x) for x in [*ctr, "version"]], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        run("images", "import", archive)
        image = subprocess.run([*map(str, ctr), "images", "ls", "-q"], capture_output=True, text=True, check=True).stdout.split()[0]
        times = []
        for i in range(one_by_one):
            begun = time.monotonic()
            run("run", "-d", image, f"one-{i}", "sleep", "3600")
            times.append(time.monotonic() - begun)
        begun = time.monotonic()
        commands = [
            subprocess.Popen([*map(str, ctr), "run", "-d", image, f"many-{i}", "sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for i in range(at_once)
        ]
        for command in commands:
            command.wait()
        many = time.monotonic() - begun
        tasks = subprocess.run([*map(str, ctr), "tasks", "ls", "-q"], capture_output=True, text=True).stdout.split()
        for task in tasks:
            subprocess.run([*map(str, ctr), "tasks", "kill", "-s", "SIGKILL", task], capture_output=True)
        for _ in range(50):
            listed = subprocess.run([*map(str, ctr), "tasks", "ls"], capture_output=True, text=True).stdout
            if "RUNNING" not in listed:
                break
            time.sleep(0.1)
        for task in tasks:
            subprocess.run([*map(str, ctr), "containers", "rm", task], capture_output=True)
        return times, many
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-by-one", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--rest", type=float, default=20, help="seconds at rest over which the processor is measured")
    arguments = parser.parse_args()
    os.environ.setdefault("ORLOP_LOG", "warn")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="orlop-bench-"))
    archive = images.docker_archive(folder / "busybox.tar", IMAGE, [images.busybox_layer()])
    cluster = Cluster(folder)
    try:
        start, api = cold_start(cluster)
        line("cold start: command to node Ready", start * 1000, "ms", "(goal: under 1000)")
        cluster.import_image(archive)
        time.sleep(5)
        before = cpu_seconds(cluster.process.pid)
        time.sleep(arguments.rest)
        used = cpu_seconds(cluster.process.pid) - before
        rss, private = resident(cluster.process.pid)
        line("memory at rest, resident", rss / 1e6, "MB", "(goal: under 60)")
        line("memory at rest, private", private / 1e6, "MB")
        line("processor at rest", 100 * used / arguments.rest, "%", "(goal: under 1 of one core)")
        times, many = pods(api, arguments.one_by_one, arguments.at_once)
        line("pod create to Ready through the API, p50", statistics.median(times) * 1000, "ms", "(goal: under 60)")
        line("pod create to Ready through the API, p95", percentile(times, 0.95) * 1000, "ms")
        line(f"{arguments.at_once} pods at once to all Ready", many, "s", "(goal: under 4)")
        rss, _ = resident(cluster.process.pid)
        line(f"memory with {arguments.at_once} pods, resident", rss / 1e6, "MB")
        shims = [p.name for p in pathlib.Path("/proc").glob("[0-9]*") if is_shim(p, str(cluster.data))]
        if shims:
            line("memory of a shim, private", statistics.mean(resident(p)[1] for p in shims) / 1e6, "MB")
    finally:
        cluster.end()
        cluster.reset()
    if shutil.which("containerd") and shutil.which("ctr"):
        peer_times, peer_many = containerd(folder, archive, arguments.one_by_one, arguments.at_once)
        line("containerd + runc: ctr run, p50", statistics.median(peer_times) * 1000, "ms")
        line(f"containerd + runc: {arguments.at_once} ctr run at once", peer_many, "s")
        print(json.dumps({
            "pod_ready_over_ctr_run": round(statistics.median(times) / statistics.median(peer_times), 2),
            "many_pods_over_many_ctr_runs": round(many / peer_many, 2),
        }))
    shutil.rmtree(folder, ignore_errors=True)


def is_shim(process, data):
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(command) > 1 and command[1] == b"shim" and any(data in part.decode(errors="replace") for part in command)


if __name__ == "__main__":
    main()

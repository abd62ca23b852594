"""What people and machines do to a cluster: full disks, kills at bad moments, dead shims."""

import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from cluster import Namespace, condition, deployment, eventually, pod, service


@pytest.fixture
def small_disk(tmp_path, own_cluster):
    """The test's own cluster with its state on a disk of 160 MB."""
    own_cluster.data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "orlop-e2e", own_cluster.data], check=True)
    try:
        yield own_cluster
    finally:
        own_cluster.end()
        # A reset cannot remove a mount point; what is left of it is removed with its disk.
        subprocess.run(["sh", "-c", f"rm -f {own_cluster.data}/filler"], check=True)
        own_cluster.orlop("reset", "--data-dir", own_cluster.data, "--yes", check=False)
        subprocess.run(["umount", "-l", own_cluster.data], check=True)


def fill(path):
    """Takes all free space of a file system."""
    free = os.statvfs(path.parent)
    with open(path, "wb") as file:
        try:
            for size in (1 << 20, 1 << 12):
                while os.statvfs(path.parent).f_bavail:
                    file.write(b"\0" * size)
                    file.flush()
        except OSError:
            pass
    return free


def test_a_full_disk_refuses_writes_and_loses_nothing(small_disk):
    cluster, written = small_disk, []
    cluster.start()
    body = "x" * 900_000

    def write(name):
        result = cluster.run("create", "configmap", name, f"--from-file=body={cluster.root / 'body'}", "-v=6", check=False)
        if result.returncode == 0:
            written.append(name)
        return result

    (cluster.root / "body").write_text(body)
    assert write("before").returncode == 0
    fill(cluster.data / "filler")
    # The log has its space beforehand: only when that is used up does the disk's end show.
    for i in range(60):
        refused = write(f"m{i}")
        if refused.returncode:
            break
    else:
        pytest.fail("a full disk took 60 writes of 900 kB")
    assert any(f" {code} " in refused.stderr for code in (500, 503, 507)), refused.stderr[-600:]
    # Reading goes on.
    names = lambda: {m["metadata"]["name"] for m in cluster.get("configmaps", "-n", "default")["items"]}
    assert set(written) <= names()
    assert len(cluster.get("configmap", "before")["data"]["body"]) == len(body)
    # So does writing, as soon as there is room.
    (cluster.data / "filler").unlink()
    eventually(lambda: write("after").returncode == 0 or write("after").returncode == 0, what="writing again")
    cluster.end(signal.SIGKILL)
    cluster.start()
    assert set(written) <= names()
    assert len(cluster.get("configmap", "after")["data"]["body"]) == len(body)


def test_everything_converges_after_kills_at_random_moments(own_cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    ns = Namespace(own_cluster, "default")
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print("seed", seed)
    wanted = {}
    for round_ in range(5):
        churn = []
        for name in ("a", "b"):
            replicas = chance.randint(0, 3)
            wanted[name] = replicas
            new = deployment(name, replicas)
            new["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "ROUND", "value": str(round_)}]
            churn.append(lambda new=new, name=name: (ns.apply(new), ns.apply(service(name))))
        if chance.random() < 0.5:
            churn.insert(1, lambda: ns.kubectl("delete", "deployment", "b", "--ignore-not-found", "--wait=false"))
        for step in churn:
            step()
        time.sleep(chance.uniform(0, 1.2))
        own_cluster.end(signal.SIGKILL)
        own_cluster.start()
    for name, replicas in wanted.items():
        ns.wait_rollout(f"deployment/{name}")
        eventually(lambda: len(ns.pods(f"app={name}")) == replicas, what=f"{replicas} pods of {name}, seed {seed}")
        assert all(condition(p, "Ready") == "True" for p in ns.pods(f"app={name}"))
    # Nothing runs that the API does not know.
    uids = {p["metadata"]["uid"] for p in own_cluster.get("pods", "-A")["items"]}
    sandboxes = lambda: {s.name.rsplit("_", 1)[0] for s in (own_cluster.data / "runtime" / "sandboxes").iterdir()}
    eventually(lambda: sandboxes() == uids, what="only known sandboxes")
    live = {ip for p in own_cluster.get("pods", "-A")["items"] for ip in [p["status"].get("podIP")]}
    addresses = lambda: {a["ip"] for n in wanted for s in ns.get("endpoints", n).get("subsets") or [] for a in s["addresses"]}
    eventually(lambda: addresses() <= live and len(addresses()) == sum(wanted.values()))


def shim_of(cluster, uid):
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"shim" in line and str(cluster.data).encode() in line and uid.encode() in line:
            return int(process.name)
    return None


def test_a_pod_whose_shim_is_killed_runs_again(ns, cluster):
    ns.apply(pod("it", "sleep", "3600"))
    before = ns.wait_ready("it")
    shim = shim_of(cluster, before["metadata"]["uid"])
    os.kill(shim, signal.SIGKILL)
    restarted = lambda p: p["status"]["containerStatuses"][0]["restartCount"] >= 1 and condition(p, "Ready") == "True"
    ns.wait_pod("it", restarted, what="restarted")
    assert shim_of(cluster, before["metadata"]["uid"]) not in (None, shim)
    assert ns.exec("it", "echo", "alive") == "alive\n"
    ns.kubectl("delete", "pod", "it", "--timeout=20s")


def test_a_container_killed_from_outside_restarts(ns, cluster):
    ns.apply(pod("it", "sh", "-c", "sleep 3600 & wait"))
    ns.wait_ready("it")
    ns.run("exec", "it", "--", "sh", "-c", "kill -9 $(pidof sleep)", check=False)
    seen = ns.wait_pod("it", lambda p: p["status"]["containerStatuses"][0]["restartCount"] >= 1, what="restarted")
    assert seen["status"]["containerStatuses"][0]["lastState"]["terminated"]
    ns.wait_ready("it")

"""The server stops, dies, comes back and is removed; containers and data are what they should be."""

import pathlib
import random
import signal
import subprocess
import time

from cluster import BINARY, Namespace, condition, deployment, eventually, pod, service


def command_line(process):
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def machine_state(cluster):
    """What an Orlop leaves in the kernel."""
    instance = (cluster.data / "instance").read_text().strip() if cluster.data.exists() else cluster.instance
    cluster.instance = instance
    run = lambda *c: subprocess.run(c, capture_output=True, text=True).stdout
    processes = [p for p in pathlib.Path("/proc").glob("[0-9]*") if str(cluster.data) in command_line(p)]
    return {
        "links": [l for l in run("ip", "-o", "link").splitlines() if instance in l],
        "mounts": [l for l in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(cluster.data) in l],
        "cgroups": [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob(f"**/orlop-{instance}")],
        "processes": [str(p) for p in processes],
    }


def test_containers_run_on_while_the_server_is_away_and_are_adopted(own_cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    ns = Namespace(own_cluster, "default")
    ns.apply(pod("steady", "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"))
    ns.apply(pod("brief", "sh", "-c", "sleep 2; exit 4", spec={"restartPolicy": "Never"}))
    before = ns.wait_ready("steady")
    ns.wait_ready("brief")
    for how in (signal.SIGTERM, signal.SIGKILL):
        last = int(ns.logs("steady", "--tail=1"))
        own_cluster.end(how)
        time.sleep(2.5)
        own_cluster.start()
        eventually(lambda: int(ns.logs("steady", "--tail=1")) > last + 15, what="counting on")
        now = ns.wait_ready("steady")
        same = ("containerID", "restartCount")
        assert [now["status"]["containerStatuses"][0][k] for k in same] == [before["status"]["containerStatuses"][0][k] for k in same]
        assert now["status"]["podIP"] == before["status"]["podIP"]
    ended = ns.wait_phase("brief", "Failed")
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4


def test_what_was_acknowledged_survives_sigkill_at_any_moment(own_cluster):
    own_cluster.start()
    ns = Namespace(own_cluster, "default")
    acknowledged = []
    for round_ in range(3):
        script = f"i=0; while true; do i=$((i+1)); kubectl --kubeconfig {own_cluster.kubeconfig} create configmap r{round_}-$i -o name || exit; done"
        writer = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        time.sleep(random.uniform(0.5, 1.5))
        own_cluster.end(signal.SIGKILL)
        acknowledged += [line.strip().split("/")[1] for line in writer.communicate(timeout=30)[0].splitlines()]
        own_cluster.start()
    assert len(acknowledged) > 3
    there = {m["metadata"]["name"] for m in ns.get("configmaps")["items"]}
    assert set(acknowledged) <= there


def test_a_rollout_goes_on_after_the_server_is_killed_in_the_middle(own_cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    ns = Namespace(own_cluster, "default")
    ns.apply(deployment("web", 4), service("web"))
    ns.wait_rollout("deployment/web")
    ns.kubectl("set", "env", "deployment/web", "RELEASE=2")
    time.sleep(0.3)
    own_cluster.end(signal.SIGKILL)
    own_cluster.start()
    ns.wait_rollout("deployment/web")
    running = eventually(lambda: (lambda all_: all_ if len(all_) == 4 else None)(ns.pods("app=web")))
    assert all(condition(p, "Ready") == "True" for p in running)


def test_reset_leaves_nothing_behind(own_cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    ns = Namespace(own_cluster, "default")
    ns.apply(deployment("web", 3), service("web", type="NodePort"))
    ns.apply(pod("ram", "sleep", "3600", volumeMounts=[{"name": "v", "mountPath": "/v"}],
                 spec={"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}))
    ns.wait_rollout("deployment/web")
    ns.wait_ready("ram")
    during = machine_state(own_cluster)
    assert all(during[k] for k in ("links", "mounts", "cgroups", "processes")), during
    # Even with a server that was killed.
    own_cluster.end(signal.SIGKILL)
    own_cluster.reset()
    after = machine_state(own_cluster)
    assert not any(after.values()), after
    assert not own_cluster.data.exists()
    own_cluster.reset()


def test_reset_stops_a_running_server_and_asks_first(own_cluster):
    own_cluster.start()
    refused = subprocess.run([BINARY, "reset", "--data-dir", own_cluster.data], capture_output=True, text=True)
    assert refused.returncode != 0 and "--yes" in refused.stderr
    own_cluster.reset()
    assert own_cluster.process.wait(5) is not None
    assert not own_cluster.data.exists()


def test_two_clusters_run_side_by_side(own_cluster, cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    Namespace(own_cluster, "default").apply(pod("here", "sleep", "3600"))
    Namespace(own_cluster, "default").wait_ready("here")
    assert "NotFound" in cluster.refused("get", "pod", "here")
    own_cluster.end()
    own_cluster.reset()
    assert condition(cluster.get("node", cluster.node), "Ready") == "True"


def test_a_port_that_is_taken_and_a_folder_in_use_are_named(own_cluster):
    own_cluster.start()
    second = subprocess.run([BINARY, "server", "--data-dir", own_cluster.data], capture_output=True, text=True, timeout=20)
    assert second.returncode != 0 and str(own_cluster.process.pid) in second.stderr
    other = own_cluster.root / "other"
    arguments = [BINARY, "server", "--data-dir", other, "--https-port", str(own_cluster.port)]
    third = subprocess.run(arguments, capture_output=True, text=True, timeout=20)
    assert third.returncode != 0 and str(own_cluster.port) in third.stderr

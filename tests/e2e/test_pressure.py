"""What the node does when it is short of something: it says so, takes no more, ends a pod, and recovers."""

import pathlib
import time

from cluster import condition, eventually, pod


def test_a_pod_that_fills_its_empty_dir_is_evicted(ns):
    ns.apply(pod("full", "sh", "-c", "head -c 3000000 /dev/zero > /data/f; exec sleep 3600",
                 volumeMounts=[{"name": "data", "mountPath": "/data"}],
                 spec={"volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]}))
    ended = ns.wait_phase("full", "Failed")["status"]
    assert (ended["reason"], ended["message"]) == ("Evicted", 'Usage of EmptyDir volume "data" exceeds the limit "1Mi". ')
    why = next(c for c in ended["conditions"] if c["type"] == "DisruptionTarget")
    assert (why["status"], why["reason"]) == ("True", "TerminationByKubelet")
    assert ended["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    eventually(lambda: any(e["reason"] == "Evicted" for e in ns.events("full")), what="the event")


def test_a_node_without_memory_ends_the_pod_that_uses_most_beyond_its_request(own_cluster):
    free = next(int(line.split()[1]) for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    own_cluster.apply(pod("modest", "sleep", "3600", resources={"requests": {"memory": "64Mi"}}), "default")
    own_cluster.apply(pod("greedy", "sleep", "3600"), "default")
    phase = lambda name: own_cluster.get("pod", name)["status"].get("phase")
    eventually(lambda: phase("modest") == phase("greedy") == "Running", what="both run")
    own_cluster.end()
    # More than there is must be left.
    own_cluster.pressure = ["--eviction-hard", f"memory.available<{2 * free}Ki", "--eviction-pressure-transition-period", "1s"]
    own_cluster.start(wait=False)
    eventually(lambda: phase("greedy") == "Failed", timeout=40, what="the greedy one is evicted")
    status = own_cluster.get("pod", "greedy")["status"]
    assert status["reason"] == "Evicted" and status["message"].startswith("The node was low on resource: memory. Threshold quantity: ")
    assert "Container main was using " in status["message"] and "request is 0, has larger consumption of memory. " in status["message"]
    node = lambda: own_cluster.get("node", own_cluster.node)
    assert condition(node(), "MemoryPressure") == "True" and condition(node(), "Ready") == "True"
    eventually(lambda: any(t["key"] == "node.kubernetes.io/memory-pressure" for t in node()["spec"].get("taints", [])), what="the taint")
    own_cluster.end()
    own_cluster.pressure = ["--eviction-hard", ""]
    own_cluster.start()
    eventually(lambda: condition(node(), "MemoryPressure") == "False" and not node()["spec"].get("taints"), what="it recovers")
    own_cluster.apply(pod("after", "sleep", "3600"), "default")
    eventually(lambda: phase("after") == "Running", what="it takes pods again")


def test_a_full_disk_costs_the_images_that_nobody_uses_and_no_other(own_cluster):
    own_cluster.pressure = ["--eviction-hard", "", "--image-gc-high-threshold", "1", "--image-gc-low-threshold", "0", "--minimum-image-ttl-duration", "0s"]
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    time.sleep(1)
    # It came as an archive: nobody could fetch it again.
    own_cluster.apply(pod("it", "true", spec={"restartPolicy": "Never"}), "default")
    eventually(lambda: own_cluster.get("pod", "it")["status"].get("phase") == "Succeeded", what="the image is here")
    said = [e["reason"] for e in own_cluster.get("events", "-A")["items"] if e["involvedObject"]["kind"] == "Node"]
    assert "FreeDiskSpaceFailed" in said


def test_a_threshold_that_cannot_be_read_ends_the_start(own_cluster):
    own_cluster.pressure = ["--eviction-hard", "memory<1Gi"]
    own_cluster.start(wait=False)
    assert own_cluster.process.wait(20) != 0
    own_cluster.process = None
    assert 'eviction threshold "memory<1Gi": there is no such signal' in own_cluster.log.read_text()

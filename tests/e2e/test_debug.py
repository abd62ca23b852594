"""Looking into running things: ephemeral containers, copies of pods, shells on nodes."""

from cluster import eventually, pod

IMAGE = "e2e.test/busybox:1"


def ephemeral(ns, name, number=0):
    """The state of an ephemeral container."""
    statuses = ns.get("pod", name)["status"].get("ephemeralContainerStatuses", [])
    return statuses[number] if len(statuses) > number else {"state": {}}


def test_an_ephemeral_container_sees_what_its_target_does(ns):
    ns.apply(pod("it", "sh", "-c", "echo mine > /tmp/file; exec sleep 4321"))
    ns.wait_ready("it")
    ns.kubectl("debug", "it", f"--image={IMAGE}", "--container=look", "--target=main", "--profile=general", "--", "sh", "-c",
               "echo looking; ps -o args; cat /proc/1/root/tmp/file; until [ -e /tmp/end ]; do sleep 0.1; done; exit 3")
    status = eventually(lambda: "running" in ephemeral(ns, "it")["state"] and ephemeral(ns, "it"))
    assert status["name"] == "look" and status["ready"] is False and status["restartCount"] == 0
    assert status["containerID"].startswith("orlop://") and status["imageID"]
    seen = eventually(lambda: (lambda text: text if "mine" in text else None)(ns.logs("it", "-c", "look")))
    assert "sleep 4321" in seen and seen.startswith("looking")
    assert ns.kubectl("exec", "it", "-c", "look", "--", "cat", "/proc/1/comm") == "sleep\n"
    described = ns.kubectl("describe", "pod", "it")
    assert "Ephemeral Containers:" in described and "look:" in described
    started = [e for e in ns.events("it") if e["reason"] == "Started"]
    assert any(e["involvedObject"]["fieldPath"] == "spec.ephemeralContainers{look}" for e in started)
    # What is looked at is not disturbed, and what looks is not started again.
    assert ns.get("pod", "it")["status"]["containerStatuses"][0]["restartCount"] == 0
    ns.kubectl("exec", "it", "-c", "look", "--", "touch", "/tmp/end")
    ended = eventually(lambda: ephemeral(ns, "it")["state"].get("terminated"))
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    ns.kubectl("wait", "--for=condition=Ready", "pod/it", "--timeout=5s")
    ns.kubectl("delete", "pod", "it", "--timeout=20s")


def test_debug_attaches_and_says_why_it_cannot_look(ns):
    waits = pod("it", "sleep", "3600", spec={"initContainers": [{"name": "never", "image": IMAGE, "command": ["sleep", "3600"]}]})
    ns.apply(waits)
    eventually(lambda: "running" in ns.get("pod", "it")["status"]["initContainerStatuses"][0]["state"])
    # Also a pod that does not get on can be looked into.
    out = ns.kubectl("debug", "it", f"--image={IMAGE}", "-c", "one", "-i", "--attach", "--", "sh", "-c", "read x; echo got $x",
                     input="hello\n")
    assert "got hello" in out
    assert eventually(lambda: ephemeral(ns, "it")["state"].get("terminated"))["exitCode"] == 0
    ns.kubectl("debug", "it", f"--image={IMAGE}", "-c", "two", "--target=main", "--", "true")
    waiting = eventually(lambda: ephemeral(ns, "it", 1)["state"].get("waiting", {}).get("message") and ephemeral(ns, "it", 1)["state"]["waiting"])
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'unable to find target container "main"'}


def test_a_copy_of_a_pod_can_be_debugged(ns):
    ns.apply(pod("it", "sleep", "4321"))
    ns.wait_ready("it")
    ns.kubectl("debug", "it", "--copy-to=copy", "--share-processes", f"--image={IMAGE}", "-c", "look", "--", "sleep", "3600")
    ns.wait_ready("copy")
    assert "sleep 4321" in ns.kubectl("exec", "copy", "-c", "look", "--", "ps", "-o", "args")
    ns.kubectl("debug", "it", "--copy-to=other", "--container=main", "--set-image=*=e2e.test/none:1", "--", "sh")
    copied = ns.get("pod", "other")["spec"]["containers"][0]
    assert copied["image"] == "e2e.test/none:1" and copied["command"] == ["sh"]


def test_a_node_can_be_debugged_from_a_pod(ns, cluster):
    said = ns.kubectl("debug", f"node/{cluster.node}", f"--image={IMAGE}", "--", "sh", "-c", "cat /host/proc/1/comm; hostname; sleep 3600")
    name = said.split("Creating debugging pod ")[1].split()[0]
    ns.wait_ready(name)
    made = ns.get("pod", name)["spec"]
    assert made["hostPID"] and made["hostNetwork"] and made["nodeName"] == cluster.node
    with open("/proc/1/comm") as comm:
        assert eventually(lambda: ns.logs(name)).startswith(comm.read())

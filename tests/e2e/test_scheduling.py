"""Where pods go and why, as people see it: conditions, Events, priority and the scheduler's configuration."""

import subprocess

import pytest
from cluster import BINARY, condition, eventually, pod


def refusal(ns, name):
    """What the pod's condition says of why it has no node."""
    def look():
        scheduled = [c for c in ns.get("pod", name)["status"].get("conditions", []) if c["type"] == "PodScheduled"]
        return next((c for c in scheduled if c["status"] == "False"), None)
    return eventually(look)


@pytest.fixture
def important(cluster):
    name = "e2e-important"
    cluster.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1000})
    yield name
    cluster.kubectl("delete", "priorityclass", name)


def test_an_important_pod_takes_the_place_of_another(ns, important):
    port = [{"containerPort": 80, "hostPort": 31877}]
    ns.apply(pod("humble", "sleep", "3600", ports=port))
    ns.wait_ready("humble")
    ns.apply(pod("equal", "sleep", "3600", ports=port))
    assert refusal(ns, "equal")["message"] == (
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. "
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    ns.kubectl("delete", "pod", "equal", "--wait=false")
    uid = ns.get("pod", "humble")["metadata"]["uid"]
    ns.apply(pod("proud", "sleep", "3600", ports=port, spec={"priorityClassName": important}))
    ns.wait_ready("proud")
    said = eventually(lambda: [e for e in ns.events("humble") if e["reason"] == "Preempted"])[0]["message"]
    assert said.startswith(f"Preempted by pod {ns.get('pod', 'proud')['metadata']['uid']} on node ")
    assert not [p for p in ns.pods() if p["metadata"]["uid"] == uid and "deletionTimestamp" not in p["metadata"]]


def test_pods_that_want_to_be_alone_are(ns, cluster):
    alone = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "alone"}}}]}}}
    ns.apply(pod("one", "sleep", "3600", labels={"app": "alone"}, spec=alone))
    ns.wait_pod("one", lambda p: p["spec"].get("nodeName"))
    ns.apply(pod("two", "sleep", "3600", labels={"app": "alone"}))
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules." in refusal(ns, "two")["message"]
    said = cluster.orlop("explain", "pod/two", "-n", ns.name).stdout
    assert "InterPodAffinity" in said and "whose anti-affinity means this pod" in said, said
    ns.kubectl("delete", "pod", "one", "--wait=false")
    ns.wait_pod("two", lambda p: p["spec"].get("nodeName"))


def test_a_gated_pod_waits_until_its_gates_are_gone(ns):
    ns.apply(pod("gated", "sleep", "3600", spec={"schedulingGates": [{"name": "example.com/wait"}]}))
    assert refusal(ns, "gated")["reason"] == "SchedulingGated"
    ns.kubectl("patch", "pod", "gated", "--type=json", "-p", '[{"op": "remove", "path": "/spec/schedulingGates"}]')
    assert condition(ns.wait_pod("gated", lambda p: p["spec"].get("nodeName")), "PodScheduled") == "True"


def test_a_wrong_configuration_of_the_scheduler_is_refused_with_its_path(tmp_path):
    file = tmp_path / "scheduler.yaml"
    file.write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
        "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]\n"
    )
    command = [str(BINARY), "server", "--data-dir", str(tmp_path / "data"), "--scheduler-config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "profiles[0].plugins.filter.enabled[0].name: there is no such plugin" in ended.stderr
    assert not (tmp_path / "data").exists()

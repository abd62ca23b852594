"""Deployments, Jobs and DaemonSets as kubectl users work with them."""

from cluster import condition, deployment, eventually, pod


def test_a_deployment_becomes_ready_pods(ns):
    ns.apply(deployment("web", 3))
    ns.wait_rollout("deployment/web")
    pods = ns.pods("app=web")
    assert len(pods) == 3
    assert len({p["status"]["podIP"] for p in pods}) == 3
    assert "3/3" in ns.kubectl("get", "deployment", "web")


def test_a_deleted_pod_is_replaced(ns):
    ns.apply(deployment("web", 2))
    ns.wait_rollout("deployment/web")
    victim = ns.pods("app=web")[0]["metadata"]["name"]
    ns.kubectl("delete", "pod", victim)
    ns.wait_rollout("deployment/web")
    eventually(lambda: len([p for p in ns.pods("app=web") if condition(p, "Ready") == "True"]) == 2)
    assert victim not in [p["metadata"]["name"] for p in ns.pods("app=web")]


def test_a_rolling_update_goes_through_and_can_be_undone(ns):
    ns.apply(deployment("web", 3))
    ns.wait_rollout("deployment/web")
    ns.kubectl("set", "env", "deployment/web", "RELEASE=2")
    ns.wait_rollout("deployment/web")
    env = lambda p: {e["name"]: e.get("value") for e in p["spec"]["containers"][0].get("env", [])}
    running = lambda: [p for p in ns.pods("app=web") if "deletionTimestamp" not in p["metadata"]]
    assert all(env(p).get("RELEASE") == "2" for p in running())
    assert "2" in ns.kubectl("rollout", "history", "deployment/web")
    ns.kubectl("rollout", "undo", "deployment/web")
    ns.wait_rollout("deployment/web")
    eventually(lambda: all("RELEASE" not in env(p) for p in running()) and len(running()) == 3)
    revision = ns.get("deployment", "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert revision == "3"


def test_a_paused_deployment_does_not_roll(ns):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    ns.kubectl("rollout", "pause", "deployment/web")
    ns.kubectl("set", "env", "deployment/web", "RELEASE=2")
    observed = lambda: (lambda d: d["status"]["observedGeneration"] == d["metadata"]["generation"])(ns.get("deployment", "web"))
    eventually(observed)
    assert len(ns.get("replicasets")["items"]) == 1
    ns.kubectl("rollout", "resume", "deployment/web")
    ns.wait_rollout("deployment/web")
    assert len(ns.get("replicasets")["items"]) == 2


def test_scaling_up_and_down(ns):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    ns.kubectl("scale", "deployment/web", "--replicas=4")
    ns.wait_rollout("deployment/web")
    assert len(ns.pods("app=web")) == 4
    ns.kubectl("scale", "deployment/web", "--replicas=0")
    eventually(lambda: not ns.pods("app=web"))


def test_a_rollout_that_cannot_succeed_keeps_the_old_pods_serving(ns):
    ns.apply(deployment("web", 2))
    ns.wait_rollout("deployment/web")
    ns.kubectl("set", "image", "deployment/web", "main=e2e.test/none:1", )
    eventually(lambda: any(
        s.get("state", {}).get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff")
        for p in ns.pods("app=web") for s in p["status"].get("containerStatuses", [])
    ))
    assert len([p for p in ns.pods("app=web") if condition(p, "Ready") == "True"]) == 2


def test_a_job_runs_to_completion(ns):
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"completions": 3, "parallelism": 2, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "e2e.test/busybox:1", "command": ["sh", "-c", "echo $((6 * 7))"]}],
        }}},
    }
    ns.apply(job)
    ns.kubectl("wait", "--for=condition=complete", "job/sum", "--timeout=60s")
    assert ns.get("job", "sum")["status"]["succeeded"] == 3
    assert "3/3" in ns.kubectl("get", "job", "sum")
    assert ns.kubectl("logs", "job/sum").strip() == "42"


def test_a_job_that_fails_gives_up_at_its_limit(ns):
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bad"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "e2e.test/busybox:1", "command": ["false"]}],
        }}},
    }
    ns.apply(job)
    ns.kubectl("wait", "--for=condition=failed", "job/bad", "--timeout=60s")
    conditions = {c["type"]: c["reason"] for c in ns.get("job", "bad")["status"]["conditions"]}
    assert conditions["Failed"] == "BackoffLimitExceeded"


def test_a_daemon_set_runs_on_every_node(ns, cluster):
    set_ = {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {
            "metadata": {"labels": {"app": "agent"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": "e2e.test/busybox:1", "command": ["sleep", "3600"]}]},
        }},
    }
    ns.apply(set_)
    ns.wait_rollout("daemonset/agent")
    [only] = ns.pods("app=agent")
    assert only["spec"]["nodeName"] == cluster.node
    ns.kubectl("set", "env", "daemonset/agent", "RELEASE=2")
    ns.wait_rollout("daemonset/agent")
    eventually(lambda: [e["value"] for p in ns.pods("app=agent") for e in p["spec"]["containers"][0].get("env", [])] == ["2"])


def test_deleting_a_deployment_deletes_what_it_owns(ns):
    ns.apply(deployment("web", 2))
    ns.wait_rollout("deployment/web")
    ns.kubectl("delete", "deployment", "web")
    eventually(lambda: not ns.get("replicasets")["items"] and not ns.pods())


def test_orphaned_pods_stay_and_are_adopted_again(ns):
    ns.apply(deployment("web", 2))
    ns.wait_rollout("deployment/web")
    before = sorted(p["metadata"]["uid"] for p in ns.pods("app=web"))
    ns.kubectl("delete", "deployment", "web", "--cascade=orphan")
    eventually(lambda: all("ownerReferences" not in s["metadata"] for s in ns.get("replicasets")["items"]))
    ns.apply(deployment("web", 2))
    ns.wait_rollout("deployment/web")
    assert sorted(p["metadata"]["uid"] for p in ns.pods("app=web")) == before


def test_foreground_deletion_waits_for_dependents(ns):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    ns.kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")
    assert not ns.get("replicasets")["items"]


def test_deleting_a_namespace_deletes_everything_in_it(cluster):
    cluster.kubectl("create", "namespace", "doomed")
    cluster.apply(deployment("web", 1), "doomed")
    cluster.kubectl("-n", "doomed", "create", "configmap", "settings", "--from-literal=a=b")
    cluster.kubectl("-n", "doomed", "rollout", "status", "deployment/web", "--timeout=60s")
    cluster.kubectl("delete", "namespace", "doomed", "--timeout=60s")
    assert "NotFound" in cluster.refused("get", "namespace", "doomed")
    cluster.kubectl("create", "namespace", "doomed")
    assert not cluster.get("-n", "doomed", "pods")["items"]
    cluster.kubectl("delete", "namespace", "doomed", "--wait=false")


def test_a_pod_that_fits_nowhere_says_why(ns):
    ns.apply(pod("big", "sleep", "1", resources={"requests": {"cpu": "1000"}}))
    event = eventually(lambda: [e for e in ns.events("big") if e["reason"] == "FailedScheduling"])[0]
    assert event["message"] == (
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: "
        "1 Preemption is not helpful for scheduling."
    )
    assert ns.get("pod", "big")["status"]["conditions"][0]["reason"] == "Unschedulable"


def test_a_tainted_node_takes_only_what_tolerates_it(ns, cluster):
    cluster.kubectl("taint", "node", cluster.node, "test=only:NoSchedule")
    try:
        ns.apply(pod("plain", "sleep", "3600"))
        tolerant = pod("tolerant", "sleep", "3600", spec={"tolerations": [{"key": "test", "operator": "Exists"}]})
        ns.apply(tolerant)
        ns.wait_ready("tolerant")
        assert ns.get("pod", "plain")["spec"].get("nodeName") is None
    finally:
        cluster.kubectl("taint", "node", cluster.node, "test:NoSchedule-")
    ns.wait_ready("plain")

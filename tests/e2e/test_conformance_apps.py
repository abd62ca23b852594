"""Workloads as the conformance programme tries them."""

import pytest

from cluster import condition, eventually, pod

SLEEP = {"name": "main", "image": "e2e.test/busybox:1", "command": ["sleep", "600"]}
# Ready as long as somebody leaves the file there.
BREAKABLE = {**SLEEP, "command": ["sh", "-c", "touch /tmp/ready; exec sleep 600"],
             "readinessProbe": {"exec": {"command": ["test", "-f", "/tmp/ready"]}, "periodSeconds": 1}}


def template(app, container=SLEEP, **spec):
    return {"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}}


def selected(app, container=SLEEP, **spec):
    return {"selector": {"matchLabels": {"app": app}}, "template": template(app, container), **spec}


def workload(kind, app, container=SLEEP, **spec):
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app, "labels": {"app": app}},
            "spec": selected(app, container, **({"serviceName": app} if kind == "StatefulSet" else {}), **spec)}


def job(name, script, **spec):
    body = template(name, {**SLEEP, "command": ["sh", "-c", script]}, restartPolicy=spec.pop("restart", "Never"))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": body, **spec}}


KINDS = {
    "apps/v1 deployments": (selected("x", replicas=1), True),
    "apps/v1 replicasets": (selected("x", replicas=1), True),
    "apps/v1 statefulsets": (selected("x", replicas=1, serviceName="x"), True),
    "apps/v1 daemonsets": (selected("x"), False),
    "v1 replicationcontrollers": ({"replicas": 1, "selector": {"app": "x"}, "template": template("x")}, True),
    "batch/v1 jobs": (job("x", "true", suspend=True)["spec"], False),
    "batch/v1 cronjobs": ({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job("x", "true")["spec"]}}, False),
    "policy/v1 poddisruptionbudgets": ({"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}, False),
}


@pytest.mark.parametrize("which", KINDS)
def test_status_scale_list_and_collection(api, ns, which):
    """"should validate … Status endpoints", "… working scale subresource", "… list and delete a collection …"."""
    version, resource = which.split()
    spec, scales = KINDS[which]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    path = f"{base}/namespaces/{ns.name}/{resource}"
    made = api.post(path, {"metadata": {"name": "x", "labels": {"all": ns.name}}, "spec": spec}).ok()
    assert any(o["metadata"]["uid"] == made["metadata"]["uid"] for o in api.get(f"{base}/{resource}", labelSelector=f"all={ns.name}").ok()["items"])
    said = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}
    if resource == "poddisruptionbudgets":
        said["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    if resource == "cronjobs":
        status = {"lastScheduleTime": "2026-01-01T00:00:00Z"}
        fits = lambda s: s.get("lastScheduleTime") == "2026-01-01T00:00:00Z"
    else:
        status = {"conditions": [said]}
        fits = lambda s: any(c["type"] == "StatusUpdate" for c in s.get("conditions", []))
    patched = api.patch(f"{path}/x/status", {"metadata": {"annotations": {"patched": "yes"}}, "status": status}).ok()
    assert fits(patched["status"]) and patched["metadata"]["annotations"]["patched"] == "yes"

    def put():
        now = api.get(f"{path}/x/status").ok()
        now["status"].update(status)
        answer = api.put(f"{path}/x/status", now)
        return answer.code == 200 and fits(answer.json["status"])

    eventually(put, timeout=5)
    if scales:
        scale = api.get(f"{path}/x/scale").ok()
        assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)

        def two():
            scale = api.get(f"{path}/x/scale").ok()
            scale["spec"]["replicas"] = 2
            return api.put(f"{path}/x/scale", scale).code == 200

        eventually(two, timeout=5)
        assert api.get(f"{path}/x").ok()["spec"]["replicas"] == 2
        assert api.patch(f"{path}/x/scale", {"spec": {"replicas": 4}}).ok()["spec"]["replicas"] == 4
        assert api.get(f"{path}/x").ok()["spec"]["replicas"] == 4
    api.delete(path, labelSelector=f"all={ns.name}").ok()
    eventually(lambda: not api.get(path, labelSelector=f"all={ns.name}").ok()["items"], timeout=10)
    # All of it was told to whoever watches.
    seen = []
    with api.watch(path, labelSelector=f"all={ns.name}", resourceVersion=made["metadata"]["resourceVersion"]) as told:
        for what, thing in told:
            seen.append((what, thing))
            if what == "DELETED":
                break
    assert seen[-1][0] == "DELETED" and any(what == "MODIFIED" and fits(thing.get("status", {})) for what, thing in seen)


def alive(ns, app):
    return {p["metadata"]["name"]: p for p in ns.pods(f"app={app}") if "deletionTimestamp" not in p["metadata"]}


def ready(ns, app, count):
    eventually(lambda: [condition(p, "Ready") for p in alive(ns, app).values()] == ["True"] * count, timeout=20)


def test_stateful_sets_scale_in_order_and_halt_at_an_unhealthy_pod(ns):
    """"Scaling should happen in predictable order and halt if any stateful pod is unhealthy"."""
    ns.apply(workload("StatefulSet", "ss", BREAKABLE, replicas=1))
    ready(ns, "ss", 1)
    ns.exec("ss-0", "rm", "/tmp/ready")
    eventually(lambda: condition(ns.get("pod", "ss-0"), "Ready") == "False")
    ns.kubectl("scale", "sts/ss", "--replicas=2")
    eventually(lambda: ns.get("sts", "ss")["status"]["observedGeneration"] == 2)
    assert list(alive(ns, "ss")) == ["ss-0"]
    ns.exec("ss-0", "touch", "/tmp/ready")
    ready(ns, "ss", 2)
    for name in ["ss-0", "ss-1"]:
        ns.exec(name, "rm", "/tmp/ready")
    eventually(lambda: ns.get("sts", "ss")["status"].get("readyReplicas", 0) == 0)
    ns.kubectl("scale", "sts/ss", "--replicas=0")
    eventually(lambda: ns.get("sts", "ss")["status"]["observedGeneration"] == 3)
    assert sorted(alive(ns, "ss")) == ["ss-0", "ss-1"]
    # With the first one well, the other is the only one that is not, and goes.
    ns.exec("ss-0", "touch", "/tmp/ready")
    eventually(lambda: not alive(ns, "ss"))


def test_stateful_sets_burst(ns):
    """"Burst scaling should run to completion even with unhealthy pods"."""
    ns.apply(workload("StatefulSet", "ss", BREAKABLE, replicas=1, podManagementPolicy="Parallel"))
    ready(ns, "ss", 1)
    ns.exec("ss-0", "rm", "/tmp/ready")
    eventually(lambda: condition(ns.get("pod", "ss-0"), "Ready") == "False")
    ns.kubectl("scale", "sts/ss", "--replicas=3")
    eventually(lambda: ns.get("sts", "ss")["status"]["readyReplicas"] == 2)
    ns.kubectl("scale", "sts/ss", "--replicas=0")
    eventually(lambda: not alive(ns, "ss") and ns.get("sts", "ss")["status"]["replicas"] == 0)


def test_a_stateful_set_recreates_a_pod_that_its_node_refuses(cluster, ns):
    """"Should recreate evicted statefulset"."""
    port = int(cluster.node_ports.split("-")[1]) + 2000
    taking = {"ports": [{"containerPort": port, "hostPort": port}]}
    ns.apply(pod("other", "sleep", "600", spec={"nodeName": cluster.node, "terminationGracePeriodSeconds": 0}, **taking))
    ns.wait_ready("other")
    body = workload("StatefulSet", "ss", {**SLEEP, **taking}, replicas=1)
    body["spec"]["template"]["spec"]["nodeName"] = cluster.node
    ns.apply(body)
    uids = set()

    def refused():
        uids.update(p["metadata"]["uid"] for p in ns.pods("app=ss"))
        return len(uids) > 1

    eventually(refused)
    ns.kubectl("delete", "pod", "other")
    ready(ns, "ss", 1)


def test_a_daemon_set_retries_and_rolls_back_without_restarts(ns):
    """"should retry creating failed daemon pods", "should rollback without unnecessary restarts", ControllerRevision."""
    ns.apply(workload("DaemonSet", "ds"))
    ready(ns, "ds", 1)
    first = list(alive(ns, "ds").values())[0]
    ns.kubectl("patch", "pod", first["metadata"]["name"], "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Failed"}}')
    eventually(lambda: first["metadata"]["uid"] not in [p["metadata"]["uid"] for p in ns.pods("app=ds")])
    ready(ns, "ds", 1)
    before = list(alive(ns, "ds"))
    assert len(ns.get("controllerrevisions", "-l", "app=ds")["items"]) == 1
    ns.kubectl("patch", "ds", "ds", "-p", '{"spec":{"updateStrategy":{"type":"OnDelete"}}}')
    ns.kubectl("set", "image", "ds/ds", "main=foo:non-existent")
    eventually(lambda: len(ns.get("controllerrevisions", "-l", "app=ds")["items"]) == 2)
    ns.kubectl("rollout", "undo", "ds/ds")
    eventually(lambda: ns.get("ds", "ds")["status"].get("updatedNumberScheduled") == 1)
    assert list(alive(ns, "ds")) == before


def test_revisions_by_hand(api, ns):
    """"ControllerRevision … should manage the lifecycle of a ControllerRevision"."""
    ns.apply(workload("DaemonSet", "ds"))
    ready(ns, "ds", 1)
    path = f"/apis/apps/v1/namespaces/{ns.name}/controllerrevisions"
    count = lambda wanted: eventually(lambda: len(api.get(path, labelSelector="app=ds").ok()["items"]) == wanted)
    first = api.get(path, labelSelector="app=ds").ok()["items"][0]
    assert api.patch(f"{path}/{first['metadata']['name']}", {"metadata": {"labels": {"patched": "yes"}}}).ok()["metadata"]["labels"]["patched"] == "yes"
    meta = {"name": "by-hand", "labels": first["metadata"]["labels"], "ownerReferences": first["metadata"]["ownerReferences"]}
    made = api.post(path, {"metadata": meta, "data": first["data"], "revision": first["revision"] + 1}).ok()
    count(2)
    api.delete(f"{path}/{first['metadata']['name']}").ok()
    count(1)
    made["metadata"]["labels"]["by-hand"] = "updated"
    assert api.put(f"{path}/by-hand", made).ok()["metadata"]["labels"]["by-hand"] == "updated"
    ns.kubectl("patch", "ds", "ds", "-p", '{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}},"updateStrategy":{"type":"RollingUpdate"}}}')
    count(2)
    api.delete(path, labelSelector="by-hand=updated").ok()
    count(1)


def finished(ns, name, kind="Complete"):
    eventually(lambda: condition(ns.get("job", name), kind) == "True", timeout=40)
    done = ns.get("job", name)["status"]
    return done, [c["reason"] for c in done["conditions"] if c["type"] == kind][0]


def test_jobs_with_indexes(ns):
    """backoffLimitPerIndex, FailIndex, success policies, hostnames of indexes."""
    indexed = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    odd = "exit $((JOB_COMPLETION_INDEX % 2))"
    hosts = 'test "$HOSTNAME" = "hosts-$JOB_COMPLETION_INDEX"'
    rules = {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]}
    first = {"rules": [{"succeededIndexes": "0"}]}
    ns.apply(
        job("hosts", hosts, **indexed),
        job("per-index", odd, backoffLimitPerIndex=0, **indexed),
        job("by-rule", odd, backoffLimitPerIndex=1, podFailurePolicy=rules, **indexed),
        job("enough", "test $JOB_COMPLETION_INDEX = 0 || sleep 600", successPolicy=first, **indexed),
    )
    done, reason = finished(ns, "hosts")
    assert (reason, done["completedIndexes"], done["succeeded"]) == ("CompletionsReached", "0,1", 2)
    failed, reason = finished(ns, "per-index", "Failed")
    assert (reason, failed["failedIndexes"], failed["completedIndexes"]) == ("FailedIndexes", "1", "0")
    failed, reason = finished(ns, "by-rule", "Failed")
    assert (reason, failed["failedIndexes"], failed["failed"]) == ("FailedIndexes", "1", 1)
    done, reason = finished(ns, "enough")
    assert (reason, done["completedIndexes"], done.get("active", 0)) == ("SuccessPolicy", "0", 0)
    assert condition(ns.get("job", "enough"), "SuccessCriteriaMet") == "True"


def test_jobs_and_what_their_pods_failures_mean(ns):
    """"pod failure policy … to fail the job early", "… to ignore failure matching on DisruptionTarget", restarts in place."""
    codes = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}
    disrupted = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    once = "test -f /data/tried || { touch /data/tried; exit 1; }"
    restarts = job("restarts", once, restart="OnFailure", completions=2)
    spec = restarts["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "data", "emptyDir": {}}]
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    ns.apply(job("early", "exit 42", backoffLimit=10, podFailurePolicy=codes),
             job("evicted", "sleep 600", backoffLimit=0, podFailurePolicy=disrupted), restarts)
    assert finished(ns, "early", "Failed")[1] == "PodFailurePolicy"
    victim = eventually(lambda: [p for p in ns.pods("app=evicted") if p["status"]["phase"] == "Running"])[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{ns.name}/pods/{victim}/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim}}
    ns.kubectl("create", "--raw", path, "-f", "-", input=body)
    eventually(lambda: [n for n in alive(ns, "evicted") if n != victim], timeout=30)
    assert ns.get("job", "evicted")["status"].get("failed", 0) == 0
    assert finished(ns, "restarts")[0]["succeeded"] == 2


@pytest.mark.parametrize("kind", ["ReplicaSet", "Job"])
def test_pods_are_adopted_and_released(ns, kind):
    """"should adopt matching pods on creation and release no longer matching pods", the same for Jobs."""
    ns.apply(workload(kind, "own", replicas=1) if kind == "ReplicaSet" else job("own", "sleep 600"))
    name = list(eventually(lambda: alive(ns, "own")))[0]
    owners = lambda: ns.get("pod", name)["metadata"].get("ownerReferences", [])
    ns.kubectl("patch", "pod", name, "--type=merge", "-p", '{"metadata":{"ownerReferences":null}}')
    eventually(lambda: owners() and owners()[0]["kind"] == kind)
    ns.kubectl("patch", "pod", name, "--type=json", "-p", '[{"op":"remove","path":"/metadata/labels"}]')
    eventually(lambda: not owners())


def test_a_replication_controller_says_that_a_quota_stops_it(ns):
    """"should surface a failure condition on a common issue like exceeded quota"."""
    ns.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}})
    eventually(lambda: ns.get("quota", "two")["status"].get("hard") == {"pods": "2"})
    ns.apply({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
              "spec": {"replicas": 3, "selector": {"app": "rc"}, "template": template("rc")}})
    eventually(lambda: condition(ns.get("rc", "rc"), "ReplicaFailure") == "True")
    ns.kubectl("scale", "rc/rc", "--replicas=2")
    eventually(lambda: condition(ns.get("rc", "rc"), "ReplicaFailure") is None)


def test_deployments_replace_roll_over_and_clean_up(ns):
    """"RecreateDeployment …", "deployment should support rollover", "… delete old replica sets"."""
    ns.apply(workload("Deployment", "clean", replicas=1, revisionHistoryLimit=0),
             workload("Deployment", "again", replicas=1, strategy={"type": "Recreate"}),
             workload("Deployment", "over", replicas=1, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}))
    sets = lambda app: {r["metadata"]["name"]: r for r in ns.get("rs", "-l", f"app={app}")["items"]}
    for app in ["clean", "again", "over"]:
        ns.wait_rollout(f"deployment/{app}")
    ns.kubectl("set", "image", "deployment/over", "main=foo:404")
    eventually(lambda: len(sets("over")) == 2)
    for app in ["clean", "again", "over"]:
        ns.kubectl("set", "env", f"deployment/{app}", "A=b")
    ns.kubectl("set", "image", "deployment/over", "main=e2e.test/busybox:1")
    for app in ["clean", "again", "over"]:
        ns.wait_rollout(f"deployment/{app}")
    eventually(lambda: len(sets("clean")) == 1)
    eventually(lambda: sorted(r["spec"]["replicas"] for r in sets("over").values())[-2:] == [0, 1])
    eventually(lambda: len(alive(ns, "again")) == 1)


@pytest.mark.parametrize("which", ["apps/v1 deployments", "apps/v1 replicasets", "v1 replicationcontrollers", "batch/v1 jobs"])
def test_lifecycles(api, ns, which):
    """"should run the lifecycle of a Deployment", "Replace and Patch tests", "should … the lifecycle of a …", "should delete a job"."""
    version, resource = which.split()
    path = f"/apis/{version}/namespaces/{ns.name}/{resource}" if "/" in version else f"/api/{version}/namespaces/{ns.name}/{resource}"
    spec = job("x", "sleep 600", suspend=True)["spec"] if resource == "jobs" else KINDS[which][0]
    api.post(path, {"metadata": {"name": "x", "labels": {"life": "x"}}, "spec": spec}).ok()
    grown = {"suspend": False, "parallelism": 2, "completions": 2} if resource == "jobs" else {"replicas": 2}
    assert api.patch(f"{path}/x", {"metadata": {"labels": {"patched": "yes"}}}).ok()["metadata"]["labels"] == {"life": "x", "patched": "yes"}

    def replaced():
        now = api.get(f"{path}/x").ok()
        now["metadata"].setdefault("annotations", {})["replaced"] = "yes"
        now["spec"].update({k: v for k, v in grown.items() if k != "completions"})
        return api.put(f"{path}/x", now).code == 200

    eventually(replaced)
    counted = "active" if resource == "jobs" else "readyReplicas"
    wanted = 1 if resource == "jobs" else 2
    eventually(lambda: api.get(f"{path}/x").ok()["status"].get(counted) == wanted, timeout=20)
    if resource != "jobs":
        image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "e2e.test/busybox:1", "env": [{"name": "A", "value": "b"}]}]}}}}
        api.patch(f"{path}/x", image, type="strategic-merge-patch").ok()
        assert api.get(f"{path}/x").ok()["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "b"
    api.delete(f"{path}/x", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}).ok()
    eventually(lambda: api.get(f"{path}/x").code == 404, timeout=20)
    assert not [p for p in ns.pods() if "deletionTimestamp" not in p["metadata"]]

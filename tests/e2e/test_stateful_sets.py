"""StatefulSets, CronJobs and disruption budgets as kubectl users work with them."""

from cluster import condition, deployment, eventually, pod


def stateful_set(name, replicas, **spec):
    object = deployment(name, replicas, **spec)
    object["kind"] = "StatefulSet"
    object["spec"]["serviceName"] = name
    return object


def names(ns, app):
    return sorted(p["metadata"]["name"] for p in ns.pods(f"app={app}") if "deletionTimestamp" not in p["metadata"])


def test_a_stateful_set_has_pods_with_names_of_their_own(ns):
    ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
              "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]}})
    ns.apply(stateful_set("db", 2))
    ns.wait_rollout("statefulset/db")
    assert names(ns, "db") == ["db-0", "db-1"]
    assert ns.exec("db-0", "hostname").strip() == "db-0"
    # Each has a name in the network, which stays.
    address = ns.get("pod", "db-1")["status"]["podIP"]
    eventually(lambda: address in ns.exec("db-0", "nslookup", f"db-1.db.{ns.name}.svc.cluster.local"))
    ns.kubectl("scale", "statefulset/db", "--replicas=1")
    eventually(lambda: names(ns, "db") == ["db-0"])
    assert "1/1" in eventually(lambda: [row for row in ns.kubectl("get", "sts", "db").splitlines() if "1/1" in row])[0]


def test_a_stateful_set_rolls_and_is_rolled_back(ns):
    ns.apply(stateful_set("db", 2, podManagementPolicy="Parallel"))
    ns.wait_rollout("statefulset/db")
    env = lambda: [c.get("env", []) for p in ns.pods("app=db") for c in p["spec"]["containers"]]
    ns.kubectl("set", "env", "statefulset/db", "RELEASE=2")
    ns.wait_rollout("statefulset/db")
    assert all(e[0]["value"] == "2" for e in env())
    ns.kubectl("rollout", "undo", "statefulset/db")
    ns.wait_rollout("statefulset/db")
    assert env() == [[], []]
    status = ns.get("sts", "db")["status"]
    assert status["currentRevision"] == status["updateRevision"]


def test_a_pod_of_a_stateful_set_that_was_evicted_comes_back(ns):
    ns.apply(stateful_set("db", 1))
    ns.wait_rollout("statefulset/db")
    before = ns.get("pod", "db-0")["metadata"]["uid"]
    ns.kubectl("delete", "pod", "db-0")
    ns.wait_rollout("statefulset/db")
    assert eventually(lambda: ns.get("pod", "db-0"))["metadata"]["uid"] != before


def test_each_pod_of_a_stateful_set_keeps_its_own_data(ns):
    template = {"metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
    keep = ["sh", "-c", "[ -e /data/name ] || hostname > /data/name; exec httpd -f -p 8080 -h /data"]
    ns.apply(stateful_set("db", 2, command=keep, container={"volumeMounts": [{"name": "data", "mountPath": "/data"}],
                          "readinessProbe": {"httpGet": {"path": "/name", "port": "http"}, "periodSeconds": 1}},
                          volumeClaimTemplates=[template],
                          persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Retain"}))
    ns.wait_rollout("statefulset/db")
    claims = lambda: {c["metadata"]["name"]: c["status"]["phase"] for c in ns.get("pvc")["items"]}
    assert claims() == {"data-db-0": "Bound", "data-db-1": "Bound"}
    ns.exec("db-1", "sh", "-c", "echo kept >> /data/name")
    ns.kubectl("delete", "pod", "db-1")
    ns.wait_rollout("statefulset/db")
    assert ns.exec("db-1", "cat", "/data/name") == "db-1\nkept\n"
    # A claim goes with its pod where that is asked for, and stays when the whole set goes.
    ns.kubectl("scale", "statefulset/db", "--replicas=1")
    eventually(lambda: claims() == {"data-db-0": "Bound"}, what="the claim goes with its pod")
    ns.kubectl("delete", "statefulset", "db")
    eventually(lambda: not names(ns, "db"))
    assert claims() == {"data-db-0": "Bound"}
    ns.kubectl("delete", "pvc", "data-db-0")


def test_a_cron_job_makes_a_job_every_minute_and_one_at_once_by_hand(ns):
    template = {"spec": {"restartPolicy": "Never", **pod("x", "true")["spec"]}}
    ns.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
              "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Replace", "jobTemplate": {"spec": {"template": template}}}})
    eventually(lambda: ns.get("cronjob", "tick")["status"].get("lastScheduleTime"))
    job = eventually(lambda: [j for j in ns.get("jobs")["items"] if j["metadata"]["name"].startswith("tick-")])[0]
    assert job["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
    assert "batch.kubernetes.io/cronjob-scheduled-timestamp" in job["metadata"]["annotations"]
    ns.kubectl("patch", "cronjob", "tick", "-p", '{"spec":{"suspend":true}}')
    ns.kubectl("create", "job", "by-hand", "--from=cronjob/tick")
    eventually(lambda: condition(ns.get("job", "by-hand"), "Complete") == "True")


def test_an_eviction_waits_until_the_budget_allows_it(ns):
    ns.apply(deployment("web", 2))
    ns.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
              "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}})
    ns.wait_rollout("deployment/web")
    status = lambda: ns.get("pdb", "web")["status"]
    eventually(lambda: status()["currentHealthy"] == 2)
    assert (status()["disruptionsAllowed"], condition(ns.get("pdb", "web"), "DisruptionAllowed")) == (0, "False")
    victim = ns.pods("app=web")[0]
    name = victim["metadata"]["name"]
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{ns.name}/pods/{name}/eviction"
    assert "Cannot evict pod" in ns.refused("create", "--raw", path, "-f", "-", input=evict)
    ns.kubectl("patch", "pdb", "web", "--type=merge", "-p", '{"spec":{"minAvailable":1}}')
    eventually(lambda: status()["disruptionsAllowed"] == 1)
    ns.kubectl("create", "--raw", path, "-f", "-", input=evict)
    eventually(lambda: name not in [p["metadata"]["name"] for p in ns.pods("app=web")])
    eventually(lambda: status()["currentHealthy"] == 2 and status()["disruptionsAllowed"] == 1)
    assert "disruptedPods" not in status()


def test_a_drain_takes_pods_away_as_fast_as_the_budget_allows(cluster, ns):
    ns.apply(deployment("guarded", 2))
    ns.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guarded"},
              "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}})
    ns.wait_rollout("deployment/guarded")
    eventually(lambda: ns.get("pdb", "guarded")["status"]["disruptionsAllowed"] == 1)
    # One at a time goes; on the only node, which is cordoned, no successor comes up, so the second must stay.
    try:
        drained = cluster.run("drain", cluster.node, "--pod-selector=app=guarded", "--timeout=2s", check=False)
        assert drained.returncode != 0 and "Cannot evict pod" in drained.stderr
        eventually(lambda: len([p for p in ns.pods("app=guarded") if condition(p, "Ready") == "True"]) == 1)
    finally:
        cluster.kubectl("uncordon", cluster.node)


def test_a_budget_counts_what_a_custom_owner_asks_for(cluster, ns):
    group = f"{ns.name}.e2e.test"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
               "subresources": {"status": {}, "scale": scale}}
    definition = f"herds.{group}"
    cluster.apply({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": definition},
                   "spec": {"group": group, "scope": "Namespaced", "versions": [version],
                            "names": {"plural": "herds", "singular": "herd", "kind": "Herd", "listKind": "HerdList"}}})
    try:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{definition}", "--timeout=10s")
        eventually(lambda: ns.apply({"apiVersion": f"{group}/v1", "kind": "Herd", "metadata": {"name": "h"}, "spec": {"replicas": 3}}) is None)
        owner = {"apiVersion": f"{group}/v1", "kind": "Herd", "name": "h", "controller": True,
                 "uid": ns.get(definition, "h")["metadata"]["uid"]}
        member = pod("member", "sleep", "600")
        member["metadata"]["ownerReferences"] = [owner]
        ns.apply(member, {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "h"},
                          "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "member"}}}})
        numbers = lambda s: (s["expectedPods"], s["desiredHealthy"], s["currentHealthy"], s["disruptionsAllowed"])
        eventually(lambda: numbers(ns.get("pdb", "h")["status"]) == (3, 2, 1, 0))
    finally:
        cluster.kubectl("delete", "crd", definition, "--wait=false")

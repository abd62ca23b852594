"""What is done to pods apart from writing them: eviction under a budget, proxies, containers to look with, resizing."""

import json

from cluster import eventually, pod

PDB = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
       "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}


def web(name):
    serve = "mkdir -p /www/sub && echo hello > /www/index.html && echo deep > /www/sub/a && exec httpd -f -p 8080 -h /www"
    it = pod(name, "sh", "-c", serve)
    it["metadata"]["labels"] = {"app": "web"}
    it["spec"]["containers"][0]["ports"] = [{"containerPort": 8080}]
    it["spec"]["terminationGracePeriodSeconds"] = 1
    return it


def evict(ns, name):
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": ns.name}}
    return ns.run("create", "--raw", f"/api/v1/namespaces/{ns.name}/pods/{name}/eviction", "-f", "-", input=eviction, check=False)


def test_an_eviction_waits_for_the_budget(ns):
    ns.apply(web("a"), PDB)
    ns.wait_ready("a")
    says = lambda healthy, allowed: eventually(lambda: (
        ns.get("pdb", "web")["status"]["currentHealthy"], ns.get("pdb", "web")["status"]["disruptionsAllowed"]) == (healthy, allowed))
    says(1, 0)
    refused = evict(ns, "a")
    assert refused.returncode != 0 and "Cannot evict pod as it would violate the pod's disruption budget" in refused.stderr
    ns.apply(web("b"))
    says(2, 1)
    assert '"status":"Success"' in evict(ns, "a").stdout.replace(" ", "")
    eventually(lambda: "NotFound" in ns.refused("get", "pod", "a"), what="the pod is gone")
    says(1, 0)


def test_pods_and_services_are_reached_through_the_server(ns):
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}
    ns.apply(web("a"), service)
    ns.wait_ready("a")
    at = f"/api/v1/namespaces/{ns.name}"
    assert eventually(lambda: ns.cluster.raw(f"{at}/pods/a/proxy/"), what="the pod listens") == "hello\n"
    assert ns.cluster.raw(f"{at}/pods/a:8080/proxy/sub/a") == "deep\n"
    assert ns.cluster.raw(f"{at}/pods/http:a:8080/proxy/sub/a") == "deep\n"
    eventually(lambda: ns.cluster.raw(f"{at}/services/web:http/proxy/") == "hello\n", what="the endpoints are there")
    assert ns.cluster.raw(f"{at}/services/web:80/proxy/sub/a") == "deep\n"
    assert "no endpoints available" in ns.refused("get", "--raw", f"{at}/services/web:other/proxy/")
    assert "connection refused" in ns.refused("get", "--raw", f"{at}/pods/a:9/proxy/")


def test_debug_adds_a_container_that_stays(ns):
    ns.apply(pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    name = ns.get("pod", "it")["spec"]["containers"][0]["name"]
    ns.kubectl("debug", "it", "--image=e2e.test/busybox:1", "--container=look", f"--target={name}", "--", "true")
    [look] = ns.get("pod", "it")["spec"]["ephemeralContainers"]
    assert (look["name"], look["targetContainerName"]) == ("look", name)
    wipe = json.dumps({"spec": {"ephemeralContainers": []}})
    said = ns.refused("patch", "pod", "it", "--subresource=ephemeralcontainers", "--type=merge", "-p", wipe)
    assert 'existing ephemeral containers "look" may not be removed' in said


def test_a_resize_changes_requests_of_a_pod_that_waits(ns):
    it = pod("it", "sleep", "3600")
    it["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    it["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m"}}
    ns.apply(it)
    name = it["spec"]["containers"][0]["name"]
    more = lambda requests: json.dumps({"spec": {"containers": [{"name": name, "resources": {"requests": requests}}]}})
    ns.kubectl("patch", "pod", "it", "--subresource=resize", "-p", more({"cpu": "20m"}))
    assert ns.get("pod", "it")["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "20m"
    said = ns.refused("patch", "pod", "it", "--subresource=resize", "-p", more({"ephemeral-storage": "1Gi"}))
    assert "only cpu and memory resources are mutable" in said


def test_a_running_pod_is_resized_in_place_and_waits_where_there_is_no_room(ns):
    amount = lambda cpu, memory: {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    it = pod("it", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done", resources=amount("20m", "32Mi"),
             resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}])
    ns.apply(it)
    ns.wait_ready("it")
    limits = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert ns.exec("it", "sh", "-c", limits).split()[0] == "2000"
    ask = lambda cpu, memory: ns.kubectl("patch", "pod", "it", "--subresource=resize", "-p", json.dumps(
        {"spec": {"containers": [{"name": "main", "resources": amount(cpu, memory)}]}}))
    status = lambda: ns.get("pod", "it")["status"]["containerStatuses"][0]

    ask("30m", "32Mi")
    eventually(lambda: status().get("resources", {}).get("limits", {}).get("cpu") == "30m", what="it has more")
    assert (status()["allocatedResources"]["cpu"], status()["restartCount"]) == ("30m", 0)
    assert ns.exec("it", "sh", "-c", limits).split()[0] == "3000"
    said = lambda: {e["reason"]: e["message"] for e in ns.events("it")}
    eventually(lambda: "ResizeCompleted" in said(), what="it is told of")
    assert said()["ResizeStarted"].startswith('Pod resize started: {"containers":[{"name":"main","resources":{"limits":{"cpu":"30m"')

    ask("30m", "48Mi")
    eventually(lambda: status()["restartCount"] == 1 and status()["resources"]["limits"]["memory"] == "48Mi", what="it was started anew")
    assert said()["Killing"] == "Container main resize requires restart"

    ask("5000", "48Mi")
    pending = lambda: [c for c in ns.get("pod", "it")["status"]["conditions"] if c["type"] == "PodResizePending"]
    [why] = eventually(pending, what="it waits")
    assert why["reason"] == "Infeasible" and why["message"].startswith("Node didn't have enough capacity: cpu, requested: 5000000, capacity: ")
    assert status()["allocatedResources"]["cpu"] == "30m"
    ask("30m", "48Mi")
    eventually(lambda: not pending(), what="it does not wait any more")

"""ReplicationControllers, as the conformance programme and old manifests use them through kubectl."""

import json

from cluster import WEB, eventually

IMAGE = "e2e.test/busybox:1"


def controller(name, replicas=1, labels=None, **container):
    labels = labels or {"app": name, "role": "primary"}
    main = {"name": name, "image": IMAGE, "command": WEB, "ports": [{"name": "http", "containerPort": 8080}], **container}
    return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name, "labels": labels}, "spec": {
        "replicas": replicas, "selector": labels,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [main], "terminationGracePeriodSeconds": 1}}}}


def wait_ready(ns, name, count):
    status = lambda: ns.get("rc", name)["status"]
    eventually(lambda: (status()["replicas"], status().get("readyReplicas", 0), status().get("availableReplicas", 0)) == (count,) * 3)


def lines_hold(text, wanted):
    """Whether each row of words is found in this order, the words of a row in one line."""
    lines = iter(text.splitlines())
    for first, *others in wanted:
        line = next((line for line in lines if first in line), None)
        assert line is not None, f"{first} is missing in:\n{text}"
        assert all(other in line for other in others), f"{others} are not all in {line!r}"


def test_it_is_created_scaled_and_stopped(ns):
    ns.apply(controller("demo", 2, {"name": "update-demo"}))
    wait_ready(ns, "demo", 2)
    template = '{{range.items}}{{if (exists . "status" "containerStatuses")}}{{range .status.containerStatuses}}' \
        '{{if (and (eq .name "demo") (exists . "state" "running"))}}true{{end}}{{end}}{{end}}{{end}}'
    assert ns.kubectl("get", "pods", "-l", "name=update-demo", "-o", f"template={template}") == "truetrue"
    for count in (1, 2):
        assert "scaled" in ns.kubectl("scale", "rc", "demo", f"--replicas={count}", "--timeout=1m")
        eventually(lambda: len([p for p in ns.pods("name=update-demo") if "deletionTimestamp" not in p["metadata"]]) == count)
        wait_ready(ns, "demo", count)
    scale = json.loads(ns.kubectl("get", "rc", "demo", "--subresource=scale", "-o", "json"))
    assert scale["kind"] == "Scale" and scale["status"] == {"replicas": 2, "selector": "name=update-demo"}
    ns.kubectl("delete", "--grace-period=0", "--force", "-f", "-", input=controller("demo", 2, {"name": "update-demo"}))
    assert ns.kubectl("get", "rc,svc", "-l", "name=update-demo", "--no-headers") == ""
    eventually(lambda: not [p for p in ns.pods("name=update-demo") if "deletionTimestamp" not in p["metadata"]])


def test_describe_expose_autoscale_and_patch(ns):
    ns.apply(controller("web"))
    wait_ready(ns, "web", 1)
    ns.kubectl("expose", "rc", "web", "--name=rm2", "--port=1234", "--target-port=8080")
    ns.kubectl("expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=8080")
    for name, port in (("rm2", 1234), ("rm3", 2345)):
        [subset] = eventually(lambda: ns.get("endpoints", name)["subsets"])
        assert [p["port"] for p in subset["ports"]] == [8080] and len(subset["addresses"]) == 1
        assert ns.get("service", name)["spec"]["ports"][0]["port"] == port
    lines_hold(ns.kubectl("describe", "rc", "web"), [
        ("Name:", "web"), ("Namespace:", ns.name), ("Selector:", "app=web,role=primary"), ("Labels:", "app=web"), ("role=primary",),
        ("Annotations:",), ("Replicas:", "1 current", "1 desired"),
        ("Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"), ("Pod Template:",), ("Image:", IMAGE),
        ("Events:",), ("SuccessfulCreate", "Created pod: web-")])
    [one] = ns.pods("app=web")
    lines_hold(ns.kubectl("describe", "pod", one["metadata"]["name"]), [
        ("Name:", "web-"), ("Namespace:", ns.name), ("Node:",), ("Labels:", "app=web"), ("role=primary",), ("Annotations:",),
        ("Status:", "Running"), ("IP:",), ("Controlled By:", "ReplicationController/web"), ("Image:", IMAGE), ("State:", "Running"),
        ("QoS Class:", "BestEffort")])
    lines_hold(ns.kubectl("describe", "service", "rm2"), [
        ("Name:", "rm2"), ("Namespace:", ns.name), ("Labels:", "app=web"), ("role=primary",), ("Annotations:",),
        ("Selector:", "app=web", "role=primary"), ("Type:", "ClusterIP"), ("IP:",), ("Port:", "<unset>", "1234/TCP"), ("Endpoints:",),
        ("Session Affinity:", "None")])
    ns.kubectl("patch", "pod", one["metadata"]["name"], "-p", '{"metadata":{"annotations":{"x":"y"}}}')
    assert ns.pods("app=web")[0]["metadata"]["annotations"]["x"] == "y"
    ns.kubectl("autoscale", "rc", "web", "--min=1", "--max=2")
    assert ns.get("hpa", "web")["spec"]["scaleTargetRef"] == {"apiVersion": "v1", "kind": "ReplicationController", "name": "web"}
    ns.kubectl("set", "image", "rc/web", "web=e2e.test/other:1")
    assert ns.get("rc", "web")["spec"]["template"]["spec"]["containers"][0]["image"] == "e2e.test/other:1"
    assert [p["metadata"]["name"] for p in ns.pods("app=web")] == [one["metadata"]["name"]], "it changes no pod that there is"


def test_it_says_so_when_a_quota_keeps_its_pods_from_being_made(ns):
    ns.kubectl("create", "quota", "few", "--hard=pods=2")
    ns.apply(controller("web", 3))
    failed = eventually(lambda: ns.get("rc", "web")["status"].get("conditions"))[0]
    assert (failed["type"], failed["status"], failed["reason"]) == ("ReplicaFailure", "True", "FailedCreate")
    assert "exceeded quota: few" in failed["message"]
    ns.kubectl("scale", "rc", "web", "--replicas=2")
    eventually(lambda: not ns.get("rc", "web")["status"].get("conditions"), what="the condition gone")
    wait_ready(ns, "web", 2)


def test_its_pods_outlive_it_unless_asked_otherwise(ns):
    ns.apply(controller("web", 2))
    wait_ready(ns, "web", 2)
    ns.kubectl("delete", "rc", "web", "--cascade=orphan")
    assert len(ns.pods("app=web")) == 2
    assert not any("ownerReferences" in p["metadata"] for p in ns.pods("app=web"))
    ns.apply(controller("web", 2))
    wait_ready(ns, "web", 2)
    assert all(p["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController" for p in ns.pods("app=web"))
    first = ns.pods("app=web")[0]["metadata"]["name"]
    ns.kubectl("label", "pod", first, "app=mine", "--overwrite")
    eventually(lambda: "ownerReferences" not in ns.get("pod", first)["metadata"])
    ns.kubectl("delete", "rc", "web")
    eventually(lambda: [p["metadata"]["name"] for p in ns.pods()] == [first])

"""A HorizontalPodAutoscaler under real load."""

import json

from cluster import condition, deployment, eventually


def test_load_brings_more_pods(ns):
    ns.apply(deployment("busy", 1, command=["sh", "-c", "while :; do :; done"],
                        container={"readinessProbe": None, "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "60m"}}}))
    ns.wait_rollout("deployment/busy")
    ns.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "busy"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"}, "minReplicas": 1, "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}})
    hpa = lambda: ns.get("hpa", "busy")
    # A pod that just started says nothing of its load for a quarter of a minute or so.
    eventually(lambda: hpa()["status"].get("desiredReplicas", 0) > 1, timeout=60)
    assert condition(hpa(), "ScalingActive") == condition(hpa(), "AbleToScale") == "True"
    metric = hpa()["status"]["currentMetrics"][0]["resource"]
    assert "cpu: " in ns.kubectl("get", "hpa", "busy")
    assert metric["name"] == "cpu" and metric["current"]["averageUtilization"] > 50
    eventually(lambda: ns.get("deployment", "busy")["spec"]["replicas"] > 1)
    assert any("above target" in e["message"] for e in ns.events("busy") if e["reason"] == "SuccessfulRescale")
    # Other ways to look at the same load, each at once when it is asked for.
    ways = [{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "main", "target": {"type": "AverageValue", "averageValue": "10m"}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]
    ns.kubectl("patch", "hpa", "busy", "--type=merge", "-p", json.dumps({"spec": {"metrics": ways}}))
    current = lambda: {m["type"]: list(m.values())[0] if m["type"] != "Resource" else m["resource"] for m in hpa()["status"]["currentMetrics"]}
    eventually(lambda: current().keys() == {"ContainerResource", "Resource"} and current()["Resource"]["name"] == "memory", timeout=20)
    assert "cpu container resource" in condition_message(hpa(), "ScalingActive")


def condition_message(thing, kind):
    return [c["message"] for c in thing["status"]["conditions"] if c["type"] == kind][0]

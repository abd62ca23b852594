"""A HorizontalPodAutoscaler under real load."""

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

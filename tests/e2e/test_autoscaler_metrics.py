"""HorizontalPodAutoscalers by metrics that somebody else serves: of pods and objects (custom.metrics.k8s.io) and from outside the
cluster (external.metrics.k8s.io), by an adapter behind the aggregation layer."""

import json
import urllib.parse

import pytest

from cluster import deployment, eventually
from host_server import Handler, Identity, Server, endpoints

CUSTOM, EXTERNAL = "custom.metrics.k8s.io/v1beta2", "external.metrics.k8s.io/v1beta1"
NOW = "2030-01-01T00:00:00Z"


class Answers(Handler):
    """Discovery, and the values of the adapter by path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(url.path).removeprefix("/apis/"), dict(urllib.parse.parse_qsl(url.query))
        if path in (CUSTOM, EXTERNAL):
            return self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path, "resources": []})
        found = self.server.adapter.get(path)
        if found is None:
            return self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                                     "message": f"nothing is known of {path}", "code": 404})
        self.server.asked[path] = query
        self.answer(200, {"kind": "List", "apiVersion": path.split("/namespaces")[0], "metadata": {}, "items": found()})

    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def adapter(cluster, ns, api, tmp_path):
    """What it serves, by path: functions that give the items; and what it was asked."""
    ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter"}, "spec": {"ports": [{"port": 443}]}})
    server = Server(("0.0.0.0", 0), Answers, Identity(tmp_path, "DNS:adapter"), adapter={}, asked={})
    endpoints(ns, "adapter", server.server_port)
    names = []
    for group, version in (at.split("/") for at in (CUSTOM, EXTERNAL)):
        names.append(f"{version}.{group}")
        cluster.apply({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": names[-1]},
                       "spec": {"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                                "insecureSkipTLSVerify": True, "service": {"namespace": ns.name, "name": "adapter"}}})
    cluster.kubectl("wait", "--for=condition=Available", *(f"apiservice/{n}" for n in names), "--timeout=20s")
    yield server
    cluster.kubectl("delete", "apiservice", *names)
    server.end()


def test_metrics_of_pods_objects_and_from_outside_bring_more_pods(ns, adapter):
    def of(kind, name, value):
        return {"describedObject": {"kind": kind, "namespace": ns.name, "name": name}, "metric": {"name": "m"}, "timestamp": NOW, "value": value}

    pods = lambda: [p["metadata"]["name"] for p in ns.pods("app=web")]
    in_here = f"namespaces/{ns.name}"
    adapter.adapter.update({
        f"{CUSTOM}/{in_here}/pods/*/hits": lambda: [of("Pod", name, "19") for name in pods()],
        f"{CUSTOM}/{in_here}/services/web/rate": lambda: [of("Service", "web", "1500m")],
        f"{CUSTOM}/{in_here}/metrics/load": lambda: [of("Namespace", ns.name, "120")],
        f"{EXTERNAL}/{in_here}/queue|depth": lambda: [{"metricName": "queue|depth", "timestamp": NOW, "value": v} for v in ("60", "1200e-1")],
    })
    ns.apply(deployment("web", 1, container={"readinessProbe": None}))
    ns.wait_rollout("deployment/web")

    def measured_by(metric, replicas):
        spec = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 9, "metrics": [metric]}
        ns.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": spec})
        eventually(lambda: ns.get("deployment", "web")["spec"]["replicas"] == replicas, timeout=20, what=f"{replicas} replicas")
        ns.wait_rollout("deployment/web")
        kind = metric["type"].lower()
        found = eventually(lambda: ns.get("hpa", "web")["status"].get("currentMetrics"), what="current metrics")
        return found[0][kind]["current"]

    average = lambda value: {"type": "AverageValue", "averageValue": value}
    current = measured_by({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": average("10")}}, 2)
    assert current == {"averageValue": "19"}
    assert adapter.asked[f"{CUSTOM}/{in_here}/pods/*/hits"] == {"labelSelector": "app=web"}
    chosen = {"matchLabels": {"verb": "GET"}}
    about = {"apiVersion": "v1", "kind": "Service", "name": "web"}
    current = measured_by({"type": "Object", "object": {"describedObject": about, "metric": {"name": "rate", "selector": chosen},
                                                        "target": {"type": "Value", "value": "1"}}}, 3)
    assert current == {"value": "1500m"}
    assert adapter.asked[f"{CUSTOM}/{in_here}/services/web/rate"] == {"metricLabelSelector": "verb=GET"}
    about = {"apiVersion": "v1", "kind": "Namespace", "name": ns.name}
    measured_by({"type": "Object", "object": {"describedObject": about, "metric": {"name": "load"}, "target": average("30")}}, 4)
    measured_by({"type": "External", "external": {"metric": {"name": "queue|depth", "selector": chosen}, "target": average("36")}}, 5)
    assert adapter.asked[f"{EXTERNAL}/{in_here}/queue|depth"] == {"labelSelector": "verb=GET"}
    told = [e["message"] for e in ns.events("web") if e["reason"] == "SuccessfulRescale"]
    for reason in ("pods metric hits above target", "Service metric rate above target", "Namespace metric load above target"):
        assert any(reason in message for message in told), told
    assert any("external metric queue|depth(&LabelSelector{MatchLabels:map[string]string{verb: GET,}" in message for message in told), told

"""A cluster of both address families with a pool of load balancer addresses: what users see of it."""

import json
import urllib.error
import urllib.request

import pytest

from cluster import Cluster, Namespace, deployment, eventually, pod, service


@pytest.fixture(scope="module")
def dual(tmp_path_factory, archive):
    cluster = Cluster(tmp_path_factory.mktemp("dual"))
    number = cluster.port - 16443
    cluster.pods += f",fd42:{number:x}::/56"
    cluster.services += f",fd43:{number:x}::/112"
    cluster.pool = f"198.18.{number}.0/29"
    cluster.more_arguments = ["--load-balancer-pool", f"{cluster.pool},fd44:{number:x}::/125"]
    try:
        cluster.start()
        cluster.import_image(archive)
        yield cluster
    finally:
        cluster.end()
        cluster.reset()


@pytest.fixture(scope="module")
def web(dual):
    """Two web servers and a client in the namespace `web`."""
    dual.kubectl("create", "namespace", "web")
    ns = Namespace(dual, "web")
    fields = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"status.{path}"}}}
        for name, path in [("POD_IPS", "podIPs"), ("HOST_IPS", "hostIPs")]
    ]
    ns.apply(deployment("web", 2), pod("client", "sleep", "3600", env=fields))
    ns.wait_rollout("deployment/web")
    ns.wait_ready("client")
    return ns


def fetch(address, port=80):
    host = f"[{address}]" if ":" in address else address
    return urllib.request.urlopen(f"http://{host}:{port}/", timeout=5).read().decode().strip()


def names(ns):
    return {p["metadata"]["name"] for p in ns.pods("app=web")}


def families(addresses):
    return ["IPv6" if ":" in address else "IPv4" for address in addresses]


def test_pods_and_nodes_have_an_address_of_each_family(dual, web):
    status = web.get("pod", "client")["status"]
    ips = [ip["ip"] for ip in status["podIPs"]]
    assert families(ips) == ["IPv4", "IPv6"] and status["podIP"] == ips[0]
    host = [ip["ip"] for ip in status["hostIPs"]]
    assert families(host) == ["IPv4", "IPv6"] and status["hostIP"] == host[0]
    addresses = dual.get("node", dual.node)["status"]["addresses"]
    assert [a["address"] for a in addresses if a["type"] == "InternalIP"] == host
    seen = web.exec("client", "sh", "-c", "echo $POD_IPS $HOST_IPS").split()
    assert seen == [",".join(ips), ",".join(host)]


def test_a_service_of_both_families_is_reached_by_both_and_found_by_name(web):
    web.apply(service("both", {"app": "web"}, ipFamilyPolicy="RequireDualStack"))
    spec = web.get("service", "both")["spec"]
    assert spec["ipFamilies"] == families(spec["clusterIPs"]) == ["IPv4", "IPv6"]
    for address in spec["clusterIPs"]:
        assert eventually(lambda: fetch(address)) in names(web)

    def slices():
        items = web.get("endpointslices", "-l", "kubernetes.io/service-name=both")["items"]
        return sorted((s["addressType"], len(s["endpoints"])) for s in items) == [("IPv4", 2), ("IPv6", 2)]

    eventually(slices)
    answer = web.exec("client", "nslookup", "-type=aaaa", "both.web.svc.cluster.local.")
    assert spec["clusterIPs"][1] in answer


def test_a_service_changes_its_families_with_its_policy(web):
    web.apply(service("single", {"app": "web"}))
    spec = web.get("service", "single")["spec"]
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("SingleStack", ["IPv4"])
    web.kubectl("patch", "service", "single", "-p", '{"spec": {"ipFamilyPolicy": "PreferDualStack"}}')
    both = web.get("service", "single")["spec"]
    assert both["clusterIPs"][0] == spec["clusterIP"] and families(both["clusterIPs"]) == ["IPv4", "IPv6"]
    assert eventually(lambda: fetch(both["clusterIPs"][1])) in names(web)
    web.kubectl("patch", "service", "single", "-p", '{"spec": {"ipFamilyPolicy": "SingleStack"}}')
    assert web.get("service", "single")["spec"]["clusterIPs"] == [spec["clusterIP"]]
    # What was let go of can be given to another.
    other = service("other", {"app": "web"}, ipFamilyPolicy="SingleStack", clusterIP=both["clusterIPs"][1])
    web.apply(other)
    assert web.get("service", "other")["spec"]["ipFamilies"] == ["IPv6"]
    text = web.refused("patch", "service", "single", "-p", '{"spec": {"ipFamilies": ["IPv6"]}}')
    assert "may not change once set" in text or "expected an IPv6 value" in text


def test_a_load_balancer_gets_addresses_of_the_pool_and_gives_them_back(web, dual):
    balanced = service("balanced", {"app": "web"}, type="LoadBalancer", ipFamilyPolicy="RequireDualStack")
    balanced["spec"]["allocateLoadBalancerNodePorts"] = False
    web.apply(balanced)

    def given():
        ingress = web.get("service", "balanced")["status"]["loadBalancer"].get("ingress", [])
        return [i["ip"] for i in ingress if i["ipMode"] == "VIP"]

    addresses = eventually(given)
    assert families(addresses) == ["IPv4", "IPv6"]
    assert "nodePort" not in web.get("service", "balanced")["spec"]["ports"][0]
    for address in addresses:
        assert eventually(lambda: fetch(address)) in names(web)
    eventually(lambda: web.get("service", "balanced")["metadata"]["annotations"]["orlop.dev/announced-by"] == dual.node)

    # Somebody who is not among the allowed gets nothing.
    web.kubectl("patch", "service", "balanced", "-p", '{"spec": {"loadBalancerSourceRanges": ["203.0.113.0/24"]}}')

    def silent():
        try:
            urllib.request.urlopen(f"http://{addresses[0]}/", timeout=0.3)
        except urllib.error.URLError as error:
            return isinstance(error.reason, TimeoutError)
        except TimeoutError:
            return True

    eventually(silent)
    web.kubectl("patch", "service", "balanced", "-p", '{"spec": {"type": "ClusterIP", "loadBalancerSourceRanges": null}}')
    eventually(lambda: not given())
    refused = service("refused", {"app": "web"}, type="LoadBalancer")
    refused["metadata"]["annotations"] = {"orlop.dev/load-balancer-ips": "192.0.2.1"}
    web.apply(refused)
    eventually(lambda: any(e["reason"] == "SyncLoadBalancerFailed" for e in web.events("refused")))


def test_a_local_load_balancer_is_told_how_many_endpoints_the_node_has(web):
    web.apply(service("local", {"app": "web"}, type="LoadBalancer", externalTrafficPolicy="Local"))
    port = web.get("service", "local")["spec"]["healthCheckNodePort"]

    def answer():
        response = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
        return json.load(response), response.headers["X-Load-Balancing-Endpoint-Weight"]

    def counted():
        body, weight = answer()
        return body["localEndpoints"] == 2 and weight == "2" and body["service"]["name"] == "local"

    eventually(counted)
    web.kubectl("patch", "service", "local", "-p", '{"spec": {"selector": {"app": "nobody"}}}')

    def unhealthy():
        try:
            answer()
        except urllib.error.HTTPError as error:
            return error.code == 503

    eventually(unhealthy)

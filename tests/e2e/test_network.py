"""Services and cluster DNS, with real packets."""

import collections
import socket
import subprocess
import urllib.request

import pytest

from cluster import deployment, eventually, pod, service


@pytest.fixture
def web(ns):
    """Three web servers behind the Service `web`, and a pod to ask from."""
    ns.apply(deployment("web", 3), service("web"), pod("client", "sleep", "3600"))
    ns.wait_rollout("deployment/web")
    ns.wait_ready("client")
    return ns


def fetch(ns, url):
    return ns.exec("client", "fetch", url).strip()


def names(ns):
    return {p["metadata"]["name"] for p in ns.pods("app=web")}


def test_a_service_spreads_over_its_ready_pods(web):
    address = web.get("service", "web")["spec"]["clusterIP"]
    script = f"for i in $(seq 60); do fetch http://{address}/; done"
    answers = collections.Counter(web.exec("client", "sh", "-c", script).split())
    assert set(answers) == names(web)
    assert min(answers.values()) >= 5, answers


def test_a_service_is_found_by_name(web):
    assert fetch(web, "http://web/") in names(web)
    assert fetch(web, f"http://web.{web.name}.svc.cluster.local/") in names(web)


def test_a_node_port_answers_on_the_node(web, cluster):
    web.kubectl("patch", "service", "web", "-p", '{"spec": {"type": "NodePort"}}')
    port = web.get("service", "web")["spec"]["ports"][0]["nodePort"]
    node = cluster.get("node", cluster.node)
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    ask = lambda host: urllib.request.urlopen(f"http://{host}:{port}/", timeout=5).read().decode().strip()
    assert eventually(lambda: ask(address)) in names(web)
    assert ask("127.0.0.1") in names(web)


def test_the_node_reaches_cluster_addresses(web):
    address = web.get("service", "web")["spec"]["clusterIP"]
    assert urllib.request.urlopen(f"http://{address}/", timeout=5).read().decode().strip() in names(web)


def test_a_pod_reaches_itself_through_its_service(ns):
    ns.apply(deployment("web", 1), service("web"))
    ns.wait_rollout("deployment/web")
    [only] = names(ns)
    assert eventually(lambda: ns.exec(only, "fetch", "http://web/").strip()) == only


def test_pods_that_leave_get_no_more_traffic(web):
    web.kubectl("scale", "deployment/web", "--replicas=1")
    eventually(lambda: len(web.pods("app=web")) == 1)
    script = "for i in $(seq 20); do fetch http://web/ || echo failed; done"
    assert set(web.exec("client", "sh", "-c", script).split()) == names(web)


def test_a_service_without_endpoints_refuses_at_once(ns):
    ns.apply(service("web"), pod("client", "sleep", "3600"))
    ns.wait_ready("client")
    result = ns.run("exec", "client", "--", "fetch", "http://web/", check=False)
    assert result.returncode != 0 and "refused" in result.stderr, result.stderr


def lookup(ns, *arguments):
    return ns.exec("client", "nslookup", *arguments)


def test_dns_answers_for_services_pods_and_ports(web, cluster):
    spec = web.get("service", "web")["spec"]
    zone = f"{web.name}.svc.cluster.local"
    assert spec["clusterIP"] in lookup(web, "-type=a", f"web.{zone}.")
    srv = lookup(web, "-type=srv", f"_http._tcp.web.{zone}.")
    assert f"80 web.{zone}" in srv, srv
    reverse = ".".join(reversed(spec["clusterIP"].split("."))) + ".in-addr.arpa."
    assert f"web.{zone}" in lookup(web, "-type=ptr", reverse)
    ip = web.get("pod", "client")["status"]["podIP"]
    assert ip in lookup(web, "-type=a", f"{ip.replace('.', '-')}.{web.name}.pod.cluster.local.")
    missing = web.run("exec", "client", "--", "nslookup", f"nothing.{zone}.", check=False)
    assert "NXDOMAIN" in missing.stdout + missing.stderr


def test_a_headless_service_lists_its_pods(ns):
    ns.apply(deployment("web", 3), service("web", clusterIP="None"), pod("client", "sleep", "3600"))
    ns.wait_rollout("deployment/web")
    ns.wait_ready("client")
    ips = {p["status"]["podIP"] for p in ns.pods("app=web")}

    def all_there():
        answer = lookup(ns, "-type=a", f"web.{ns.name}.svc.cluster.local.")
        return all(ip in answer for ip in ips)

    eventually(all_there)


def test_resolv_conf_points_at_the_cluster(web):
    text = web.exec("client", "cat", "/etc/resolv.conf")
    address = web.cluster.services.split(".0.0/")[0] + ".0.10"
    assert f"nameserver {address}" in text
    assert f"search {web.name}.svc.cluster.local svc.cluster.local cluster.local" in text
    assert "ndots:5" in text


def test_endpoints_and_slices_agree(web):
    ips = {p["status"]["podIP"] for p in web.pods("app=web")}
    [subset] = web.get("endpoints", "web")["subsets"]
    assert {a["ip"] for a in subset["addresses"]} == ips
    slices = web.get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
    assert {e["addresses"][0] for s in slices for e in s["endpoints"] if e["conditions"]["ready"]} == ips
    assert subset["ports"][0]["port"] == slices[0]["ports"][0]["port"] == 8080


def test_cluster_ips_are_never_given_twice(ns):
    for i in range(20):
        ns.apply(service(f"s{i}"))
    addresses = [s["spec"]["clusterIP"] for s in ns.get("services")["items"]]
    assert len(set(addresses)) == 20
    taken = service("again", clusterIP=addresses[0])
    assert "provided IP is already allocated" in ns.refused("apply", "-f", "-", input=taken)


def test_dns_answers_over_tcp_and_for_the_host(web):
    server = web.cluster.services.split(".0.0/")[0] + ".0.10"
    name = f"web.{web.name}.svc.cluster.local"
    for how in ("+tcp", "+notcp"):
        answer = subprocess.run(["dig", "+short", "+time=3", how, f"@{server}", name], capture_output=True, text=True, timeout=20)
        assert answer.stdout.strip() == web.get("service", "web")["spec"]["clusterIP"], answer


def test_an_external_name_is_an_alias(ns):
    ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away"},
              "spec": {"type": "ExternalName", "externalName": "far.example.com"}})
    server = ns.cluster.services.split(".0.0/")[0] + ".0.10"
    ask = ["dig", "+short", "+time=3", f"@{server}", f"away.{ns.name}.svc.cluster.local", "CNAME"]
    eventually(lambda: subprocess.run(ask, capture_output=True, text=True).stdout.strip() == "far.example.com.")


def test_client_ip_affinity_keeps_a_client_at_one_pod(web):
    web.kubectl("patch", "service", "web", "-p", '{"spec": {"sessionAffinity": "ClientIP"}}')
    script = "for i in $(seq 15); do fetch http://web/; done"
    eventually(lambda: len(set(web.exec("client", "sh", "-c", script).split())) == 1, what="one pod for one client")


def test_udp_and_endpoints_of_ones_own(ns, cluster):
    node = cluster.get("node", cluster.node)["status"]["addresses"][0]["address"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind((node, 0))
        port = server.getsockname()[1]
        # A Service without a selector leads where its slices say.
        ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
                  "spec": {"ports": [{"name": "udp", "port": 53, "protocol": "UDP"}]}})
        ns.apply({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                  "metadata": {"name": "echo-1", "labels": {"kubernetes.io/service-name": "echo"}},
                  "endpoints": [{"addresses": [node]}], "ports": [{"name": "udp", "port": port, "protocol": "UDP"}]})
        address = ns.get("service", "echo")["spec"]["clusterIP"]
        server.settimeout(0.3)
        client.settimeout(5)

        def heard():
            client.sendto(b"hello", (address, 53))
            try:
                return server.recvfrom(100)
            except TimeoutError:
                return None

        said, peer = eventually(heard)
        server.sendto(said.upper(), peer)
        answer, source = client.recvfrom(100)
        assert (answer, source) == (b"HELLO", (address, 53))


def test_a_local_node_port_keeps_the_address_of_the_client(ns, cluster):
    show = ["sh", "-c", "mkdir -p /www/cgi-bin; touch /www/index.html; printf '#!/bin/sh\\nprintf \"\\\\r\\\\n$REMOTE_ADDR\\\\n\"\\n' > /www/cgi-bin/who; "
            "chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www"]
    ns.apply(deployment("web", 1, show), service("web", type="NodePort", externalTrafficPolicy="Local"), pod("client", "sleep", "3600"))
    ns.wait_rollout("deployment/web")
    client = ns.wait_ready("client")["status"]["podIP"]
    port = ns.get("service", "web")["spec"]["ports"][0]["nodePort"]
    node = cluster.get("node", cluster.node)["status"]["addresses"][0]["address"]
    assert client in eventually(lambda: fetch(ns, f"http://{node}:{port}/cgi-bin/who"))
    ns.kubectl("scale", "deployment/web", "--replicas=0")
    eventually(lambda: ns.run("exec", "client", "--", "timeout", "2", "fetch", f"http://{node}:{port}/", check=False).returncode != 0)


@pytest.fixture
def outside(tmp_path):
    """A web server on another machine that knows no way to pods: a network namespace behind a link."""
    run = lambda *command: subprocess.run(command, check=True)
    (tmp_path / "index.html").write_text("the world\n")
    run("ip", "netns", "add", "e2e-outside")
    server = None
    try:
        run("ip", "link", "add", "e2e-out", "type", "veth", "peer", "name", "eth0", "netns", "e2e-outside")
        run("ip", "address", "add", "198.51.100.1/30", "dev", "e2e-out")
        run("ip", "link", "set", "e2e-out", "up")
        inside = ["ip", "netns", "exec", "e2e-outside"]
        run(*inside, "ip", "address", "add", "198.51.100.2/30", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        server = subprocess.Popen([*inside, "busybox", "httpd", "-f", "-p", "8080", "-h", str(tmp_path)])
        yield "198.51.100.2:8080"
    finally:
        if server:
            server.kill()
            server.wait()
        subprocess.run(["ip", "link", "delete", "e2e-out"], check=False)
        run("ip", "netns", "delete", "e2e-outside")


def test_pods_reach_the_world_in_the_name_of_the_node(ns, outside):
    ns.apply(pod("client", "sleep", "3600"))
    ns.wait_ready("client")
    assert eventually(lambda: fetch(ns, f"http://{outside}/")) == "the world"

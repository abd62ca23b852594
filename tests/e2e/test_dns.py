"""Names: of Services and pods, ranks, nodes and their ports, zones for strangers, other people's names, and how soon all of it is seen."""

import json
import socket
import struct
import subprocess
import threading
import time

import pytest

from cluster import Cluster, eventually, pod, service

ZONE = "test.example.com"


def dig(server, *arguments):
    address, _, port = server.partition("#")
    command = ["dig", f"@{address}", "-p", port or "53", "+time=3", "+tries=1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout


def short(server, *arguments):
    return sorted(dig(server, "+short", *arguments).splitlines())


@pytest.fixture
def dns(cluster):
    return cluster.services.split(".0.0/")[0] + ".0.10"


def test_a_change_is_answered_within_100_ms(ns, dns):
    name = f"there.{ns.name}.svc.cluster.local"
    question = struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
    slow = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((dns, 53))
        client.settimeout(1)

        def answers():
            client.send(question)
            return client.recv(512)[7]

        # A slice as its controller would write it when the only pod becomes ready, and when it no longer is.
        ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "there"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
        proxy = subprocess.Popen(["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            port = int(proxy.stdout.readline().split(":")[-1])
            path = f"/apis/discovery.k8s.io/v1/namespaces/{ns.name}/endpointslices"
            body = lambda ready: {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                                  "metadata": {"name": "there-1", "labels": {"kubernetes.io/service-name": "there"}},
                                  "endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": ready}}], "ports": []}
            with socket.create_connection(("127.0.0.1", port)) as api:
                api.settimeout(5)

                def send(method, path, content):
                    text = json.dumps(content).encode()
                    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
                    api.sendall(head.encode() + text)
                    answer = api.recv(65536)
                    assert b" 20" in answer.split(b"\r\n")[0], answer

                send("POST", path, body(False))
                for turn in range(10):
                    ready = turn % 2 == 0
                    began = time.monotonic()
                    send("PUT", f"{path}/there-1", body(ready))
                    while (answers() > 0) != ready:
                        assert time.monotonic() - began < 5
                    slow.append(time.monotonic() - began)
        finally:
            proxy.kill()
            proxy.wait()
    # One may be late on a busy machine.
    assert sorted(slow)[-2] < 0.1, slow


def test_srv_shows_which_pods_come_first_and_their_shares(ns, dns):
    show = {"orlop.dev/srv-priority": "10", "orlop.dev/srv-weight": "40"}
    web = service("web", clusterIP="None", publishNotReadyAddresses=True)
    web["metadata"]["annotations"] = {"orlop.dev/srv-weight": "60"}
    web["spec"]["ports"][0]["targetPort"] = 8080
    pods = [pod(f"web-{i}", "sleep", "3600", labels={"app": "web"}, spec={"hostname": f"web-{i}", "subdomain": "web"}) for i in range(2)]
    pods[1]["metadata"]["annotations"] = show
    ns.apply(web, *pods)
    zone = f"web.{ns.name}.svc.cluster.local"
    expected = [f"0 60 8080 web-0.{zone}.", f"10 40 8080 web-1.{zone}."]
    eventually(lambda: short(dns, f"_http._tcp.{zone}", "SRV") == expected)
    # Another word of the pod is heard too.
    ns.kubectl("annotate", "pod", "web-1", "--overwrite", "orlop.dev/srv-priority=0")
    eventually(lambda: short(dns, f"_http._tcp.{zone}", "SRV") == [f"0 40 8080 web-1.{zone}.", f"0 60 8080 web-0.{zone}."])
    ip = ns.get("pod", "web-0")["status"]["podIP"]
    assert short(dns, "-x", ip) == [f"web-0.{zone}."]


def test_a_pod_is_found_behind_a_port_of_its_node(ns, dns, cluster):
    node = next(a["address"] for a in cluster.get("node", cluster.node)["status"]["addresses"] if a["type"] == "InternalIP")
    port = int(cluster.node_ports.split("-")[0]) + 20000
    web = service("web", clusterIP="None")
    web["metadata"]["annotations"] = {"orlop.dev/dns-access": "node"}
    ns.apply(web, pod("web", "sh", "-c", "echo hello > /www/index.html; exec httpd -f -p 8080 -h /www",
                      ports=[{"name": "http", "containerPort": 8080, "hostPort": port}]))
    name = f"web.{ns.name}.svc.cluster.local"
    [found] = eventually(lambda: short(dns, f"_http._tcp.{name}", "SRV"))
    assert found == f"0 100 {port} {cluster.node}.{name}."
    assert short(dns, found.split()[-1]) == short(dns, name) == [node]


@pytest.fixture(scope="module")
def world():
    """A server of other people's names that says which of its doors was asked: on 127.0.0.1, addresses by port."""
    doors = []

    def answer(door, address):
        while True:
            question, peer = door.recvfrom(2048)
            if not question:
                return
            end = question.index(0, 12) + 5
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
            door.sendto(question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] + record, peer)

    for address in ("198.51.100.1", "198.51.100.2"):
        door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        door.bind(("127.0.0.1", 0))
        threading.Thread(target=answer, args=(door, address), daemon=True).start()
        doors.append(door)
    yield [f"127.0.0.1:{door.getsockname()[1]}" for door in doors]
    for door in doors:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", door.getsockname())


@pytest.fixture(scope="module")
def exporting(tmp_path_factory, archive, world):
    """A cluster that tells strangers about Services, and asks others than usual."""
    cluster = Cluster(tmp_path_factory.mktemp("exporting"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster.strangers = f"127.0.0.1#{port}"
    cluster.more_arguments = ["--dns-export", ZONE, "--dns-export", f"shop.{ZONE}=default", "--dns-export-listen", f"127.0.0.1:{port}",
                              "--dns-upstream", world[0], "--dns-stub", f"corp.example={world[1]}"]
    try:
        cluster.start()
        cluster.import_image(archive)
        cluster.own = cluster.services.split(".0.0/")[0] + ".0.10"
        yield cluster
    finally:
        cluster.end()
        cluster.reset()


def test_strangers_find_services_that_are_exported(exporting):
    node = next(a["address"] for a in exporting.get("node", exporting.node)["status"]["addresses"] if a["type"] == "InternalIP")
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    web, shy = service("web", type="NodePort", ports=ports), service("shy", {"app": "web"}, type="NodePort", ports=ports)
    web["metadata"]["annotations"] = {"orlop.dev/dns-export": "true", "orlop.dev/srv-weight": "30"}
    shy["metadata"]["annotations"] = {"orlop.dev/dns-export": "false"}
    exporting.apply(pod("web", "sleep", "3600"), "default")
    exporting.apply(web, "default")
    exporting.apply(shy, "default")
    port = exporting.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for name in (f"web.shop.{ZONE}", f"web.default.{ZONE}"):
        [found] = eventually(lambda: short(exporting.strangers, f"_http._tcp.{name}", "SRV"), timeout=60)
        assert found == f"0 30 {port} {exporting.node}.{name}."
        assert short(exporting.strangers, name) == [node]
    assert "NXDOMAIN" in dig(exporting.strangers, f"shy.shop.{ZONE}")
    assert "NXDOMAIN" in dig(exporting.strangers, f"kubernetes.shop.{ZONE}")
    assert short(exporting.strangers, ZONE, "NS") == [f"ns.dns.{ZONE}."]
    for name in ("kubernetes.default.svc.cluster.local", "www.example.org"):
        assert "REFUSED" in dig(exporting.strangers, name)
    exporting.kubectl("annotate", "service", "web", "--overwrite", "orlop.dev/dns-export=false")
    eventually(lambda: "NXDOMAIN" in dig(exporting.strangers, f"web.shop.{ZONE}"))


def test_other_names_and_those_of_a_stub_domain_are_asked_where_they_are_known(exporting):
    assert short(exporting.own, "www.example.org") == ["198.51.100.1"]
    assert short(exporting.own, "www.corp.example") == ["198.51.100.2"]
    exporting.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away"},
                     "spec": {"type": "ExternalName", "externalName": "www.corp.example"}}, "default")
    eventually(lambda: short(exporting.own, "away.default.svc.cluster.local") == ["198.51.100.2", "www.corp.example."])
    metrics = exporting.raw(f"/api/v1/nodes/{exporting.node}/proxy/metrics")
    for line in ('coredns_dns_requests_total{server="dns://:53",zone="cluster.local.",proto="udp",family="1",type="A"}',
                 'coredns_cache_misses_total{server="dns://:53"}', 'coredns_proxy_request_duration_seconds_count{proxy_name="forward"'):
        assert line in metrics, line

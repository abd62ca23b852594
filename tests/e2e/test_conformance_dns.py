"""What the conformance programme asks of DNS (sig-network): names from within pods, over both transports, and what stands in their files."""

import subprocess

import pytest

from cluster import eventually, pod, service

HTTP = [{"name": "http", "port": 80, "protocol": "TCP"}]


@pytest.fixture
def querier(ns, cluster):
    """A pod with a name of its own, and the means to ask as it does."""
    ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "subdomain"},
              "spec": {"clusterIP": "None", "selector": {"app": "querier"}, "ports": HTTP}})
    ns.apply(pod("querier", "sleep", "3600", spec={"hostname": "querier-2", "subdomain": "subdomain"}))
    ns.wait_ready("querier")
    return ns


def lookup(ns, name):
    """Where a program in the pod goes for a name, which its resolver completes: nobody listens at that port."""
    return ns.run("exec", "querier", "--", "nc", "-w", "2", name, "9", check=False).stderr


def dig(ns, *arguments):
    server = ns.cluster.services.split(".0.0/")[0] + ".0.10"
    command = ["dig", f"@{server}", "+short", "+time=3", "+tries=1", *arguments]
    return sorted(subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines())


def both(ns, *arguments):
    """The answer, which is the same over both transports."""
    over_udp = dig(ns, "+notcp", *arguments)
    assert dig(ns, "+tcp", *arguments) == over_udp
    return over_udp


def test_the_cluster_is_found_by_whole_and_partial_names(querier, cluster):
    address = cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    assert both(querier, "kubernetes.default.svc.cluster.local", "A") == [address]
    for name in ("kubernetes.default.svc.cluster.local", "kubernetes.default.svc", "kubernetes.default"):
        assert f"({address})" in lookup(querier, name), name


def test_hosts_name_the_pod_with_its_subdomain(querier):
    ip = querier.get("pod", "querier")["status"]["podIP"]
    hosts = querier.exec("querier", "cat", "/etc/hosts")
    assert f"{ip}\tquerier-2.subdomain.{querier.name}.svc.cluster.local\tquerier-2" in hosts


def test_services_have_names(querier):
    querier.apply(service("web", {"app": "querier"}, ports=HTTP))
    address, zone = querier.get("service", "web")["spec"]["clusterIP"], f"{querier.name}.svc.cluster.local"
    ip = querier.get("pod", "querier")["status"]["podIP"]
    eventually(lambda: both(querier, f"web.{zone}", "A") == [address])
    assert both(querier, f"_http._tcp.web.{zone}", "SRV") == [f"0 100 80 web.{zone}."]
    assert both(querier, "-x", address) == [f"web.{zone}."]
    assert eventually(lambda: both(querier, f"subdomain.{zone}", "A")) == [ip]
    assert both(querier, f"_http._tcp.subdomain.{zone}", "SRV") == [f"0 100 80 querier-2.subdomain.{zone}."]
    assert both(querier, "-x", ip) == [f"querier-2.subdomain.{zone}."]
    for partial in ("web", f"web.{querier.name}", f"web.{querier.name}.svc"):
        assert f"({address})" in lookup(querier, partial), partial


def test_pods_have_names_by_their_host_name_and_subdomain(querier):
    ip = querier.get("pod", "querier")["status"]["podIP"]
    name = f"querier-2.subdomain.{querier.name}.svc.cluster.local"
    assert eventually(lambda: both(querier, name, "A")) == [ip]
    assert f"({ip})" in lookup(querier, name)
    assert querier.exec("querier", "hostname").strip() == "querier-2"
    assert both(querier, f"{ip.replace('.', '-')}.{querier.name}.pod.cluster.local", "A") == [ip]


def test_external_names_follow_their_service(ns):
    ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away"},
              "spec": {"type": "ExternalName", "externalName": "foo.example.com"}})
    name = f"away.{ns.name}.svc.cluster.local"
    eventually(lambda: both(ns, name, "CNAME") == ["foo.example.com."])
    ns.kubectl("patch", "service", "away", "-p", '{"spec": {"externalName": "bar.example.com"}}')
    eventually(lambda: both(ns, name, "CNAME") == ["bar.example.com."])
    ns.kubectl("patch", "service", "away", "--type=merge", "-p",
               '{"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}')
    address = ns.get("service", "away")["spec"]["clusterIP"]
    eventually(lambda: both(ns, name, "A") == [address])


def test_a_pods_own_servers_and_search_paths_are_taken(ns):
    ns.apply(pod("own", "sleep", "3600", spec={
        "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]}}))
    ns.wait_ready("own")
    lines = ns.exec("own", "cat", "/etc/resolv.conf").splitlines()
    assert sorted(line.strip() for line in lines if line.strip()) == ["nameserver 1.1.1.1", "search resolv.conf.local"]

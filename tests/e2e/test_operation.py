"""How Orlop is run: a configuration file, what the service manager is told, whether a machine will do, status and top."""

import os
import pathlib
import socket
import subprocess

from cluster import BINARY, eventually


def orlop(*arguments, check=True, **more):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60, **more)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_a_server_starts_with_what_its_file_says_and_refuses_what_it_does_not_know(own_cluster, tmp_path):
    cluster, file = own_cluster, tmp_path / "orlop.yaml"
    file.write_text("cluster-domain: from.file\ntls-san:\n  - api.example.org\nnode-name: from-file\nbackup-interval: 1h\n")
    cluster.more_arguments = ["--config", str(file)]
    cluster.start()
    # The test's own flags name the node: what is typed goes before the file.
    assert [n["metadata"]["name"] for n in cluster.get("nodes")["items"]] == [cluster.node]
    layout = cluster.get("configmap", "-n", "kube-system", "orlop-cluster")["data"]["layout"]
    assert '"clusterDomain":"from.file"' in layout
    shown = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", cluster.data / "tls" / "apiserver.crt"],
                           capture_output=True, text=True, check=True).stdout
    assert "api.example.org" in shown
    assert "a backup every" in orlop("backup", "schedule", "--data-dir", cluster.data).stdout
    cluster.end()
    before = sorted(p.name for p in cluster.data.iterdir())
    for text, why in (("cluster-domian: x\n", ':1: there is no key "cluster-domian": is it "cluster-domain"?'),
                      ("# first\nhttps-port: many\n", ":2: invalid value 'many'"), ("tls-san: [a, [b]]\n", ":1: ")):
        file.write_text(text)
        refused = orlop("server", "--data-dir", cluster.data, "--config", file, check=False)
        assert refused.returncode == 1 and f"{file}{why}" in refused.stderr, refused.stderr
        assert "cluster-domain" not in refused.stderr or "domian" in text
    assert sorted(p.name for p in cluster.data.iterdir()) == before, "nothing was changed"
    refused = orlop("agent", "--data-dir", tmp_path / "agent", "--config", tmp_path / "none.yaml", check=False)
    assert refused.returncode == 1 and "No such file" in refused.stderr and not (tmp_path / "agent").exists()


def test_the_service_manager_is_told_when_the_server_is_ready_and_when_it_ends(own_cluster, tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        own_cluster.start(wait=False)
        assert manager.recv(100) == b"READY=1"
        assert own_cluster.run("get", "--raw", "/readyz").stdout == "ok"
        own_cluster.end()
        assert manager.recv(100) == b"STOPPING=1"


def test_the_unit_is_that_of_the_repository_and_starts_this_program():
    unit = orlop("systemd-unit").stdout
    packaged = (pathlib.Path(__file__).parents[2] / "packaging" / "orlop.service").read_text()
    program = os.path.realpath(BINARY)
    assert unit == packaged.replace("ExecStart=/usr/local/bin/orlop ", f"ExecStart={program} ")
    assert f"ExecStart={program} agent" in orlop("systemd-unit", "agent").stdout


def test_a_machine_is_checked_and_what_is_in_the_way_is_to_be_mended(tmp_path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        checked = orlop("check", "--data-dir", tmp_path / "data", "--https-port", port, check=False)
        assert checked.returncode == 1
        assert f"FAIL  ports: {port} taken by another program\n      mend: `ss -ltnp`" in checked.stdout
        assert checked.stdout.endswith(" in the way\n")
    said = orlop("check", "--data-dir", tmp_path / "data", "--https-port", port, "--kubelet-port", "0", check=False).stdout
    assert "ok    ports: free" in said and "kernel: " in said
    assert not (tmp_path / "data").exists(), "nothing is made"


def test_status_and_top_say_how_the_cluster_is(cluster):
    said = cluster.orlop("status").stdout
    for part in ("v1.36.0+orlop", "1 of 1 ready", "scheduler", "controller-manager", "healthy"):
        assert part in said, said
    top = eventually(lambda: [line.split() for line in cluster.orlop("top", "nodes").stdout.splitlines()][1:], what="what the node uses")
    assert top[0][0] == cluster.node and top[0][1].endswith("m") and top[0][4].endswith("%")
    assert cluster.orlop("top", "pods", "-A", "--sort-by", "memory").stdout.startswith("NAMESPACE")

"""Backups: made beside a running server and without one, killed in the middle, damaged, and restored into a cluster that runs."""

import json
import os
import signal
import subprocess

from cluster import BINARY, deployment, eventually


def orlop(*arguments, check=True):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def backup(cluster, *words, check=True):
    return orlop("backup", *words, "--data-dir", cluster.data, check=check)


def refused(*words):
    done = orlop(*words, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def fill(cluster):
    cluster.apply(deployment("web", 2), "default")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.kubectl("create", "secret", "generic", "mine", "--from-literal=key=very-secret")


def test_a_restored_cluster_runs_its_pods_and_takes_what_was_given_out(own_cluster, tmp_path):
    cluster, file = own_cluster, tmp_path / "one.backup"
    cluster.start()
    cluster.import_image(cluster.archive)
    fill(cluster)
    credentials = cluster.kubeconfig.read_text()
    before = cluster.get("deployment", "web")["metadata"]
    said = backup(cluster, "create", file).stdout
    assert "keep it secret" in said and oct(file.stat().st_mode & 0o777) == "0o600"
    assert "is there already" in refused("backup", "create", file, "--data-dir", cluster.data)
    assert "is whole" in orlop("backup", "verify", file).stdout
    assert b"very-secret" not in file.read_bytes(), "Secrets stay encrypted"
    cluster.kubectl("create", "configmap", "later")
    later = int(cluster.get("configmap", "later")["metadata"]["resourceVersion"])
    cluster.end()
    # The same without a server: what came later is in it.
    assert "objects at revision" in backup(cluster, "create", tmp_path / "two.backup").stdout
    assert "not empty" in refused("backup", "restore", file, "--data-dir", cluster.data)
    cluster.reset()
    backup(cluster, "restore", file)
    cluster.start()
    cluster.import_image(cluster.archive)
    # Who had a key has it still, and objects are who they were.
    cluster.kubeconfig.write_text(credentials)
    after = cluster.get("deployment", "web")["metadata"]
    assert (after["uid"], after["creationTimestamp"]) == (before["uid"], before["creationTimestamp"])
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")

    def answer():
        pods = [p for p in cluster.get("pod", "-l", "app=web")["items"] if "deletionTimestamp" not in p["metadata"]]
        return len(pods) == 2 and all(cluster.run("exec", p["metadata"]["name"], "--", "true", check=False).returncode == 0 for p in pods)

    eventually(answer, timeout=60, what="the pods running")
    assert cluster.get("secret", "mine")["data"]["key"] == "dmVyeS1zZWNyZXQ="
    assert "NotFound" in cluster.refused("get", "configmap", "later")
    cluster.kubectl("create", "configmap", "new")
    assert int(cluster.get("configmap", "new")["metadata"]["resourceVersion"]) > later, "no revision comes twice"


def test_what_is_damaged_is_found_and_not_restored(own_cluster, tmp_path):
    cluster, file = own_cluster, tmp_path / "one.backup"
    cluster.start()
    cluster.kubectl("create", "configmap", "one")
    backup(cluster, "create", file)
    cluster.end()
    whole = file.read_bytes()
    target = tmp_path / "elsewhere"
    for at in (3, len(whole) // 3, len(whole) - 1):
        broken = bytearray(whole)
        broken[at] ^= 1
        file.write_bytes(broken)
        assert "at byte" in refused("backup", "verify", file)
        assert "damaged" in refused("backup", "restore", file, "--data-dir", target)
        assert not target.exists()
    file.write_bytes(whole[: len(whole) // 2])
    assert "its end is missing" in refused("backup", "verify", file)
    assert "No such file" in refused("backup", "verify", tmp_path / "none")
    assert "not a data folder" in refused("backup", "create", tmp_path / "x", "--data-dir", tmp_path / "none")


def test_a_backup_that_is_killed_leaves_nothing(own_cluster, tmp_path):
    cluster = own_cluster
    cluster.start()
    big = "x" * 900_000
    for n in range(20):
        cluster.run("create", "-f", "-", input={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"big-{n}"}, "data": {"x": big}})
    folder = tmp_path / "backups"
    folder.mkdir()
    killed = 0
    while killed < 5:
        process = subprocess.Popen([BINARY, "backup", "create", folder / "one", "--data-dir", cluster.data], stdout=subprocess.PIPE)
        written = lambda: int(next(line for line in open(f"/proc/{process.pid}/io") if line.startswith("wchar")).split()[1])
        try:
            while written() < 1_000_000 * (killed + 1):
                pass
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            process.wait()
            (folder / "one").unlink()  # it was faster
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (folder / "one").exists():
            assert "is whole" in orlop("backup", "verify", folder / "one").stdout
            (folder / "one").unlink()
            continue
        killed += 1
        assert os.listdir(folder) == []
    backup(cluster, "create", folder / "one")
    assert "is whole" in orlop("backup", "verify", folder / "one").stdout


def test_a_server_makes_backups_by_itself_and_keeps_the_newest(own_cluster, tmp_path):
    cluster, folder = own_cluster, tmp_path / "kept"
    cluster.more_arguments = ["--backup-interval", "1s", "--backup-keep", "2", "--backup-dir", str(folder)]
    cluster.start()
    names = lambda: sorted(os.listdir(folder)) if folder.exists() else []
    first = eventually(lambda: len(names()) == 2 and names(), what="two backups")
    then = eventually(lambda: first[1] not in names() and names(), what="others in their place")
    assert len(then) in (2, 3) and then[-1] > first[-1]
    said = backup(cluster, "schedule").stdout
    assert "a backup every" in said and str(folder) in said
    cluster.end()
    assert "is whole" in orlop("backup", "verify", folder / names()[-1]).stdout
    assert "no server runs" in refused("backup", "schedule", "--data-dir", cluster.data)

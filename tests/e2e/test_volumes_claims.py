"""Persistent volumes: from a claim to a directory in a pod, and what becomes of the data."""

import json
import pathlib
import signal

from cluster import eventually, pod


def claim(name, size="1Mi", **spec):
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def volume(name, path, **spec):
    spec = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(path)}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def with_claim(name, claim_name, *command, mount=None, source=None, **spec):
    source = source or {"persistentVolumeClaim": {"claimName": claim_name}}
    return pod(
        name, "sh", "-c", " ".join(command) or "exec sleep 3600",
        volumeMounts=[{"name": "data", "mountPath": "/data", **(mount or {})}],
        spec={"volumes": [{"name": "data", **source}], "restartPolicy": "Never", **spec},
    )


def bound(ns, name):
    return eventually(lambda: (c := ns.get("pvc", name))["status"]["phase"] == "Bound" and c, what=f"{name} bound")


def test_data_of_a_claim_outlives_its_pod_and_goes_with_the_claim(ns):
    ns.apply(claim("data"))
    assert ns.get("pvc", "data")["spec"]["storageClassName"] == "local"
    ns.apply(with_claim("writer", "data", "id -u > /data/who; stat -c %a /data > /data/mode"))
    ns.wait_phase("writer", "Succeeded")
    made = bound(ns, "data")
    name = made["spec"]["volumeName"]
    pv = ns.cluster.get("pv", name)
    directory = pathlib.Path(pv["spec"]["local"]["path"])
    assert directory.parent == ns.cluster.data / "volumes" and (directory / "mode").read_text() == "777\n"
    assert pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == [ns.cluster.node]
    ns.kubectl("delete", "pod", "writer", "--now")
    ns.apply(with_claim("reader", "data", "cat /data/who; exec sleep 3600"))
    ns.wait_ready("reader")
    assert ns.logs("reader") == "0\n"
    # While a pod has it, it stays.
    ns.kubectl("delete", "pvc", "data", "--wait=false")
    assert ns.get("pvc", "data")["status"]["phase"] == "Bound" and ns.exec("reader", "cat", "/data/who") == "0\n"
    ns.kubectl("delete", "pod", "reader", "--now")
    eventually(lambda: not directory.exists(), what="the directory is gone")
    eventually(lambda: "NotFound" in ns.cluster.refused("get", "pv", name), what="the volume is gone")


def test_of_two_claims_one_gets_the_volume_and_a_kept_one_is_released(ns, tmp_path):
    name = f"{ns.name}-pv"
    ns.cluster.apply(volume(name, tmp_path, storageClassName=ns.name))
    ns.apply(claim("a", storageClassName=ns.name), claim("b", storageClassName=ns.name))
    have = lambda: [c for c in ns.get("pvc")["items"] if c["status"].get("phase") == "Bound"]
    [one] = eventually(have, what="one is bound")
    winner, other = one["metadata"]["name"], {"a": "b", "b": "a"}[one["metadata"]["name"]]
    assert one["status"]["capacity"] == {"storage": "1Mi"} and one["status"]["accessModes"] == ["ReadWriteOnce"]
    assert ns.get("pvc", other)["status"]["phase"] == "Pending"
    (tmp_path / "here").write_text("before\n")
    ns.apply(with_claim("it", winner, "cat /data/here; touch /data/new", mount={"readOnly": True}))
    ns.wait_phase("it", "Failed")
    assert "before\n" in ns.logs("it") and not (tmp_path / "new").exists()
    ns.kubectl("delete", "pod", "it", "--now")
    ns.kubectl("delete", "pvc", winner)
    status = lambda: ns.cluster.get("pv", name)["status"]["phase"]
    eventually(lambda: status() == "Released", what="the volume is released")
    assert ns.get("pvc", other)["status"]["phase"] == "Pending" and (tmp_path / "here").exists()
    ns.cluster.kubectl("patch", "pv", name, "-p", json.dumps({"spec": {"claimRef": None}}))
    assert bound(ns, other)["spec"]["volumeName"] == name
    ns.kubectl("delete", "pvc", other)
    ns.cluster.kubectl("delete", "pv", name)


def test_an_ephemeral_volume_is_the_groups_and_goes_with_its_pod(ns):
    template = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
    ns.apply(with_claim(
        "it", None, "id -G; echo x > /data/sub; stat -c '%g %a' /data; exec sleep 3600",
        source={"ephemeral": {"volumeClaimTemplate": template}},
        securityContext={"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 2345},
    ))
    ns.wait_ready("it")
    made = bound(ns, "it-data")
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    assert ns.logs("it").split() == ["1234", "2345", "2345", "2777"]
    ns.kubectl("delete", "pod", "it", "--now")
    eventually(lambda: "NotFound" in ns.refused("get", "pvc", "it-data"), what="the claim is gone")


def test_a_claim_says_why_it_waits_and_grows_when_asked(ns):
    ns.apply(claim("idle"), claim("nowhere", storageClassName="none-such"), claim("grows"))
    said = lambda name: {(e["reason"], e["message"]) for e in ns.events(name)}
    waits = ("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
    eventually(lambda: waits in said("idle"), what="it waits for a consumer")
    missing = ("ProvisioningFailed", 'storageclass.storage.k8s.io "none-such" not found')
    eventually(lambda: missing in said("nowhere"), what="its class is missed")
    ns.apply(with_claim("it", "grows", mount={"subPath": "deep/er"}))
    ns.wait_ready("it")
    more = {"spec": {"resources": {"requests": {"storage": "2Mi"}}}}
    ns.kubectl("patch", "pvc", "grows", "-p", json.dumps(more))
    eventually(lambda: ns.get("pvc", "grows")["status"]["capacity"]["storage"] == "2Mi", what="it has grown")
    name = ns.get("pvc", "grows")["spec"]["volumeName"]
    assert ns.cluster.get("pv", name)["spec"]["capacity"]["storage"] == "2Mi"
    assert (ns.cluster.data / "volumes" / name / "deep" / "er").is_dir()


def test_a_volume_outlives_the_server_and_goes_when_its_time_has_come(own_cluster):
    own_cluster.start()
    own_cluster.import_image(own_cluster.archive)
    own_cluster.apply(claim("data"), "default")
    own_cluster.apply(with_claim("it", "data", "echo kept > /data/f; exec sleep 3600"), "default")
    look = lambda: own_cluster.run("exec", "it", "--", "cat", "/data/f", check=False).stdout
    eventually(lambda: look() == "kept\n", what="it has written")
    name = own_cluster.get("pvc", "data")["spec"]["volumeName"]
    directory = own_cluster.data / "volumes" / name
    own_cluster.end(signal.SIGKILL)
    own_cluster.start()
    eventually(lambda: look() == "kept\n", what="it still has it")
    own_cluster.kubectl("delete", "pvc", "data", "--wait=false")
    own_cluster.kubectl("delete", "pod", "it", "--now")
    # Killed between any two steps of the end.
    own_cluster.end(signal.SIGKILL)
    own_cluster.start()
    eventually(lambda: not directory.exists() and "NotFound" in own_cluster.refused("get", "pv", name), what="nothing is left")
    # Who deletes the default class does not want it.
    own_cluster.kubectl("delete", "storageclass", "local")
    own_cluster.end()
    own_cluster.start()
    own_cluster.apply(claim("later"), "default")
    assert "storageClassName" not in own_cluster.get("pvc", "later")["spec"]

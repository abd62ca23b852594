"""What the conformance programme asks of sig-storage, with busybox in place of its images: the same volumes, modes and words."""

import base64
import json

from cluster import eventually, pod

USER = {"runAsUser": 1000, "runAsGroup": 1000}


def keep(kind, name, data, **more):
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **({"data": data} if data else {}), **more}


def secret(name, data):
    return keep("Secret", name, {k: base64.b64encode(v.encode()).decode() for k, v in data.items()})


def apply(ns, *objects):
    """All at once: each call of kubectl costs a while."""
    ns.apply({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def volumes(**sources):
    return [{"name": name.replace("_", "-"), **source} for name, source in sources.items()]


def mounts(of, **more):
    return [{"name": v["name"], "mountPath": f"/{v['name']}", **more} for v in of]


def test_files_of_objects_have_the_content_and_modes_that_are_asked_for(ns):
    data = {"data-1": "value-1", "data-2": "value-2"}
    binary = {"dump.bin": base64.b64encode(bytes([0xDE, 0xCA, 0xFE, 0xBA])).decode()}
    apply(ns, keep("ConfigMap", "map", data, binaryData=binary), secret("secret", data))
    items = [{"key": "data-2", "path": "path/to/data-2"}]
    own_mode = [{**items[0], "mode": 0o400}]
    project = lambda *sources, **more: {"projected": {"sources": list(sources), **more}}
    here = volumes(
        map={"configMap": {"name": "map"}}, map_mode={"configMap": {"name": "map", "defaultMode": 0o400}},
        map_items={"configMap": {"name": "map", "items": items}}, map_item_mode={"configMap": {"name": "map", "items": own_mode}},
        secret={"secret": {"secretName": "secret"}}, secret_mode={"secret": {"secretName": "secret", "defaultMode": 0o400}},
        secret_items={"secret": {"secretName": "secret", "items": items}},
        secret_item_mode={"secret": {"secretName": "secret", "items": own_mode}},
        p_map=project({"configMap": {"name": "map"}}), p_map_mode=project({"configMap": {"name": "map"}}, defaultMode=0o400),
        p_map_item_mode=project({"configMap": {"name": "map", "items": own_mode}}),
        p_secret=project({"secret": {"name": "secret"}}), p_secret_mode=project({"secret": {"name": "secret"}}, defaultMode=0o400),
        p_secret_item_mode=project({"secret": {"name": "secret", "items": own_mode}}),
        p_all=project({"configMap": {"name": "map", "items": [{"key": "data-1", "path": "configmap-data"}]}},
                      {"secret": {"name": "secret", "items": [{"key": "data-1", "path": "secret-data"}]}},
                      {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
    )
    look = "for f in $(find -L /[mps]*-* /map /secret -type f ! -path '*/..*' | sort); do echo $f $(stat -L -c %a $f) $(cat $f | od -An -c | tr -d ' \\n'); done"
    ns.apply(pod("root", "sh", "-c", look, volumeMounts=mounts(here), spec={"volumes": here, "restartPolicy": "Never"}))
    ns.wait_phase("root", "Succeeded")
    seen = dict((line.split()[0], tuple(line.split()[1:])) for line in ns.logs("root").splitlines())
    for kind in ("map", "secret", "p-map", "p-secret"):
        assert seen[f"/{kind}/data-1"] == ("644", "value-1"), kind
        assert seen[f"/{kind}-mode/data-1"] == ("400", "value-1"), kind
        assert seen[f"/{kind}-item-mode/path/to/data-2"] == ("400", "value-2"), kind
    assert seen["/map/dump.bin"] == ("644", "336312376272")
    assert seen["/map-items/path/to/data-2"] == seen["/secret-items/path/to/data-2"] == ("644", "value-2")
    assert "/map-items/data-1" not in seen
    assert seen["/p-all/configmap-data"] == seen["/p-all/secret-data"] == ("644", "value-1") and seen["/p-all/podname"] == ("644", "root")


def test_a_user_reads_what_the_group_of_the_pod_may_read(ns):
    apply(ns, keep("ConfigMap", "map", {"data": "m"}), secret("secret", {"data": "s"}))
    here = volumes(
        map={"configMap": {"name": "map"}}, secret={"secret": {"secretName": "secret", "defaultMode": 0o440}},
        p_secret={"projected": {"sources": [{"secret": {"name": "secret"}}], "defaultMode": 0o440}},
        p_map={"projected": {"sources": [{"configMap": {"name": "map", "items": [{"key": "data", "path": "a/b"}]}}]}},
    )
    look = "cd /; for f in map/data secret/data p-secret/data p-map/a/b; do echo $f $(stat -L -c '%a %g' $f) $(cat $f); done"
    ns.apply(pod("it", "sh", "-c", look, volumeMounts=mounts(here),
                 spec={"volumes": here, "restartPolicy": "Never", "securityContext": {**USER, "fsGroup": 1001}}))
    ns.wait_phase("it", "Succeeded")
    assert ns.logs("it").splitlines() == ["map/data 644 1001 m", "secret/data 440 1001 s", "p-secret/data 440 1001 s", "p-map/a/b 644 1001 m"]


def test_optional_objects_come_change_and_go_in_the_running_pod(ns):
    both = lambda name, value: (keep("ConfigMap", name, {"data": value}), secret(name, {"data": value}))
    apply(ns, *both("delete", "value-1"), *both("update", "value-1"))
    here = []
    for name in ("delete", "update", "create"):
        here += volumes(**{
            f"map_{name}": {"configMap": {"name": name, "optional": True}},
            f"secret_{name}": {"secret": {"secretName": name, "optional": True}},
            f"p_map_{name}": {"projected": {"sources": [{"configMap": {"name": name, "optional": True}}]}},
            f"p_secret_{name}": {"projected": {"sources": [{"secret": {"name": name, "optional": True}}]}},
        })
    ns.apply(pod("it", "sleep", "3600", volumeMounts=mounts(here, readOnly=True), spec={"volumes": here}))
    ns.wait_ready("it")
    ns.kubectl("delete", "configmap/delete", "secret/delete")
    apply(ns, *both("update", "value-2"), *both("create", "value-2"))
    look = "cd /; for k in map secret p-map p-secret; do for n in delete update create; do cat $k-$n/data 2>/dev/null || echo -n none; echo -n ' '; done; done"
    expected = "none value-2 value-2 " * 4
    eventually(lambda: ns.exec("it", "sh", "-c", look) == expected, what="all volumes follow")
    frozen = keep("ConfigMap", "frozen", {"a": "1"}, immutable=True)
    ns.apply(frozen)
    assert "immutable" in ns.refused("patch", "configmap", "frozen", "-p", json.dumps({"data": {"a": "2"}}))
    assert "immutable" in ns.refused("patch", "configmap", "frozen", "-p", json.dumps({"immutable": False}))
    ns.kubectl("delete", "configmap", "frozen")


def test_the_downward_api_shows_the_pod_and_follows_it(ns):
    resource = lambda r, divisor="1": {"resourceFieldRef": {"containerName": "main", "resource": r, "divisor": divisor}}
    field = lambda path: {"fieldRef": {"fieldPath": path}}
    files = {
        "podname": field("metadata.name"), "labels": field("metadata.labels"), "annotations": field("metadata.annotations"),
        "cpu_limit": resource("limits.cpu", "1m"), "cpu_request": resource("requests.cpu", "1m"),
        "memory_limit": resource("limits.memory", "1Mi"), "memory_request": resource("requests.memory", "1Mi"),
    }
    items = [{"path": path, **source} for path, source in files.items()]
    items[0]["mode"] = 0o400
    here = volumes(plain={"downwardAPI": {"items": items, "defaultMode": 0o440}},
                   projected={"projected": {"sources": [{"downwardAPI": {"items": items}}], "defaultMode": 0o440}})
    it = pod("it", "sleep", "3600", volumeMounts=mounts(here), spec={"volumes": here},
             resources={"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}})
    it["metadata"]["annotations"] = {"builder": "bar"}
    ns.apply(it)
    ns.wait_ready("it")
    for at in ("/plain", "/projected"):
        read = lambda *names: ns.exec("it", "sh", "-c", f"cd {at}; for f in {' '.join(names)}; do cat $f; echo; done").split()
        assert read("podname", "cpu_limit", "cpu_request", "memory_limit", "memory_request") == ["it", "1250", "10", "64", "32"]
        assert ns.exec("it", "sh", "-c", f"stat -L -c %a {at}/podname {at}/labels").split() == ["400", "440"]
        assert 'app="it"' in read("labels") and any('builder="bar"' == line for line in read("annotations"))
    ns.kubectl("label", "pod", "it", "key3=value3")
    ns.kubectl("annotate", "pod", "it", "builder=foo", "--overwrite")
    follows = lambda: all('key3="value3"' in (said := ns.exec("it", "cat", f"{at}/labels", f"{at}/annotations")) and 'builder="foo"' in said
                          for at in ("/plain", "/projected"))
    eventually(follows, what="labels and annotations follow")
    # What has no limit has the node's.
    node = ns.cluster.get("node", ns.cluster.node)["status"]["allocatable"]
    unlimited = volumes(d={"downwardAPI": {"items": [{"path": "cpu", **resource("limits.cpu")}, {"path": "memory", **resource("limits.memory", "1Ki")}]}})
    ns.apply(pod("free", "sh", "-c", "cat /d/cpu; echo; cat /d/memory", volumeMounts=mounts(unlimited), spec={"volumes": unlimited, "restartPolicy": "Never"}))
    ns.wait_phase("free", "Succeeded")
    assert ns.logs("free").split() == [node["cpu"], node["memory"].removesuffix("Ki")]


def test_an_empty_dir_is_everybodys_on_disk_and_in_memory(ns):
    here = volumes(disk={"emptyDir": {}}, memory={"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}})
    write = "; ".join(f"for v in disk memory; do echo c > /$v/$U-{m} && chmod {m} /$v/$U-{m} && stat -c '%a' /$v/$U-{m}; done" for m in ("644", "666", "777"))
    one = {"image": "e2e.test/busybox:1", "volumeMounts": mounts(here)}
    look = "stat -c %a /disk /memory; grep ' /memory ' /proc/mounts | cut -d' ' -f3; df -k /memory | tail -1 | awk '{print $2}'"
    containers = [
        {"name": "root", **one, "command": ["sh", "-c", f"U=root; {look}; {write}; sleep 3600"]},
        {"name": "user", **one, "command": ["sh", "-c", f"U=user; {write}; sleep 3600"], "securityContext": USER},
    ]
    ns.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it"},
              "spec": {"containers": containers, "volumes": here, "terminationGracePeriodSeconds": 0}})
    ns.wait_ready("it")
    modes = ["644"] * 2 + ["666"] * 2 + ["777"] * 2
    eventually(lambda: ns.logs("it", "-c", "root").split() == ["777", "777", "tmpfs", "8192", *modes], what="root's files")
    eventually(lambda: ns.logs("it", "-c", "user").split() == modes, what="the user's files")
    # What one writes the other reads.
    assert ns.kubectl("exec", "it", "-c", "root", "--", "cat", "/disk/user-644", "/memory/user-644") == "c\nc\n"
    said = ns.run("exec", "it", "-c", "user", "--", "sh", "-c", "dd if=/dev/zero of=/memory/big bs=1M count=9", check=False)
    assert "No space left on device" in said.stderr


def test_parts_of_volumes_stay_when_the_volume_changes(ns):
    apply(ns, keep("ConfigMap", "map", {"key": "map"}), secret("secret", {"key": "secret"}))
    name = {"items": [{"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]}
    here = volumes(map={"configMap": {"name": "map"}}, secret={"secret": {"secretName": "secret"}}, down={"downwardAPI": name},
                   proj={"projected": {"sources": [{"downwardAPI": name}]}})
    parts = [{"name": v["name"], "mountPath": f"/part/{v['name']}", "subPath": "key"} for v in here]
    parts.append({"name": "map", "mountPath": "/etc/resolv.conf", "subPath": "key"})
    ns.apply(pod("it", "sleep", "3600", volumeMounts=parts, spec={"volumes": here}))
    ns.wait_ready("it")
    read = lambda: ns.exec("it", "sh", "-c", "for f in map secret down proj; do cat /part/$f; echo; done; cat /etc/resolv.conf").split()
    assert read() == ["map", "secret", "it", "it", "map"]
    apply(ns, keep("ConfigMap", "map", {"key": "new"}))
    assert read() == ["map", "secret", "it", "it", "map"]


def test_a_part_named_by_a_variable_may_be_mended_and_never_leads_out(ns):
    def it(name, value, expression="$(PART)"):
        here = volumes(work={"emptyDir": {}})
        made = pod(name, "sh", "-c", "pwd; exec sleep 3600", workingDir="/part", spec={"volumes": here},
                   env=[{"name": "PART", **value}], volumeMounts=[{"name": "work", "mountPath": "/part", "subPathExpr": expression}])
        made["metadata"]["annotations"] = {"mypath": "/bad"}
        return made

    waiting = lambda name: ns.get("pod", name)["status"]["containerStatuses"][0]["state"].get("waiting", {})
    apply(ns, it("abs", {"value": "/tmp"}), it("up", {"value": ".."}),
             it("mended", {"valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mypath']"}}}))
    for name, words in (("abs", "must not be an absolute path"), ("up", "must not contain '..'"), ("mended", "must not be an absolute path")):
        eventually(lambda: waiting(name).get("reason") == "CreateContainerConfigError" and words in waiting(name)["message"], what=f"{name} is refused")
    ns.kubectl("annotate", "pod", "mended", "mypath=mypath", "--overwrite")
    ns.wait_ready("mended")
    assert ns.logs("mended") == "/part\n"


def test_many_wrapped_volumes_do_not_get_in_each_others_way(ns):
    apply(ns, secret("secret", {"a": "s"}), keep("ConfigMap", "map", {"a": "m"}), *(keep("ConfigMap", f"racey-{i}", {"data-1": str(i)}) for i in range(10)))
    here = volumes(secret={"secret": {"secretName": "secret"}}, map={"configMap": {"name": "map"}},
                   **{f"racey_{i}": {"configMap": {"name": f"racey-{i}", "items": [{"key": "data-1", "path": "data-1"}]}} for i in range(10)})
    apply(ns, *(pod(f"it-{i}", "sleep", "3600", volumeMounts=mounts(here), spec={"volumes": here}) for i in range(3)))
    for i in range(3):
        ns.wait_ready(f"it-{i}")
        assert ns.exec(f"it-{i}", "sh", "-c", "cat /racey-*/data-1 /secret/a /map/a") == "0123456789sm"


def lifecycle(cluster, path, made, name):
    """Every verb on two objects of a kind, and the end of both."""
    label = {"conformance": name}
    raw = lambda verb, path, body=None: json.loads(cluster.kubectl(verb, "--raw", path, *(["-f", "-"] if body else []), input=body))
    one, two = ({**made, "metadata": {"name": f"{name}-{i}", "labels": label}} for i in (1, 2))
    assert raw("create", path, one)["metadata"]["uid"]
    got = raw("get", f"{path}/{name}-1")
    got["metadata"]["labels"]["updated"] = "yes"
    assert raw("replace", f"{path}/{name}-1", got)["metadata"]["labels"]["updated"] == "yes"
    resource = path.rsplit("/", 1)[1]
    cluster.kubectl("patch", resource, f"{name}-1", "-p", json.dumps({"metadata": {"labels": {"patched": "yes"}}}))
    raw("create", path, two)
    listed = raw("get", f"{path}?labelSelector=conformance%3D{name}")["items"]
    assert [(o["metadata"]["name"], o["metadata"]["labels"].get("patched")) for o in listed] == [(f"{name}-1", "yes"), (f"{name}-2", None)]
    cluster.kubectl("delete", resource, f"{name}-1", "--wait=false")
    cluster.kubectl("delete", "--raw", f"{path}?labelSelector=conformance%3D{name}")
    eventually(lambda: raw("get", f"{path}?labelSelector=conformance%3D{name}")["items"] == [], what="all are gone")


def test_objects_of_storage_live_through_every_verb(ns):
    storage = "/apis/storage.k8s.io/v1"
    kind = lambda kind, **more: {"apiVersion": "storage.k8s.io/v1", "kind": kind, **more}
    for path, made in (
        ("csinodes", kind("CSINode", spec={"drivers": [{"name": "d.example.com", "nodeID": "n"}]})),
        ("csidrivers", kind("CSIDriver", spec={"attachRequired": False, "volumeLifecycleModes": ["Ephemeral"]})),
        ("storageclasses", kind("StorageClass", provisioner="example.com/p", reclaimPolicy="Delete")),
        ("volumeattributesclasses", kind("VolumeAttributesClass", driverName="d.example.com", parameters={"a": "b"})),
        (f"namespaces/{ns.name}/csistoragecapacities", kind("CSIStorageCapacity", storageClassName="c", capacity="1Gi")),
        ("volumeattachments", kind("VolumeAttachment", spec={"attacher": "a.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}})),
    ):
        lifecycle(ns, f"{storage}/{path}", made, f"{ns.name[:12]}-{path.rsplit('/', 1)[-1]}")
    inline = pod("inline", "true")
    inline["spec"]["volumes"] = [{"name": "v", "csi": {"driver": "none.example.com"}}]
    inline["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    ns.apply(inline)
    assert ns.get("pod", "inline")["spec"]["volumes"][0]["csi"]["driver"] == "none.example.com"


def test_others_may_write_into_the_status_of_volumes_claims_and_attachments(ns):
    name = f"{ns.name}-pv"
    ns.cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": ns.name,
        "csi": {"driver": "none.example.com", "volumeHandle": "h"}}})
    ns.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": ns.name, "resources": {"requests": {"storage": "1Mi"}}}})
    eventually(lambda: ns.get("pvc", "c")["status"]["phase"] == "Bound", what="bound")
    said = {"type": "StatusPatched", "status": "True", "reason": "E2E patchStatus", "message": "Set from e2e test"}
    ns.kubectl("patch", "pvc", "c", "--subresource=status", "--type=merge", "-p", json.dumps({"status": {"conditions": [said]}}))
    ns.cluster.kubectl("patch", "pv", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": {"message": "StatusPatched", "reason": "E2E patchStatus"}}))
    ns.kubectl("label", "pvc", "c", "a=b")
    ns.cluster.kubectl("label", "pv", name, "a=b")
    claim, volume = ns.get("pvc", "c")["status"], ns.cluster.get("pv", name)["status"]
    assert claim["conditions"][0]["type"] == "StatusPatched" and claim["phase"] == "Bound"
    assert (volume["phase"], volume["message"], volume["reason"]) == ("Bound", "StatusPatched", "E2E patchStatus")
    ns.kubectl("delete", "pvc", "c")
    ns.cluster.kubectl("delete", "pv", name)
    ns.cluster.apply({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name}, "spec": {
        "attacher": "a.example.com", "nodeName": "n", "source": {"persistentVolumeName": name}}})
    ns.cluster.kubectl("patch", "volumeattachment", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": {"attached": True}}))
    assert ns.cluster.get("volumeattachment", name)["status"]["attached"] is True
    ns.cluster.kubectl("delete", "volumeattachment", name)


def test_the_files_of_an_image_are_a_volume(ns):
    here = volumes(image={"image": {"reference": "e2e.test/busybox:1", "pullPolicy": "IfNotPresent"}})
    parts = [{"name": "image", "mountPath": "/image"}, {"name": "image", "mountPath": "/part", "subPath": "etc"}]
    look = "grep web /image/etc/passwd /part/passwd; touch /image/new 2>/dev/null || echo read-only; exec sleep 3600"
    apply(ns, pod("it", "sh", "-c", look, volumeMounts=parts, spec={"volumes": here}),
          pod("none", "true", volumeMounts=parts[:1], spec={"volumes": volumes(image={"image": {"reference": "e2e.test/none:1", "pullPolicy": "Never"}})}))
    ns.wait_ready("it")
    eventually(lambda: ns.logs("it").endswith("read-only\n"), what="it has looked")
    assert "/image/etc/passwd:web:x:1000" in ns.logs("it") and "/part/passwd:web:x:1000" in ns.logs("it")
    said = lambda: " ".join(e["message"] for e in ns.events("none") if e["reason"] == "FailedMount")
    eventually(lambda: "is not present with pull policy of Never" in said(), what="the missing image is told of")
    folders = list((ns.cluster.data / "node" / "pods").glob("*/volumes/kubernetes.io~image/image/rootfs"))
    assert folders
    ns.kubectl("delete", "pod", "it", "none", "--now")
    eventually(lambda: not any(folder.exists() for folder in folders), what="nothing is left")

"""Every kind of the table: made, listed as a table, explained, patched and deleted with kubectl; mistakes are named."""

import json

import pytest

LABELS = {"app": "web"}
PODS = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "e2e.test/busybox:1"}]}}
JOB = {"spec": {"template": {"spec": {**PODS["spec"], "restartPolicy": "Never"}}}}
WEB = {"service": {"name": "web", "port": {"number": 80}}}
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
GPU = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}
POOL = {"name": "n", "generation": 1, "resourceSliceCount": 1}
# The cluster's own name of what is in no namespace: tests may run side by side.
NAMES = {"IPAddress": "192.0.2.7", "PriorityClass": "e2e-kinds"}

# apiVersion, kind, what it says, a word of its row, a wrong field and what is said about it.
KINDS = [
    ("apps/v1", "StatefulSet", {"spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": PODS, "serviceName": "x"}},
     "0/0", {"spec": {"podManagementPolicy": "Random"}}, "spec.podManagementPolicy: Invalid value: \"Random\""),
    ("batch/v1", "CronJob", {"spec": {"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "suspend": True, "jobTemplate": JOB}},
     "Europe/Berlin", {"spec": {"schedule": "error"}}, "spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1"),
    ("v1", "ReplicationController", {"spec": {"replicas": 0, "template": PODS}},
     "it", {"spec": {"replicas": -1}}, "spec.replicas: Invalid value: -1"),
    ("v1", "PodTemplate", {"template": PODS},
     "app=web", {"template": {"spec": {"restartPolicy": "Maybe"}}}, "template.spec.restartPolicy: Unsupported value: \"Maybe\""),
    ("v1", "LimitRange", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}},
     "it", {"spec": {"limits": [{"type": "Chair"}]}}, "spec.limits[0].type: Invalid value: \"Chair\""),
    ("v1", "ResourceQuota", {"spec": {"hard": {"pods": "7"}}},
     "it", {"spec": {"hard": {"chairs": "1"}}}, "spec.hard[chairs]: Invalid value: \"chairs\": must be a standard resource for quota"),
    ("v1", "PersistentVolume", {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}},
     "RWO", {"spec": {"accessModes": ["Sometimes"]}}, "spec.accessModes: Unsupported value: \"Sometimes\""),
    ("v1", "PersistentVolumeClaim", {"spec": CLAIM},
     "Pending", {"spec": {"volumeMode": "Tape"}}, "spec.volumeMode: Unsupported value: \"Tape\""),
    ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": "50%", "selector": {"matchLabels": LABELS}}},
     "50%", {"spec": {"minAvailable": "101%"}}, "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"),
    ("scheduling.k8s.io/v1", "PriorityClass", {"value": 1000},
     "1000", {"value": 2000000000}, "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
    ("storage.k8s.io/v1", "StorageClass", {"provisioner": "example.com/disk"},
     "WaitForFirstConsumer|Immediate", {"reclaimPolicy": "Recycle"}, "reclaimPolicy: Unsupported value: \"Recycle\""),
    ("storage.k8s.io/v1", "CSIDriver", {"spec": {}},
     "Persistent", {"spec": {"fsGroupPolicy": "Always"}}, "spec.fsGroupPolicy: Unsupported value: \"Always\""),
    ("storage.k8s.io/v1", "CSINode", {"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n"}]}},
     "1", {"spec": {"drivers": [{"name": "d.example.com", "nodeID": ""}]}}, "spec.drivers[0].nodeID: Required value"),
    ("storage.k8s.io/v1", "VolumeAttachment", {"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}},
     "d.example.com", {"spec": {"source": {"persistentVolumeName": None}}}, "spec.source: Required value: must specify exactly one of"),
    ("storage.k8s.io/v1", "CSIStorageCapacity", {"storageClassName": "fast", "capacity": "5Gi"},
     "5Gi", {"capacity": "-1"}, "capacity: Invalid value: \"-1\""),
    ("storage.k8s.io/v1", "VolumeAttributesClass", {"driverName": "d.example.com", "parameters": {"iops": "5"}},
     "d.example.com", {"parameters": None}, "parameters: Required value: must contain at least one key/value pair"),
    ("node.k8s.io/v1", "RuntimeClass", {"handler": "runc"},
     "runc", {"handler": "No_Label"}, "handler: Invalid value: \"No_Label\""),
    ("networking.k8s.io/v1", "Ingress", {"spec": {"ingressClassName": "c", "defaultBackend": WEB, "rules": [{"host": "a.example.com"}]}},
     "a.example.com", {"spec": {"rules": [{"host": "1.2.3.4"}]}}, "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name"),
    ("networking.k8s.io/v1", "IngressClass", {"spec": {"controller": "example.com/c"}},
     "example.com/c", {"spec": {"controller": "c"}}, "spec.controller: Invalid value: \"c\": must be a domain-prefixed path"),
    ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {"matchLabels": LABELS}}},
     "app=web", {"spec": {"ingress": [{"from": [{}]}]}}, "spec.ingress[0].from[0]: Required value: must specify a peer"),
    ("networking.k8s.io/v1", "IPAddress", {"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "x"}}},
     "services/default/x", {"spec": {"parentRef": {"name": ""}}}, "spec.parentRef.name: Required value"),
    ("networking.k8s.io/v1", "ServiceCIDR", {"spec": {"cidrs": ["192.0.2.0/24"]}},
     "192.0.2.0/24", {"spec": {"cidrs": ["192.0.2.1/24"]}}, "spec.cidrs[0]: Invalid value: \"192.0.2.1/24\": must be in canonical form"),
    ("resource.k8s.io/v1", "DeviceClass", {"spec": {"selectors": [{"cel": {"expression": "device.driver == 'd.example.com'"}}]}},
     "it", {"spec": {"selectors": [{"cel": {"expression": "device.driver"}}]}}, "must evaluate to bool or the unknown type, not string"),
    ("resource.k8s.io/v1", "ResourceClaim", {"spec": {"devices": {"requests": [GPU]}}},
     "pending", {"spec": {"devices": {"requests": [GPU, GPU]}}}, "spec.devices.requests[1]: Duplicate value: \"gpu\""),
    ("resource.k8s.io/v1", "ResourceClaimTemplate", {"spec": {"spec": {"devices": {"requests": [GPU]}}}},
     "it", {"spec": {"spec": {"devices": {"requests": [{"name": "x"}]}}}}, "spec.spec.devices.requests[0]: Required value: exactly one of"),
    ("resource.k8s.io/v1", "ResourceSlice", {"spec": {"driver": "d.example.com", "nodeName": "n", "pool": POOL}},
     "d.example.com", {"spec": {"nodeName": None}}, "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", {"spec": {"maxReplicas": 3, "scaleTargetRef": TARGET}},
     "cpu: <unknown>/80%", {"spec": {"maxReplicas": 0}}, "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
]


def merged(base, change):
    """A merge patch (RFC 7386), applied."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    both = {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in both.items() if value is not None}


@pytest.mark.parametrize("api_version,kind,body,word,wrong,said", KINDS, ids=[k[1] for k in KINDS])
def test_a_kind_can_be_made_listed_explained_patched_and_deleted(ns, api_version, kind, body, word, wrong, said):
    name = NAMES.get(kind, "it")
    group, version = ([*api_version.split("/")] if "/" in api_version else ["", api_version])
    resource = f"{kind.lower()}.{version}.{group}" if group else kind.lower()
    thing = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **body}
    assert said in ns.refused("create", "-f", "-", input=merged(thing, wrong))
    ns.apply(thing)
    row = ns.kubectl("get", resource, name)
    assert any(w in row for w in word.split("|")), row
    assert f"KIND:       {kind}" in ns.kubectl("explain", kind, f"--api-version={api_version}")
    ns.kubectl("patch", resource, name, "--type=merge", "-p", '{"metadata": {"labels": {"patched": "yes"}}}')
    listed = json.loads(ns.kubectl("get", resource, "-l", "patched=yes", "-o", "json"))["items"]
    assert [item["metadata"]["name"] for item in listed] == [name]
    ns.kubectl("delete", resource, name)
    assert "NotFound" in ns.refused("get", resource, name)


def test_a_namespace_takes_all_kinds_with_it(cluster):
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}})
    made = [k for k in KINDS if k[1] not in NAMES]
    things = [{"apiVersion": k[0], "kind": k[1], "metadata": {"name": "it"}, **k[2]} for k in made]
    namespaced = {r.split()[-1] for r in cluster.kubectl("api-resources", "--namespaced", "--no-headers").splitlines()}
    things = [thing for thing in things if thing["kind"] in namespaced]
    assert len(things) == 14
    cluster.kubectl("apply", "-n", "full", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": things})
    cluster.kubectl("delete", "namespace", "full", "--timeout=30s")
    for thing in things:
        left = json.loads(cluster.kubectl("get", thing["kind"], "-A", "-o", "json"))["items"]
        assert not [item for item in left if item["metadata"]["namespace"] == "full"], thing["kind"]


def test_workloads_that_cannot_change_say_so(ns):
    ns.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
              "spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": PODS, "serviceName": "x"}})
    said = ns.refused("patch", "statefulset", "s", "-p", '{"spec": {"serviceName": "y"}}')
    assert "updates to statefulset spec for fields other than 'replicas'" in said
    ns.kubectl("scale", "statefulset", "s", "--replicas=3")
    assert ns.get("statefulset", "s")["spec"]["replicas"] == 3


def test_components_say_whether_they_are_well(cluster):
    shown = cluster.run("get", "cs")
    assert "Warning: v1 ComponentStatus is deprecated in v1.19+" in shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows == [["NAME", "STATUS", "MESSAGE", "ERROR"], ["controller-manager", "Healthy", "ok"],
                    ["etcd-0", "Healthy", "ok"], ["scheduler", "Healthy", "ok"]]

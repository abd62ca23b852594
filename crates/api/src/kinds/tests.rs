//! What holds for every kind of the table.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn no_two_kinds_share_a_path_or_a_short_name() {
    let mut paths = BTreeSet::new();
    let mut names = BTreeSet::new();
    for kind in table() {
        assert!(paths.insert((kind.api_version(), kind.plural.to_string())), "{kind:?}");
        for name in &kind.short_names {
            assert!(names.insert((kind.api_version(), name.clone())), "{name} of {kind:?}");
        }
    }
}

#[test]
fn a_row_has_a_cell_for_each_column_even_of_an_empty_object() {
    for kind in table() {
        let cells = kind.rules.cells(&json!({}), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
        assert!(kind.columns.iter().any(|c| c.format == "name"), "{kind:?}");
    }
}

/// One rich object of any kind: what a kind does not know it ignores.
fn rich() -> Value {
    let pod = json!({
        "nodeName": "n", "hostNetwork": true, "terminationGracePeriodSeconds": 3, "serviceAccountName": "s",
        "securityContext": {"runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]}}},
        "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80, "hostPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": 1}},
            "livenessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "e", "emptyDir": {"sizeLimit": "1Gi"}}],
    });
    let mut spec = pod.clone();
    spec.as_object_mut().unwrap().extend(
        json!({
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}, "replicas": 1, "completions": 1,
            "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "ports": [{"name": "p", "port": 80, "targetPort": 80, "nodePort": 30080}], "type": "NodePort",
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}, "externalIPs": ["1.2.3.4"],
            "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "k", "effect": "NoSchedule"}],
            "finalizers": ["kubernetes"], "holderIdentity": "h", "leaseDurationSeconds": 4,
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "x"}]}]},
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    spec.as_object_mut().unwrap().extend(
        json!({
            "successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}, "completionMode": "Indexed",
            "schedule": "* * * * *", "timeZone": "UTC", "ordinals": {"start": 1}, "minAvailable": "50%",
            "jobTemplate": {"spec": {"template": {"spec": pod}}}, "cidrs": ["10.0.0.0/8"], "hard": {"pods": "1", "cpu": 1},
            "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "1Gi"}}}}], "scopes": ["BestEffort"],
            "limits": [{"type": "Container", "max": {"cpu": 1}, "min": {"cpu": "1m"}, "default": {"cpu": "1"}}],
            "capacity": {"storage": 1}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"},
            "claimRef": {"name": "c", "namespace": "n"}, "dataSource": {"kind": "PersistentVolumeClaim", "name": "c"},
            "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "v", "parentRef": {"resource": "r", "name": "n"},
            "drivers": [{"name": "d", "nodeID": "n", "topologyKeys": ["k"], "allocatable": {"count": 1}}],
            "source": {"inlineVolumeSpec": {"csi": {"driver": "d"}}}, "nodeAffinity": {"required": {"nodeSelectorTerms": []}},
            "tokenRequests": [{"audience": "a", "expirationSeconds": 600}], "volumeLifecycleModes": ["Persistent"],
            "rules": [{"host": "*.a", "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}], "tls": [{"hosts": ["a"]}],
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 1, "endPort": 2}]}],
            "egress": [{"to": [{"podSelector": {}}]}], "podSelector": {}, "controller": "a/b",
            "parameters": {"kind": "k", "name": "n", "scope": "Namespace", "namespace": "n"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Object", "object": {"metric": {"name": "m", "selector": {}}, "target": {"type": "Value", "value": "1"}}}],
            "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}], "tolerance": "1"}},
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["a"]}]},
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let wish = json!({"deviceClassName": "c", "selectors": [{"cel": {"expression": "true"}}], "tolerations": [{"key": "k"}]});
    let config = json!([{"requests": ["r"], "opaque": {"driver": "d", "parameters": {"a": 1}}}]);
    spec.as_object_mut().unwrap().extend(
        json!({
            "driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "config": config,
            "sharedCounters": [{"name": "s", "counters": {"c": {"value": "1"}}}], "perDeviceNodeSelection": true,
            "devices": [{"name": "d", "nodeName": "n", "allowMultipleAllocations": true,
                "attributes": {"a": {"version": "1.2.3"}, "d/b": {"string": "x"}, "c": {"ints": [1]}},
                "capacity": {"m": {"value": "9", "requestPolicy": {"default": "1", "validRange": {"min": "1", "max": "5", "step": "2"}}},
                    "n": {"value": "9", "requestPolicy": {"default": "1", "validValues": ["1", "2"]}}},
                "taints": [{"key": "k", "effect": "None"}], "bindingConditions": ["a"], "bindingFailureConditions": ["b"],
                "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "1"}}}]}],
            "spec": {"devices": {"requests": [{"name": "r", "exactly": wish}, {"name": "s", "firstAvailable": [wish]}],
                "constraints": [{"requests": ["r"], "matchAttribute": "d/a"}], "config": config}},
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    json!({
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"a": "b"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
        "spec": spec,
        "status": {"phase": "Running", "podIPs": [{"ip": "1.2.3.4"}], "capacity": {"cpu": 1}, "replicas": 2,
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "x"}],
            "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}],
            "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "x"}}}],
            "loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]},
            "allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}], "config": config},
                "nodeSelector": {"nodeSelectorTerms": [{"matchFields": []}]}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            "devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": [{"type": "a"}], "networkData": {"ips": ["x"]}}]},
        "data": {"a": "YQ=="}, "binaryData": {"b": "YQ=="}, "stringData": {"c": "x"}, "type": "Opaque",
        "immutable": true, "revision": 1, "addressType": "IPv4", "ports": [{"name": "p", "port": 80}],
        "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "h"}],
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "n"}, "series": {"count": 3},
        "source": {"component": "x"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "template": {"spec": pod}, "value": 5, "provisioner": "a/b", "driverName": "d", "handler": "h",
        "parameters": {"a": "b"}, "overhead": {"podFixed": {"cpu": 1}}, "storageClassName": "s", "capacity": "1Gi",
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "k", "values": ["v"]}]}], "nodeTopology": {},
        "scheduling": {"tolerations": [{"operator": ""}], "nodeSelector": {"a": "b"}},
    })
}

/// The JSON pointers of all parts of a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(k, v)| pointers(v, &format!("{at}/{}", escape(k)), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), found))
        }
        _ => {}
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!({})),
        Just(json!([])),
        Just(json!([null])),
        Just(json!({"": null})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "[ -~é]{0,12}".prop_map(Value::from),
    ]
}

/// A part of the object: of its fields and those of its spec, those that `keep` says.
fn part(object: &Value, mut keep: impl FnMut() -> bool) -> Value {
    let mut part = json!({"metadata": object["metadata"], "spec": {}});
    for (name, value) in object.as_object().into_iter().flatten() {
        if name == "spec" {
            for (name, value) in value.as_object().into_iter().flatten().filter(|_| keep()) {
                part["spec"][name] = value.clone();
            }
        } else if keep() {
            part[name] = value.clone();
        }
    }
    part
}

/// Runs every rule of every kind as the registry would.
fn run_all(new: &Value, old: &Value) {
    for kind in table() {
        let rules = &kind.rules;
        let mut once = new.clone();
        rules.default(&mut once);
        let mut created = once.clone();
        rules.default(&mut created);
        assert_eq!(once, created, "defaults of {kind:?} are idempotent");
        rules.prepare_create(&mut created);
        crate::metadata::validate_object_meta(&kind, &created);
        rules.validate(&created);
        assert_eq!(rules.cells(new, jiff::Timestamp::UNIX_EPOCH).len(), kind.columns.len());
        rules.deletion(new, None);
        for field in &kind.selectable_fields {
            rules.field(new, field);
        }
        let mut updated = once.clone();
        rules.prepare_update(&mut updated, old);
        rules.validate(&updated);
        rules.validate_update(&updated, old);
        rules.prepare_status(&mut once, old);
        rules.validate_status(&once, old);
    }
}

/// Runs the rules that compare with an object before. What they do with the new one alone is tried elsewhere.
fn run_updates(new: &Value, old: &Value) {
    for kind in table() {
        let rules = &kind.rules;
        let mut updated = new.clone();
        rules.prepare_update(&mut updated, old);
        rules.validate_update(&updated, old);
        rules.prepare_status(&mut updated, old);
        rules.validate_status(&updated, old);
    }
}

#[test]
fn rules_run_on_empty_objects() {
    run_all(&json!({}), &json!({}));
    run_all(&json!({"metadata": {"name": "x"}}), &rich());
    run_all(&rich(), &json!({}));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_rule_panics_whatever_stands_in_an_object(
        kept in any::<u64>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..6),
    ) {
        // Copying what a case is not about is what takes the time: one in eight has everything, the others a quarter.
        let mut bits = kept;
        let keep = || {
            bits = bits.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            kept % 8 == 0 || bits >> 62 == 0
        };
        let old = part(&rich(), keep);
        let mut new = old.clone();
        for (index, value) in changes {
            let mut found = Vec::new();
            pointers(&new, "", &mut found);
            if let Some(at) = new.pointer_mut(&found[index.index(found.len())]) {
                *at = value;
            }
        }
        run_all(&new, &old);
        run_updates(&old, &new);
    }
}

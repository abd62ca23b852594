//! What a node may write, beyond which resources it may write to: its own Node, without taints of its choosing and labels that
//! others rely on, and the status of its own pods (Kubernetes' admission plugin NodeRestriction). Pure.

use orlop_api::{
    local_volume::{FINALIZER, NODE_LABEL},
    object::{list, map, text},
};
use serde_json::Value;
use std::collections::BTreeSet;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// Labels with a prefix of Kubernetes that a node may set on itself.
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// A write: new without old is a create, old without new a delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub new: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

/// Why the node must not write this.
pub(crate) fn check(node: &str, write: Write<'_>) -> Result<(), String> {
    match (write.group, write.resource) {
        ("", "nodes") => own_node(node, write),
        ("", "pods") => own_pod(node, write),
        ("", "persistentvolumes") => own_volume(node, write),
        ("coordination.k8s.io", "leases") => own_lease(node, write),
        ("storage.k8s.io", "csinodes") => {
            let object = write.new.or(write.old).unwrap_or(&Value::Null);
            if text(object, "/metadata/name") == node {
                return Ok(());
            }
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        ("resource.k8s.io", "resourceslices") => own_slice(node, write),
        _ => Ok(()),
    }
}

/// A node lets go of a volume whose directory it has removed, and changes nothing else of it.
fn own_volume(node: &str, write: Write<'_>) -> Result<(), String> {
    let (Some(new), Some(old)) = (write.new, write.old) else {
        return Err(format!("node {node:?} can only update persistent volumes"));
    };
    let owner = map(old, "/metadata/labels").and_then(|l| l.get(NODE_LABEL)).and_then(Value::as_str);
    let mut let_go = old.clone();
    if let Some(finalizers) = let_go.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|f| f != FINALIZER);
    }
    let same = |part: &str| {
        let of = |object: &Value| {
            object
                .pointer(part)
                .filter(|v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty()))
                .cloned()
        };
        of(new) == of(&let_go)
    };
    let kept = [
        "/spec",
        "/status",
        "/metadata/finalizers",
        "/metadata/labels",
        "/metadata/annotations",
        "/metadata/ownerReferences",
    ];
    if owner == Some(node) && kept.into_iter().all(same) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} can only remove the finalizer {FINALIZER:?} from volumes that are directories of its own"
    ))
}

/// Which slices a node may see and change the authorizer knows; not what is in a new one, nor which ones a collection has.
fn own_slice(node: &str, write: Write<'_>) -> Result<(), String> {
    let (slice, verb) = match (write.new, write.old) {
        (Some(new), None) => (new, "create"),
        (None, Some(old)) => (old, "delete"),
        _ => return Ok(()),
    };
    if text(slice, "/spec/nodeName") == node {
        return Ok(());
    }
    Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

/// Why the node must not have this token: it is for the pods that run on it.
pub(crate) fn check_token(
    node: &str,
    request: &Value,
    pod: impl FnOnce(&str) -> Option<Value>,
) -> Result<(), String> {
    let bound = request.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null);
    if text(bound, "/kind") != "Pod" || text(bound, "/apiVersion") != "v1" || text(bound, "/name").is_empty()
    {
        return Err("node requested token not bound to a pod".into());
    }
    if text(bound, "/uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let pod = pod(text(bound, "/name")).ok_or("node requested token bound to a pod that does not exist")?;
    if text(bound, "/uid") != text(&pod, "/metadata/uid") {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text(bound, "/uid")
        ));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    Ok(())
}

fn own_lease(node: &str, write: Write<'_>) -> Result<(), String> {
    let lease = write.new.or(write.old).unwrap_or(&Value::Null);
    if text(lease, "/metadata/namespace") != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if text(lease, "/metadata/name") != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(node: &str, write: Write<'_>) -> Result<(), String> {
    let none = Value::Null;
    let (new, old) = (write.new.unwrap_or(&none), write.old.unwrap_or(&none));
    let name = text(write.new.unwrap_or(old), "/metadata/name");
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if write.new.is_none() {
        return Ok(());
    }
    if write.old.is_some() && list(new, "/spec/taints") != list(old, "/spec/taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let owners = "/metadata/ownerReferences";
    if list(new, owners) != list(old, owners) {
        return Err(format!("node {node:?} is not allowed to modify its own ownerReferences"));
    }
    let forbidden: Vec<String> = changed_labels(new, old).into_iter().filter(|l| !may_set(l)).collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let which = forbidden.join(", ");
    Err(match write.old {
        None => format!("node {node:?} is not allowed to set the following labels: {which}"),
        Some(_) => format!("node {node:?} is not allowed to modify labels: {which}"),
    })
}

fn changed_labels(new: &Value, old: &Value) -> BTreeSet<String> {
    let labels = |object| map(object, "/metadata/labels").into_iter().flatten();
    let of = |object: &Value, key: &str| map(object, "/metadata/labels").and_then(|l| l.get(key)).cloned();
    labels(new)
        .chain(labels(old))
        .map(|(key, _)| key.clone())
        .filter(|key| of(new, key) != of(old, key))
        .collect()
}

fn may_set(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let is = |domain: &str| {
        namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is("node-restriction.kubernetes.io") {
        return false;
    }
    let of_kubernetes = is("kubernetes.io") || is("k8s.io");
    !of_kubernetes || OWN_LABELS.contains(&label) || is("kubelet.kubernetes.io") || is("node.kubernetes.io")
}

fn own_pod(node: &str, write: Write<'_>) -> Result<(), String> {
    let runs_here = |pod: &Value| text(pod, "/spec/nodeName") == node;
    match (write.subresource, write.new, write.old) {
        ("", Some(pod), None) => mirror_pod(node, pod),
        ("", None, Some(pod)) if runs_here(pod) => Ok(()),
        ("", None, Some(_)) => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        ("status", Some(new), Some(old)) => {
            if !runs_here(old) {
                return Err(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            if new.pointer("/metadata/labels") != old.pointer("/metadata/labels") {
                return Err(format!("node {node:?} cannot update labels through pod status"));
            }
            Ok(())
        }
        ("eviction", _, Some(pod)) if runs_here(pod) => Ok(()),
        ("eviction", ..) => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
        _ => Err(format!("unexpected operation, node {node:?} can only create and delete mirror pods")),
    }
}

/// A pod that a node makes only shows what it runs already.
fn mirror_pod(node: &str, pod: &Value) -> Result<(), String> {
    let annotations = map(pod, "/metadata/annotations");
    if !annotations.is_some_and(|a| a.contains_key(MIRROR)) {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    let by_reference = |volume: &Value| {
        ["secret", "configMap", "persistentVolumeClaim", "projected", "ephemeral"]
            .iter()
            .any(|source| volume.get(source).is_some_and(|v| !v.is_null()))
    };
    let variables = |container: &Value| {
        !list(container, "/envFrom").is_empty()
            || list(container, "/env").iter().any(|e| {
                map(e, "/valueFrom/secretKeyRef").is_some() || map(e, "/valueFrom/configMapKeyRef").is_some()
            })
    };
    let containers = list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"));
    if list(pod, "/spec/volumes").iter().any(by_reference) || containers.into_iter().any(variables) {
        return Err(format!(
            "node {node:?} can not create pods that reference secrets, configmaps or persistentvolumeclaims"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write<'a>(
        resource: &'a str,
        subresource: &'a str,
        new: &'a Value,
        old: &'a Value,
    ) -> Result<(), String> {
        let there = |v: &'a Value| Some(v).filter(|v| !v.is_null());
        check("a", Write { group: "", resource, subresource, new: there(new), old: there(old) })
    }

    fn node(name: &str, labels: Value, taints: Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})
    }

    #[test]
    fn a_node_writes_itself_without_touching_what_others_rely_on() {
        let none = Value::Null;
        let own = node(
            "a",
            json!({"kubernetes.io/hostname": "a", "rack": "1", "x.node.kubernetes.io/y": ""}),
            json!([{"key": "t"}]),
        );
        assert_eq!(write("nodes", "", &own, &none), Ok(()));
        let refused = |new: &Value, old: &Value| write("nodes", "", new, old).unwrap_err();
        assert_eq!(
            refused(&node("b", json!({}), json!([])), &none),
            "node \"a\" is not allowed to modify node \"b\""
        );
        let privileged = node(
            "a",
            json!({"node-role.kubernetes.io/control-plane": "", "node-restriction.kubernetes.io/x": ""}),
            json!([]),
        );
        assert_eq!(
            refused(&privileged, &none),
            "node \"a\" is not allowed to set the following labels: node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane"
        );
        let marked = node("a", json!({"node-restriction.kubernetes.io/x": "1"}), json!([]));
        assert_eq!(write("nodes", "", &marked, &marked), Ok(()));
        assert_eq!(
            refused(&node("a", json!({}), json!([])), &marked),
            "node \"a\" is not allowed to modify labels: node-restriction.kubernetes.io/x"
        );
        assert_eq!(
            refused(&own, &node("a", own["metadata"]["labels"].clone(), json!([]))),
            "node \"a\" is not allowed to modify taints"
        );
    }

    #[test]
    fn a_node_reports_and_removes_only_what_runs_on_it() {
        let none = Value::Null;
        let pod = |node: &str, label: &str| json!({"metadata": {"name": "p", "labels": {"l": label}}, "spec": {"nodeName": node}});
        assert_eq!(write("pods", "status", &pod("a", "1"), &pod("a", "1")), Ok(()));
        assert_eq!(write("pods", "", &none, &pod("a", "1")), Ok(()));
        assert_eq!(write("pods", "eviction", &none, &pod("a", "1")), Ok(()));
        for (subresource, new, old) in [
            ("status", pod("b", "1"), pod("b", "1")),
            ("status", pod("a", "2"), pod("a", "1")),
            ("", none.clone(), pod("b", "1")),
            ("eviction", none.clone(), pod("b", "1")),
            ("", pod("a", "1"), pod("a", "1")),
            ("", pod("a", "1"), none.clone()),
        ] {
            assert!(write("pods", subresource, &new, &old).is_err(), "{subresource} {new} {old}");
        }
        let mut mirror = pod("a", "1");
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(write("pods", "", &mirror, &none), Ok(()));
        mirror["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
        assert!(write("pods", "", &mirror, &none).is_err());
    }

    #[test]
    fn a_node_lets_go_of_its_own_directories_and_changes_nothing_else_of_a_volume() {
        let volume = |node: &str, finalizers: Value, size: &str| {
            json!({"metadata": {"name": "v", "labels": {NODE_LABEL: node}, "finalizers": finalizers},
                "spec": {"capacity": {"storage": size}}})
        };
        let old = volume("a", json!(["x", FINALIZER]), "1Gi");
        assert_eq!(write("persistentvolumes", "", &volume("a", json!(["x"]), "1Gi"), &old), Ok(()));
        let alone = volume("a", json!([FINALIZER]), "1Gi");
        assert_eq!(write("persistentvolumes", "", &volume("a", Value::Null, "1Gi"), &alone), Ok(()));
        for (new, old) in [
            (volume("a", json!(["x"]), "2Gi"), old.clone()),
            (volume("a", json!([]), "1Gi"), old.clone()),
            (volume("b", json!(["x"]), "1Gi"), old.clone()),
            (volume("b", json!(["x"]), "1Gi"), volume("b", json!(["x", FINALIZER]), "1Gi")),
            (volume("a", json!(["x"]), "1Gi"), Value::Null),
        ] {
            assert!(write("persistentvolumes", "", &new, &old).is_err(), "{new}");
        }
    }

    #[test]
    fn a_node_offers_and_withdraws_only_devices_of_its_own() {
        let slice = |node: &str| json!({"spec": {"nodeName": node}});
        let (own, other) = (slice("a"), slice("b"));
        let write = |new, old| {
            check(
                "a",
                Write { group: "resource.k8s.io", resource: "resourceslices", subresource: "", new, old },
            )
        };
        assert_eq!((write(Some(&own), None), write(None, Some(&own))), (Ok(()), Ok(())));
        for (new, old, verb) in [(Some(&other), None, "create"), (None, Some(&other), "delete")] {
            let why = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
            assert_eq!(write(new, old), Err(why));
        }
    }

    #[test]
    fn a_token_is_for_a_pod_of_the_node() {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "a"}});
        let request = |uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}});
        assert_eq!(check_token("a", &request("u"), |_| Some(pod.clone())), Ok(()));
        assert!(check_token("b", &request("u"), |_| Some(pod.clone())).is_err());
        assert!(check_token("a", &request("v"), |_| Some(pod.clone())).is_err());
        assert!(check_token("a", &request(""), |_| Some(pod.clone())).is_err());
        assert!(check_token("a", &request("u"), |_| None).is_err());
        assert!(check_token("a", &json!({"spec": {}}), |_| Some(pod.clone())).is_err());
    }
}

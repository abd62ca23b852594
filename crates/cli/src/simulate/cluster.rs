//! The cluster that a simulation begins with: what of a real one, or of a file, matters to scheduler and controllers, checked and made
//! whole so that nothing happens by itself only because something was left out. It asks nobody.

use crate::apply::FIELD_MANAGER as MANAGER;
use jiff::Timestamp;
use orlop_api::{kinds, quantity::Quantity};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is taken over, in the order in which a live cluster is read: who is owned before who owns it, so that no owner is missing.
pub(crate) const KEPT: [(&str, &str); 33] = [
    ("v1", "Pod"),
    ("v1", "Endpoints"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("storage.k8s.io/v1", "VolumeAttachment"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "PersistentVolume"),
    ("apps/v1", "ControllerRevision"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "ReplicationController"),
    ("batch/v1", "Job"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "CronJob"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "PodTemplate"),
    ("v1", "ServiceAccount"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
    ("storage.k8s.io/v1", "StorageClass"),
    ("storage.k8s.io/v1", "CSINode"),
    ("storage.k8s.io/v1", "CSIDriver"),
    ("storage.k8s.io/v1", "CSIStorageCapacity"),
    ("node.k8s.io/v1", "RuntimeClass"),
    ("networking.k8s.io/v1", "Ingress"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
    ("v1", "Node"),
    ("v1", "Namespace"),
];

/// Kinds in which quantities are looked at before anything begins.
const WITH_QUANTITIES: [&str; 13] = [
    "Node",
    "Pod",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "ReplicationController",
    "Job",
    "CronJob",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ResourceQuota",
    "LimitRange",
];

/// Where kubectl notes what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// On what belongs to an object of a kind that is not taken over: which one.
pub(crate) const OWNER: &str = "simulate.orlop.dev/owner";

/// A cluster as it is put in.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Everything, each with its uid and status.
    pub objects: Vec<Value>,
    /// How many objects of other kinds were left out.
    pub left_out: BTreeMap<String, usize>,
}

pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `Deployment default/web`.
pub(crate) fn title(object: &Value) -> String {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    match text(object, "/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// The reference to the controller of an object.
pub(crate) fn controller(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences").iter().find(|o| o["controller"] == true)
}

impl Cluster {
    /// Takes objects over that somebody wrote down.
    ///
    /// # Errors
    /// One sentence about what of them cannot be.
    pub(crate) fn of(objects: Vec<Value>) -> Result<Self, String> {
        let (mut kept, left_out) = keep(objects)?;
        complete(&mut kept);
        if let Some((_, why)) = incomplete(&kept) {
            return Err(why);
        }
        Ok(Self { objects: kept.into_values().collect(), left_out })
    }

    /// Takes objects over that were read one kind after the other while the cluster went on: what is without its owner or its node by
    /// then is on its way out.
    ///
    /// # Errors
    /// One sentence about what of them cannot be.
    pub(crate) fn of_live(objects: Vec<Value>) -> Result<Self, String> {
        let (mut kept, left_out) = keep(objects)?;
        complete(&mut kept);
        while let Some((key, _)) = incomplete(&kept) {
            kept.remove(&key);
        }
        Ok(Self { objects: kept.into_values().collect(), left_out })
    }

    /// The second after the last thing that anybody noted in it; `None` if nobody noted any.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        let newest = self.objects.iter().filter_map(|object| newest(object, "")).max()?;
        Timestamp::from_second(newest.as_second() + 1).ok()
    }

    /// Those of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |o| o["kind"] == kind)
    }
}

/// What is taken over of objects, and how many of other kinds are not.
fn keep(objects: Vec<Value>) -> Result<(Kept, BTreeMap<String, usize>), String> {
    let table = kinds::table();
    let mut left_out = BTreeMap::new();
    let mut kept = Kept::new();
    for mut object in objects {
        let (api_version, kind) =
            (text(&object, "/apiVersion").to_string(), text(&object, "/kind").to_string());
        let Some(known) = table.iter().find(|k| k.api_version() == api_version && k.kind == kind) else {
            return Err(format!("{}: there is no kind {kind} in {api_version}", title(&object)));
        };
        if !KEPT.contains(&(api_version.as_str(), kind.as_str())) {
            *left_out.entry(kind).or_default() += 1;
            continue;
        }
        if text(&object, "/metadata/name").is_empty() {
            return Err(format!("a {kind} has no name"));
        }
        let Some(metadata) = object["metadata"].as_object_mut() else { continue };
        if !known.namespaced() {
            metadata.remove("namespace");
        } else if metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) {
            metadata.insert("namespace".into(), "default".into());
        }
        claim_applied(metadata);
        if WITH_QUANTITIES.contains(&kind.as_str()) {
            quantities(&object, "").map_err(|why| format!("{}: {why}", title(&object)))?;
        }
        let name = text(&object, "/metadata/name").to_string();
        kept.insert((kind, text(&object, "/metadata/namespace").to_string(), name), object);
    }
    Ok((kept, left_out))
}

/// The newest time in an object that says when something was.
fn newest(value: &Value, name: &str) -> Option<Timestamp> {
    match value {
        Value::Object(map) => map.iter().filter_map(|(key, inner)| newest(inner, key)).max(),
        Value::Array(all) => all.iter().filter_map(|inner| newest(inner, name)).max(),
        Value::String(text) if name != "deletionTimestamp" => {
            let is_time = ["Time", "Timestamp", "At", "time"].iter().any(|end| name.ends_with(end));
            is_time.then(|| text.parse().ok())?
        }
        _ => None,
    }
}

/// What people applied with kubectl counts as applied by us, on the server, as kubectl itself has it when it changes over from its own
/// side: so that a field that is no longer in a file goes.
fn claim_applied(metadata: &mut Map<String, Value>) {
    if metadata.get("managedFields").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        // An entry for as little as can be, so that the server does not take the fields for those of nobody.
        if metadata.get("annotations").is_some_and(|a| a[LAST_APPLIED].is_string()) {
            let ours = json!({"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": noted_alone()});
            metadata.insert("managedFields".into(), json!([ours]));
        }
        return;
    }
    let Some(managers) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) else { return };
    let applied = |m: &Value, by: &str| m["manager"] == by && m["operation"] == "Apply";
    if managers.iter().any(|m| applied(m, MANAGER)) {
        return;
    }
    let by_kubectl = |m: &Value| {
        applied(m, "kubectl")
            || (m["manager"] == "kubectl-client-side-apply" && text(m, "/subresource").is_empty())
    };
    if let Some(manager) = managers.iter_mut().find(|m| by_kubectl(m)) {
        manager["manager"] = MANAGER.into();
        manager["operation"] = "Apply".into();
    }
}

/// The fields of somebody of whom only kubectl's note is known.
fn noted_alone() -> Value {
    json!({"f:metadata": {"f:annotations": {format!("f:{LAST_APPLIED}"): {}}}})
}

/// What kubectl noted that it applied, where nothing else says which fields that were.
pub(crate) fn last_applied(object: &Value) -> Option<Value> {
    if !list(object, "/metadata/managedFields").iter().all(|m| m["fieldsV1"] == noted_alone()) {
        return None;
    }
    let noted = object["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    serde_json::from_str(noted).ok()
}

/// Whether everything that is meant as a quantity is one.
fn quantities(value: &Value, path: &str) -> Result<(), String> {
    const MAPS: [&str; 4] = ["requests", "limits", "allocatable", "capacity"];
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if MAPS.contains(&key.as_str())
                    && let Some(amounts) = inner.as_object()
                {
                    for (name, amount) in amounts {
                        Quantity::from_json(amount)
                            .map_err(|_| format!("{path}.{name}: {amount} is no quantity"))?;
                    }
                } else if key != "metadata" && key != "managedFields" {
                    quantities(inner, &path)?;
                }
            }
            Ok(())
        }
        Value::Array(all) => all
            .iter()
            .zip(0..)
            .try_for_each(|(inner, at): (_, usize)| quantities(inner, &format!("{path}[{at}]"))),
        _ => Ok(()),
    }
}

/// Kind, namespace and name.
type Name = (String, String, String);
type Kept = BTreeMap<Name, Value>;

/// Namespaces that somebody is in, and the ServiceAccount that pods have where they name none. Owners that no kind here can be are
/// forgotten: nobody could say whether they are gone.
fn complete(kept: &mut Kept) {
    let mut namespaces: BTreeSet<String> = kept.keys().map(|(_, namespace, _)| namespace.clone()).collect();
    namespaces.extend(kept.keys().filter(|k| k.0 == "Namespace").map(|k| k.2.clone()));
    namespaces.insert("default".into());
    namespaces.remove("");
    for namespace in namespaces {
        kept.entry(("Namespace".into(), String::new(), namespace.clone())).or_insert_with(|| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        });
        kept.entry(("ServiceAccount".into(), namespace.clone(), "default".into())).or_insert_with(|| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}})
        });
    }
    let known = |owner: &Value| KEPT.contains(&(text(owner, "/apiVersion"), text(owner, "/kind")));
    for object in kept.values_mut() {
        if let Some(owner) = controller(object).filter(|o| !known(o)) {
            let title = format!("{} {}", text(owner, "/kind"), text(owner, "/name"));
            object["metadata"]["annotations"][OWNER] = title.into();
        }
        if let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) {
            owners.retain(known);
        }
    }
}

/// The first without somebody whose absence alone would make things happen, and who that is.
fn incomplete(kept: &Kept) -> Option<(Name, String)> {
    let uids: BTreeSet<&str> = kept.values().map(|o| text(o, "/metadata/uid")).collect();
    for (key, object) in kept {
        for owner in list(object, "/metadata/ownerReferences") {
            if !uids.contains(text(owner, "/uid")) {
                let (kind, name) = (text(owner, "/kind"), text(owner, "/name"));
                let title = title(object);
                let why = format!(
                    "{title} belongs to {kind} {name}, which is not in it: without its owner it would be deleted"
                );
                return Some((key.clone(), why));
            }
        }
        let node = text(object, "/spec/nodeName");
        if object["kind"] == "Pod"
            && !node.is_empty()
            && !kept.contains_key(&("Node".into(), String::new(), node.into()))
        {
            return Some((key.clone(), format!("{} is on node {node}, which is not in it", title(object))));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(more: Value) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "1"}});
        pod["spec"] = more;
        pod
    }

    #[test]
    fn what_matters_is_taken_and_made_whole() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
        let mut owned = pod(json!({}));
        owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Herd", "name": "h", "uid": "9", "controller": true}]);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "x"}});
        let cluster = Cluster::of(vec![secret, owned, node]).unwrap();
        let titles: Vec<String> = cluster.objects.iter().map(title).collect();
        assert_eq!(
            titles,
            [
                "Namespace a",
                "Namespace default",
                "Node n",
                "Pod a/p",
                "ServiceAccount a/default",
                "ServiceAccount default/default"
            ]
        );
        assert_eq!(cluster.left_out, BTreeMap::from([("Secret".to_string(), 1)]));
        assert!(
            controller(cluster.of_kind("Pod").next().unwrap()).is_none(),
            "nobody can say whether a Herd is there"
        );
    }

    #[test]
    fn what_cannot_be_is_said_in_one_sentence() {
        let mut owned = pod(json!({}));
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "2"}]);
        let herd = json!({"apiVersion": "example.com/v1", "kind": "Herd", "metadata": {"name": "h"}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "much"}}});
        let asks = pod(json!({"containers": [{"resources": {"requests": {"memory": "1Gx"}}}]}));
        for (object, why) in [
            (pod(json!({"nodeName": "gone"})), "Pod a/p is on node gone, which is not in it"),
            (
                owned,
                "Pod a/p belongs to ReplicaSet r, which is not in it: without its owner it would be deleted",
            ),
            (herd, "Herd h: there is no kind Herd in example.com/v1"),
            (node, "Node n: status.allocatable.cpu: \"much\" is no quantity"),
            (asks, "Pod a/p: spec.containers[0].resources.requests.memory: \"1Gx\" is no quantity"),
            (json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}), "a Pod has no name"),
        ] {
            assert_eq!(Cluster::of(vec![object]).unwrap_err(), why);
        }
        let live = Cluster::of_live(vec![pod(json!({"nodeName": "gone"}))]).unwrap();
        assert_eq!(live.of_kind("Pod").count(), 0, "it went while the cluster was read");
    }

    #[test]
    fn it_is_the_second_after_the_last_note() {
        let mut object = pod(json!({"x": "2030-01-01T00:00:00Z"}));
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        object["metadata"]["deletionTimestamp"] = "2027-01-01T00:00:00Z".into();
        object["status"] = json!({"conditions": [{"lastTransitionTime": "2026-01-01T00:00:05.5Z"}]});
        let newest = Cluster::of(vec![object]).unwrap().newest().unwrap();
        assert_eq!(newest.to_string(), "2026-01-01T00:00:06Z");
        assert_eq!(Cluster::of(Vec::new()).unwrap().newest(), None);
    }

    #[test]
    fn what_kubectl_applied_counts_as_applied() {
        let mut object = pod(json!({}));
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl-client-side-apply", "operation": "Update"},
            {"manager": "kubelet", "operation": "Update", "subresource": "status"}]);
        let cluster = Cluster::of(vec![object]).unwrap();
        let pod = cluster.of_kind("Pod").next().unwrap();
        assert_eq!(pod["metadata"]["managedFields"][0], json!({"manager": "orlop", "operation": "Apply"}));
    }
}

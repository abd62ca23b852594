//! Volumes that are directories of a node: which node gets one, and what the volume looks like. Pure: the directory itself is
//! the node's to make and to remove.

use super::matching::{class_of_claim, requested};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use orlop_api::local_volume::{
    FINALIZER, FOLDER_ANNOTATION, HOSTNAME_LABEL, NODE_LABEL, PROVISIONED_BY, PROVISIONER,
};
use serde_json::json;

/// The name of the volume that is made for a claim: always the same, so that it is made once.
pub(super) fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// Why no directory can be this claim's volume.
pub(super) fn refusal(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.selector.is_some() {
        return Some("claim Selector is not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("a data source is not supported: a local directory starts empty");
    }
    (spec.volume_mode.as_deref() == Some("Block"))
        .then_some("volumeMode Block is not supported: a local directory is a file system")
}

/// Whether a node keeps such volumes, and the class allows them there.
pub(super) fn offers(node: &Node, class: &StorageClass) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let fits = topologies.is_empty()
        || topologies.iter().any(|term| {
            let wanted = term.match_label_expressions.iter().flatten();
            wanted.into_iter().all(|e| node.labels().get(&e.key).is_some_and(|v| e.values.contains(v)))
        });
    node.annotations().contains_key(FOLDER_ANNOTATION) && fits
}

/// The node for a claim that does not wait for a consumer: of those that offer and can run pods the one with the fewest volumes.
pub(super) fn choose<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    class: &StorageClass,
    volumes_on: impl Fn(&str) -> usize,
) -> Option<&'a Node> {
    let usable = |n: &&Node| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let open = n.spec.as_ref().is_none_or(|s| s.unschedulable != Some(true));
        ready && open && n.metadata.deletion_timestamp.is_none() && offers(n, class)
    };
    nodes.into_iter().filter(usable).min_by_key(|n| (volumes_on(&n.name_any()), n.name_any()))
}

/// The volume for a claim on a node; `None` where the node keeps none.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
) -> Option<PersistentVolume> {
    let folder = node.annotations().get(FOLDER_ANNOTATION)?;
    let (name, node_name) = (name(claim), node.name_any());
    let spec = claim.spec.as_ref()?;
    let host = node.labels().get(HOSTNAME_LABEL).unwrap_or(&node_name);
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER},
            "labels": {NODE_LABEL: node_name},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": requested(claim).to_string()},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "storageClassName": class_of_claim(claim),
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "mountOptions": class.mount_options,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name_any(),
                "uid": claim.uid(),
                "resourceVersion": claim.resource_version(),
            },
            "local": {"path": format!("{}/{name}", folder.trim_end_matches('/'))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME_LABEL, "operator": "In", "values": [host]},
            ]}]}},
        },
    });
    serde_json::from_value(volume).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume_binder::matching::{is_bound_to, reaches};
    use serde_json::Value;

    fn node(name: &str, ready: &str, offers: bool) -> Node {
        let annotations = if offers { json!({FOLDER_ANNOTATION: "/data/volumes"}) } else { json!({}) };
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": annotations, "labels": {HOSTNAME_LABEL: format!("{name}.example"), "zone": name}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .expect("a node")
    }

    fn class(more: Value) -> StorageClass {
        let mut class = json!({"metadata": {"name": "local"}, "provisioner": PROVISIONER});
        more.as_object().into_iter().flatten().for_each(|(k, v)| class[k] = v.clone());
        serde_json::from_value(class).expect("a class")
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": "1Gi"}}});
        more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a claim")
    }

    #[test]
    fn the_volume_is_of_its_claim_and_of_its_node_alone() {
        let made = volume(&claim(json!({})), &class(json!({})), &node("a", "True", true)).expect("made");
        assert!(is_bound_to(&made, &claim(json!({}))));
        assert!(reaches(&made, &node("a", "True", true)) && !reaches(&made, &node("b", "True", true)));
        let spec = made.spec.expect("a spec");
        assert_eq!(spec.local.map(|l| l.path).as_deref(), Some("/data/volumes/pvc-u"));
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
        assert!(volume(&claim(json!({})), &class(json!({})), &node("a", "True", false)).is_none());
    }

    #[test]
    fn without_a_consumer_the_emptiest_ready_node_that_offers_is_chosen() {
        let nodes = [
            node("a", "True", true),
            node("b", "True", true),
            node("c", "False", true),
            node("d", "True", false),
        ];
        let choice = |class: &StorageClass, on: fn(&str) -> usize| {
            choose(&nodes, class, on).map(ResourceExt::name_any)
        };
        assert_eq!(choice(&class(json!({})), |_| 0).as_deref(), Some("a"));
        assert_eq!(choice(&class(json!({})), |n| usize::from(n == "a")).as_deref(), Some("b"));
        let only = |zone: &str| json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]});
        assert_eq!(choice(&class(only("b")), |_| 0).as_deref(), Some("b"));
        assert_eq!(choice(&class(only("d")), |_| 0), None);
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        assert_eq!(refusal(&claim(json!({}))), None);
        for more in [
            json!({"volumeMode": "Block"}),
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}}),
        ] {
            assert!(refusal(&claim(more.clone())).is_some(), "{more}");
        }
    }
}

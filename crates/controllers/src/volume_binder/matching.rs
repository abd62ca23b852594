//! Which volume fits which claim (Kubernetes documentation, "Persistent Volumes", "Binding"). Pure.

use k8s_openapi::{
    api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec},
    apimachinery::pkg::api::resource::Quantity as TypedQuantity,
};
use kube::ResourceExt;
use orlop_api::{node_affinity::term_matches, quantity::Quantity, selector::Selector};
use std::collections::BTreeMap;

/// The annotation that named a class before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The claim's class, empty for none.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let old = claim.annotations().get(OLD_CLASS).map(String::as_str);
    old.or(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref())).unwrap_or_default()
}

/// The volume's class, empty for none.
pub(super) fn class_of_volume(volume: &PersistentVolume) -> &str {
    let old = volume.annotations().get(OLD_CLASS).map(String::as_str);
    old.or(volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref())).unwrap_or_default()
}

fn storage(amounts: Option<&BTreeMap<String, TypedQuantity>>) -> Quantity {
    amounts.and_then(|a| a.get("storage")).map(Quantity::of).unwrap_or_default()
}

/// How large a volume is.
pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

/// How much a claim asks for.
pub(super) fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    storage(claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref()))
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

fn same_mode(spec: &PersistentVolumeSpec, claim: &PersistentVolumeClaim) -> bool {
    mode(spec.volume_mode.as_ref()) == mode(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

/// Whether the volume is kept for this claim: by name, and by uid too once that is known.
pub(super) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
}

/// Whether a volume can be used on a node.
pub(super) fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required.as_ref()) else { return true };
    let name = node.name_any();
    required.node_selector_terms.iter().any(|t| term_matches(t, &name, node.labels()))
}

/// Why a claim cannot have the volume that it names.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small".into());
    }
    if class_of_volume(volume) != class_of_claim(claim) {
        return Some("storageClassName does not match".into());
    }
    if !same_mode(&spec, claim) {
        return Some("incompatible volumeMode".into());
    }
    (!has_modes(&spec, claim)).then(|| "incompatible accessMode".into())
}

fn has_modes(spec: &PersistentVolumeSpec, claim: &PersistentVolumeClaim) -> bool {
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|m| offered.contains(m))
}

/// The volume that a claim should have: the one that is kept for it, else the smallest that fits. Where its class waits for
/// the first consumer, `node` is the consumer's; without one only a volume that is kept for the claim will do.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    node: Option<&Node>,
    waits: bool,
) -> Option<&'a PersistentVolume> {
    let wanted = requested(claim);
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    let selector = match selector {
        Some(selector) => Some(Selector::of(Some(selector)).ok()?),
        None => None,
    };
    let mut smallest: Option<&PersistentVolume> = None;
    for volume in volumes {
        let Some(spec) = volume.spec.as_ref() else { continue };
        // Most volumes are somebody else's: they are passed by quickly.
        if spec.claim_ref.is_some() && !is_bound_to(volume, claim) {
            continue;
        }
        if capacity(volume) < wanted || !same_mode(spec, claim) {
            continue;
        }
        if is_bound_to(volume, claim) {
            return Some(volume);
        }
        let available = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available");
        let fits = (!waits || node.is_some())
            && available
            && spec.claim_ref.is_none()
            && volume.metadata.deletion_timestamp.is_none()
            && class_of_volume(volume) == class_of_claim(claim)
            && selector.as_ref().is_none_or(|s| s.matches(volume.labels()))
            && node.is_none_or(|n| reaches(volume, n))
            && has_modes(spec, claim);
        let smaller = |other: &&PersistentVolume| {
            // Of equal ones always the same, so that a repeated decision is the same.
            (capacity(volume), volume.name_any()) < (capacity(other), other.name_any())
        };
        if fits && smallest.as_ref().is_none_or(smaller) {
            smallest = Some(volume);
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut spec = spec;
        if spec.get("resources").is_none() {
            spec["resources"] = json!({"requests": {"storage": "5Gi"}});
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a claim")
    }

    fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
        let mut spec =
            json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": spec,
            "status": {"phase": "Available"}}))
        .expect("a volume")
    }

    fn chosen(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume]) -> Option<String> {
        best(claim, volumes, None, false).map(ResourceExt::name_any)
    }

    #[test]
    fn the_smallest_volume_that_fits_is_chosen() {
        let volumes = [
            volume("big", "50Gi", json!({})),
            volume("mid", "5Gi", json!({})),
            volume("mid2", "5Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("block", "5Gi", json!({"volumeMode": "Block"})),
            volume("fast", "5Gi", json!({"storageClassName": "fast"})),
            volume("taken", "5Gi", json!({"claimRef": {"namespace": "n", "name": "other"}})),
        ];
        for (spec, expected) in [
            (json!({"accessModes": ["ReadWriteOnce"]}), Some("mid")),
            (json!({"accessModes": ["ReadWriteMany"]}), None),
            (json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"}), Some("block")),
            (json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}), Some("fast")),
            (json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "none"}), None),
            (json!({"selector": {"matchLabels": {"disk": "big"}}}), Some("big")),
            (json!({"selector": {"matchLabels": {"disk": "small"}}}), None),
            (json!({"resources": {"requests": {"storage": "51Gi"}}}), None),
        ] {
            assert_eq!(chosen(&claim(spec.clone()), &volumes).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn a_volume_kept_for_the_claim_comes_before_a_better_one() {
        let kept = |uid: &str| json!({"claimRef": {"namespace": "n", "name": "c", "uid": uid}});
        let wanted = claim(json!({"accessModes": ["ReadWriteOnce"]}));
        let volumes = [volume("mid", "5Gi", json!({})), volume("kept", "50Gi", kept(""))];
        assert_eq!(chosen(&wanted, &volumes).as_deref(), Some("kept"));
        let volumes = [volume("mid", "5Gi", json!({})), volume("kept", "50Gi", kept("old"))];
        assert_eq!(chosen(&wanted, &volumes).as_deref(), Some("mid"), "it was kept for a claim that is gone");
    }

    #[test]
    fn a_class_that_waits_takes_what_the_consumers_node_reaches() {
        let on = |host: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}})
        };
        let volumes = [volume("a", "5Gi", on("n1")), volume("b", "6Gi", on("n2"))];
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n2", "labels": {"kubernetes.io/hostname": "n2"}}}),
        )
        .expect("a node");
        let wanted = claim(json!({}));
        assert!(best(&wanted, &volumes, None, true).is_none());
        assert_eq!(
            best(&wanted, &volumes, Some(&node), true).map(ResourceExt::name_any).as_deref(),
            Some("b")
        );
    }

    #[test]
    fn a_named_volume_that_does_not_fit_is_refused_with_the_reason() {
        let has = |more: Value, spec: Value| mismatch(&volume("v", "5Gi", more), &claim(spec));
        assert_eq!(has(json!({}), json!({"accessModes": ["ReadWriteOnce"]})), None);
        for (more, spec, why) in [
            (json!({}), json!({"resources": {"requests": {"storage": "6Gi"}}}), "requested PV is too small"),
            (json!({"storageClassName": "x"}), json!({}), "storageClassName does not match"),
            (json!({"volumeMode": "Block"}), json!({}), "incompatible volumeMode"),
            (json!({}), json!({"accessModes": ["ReadWriteMany"]}), "incompatible accessMode"),
        ] {
            assert_eq!(has(more, spec).as_deref(), Some(why));
        }
    }
}

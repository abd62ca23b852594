//! What a claim and a volume need next, from what is known of both (Kubernetes documentation, "Persistent Volumes", "Lifecycle
//! of a volume and claim"). Pure: both directions of a bind are looked at, so whatever step was the last one before a crash, the
//! next decision goes on from there.

use super::matching::{best, class_of_claim, is_bound_to, mismatch};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use orlop_api::local_volume::PROVISIONED_BY;
use orlop_client::EventType;

/// On a claim: both directions of the bind stand.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: this direction was not the user's choice.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node that its first consumer will run on.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// An event about the claim.
pub(super) type Happening = (EventType, &'static str, String);

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub(super) enum ClaimStep<'a> {
    /// Bind it to this volume, or finish that.
    Bind(&'a PersistentVolume),
    /// It stays pending.
    Wait(Option<Happening>),
    /// A volume has to be made for it.
    Provision,
    /// The volume that it has is not known here: is it really gone?
    MissesVolume,
    /// It has lost its volume: reason and message.
    Lost(&'static str, &'static str),
}

/// Everything that a decision about a claim rests on.
pub(super) struct ClaimView<'a> {
    pub claim: &'a PersistentVolumeClaim,
    /// Its class, if there is such a one.
    pub class: Option<&'a StorageClass>,
    /// All volumes that may be its own: of a claim that names one, that one.
    pub volumes: Vec<&'a PersistentVolume>,
    /// The node of its first consumer, so far as there is one.
    pub node: Option<&'a Node>,
    /// The pods that use it and have no node yet.
    pub unscheduled: Vec<String>,
}

pub(super) const LOST_VOLUME: ClaimStep<'static> =
    ClaimStep::Lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");

/// What a claim needs next.
pub(super) fn claim_step<'a>(view: &ClaimView<'a>) -> ClaimStep<'a> {
    let claim = view.claim;
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    let volume = view.volumes.iter().copied().find(|v| v.name_any() == name);
    let completed = claim.annotations().contains_key(BIND_COMPLETED);
    match (completed, name.is_empty()) {
        (true, true) => ClaimStep::Lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, false) => bound(claim, volume),
        (false, false) => named(claim, name, volume),
        (false, true) => unbound(view),
    }
}

fn bound<'a>(claim: &PersistentVolumeClaim, volume: Option<&'a PersistentVolume>) -> ClaimStep<'a> {
    let Some(volume) = volume else { return ClaimStep::MissesVolume };
    match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
        None => ClaimStep::Bind(volume),
        Some(reference) if reference.uid == claim.metadata.uid => ClaimStep::Bind(volume),
        Some(_) => ClaimStep::Lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
    }
}

fn named<'a>(
    claim: &PersistentVolumeClaim,
    name: &str,
    volume: Option<&'a PersistentVolume>,
) -> ClaimStep<'a> {
    let Some(volume) = volume else { return ClaimStep::Wait(None) };
    if is_bound_to(volume, claim) {
        return ClaimStep::Bind(volume);
    }
    if volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()) {
        let why = format!("volume {name:?} already bound to a different claim.");
        return ClaimStep::Wait(Some((EventType::Warning, "FailedBinding", why)));
    }
    match mismatch(volume, claim) {
        None => ClaimStep::Bind(volume),
        Some(why) => {
            let why = format!("Cannot bind to requested volume {name:?}: {why}");
            ClaimStep::Wait(Some((EventType::Warning, "VolumeMismatch", why)))
        }
    }
}

/// Whether volumes of a class are chosen only when it is known where they are needed.
pub(super) fn waits(class: Option<&StorageClass>) -> bool {
    class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

fn unbound<'a>(view: &ClaimView<'a>) -> ClaimStep<'a> {
    if view.claim.metadata.deletion_timestamp.is_some() {
        return ClaimStep::Wait(None);
    }
    let waits = waits(view.class);
    let node = view.node.filter(|_| waits);
    if let Some(volume) = best(view.claim, view.volumes.iter().copied(), node, waits) {
        return ClaimStep::Bind(volume);
    }
    if waits && node.is_none() {
        let (reason, message) = match view.unscheduled.as_slice() {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".into()),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        return ClaimStep::Wait(Some((EventType::Normal, reason, message)));
    }
    if class_of_claim(view.claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ClaimStep::Wait(Some((EventType::Normal, "FailedBinding", message.into())));
    }
    ClaimStep::Provision
}

/// What to do about a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VolumeStep {
    /// It is in this phase.
    Phase(&'static str),
    /// Its claim is not known here: is it really gone?
    MissesClaim,
    /// Nobody has it any more: its policy says what becomes of it.
    Release,
    /// The claim has to finish the bind.
    AskClaim,
    /// Its claim has another one. It is free again; what the user wrote of the claim stays.
    Unbind,
}

/// What a volume needs next. `claim` is the one of the name that it is kept for.
pub(super) fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let uid = reference.and_then(|r| r.uid.as_deref()).filter(|uid| !uid.is_empty());
    let Some(uid) = uid else { return VolumeStep::Phase("Available") };
    let Some(claim) = claim.filter(|c| c.metadata.uid.as_deref() == Some(uid)) else {
        return VolumeStep::MissesClaim;
    };
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        return VolumeStep::AskClaim;
    }
    if name == volume.name_any() {
        return VolumeStep::Phase("Bound");
    }
    if volume.annotations().contains_key(PROVISIONED_BY) && policy(volume) == "Delete" {
        // It was made for this claim, which found another in the meantime.
        return VolumeStep::Release;
    }
    VolumeStep::Unbind
}

/// What becomes of a volume that nobody has any more.
pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(annotations: Value, volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"volumeName": volume, "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .expect("a claim")
    }

    fn volume(name: &str, reference: Value) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "claimRef": reference},
            "status": {"phase": "Available"},
        }))
        .expect("a volume")
    }

    fn of(uid: &str) -> Value {
        json!({"namespace": "n", "name": "c", "uid": uid})
    }

    fn step(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], class: &str) -> String {
        let class: StorageClass = serde_json::from_value(
            json!({"metadata": {"name": "local"}, "provisioner": "p", "volumeBindingMode": class}),
        )
        .expect("a class");
        let view = ClaimView {
            claim,
            class: Some(&class),
            volumes: volumes.iter().collect(),
            node: None,
            unscheduled: Vec::new(),
        };
        match claim_step(&view) {
            ClaimStep::Bind(volume) => format!("bind {}", volume.name_any()),
            ClaimStep::Wait(None) => "wait".into(),
            ClaimStep::Wait(Some((_, reason, _))) => format!("wait {reason}"),
            ClaimStep::Provision => "provision".into(),
            ClaimStep::MissesVolume => "misses".into(),
            ClaimStep::Lost(reason, _) => format!("lost {reason}"),
        }
    }

    #[test]
    fn a_claim_goes_on_from_wherever_the_bind_was_left() {
        let (new, done) = (json!({}), json!({BIND_COMPLETED: "yes"}));
        for (annotations, named, volumes, expected) in [
            // Nothing yet; then the volume knows the claim; then the claim the volume; then all is said.
            (&new, "", vec![volume("v", Value::Null)], "bind v"),
            (&new, "", vec![volume("v", of("u"))], "bind v"),
            (&new, "v", vec![volume("v", of("u"))], "bind v"),
            (&done, "v", vec![volume("v", of("u"))], "bind v"),
            // Somebody took the volume's direction away.
            (&done, "v", vec![volume("v", Value::Null)], "bind v"),
            (&done, "v", vec![], "misses"),
            (&done, "", vec![], "lost ClaimLost"),
            (&done, "v", vec![volume("v", of("other"))], "lost ClaimMisbound"),
            (&new, "v", vec![], "wait"),
            (&new, "v", vec![volume("v", of("other"))], "wait FailedBinding"),
            (&new, "", vec![], "provision"),
        ] {
            assert_eq!(step(&claim(annotations.clone(), named), &volumes, "Immediate"), expected, "{named}");
        }
        let waiting = "WaitForFirstConsumer";
        assert_eq!(step(&claim(new.clone(), ""), &[], waiting), "wait WaitForFirstConsumer");
        assert_eq!(
            step(&claim(new.clone(), ""), &[volume("v", Value::Null)], waiting),
            "wait WaitForFirstConsumer"
        );
        assert_eq!(step(&claim(new, ""), &[volume("v", of("u"))], waiting), "bind v");
    }

    #[test]
    fn a_volume_follows_its_claim() {
        let c = |volume: &str| Some(claim(json!({}), volume));
        for (reference, claim, expected) in [
            (Value::Null, None, VolumeStep::Phase("Available")),
            (json!({"namespace": "n", "name": "c"}), c(""), VolumeStep::Phase("Available")),
            (of("u"), None, VolumeStep::MissesClaim),
            (of("older"), c("v"), VolumeStep::MissesClaim),
            (of("u"), c(""), VolumeStep::AskClaim),
            (of("u"), c("v"), VolumeStep::Phase("Bound")),
            (of("u"), c("w"), VolumeStep::Unbind),
        ] {
            assert_eq!(volume_step(&volume("v", reference.clone()), claim.as_ref()), expected, "{reference}");
        }
        let mut made = volume("v", of("u"));
        made.annotations_mut().insert(PROVISIONED_BY.into(), "p".into());
        assert_eq!(volume_step(&made, c("w").as_ref()), VolumeStep::Unbind, "its policy is Retain");
        made.spec.as_mut().expect("a spec").persistent_volume_reclaim_policy = Some("Delete".into());
        assert_eq!(volume_step(&made, c("w").as_ref()), VolumeStep::Release);
    }
}

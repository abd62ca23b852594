//! The claims of a StatefulSet's pods: making those that are missing, and saying by owner references what deletes them
//! (`persistentVolumeClaimRetentionPolicy`). What they are bound to is others' business.

use super::{StatefulSets, identity};
use crate::{Error, ownership};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use orlop_client::{EventType, api_message, api_reason, found};
use serde_json::json;

/// Whether claims are deleted with the set, and with a pod that is no longer wanted.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.clone());
    let deletes = |p: Option<String>| p.as_deref() == Some("Delete");
    policy.map_or((false, false), |p| (deletes(p.when_deleted), deletes(p.when_scaled)))
}

/// The owner references that a claim should have; `None` where it has them, or they are not ours to write.
fn owners(
    set: &StatefulSet,
    pod: &Pod,
    wanted: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let (when_deleted, when_scaled) = policy(set);
    let by_pod = when_scaled && !wanted;
    let by_set = when_deleted && !by_pod;
    let (set_uid, pod_uid) = (set.uid().unwrap_or_default(), pod.uid().unwrap_or_default());
    let all = claim.owner_references();
    let has = |uid: &str| all.iter().any(|o| o.uid == uid);
    if has(&set_uid) == by_set && has(&pod_uid) == by_pod {
        return None;
    }
    let ours = |o: &OwnerReference| o.uid == set_uid || o.uid == pod_uid;
    let mut owners: Vec<_> = all.iter().filter(|o| !ours(o)).cloned().collect();
    if owners.iter().any(|o| o.controller == Some(true)) {
        return None;
    }
    if by_set {
        owners.push(ownership::controller_reference(set));
    }
    if by_pod {
        owners.push(ownership::controller_reference(pod));
    }
    Some(owners)
}

impl StatefulSets {
    /// Makes the claims that a pod needs and that are not there.
    pub(super) async fn provide(&self, set: &StatefulSet, pod_name: &str, ordinal: i64) -> Result<(), Error> {
        let namespace = set.namespace().unwrap_or_default();
        let api = self.cluster.api::<PersistentVolumeClaim>(&namespace);
        let mut wrong = Ok(());
        for (_, claim) in identity::claims(set, ordinal) {
            let name = claim.name_any();
            if let Some(there) = self.claims.get(&namespace, &name) {
                if there.metadata.deletion_timestamp.is_some() {
                    wrong = Err(Error::Object(format!("pvc {name} is being deleted")));
                }
                continue;
            }
            let (set_name, recorder) = (set.name_any(), &self.cluster.recorder);
            match api.create(&PostParams::default(), &claim).await {
                Ok(made) => {
                    self.claims.observe(made);
                    let message =
                        format!("create Claim {name} Pod {pod_name} in StatefulSet {set_name} success");
                    recorder.event(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if api_reason(&error) == Some("AlreadyExists") => {
                    let there = found(api.get(&name).await).map_err(Error::at("reading a claim"))?;
                    there.into_iter().for_each(|claim| self.claims.observe(claim));
                }
                Err(error) => {
                    let message = format!(
                        "create Claim {name} for Pod {pod_name} in StatefulSet {set_name} failed error: {}",
                        api_message(&error)
                    );
                    recorder.event(set, EventType::Warning, "FailedCreate", message);
                    let why = format!("failed to create PVC {name}: {}", api_message(&error));
                    wrong = Err(Error::Refused(why));
                }
            }
        }
        wrong
    }

    /// Whether a claim of a pod to come still belongs to one that is gone, and goes with it.
    pub(super) fn is_stale(&self, set: &StatefulSet, pod_name: &str, ordinal: i64) -> bool {
        let namespace = set.namespace().unwrap_or_default();
        let of_gone_pod = |o: &OwnerReference| o.kind == "Pod" && o.name == pod_name;
        policy(set).1
            && identity::claims(set, ordinal).iter().any(|(_, claim)| {
                let there = self.claims.get(&namespace, &claim.name_any());
                there.is_some_and(|c| c.owner_references().iter().any(of_gone_pod))
            })
    }

    /// Sees that the claims of a pod are owned as the set's policy asks.
    pub(super) async fn tend_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal_of(set, pod) else { return Ok(()) };
        let wanted = identity::Ordinals::of(set).contain(ordinal);
        let namespace = set.namespace().unwrap_or_default();
        let api = self.cluster.api::<PersistentVolumeClaim>(&namespace);
        for (_, claim) in identity::claims(set, ordinal) {
            let Some(claim) = self.claims.get(&namespace, &claim.name_any()) else { continue };
            let Some(owners) = owners(set, pod, wanted, &claim) else { continue };
            let patch = json!({"metadata": {
                "uid": claim.uid(), "resourceVersion": claim.resource_version(), "ownerReferences": owners,
            }});
            let written =
                found(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
                    .map_err(Error::at("writing the owners of a claim"))?;
            written.into_iter().for_each(|claim| self.claims.observe(claim));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_says_who_takes_a_claim_along() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "pod"}})).unwrap();
        let claim = |owners: &[&str]| -> PersistentVolumeClaim {
            let owners: Vec<_> = owners
                .iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true}))
                .collect();
            serde_json::from_value(json!({"metadata": {"name": "data-web-1", "ownerReferences": owners}}))
                .unwrap()
        };
        let (keep, delete) = ("Retain", "Delete");
        for (deleted, scaled, wanted, before, after) in [
            (keep, keep, true, vec![], None),
            (keep, keep, true, vec!["set"], Some(vec![])),
            (delete, keep, true, vec![], Some(vec!["set"])),
            (delete, keep, false, vec!["set"], None),
            (keep, delete, true, vec![], None),
            (keep, delete, false, vec![], Some(vec!["pod"])),
            (delete, delete, false, vec!["set"], Some(vec!["pod"])),
            (delete, delete, true, vec!["pod"], Some(vec!["set"])),
            (delete, delete, true, vec!["somebody"], None),
        ] {
            let set = json!({"metadata": {"name": "web", "uid": "set"}, "spec": {"selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}});
            let set: StatefulSet = serde_json::from_value(set).unwrap();
            let uids = owners(&set, &pod, wanted, &claim(&before));
            let uids = uids.map(|all| all.into_iter().map(|o| o.uid).collect::<Vec<_>>());
            let after = after.map(|all| all.into_iter().map(String::from).collect::<Vec<_>>());
            assert_eq!(uids, after, "{deleted} {scaled} {wanted} {before:?}");
        }
    }
}

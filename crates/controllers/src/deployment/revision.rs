//! The history of a Deployment: which ReplicaSet has which template and revision. `kubectl rollout undo` puts an older
//! template back into the Deployment; the set that has it already then becomes the newest revision.

use super::{Cluster, Error};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a Deployment that its sets do not get.
const OWN: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    super::DESIRED,
    super::MAX,
];

/// The revision number of a set.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The highest revision among sets.
pub(super) fn highest(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|s| of(s)).max().unwrap_or(0)
}

/// Whether a set was made from the Deployment's present template.
pub(super) fn same_template(spec: &DeploymentSpec, set: &ReplicaSet) -> bool {
    let mut theirs = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let mut ours = spec.template.clone();
    for template in [&mut theirs, &mut ours] {
        let metadata = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        metadata.labels = metadata.labels.take().filter(|l| !l.is_empty());
    }
    ours == theirs
}

/// The Deployment's annotations that its sets carry too.
pub(super) fn inherited(d: &Deployment) -> BTreeMap<String, String> {
    d.annotations()
        .iter()
        .filter(|(k, _)| !OWN.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Makes sure that the set with the present template has the highest revision and the Deployment's annotations, and that the
/// Deployment knows its revision.
pub(super) async fn keep(
    cluster: &Cluster,
    d: &Deployment,
    new: &Arc<ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> Result<Arc<ReplicaSet>, Error> {
    let revision = of(new).max(highest(old) + 1);
    let mut annotations: BTreeMap<String, String> =
        inherited(d).into_iter().filter(|(k, v)| new.annotations().get(k) != Some(v)).collect();
    if of(new) != revision {
        annotations.insert(REVISION.into(), revision.to_string());
        if of(new) > 0 {
            let history = new.annotations().get(REVISION_HISTORY);
            let history = history.map_or_else(|| of(new).to_string(), |h| format!("{h},{}", of(new)));
            annotations.insert(REVISION_HISTORY.into(), history);
        }
    }
    let min_ready = d.spec.as_ref().and_then(|s| s.min_ready_seconds);
    let same_min_ready =
        new.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) == min_ready.unwrap_or(0);
    let mut set = new.clone();
    if !annotations.is_empty() || !same_min_ready {
        let patch = json!({
            "metadata": {"resourceVersion": new.resource_version(), "annotations": annotations},
            "spec": {"minReadySeconds": min_ready},
        });
        let api = cluster.api::<ReplicaSet>(&d.namespace().unwrap_or_default());
        let written = api
            .patch(&new.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(Error::at("noting a revision"))?;
        cluster.replica_sets.observe(written.clone());
        set = Arc::new(written);
    }
    note(cluster, d, revision).await?;
    Ok(set)
}

/// Notes the present revision on the Deployment.
pub(super) async fn note(cluster: &Cluster, d: &Deployment, revision: i64) -> Result<(), Error> {
    let revision = revision.to_string();
    if d.annotations().get(REVISION) == Some(&revision) {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
    let api = cluster.api::<Deployment>(&d.namespace().unwrap_or_default());
    let written = api
        .patch(&d.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::at("noting a revision"))?;
    cluster.deployments.observe(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::ReplicaSetSpec, core::v1::PodSpec};

    #[test]
    fn a_set_is_recognised_by_its_template_without_the_hash() {
        let mut spec = DeploymentSpec::default();
        spec.template.spec = Some(PodSpec { node_name: Some("n".into()), ..PodSpec::default() });
        let mut template = spec.template.clone();
        let labels = BTreeMap::from([(HASH_LABEL.to_string(), "abc".to_string())]);
        template.metadata.get_or_insert_default().labels = Some(labels);
        let set = ReplicaSet {
            spec: Some(ReplicaSetSpec { template: Some(template), ..ReplicaSetSpec::default() }),
            ..ReplicaSet::default()
        };
        assert!(same_template(&spec, &set));
        spec.template.spec = Some(PodSpec { node_name: Some("m".into()), ..PodSpec::default() });
        assert!(!same_template(&spec, &set));
    }
}

//! The history of a DaemonSet: one ControllerRevision for each template it has had, from which `kubectl rollout undo` restores.

use super::HASH_LABEL;
use crate::{Cluster, Error, ownership, pods};
use k8s_openapi::{
    api::apps::v1::{ControllerRevision, DaemonSet},
    apimachinery::pkg::runtime::RawExtension,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use orlop_client::{api_reason, found};
use serde_json::{Value, json};
use std::sync::Arc;

/// The patch that restores the present template.
fn data(set: &DaemonSet) -> Result<Value, Error> {
    let template = set.spec.clone().unwrap_or_default().template;
    let mut template = serde_json::to_value(template).map_err(|e| Error::Object(e.to_string()))?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// Makes sure that the present template is the newest revision, drops those beyond the limit, and returns the present hash.
pub(super) async fn keep(cluster: &Cluster, set: &DaemonSet) -> Result<String, Error> {
    let spec = set.spec.clone().unwrap_or_default();
    let namespace = set.namespace().unwrap_or_default();
    let api = cluster.api::<ControllerRevision>(&namespace);
    let mut all = ownership::claim(cluster, set, &spec.selector, &cluster.controller_revisions, None).await?;
    all.sort_by_key(|r| r.revision);
    let data = data(set)?;
    let newest = all.last().map_or(0, |r| r.revision);
    let present = all.iter().find(|r| r.data.as_ref().is_some_and(|d| d.0 == data)).cloned();
    let hash_of = |r: &ControllerRevision| r.labels().get(HASH_LABEL).cloned().unwrap_or_default();
    let hash = match present {
        Some(revision) if revision.revision == newest => hash_of(&revision),
        Some(revision) => {
            // An older template is back: its revision becomes the newest.
            let patch = json!({"revision": newest + 1});
            let written = api
                .patch(&revision.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(Error::at("renumbering a revision"))?;
            cluster.controller_revisions.observe(written);
            hash_of(&revision)
        }
        None => create(cluster, set, data, newest + 1).await?,
    };
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    forget(cluster, set, &all, &hash, limit).await?;
    Ok(hash)
}

async fn create(cluster: &Cluster, set: &DaemonSet, data: Value, number: i64) -> Result<String, Error> {
    let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let template = set.spec.clone().unwrap_or_default().template;
    let hash = pods::template_hash(&template, collisions);
    let mut labels = template.metadata.and_then(|m| m.labels).unwrap_or_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: Some(set.annotations().clone()).filter(|a| !a.is_empty()),
            owner_references: Some(vec![ownership::controller_reference(set)]),
            ..ObjectMeta::default()
        },
        revision: number,
        data: Some(RawExtension(data.clone())),
    };
    let api = cluster.api::<ControllerRevision>(&set.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &revision).await {
        Ok(made) => {
            cluster.controller_revisions.observe(made);
            Ok(hash)
        }
        Err(error) if api_reason(&error) == Some("AlreadyExists") => {
            let name = revision.name_any();
            let there = found(api.get(&name).await).map_err(Error::at("reading a revision"))?;
            if there.is_some_and(|r| r.data.is_some_and(|d| d.0 == data)) {
                return Ok(hash);
            }
            let mut changed = set.clone();
            changed.status.get_or_insert_default().collision_count = Some(collisions + 1);
            cluster.write_status(&cluster.daemon_sets, &changed).await?;
            Err(Error::Object(format!("the name {name} is taken")))
        }
        Err(error) => Err(Error::at("creating a revision")(error)),
    }
}

/// Deletes the oldest revisions beyond the limit; the present one and those that pods still have stay.
async fn forget(
    cluster: &Cluster,
    set: &DaemonSet,
    all: &[Arc<ControllerRevision>],
    present: &str,
    limit: usize,
) -> Result<(), Error> {
    let pods = cluster.pods.owned_by(&set.uid().unwrap_or_default());
    let in_use = |hash: &str| hash == present || pods.iter().any(|p| super::plan::is_updated(p, hash));
    let idle: Vec<_> =
        all.iter().filter(|r| !r.labels().get(HASH_LABEL).is_some_and(|h| in_use(h))).collect();
    let api = cluster.api::<ControllerRevision>(&set.namespace().unwrap_or_default());
    for revision in &idle[..idle.len().saturating_sub(limit)] {
        found(api.delete(&revision.name_any(), &DeleteParams::default()).await)
            .map_err(Error::at("deleting an old revision"))?;
        cluster.controller_revisions.forget(revision);
    }
    Ok(())
}

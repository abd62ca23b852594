//! The history of a set whose pods have one template: one ControllerRevision for each template it has had, from which `kubectl
//! rollout undo` restores. It touches no pod.

use crate::{Cluster, Error, ownership, pods};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, runtime::RawExtension},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use orlop_client::{Informer, api_reason, found};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, sync::Arc};

/// A kind whose templates are kept as revisions.
pub(crate) trait Versioned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The label of a revision that holds the hash of its template.
    const HASH_LABEL: &'static str;

    /// The cache of its objects.
    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>>;

    /// Which revisions are its own.
    fn selector(&self) -> LabelSelector;

    /// The present template.
    fn template(&self) -> PodTemplateSpec;

    /// How many revisions are kept that nobody uses; `None` for all.
    fn limit(&self) -> Option<usize>;

    /// `status.collisionCount`.
    fn collisions(&self) -> i32;

    /// The same to be as given.
    fn set_collisions(&mut self, count: i32);
}

/// The revisions of an object.
pub(crate) struct History {
    /// All that were there, the oldest first.
    pub all: Vec<Arc<ControllerRevision>>,
    /// That of the present template.
    pub present: Arc<ControllerRevision>,
}

/// The hash of a revision's template.
pub(crate) fn hash_of<K: Versioned>(revision: &ControllerRevision) -> String {
    revision.labels().get(K::HASH_LABEL).cloned().unwrap_or_default()
}

/// The template that a revision restores.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The patch that restores a template.
fn data(template: &PodTemplateSpec) -> Result<Value, Error> {
    let mut template = serde_json::to_value(template).map_err(|e| Error::Object(e.to_string()))?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// Makes sure that the present template is the newest revision.
pub(crate) async fn keep<K: Versioned>(cluster: &Cluster, owner: &K) -> Result<History, Error> {
    let api = cluster.api::<ControllerRevision>(&owner.namespace().unwrap_or_default());
    let mut all =
        ownership::claim(cluster, owner, &owner.selector(), &cluster.controller_revisions, None).await?;
    all.sort_by_key(|r| r.revision);
    let data = data(&owner.template())?;
    let newest = all.last().map_or(0, |r| r.revision);
    let equal = all.iter().rfind(|r| r.data.as_ref().is_some_and(|d| d.0 == data)).cloned();
    let present = match equal {
        Some(revision) if revision.revision == newest => revision,
        Some(revision) => {
            // An older template is back: its revision becomes the newest.
            let patch = json!({"revision": newest + 1});
            let written = api
                .patch(&revision.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(Error::at("renumbering a revision"))?;
            cluster.controller_revisions.observe(written.clone());
            Arc::new(written)
        }
        None => create(cluster, owner, data, newest + 1).await?,
    };
    Ok(History { all, present })
}

async fn create<K: Versioned>(
    cluster: &Cluster,
    owner: &K,
    data: Value,
    number: i64,
) -> Result<Arc<ControllerRevision>, Error> {
    let collisions = owner.collisions();
    let template = owner.template();
    let hash = pods::template_hash(&template, collisions);
    let mut labels = template.metadata.and_then(|m| m.labels).unwrap_or_default();
    labels.insert(K::HASH_LABEL.into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name_any())),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: Some(owner.annotations().clone()).filter(|a| !a.is_empty()),
            owner_references: Some(vec![ownership::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        revision: number,
        data: Some(RawExtension(data.clone())),
    };
    let api = cluster.api::<ControllerRevision>(&owner.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &revision).await {
        Ok(made) => {
            cluster.controller_revisions.observe(made.clone());
            Ok(Arc::new(made))
        }
        Err(error) if api_reason(&error) == Some("AlreadyExists") => {
            let name = revision.name_any();
            let there = found(api.get(&name).await).map_err(Error::at("reading a revision"))?;
            if let Some(same) = there.filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data)) {
                return Ok(Arc::new(same));
            }
            let mut changed = owner.clone();
            changed.set_collisions(collisions + 1);
            cluster.write_status(K::cache(cluster), &changed).await?;
            Err(Error::Object(format!("the name {name} is taken")))
        }
        Err(error) => Err(Error::at("creating a revision")(error)),
    }
}

/// Deletes the oldest revisions beyond the limit; the present one and those in use stay.
pub(crate) async fn forget<K: Versioned>(
    cluster: &Cluster,
    owner: &K,
    history: &History,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Error> {
    let Some(limit) = owner.limit() else { return Ok(()) };
    let present = history.present.name_any();
    let idle: Vec<_> = history.all.iter().filter(|r| r.name_any() != present && !in_use(r)).collect();
    let api = cluster.api::<ControllerRevision>(&owner.namespace().unwrap_or_default());
    for revision in &idle[..idle.len().saturating_sub(limit)] {
        found(api.delete(&revision.name_any(), &DeleteParams::default()).await)
            .map_err(Error::at("deleting an old revision"))?;
        cluster.controller_revisions.forget(revision);
    }
    Ok(())
}

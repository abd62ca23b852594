//! Who belongs to whom: a controller's children are those that match its selector and name it as their controller. Matching
//! orphans are adopted, children that no longer match are released (Kubernetes documentation, "Owners and Dependents").

use crate::{Cluster, Error};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use orlop_api::selector::Selector;
use orlop_client::{Informer, Key, Queue, found};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

/// The reference by which `owner` is a child's controller.
pub(crate) fn controller_reference<K>(owner: &K) -> OwnerReference
where
    K: Resource,
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    OwnerReference {
        api_version: K::api_version(&kind).into_owned(),
        kind: K::kind(&kind).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether a label selector matches; a malformed one matches nothing.
pub(crate) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::of(Some(selector)).is_ok_and(|s| s.matches(labels))
}

/// The controller that a child names.
pub(crate) fn controller_of<K: Resource>(child: &K) -> Option<&OwnerReference> {
    child.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Asks for work on an owner when it changes and when a child of it does. An orphan may belong to any owner that selects it.
pub(crate) fn follow<O, C>(
    queue: &Queue,
    owners: &Arc<Informer<O>>,
    children: &Informer<C>,
    matches: fn(&O, &BTreeMap<String, String>) -> bool,
) where
    O: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    O::DynamicType: Default,
    C: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    C::DynamicType: Default,
{
    let on_owner = queue.clone();
    owners.on_change(move |old, new| {
        if let Some(owner) = new.or(old) {
            on_owner.add(Key::of(&**owner));
        }
    });
    let (queue, owners) = (queue.clone(), owners.clone());
    let kind = O::kind(&O::DynamicType::default()).into_owned();
    children.on_change(move |old, new| {
        // Who had the child before must know too.
        for child in [old, new].into_iter().flatten() {
            if let Some(owner) = controller_of(&**child).filter(|o| o.kind == kind) {
                queue.add(Key::new(child.namespace().unwrap_or_default(), &owner.name));
            }
        }
        if let Some(orphan) = new.filter(|c| controller_of(&***c).is_none()) {
            for owner in owners.in_namespace(&orphan.namespace().unwrap_or_default()) {
                if matches(&owner, orphan.labels()) {
                    queue.add(Key::of(&*owner));
                }
            }
        }
    });
}

/// The children of `owner` in the cache, after adopting and releasing. `finalizer` is one that children carry for their owner.
pub(crate) async fn claim<O, C>(
    cluster: &Cluster,
    owner: &O,
    selector: &LabelSelector,
    cache: &Informer<C>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<C>>, Error>
where
    O: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    O::DynamicType: Default,
    C: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    C::DynamicType: Default,
{
    claim_fitting(cluster, owner, selector, cache, finalizer, |_| true).await
}

/// The same for owners whose children must fit more than the selector.
pub(crate) async fn claim_fitting<O, C>(
    cluster: &Cluster,
    owner: &O,
    selector: &LabelSelector,
    cache: &Informer<C>,
    finalizer: Option<&str>,
    fits: impl Fn(&C) -> bool,
) -> Result<Vec<Arc<C>>, Error>
where
    O: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    O::DynamicType: Default,
    C: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    C::DynamicType: Default,
{
    let matcher = Selector::of(Some(selector)).map_err(|e| Error::Object(e.to_string()))?;
    let namespace = owner.namespace().unwrap_or_default();
    let uid = owner.uid().unwrap_or_default();
    let api: Api<C> = cluster.api(&namespace);
    let dying = owner.meta().deletion_timestamp.is_some();

    let mut mine = Vec::new();
    for child in cache.owned_by(&uid) {
        if dying || (matcher.matches(child.labels()) && fits(&child)) {
            mine.push(child);
        } else if child.meta().deletion_timestamp.is_none() {
            let owners: Vec<_> = child.owner_references().iter().filter(|o| o.uid != uid).collect();
            let finalizers: Vec<_> =
                child.finalizers().iter().filter(|f| Some(f.as_str()) != finalizer).collect();
            write(&api, cache, &*child, json!({"ownerReferences": owners, "finalizers": finalizers})).await?;
        }
    }
    let wanted = |c: &Arc<C>| c.meta().deletion_timestamp.is_none() && matcher.matches(c.labels()) && fits(c);
    let orphans: Vec<Arc<C>> = cache.orphans(&namespace).into_iter().filter(wanted).collect();
    // The cache may not know yet that the owner is going, and has let these children go on purpose.
    if dying || orphans.is_empty() || !is_alive(cluster, owner).await? {
        return Ok(mine);
    }
    for orphan in orphans {
        let mut owners = orphan.owner_references().to_vec();
        owners.push(controller_reference(owner));
        let mut finalizers = orphan.finalizers().to_vec();
        if let Some(finalizer) = finalizer.filter(|f| !finalizers.iter().any(|have| have == f)) {
            finalizers.push(finalizer.into());
        }
        let change = json!({"ownerReferences": owners, "finalizers": finalizers});
        mine.extend(write(&api, cache, &*orphan, change).await?);
    }
    Ok(mine)
}

async fn is_alive<O>(cluster: &Cluster, owner: &O) -> Result<bool, Error>
where
    O: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    O::DynamicType: Default,
{
    let api = cluster.api::<O>(&owner.namespace().unwrap_or_default());
    let live =
        found(api.get_metadata(&owner.name_any()).await).map_err(Error::at("reading an owner anew"))?;
    Ok(live.is_some_and(|l| l.metadata.uid == owner.uid() && l.metadata.deletion_timestamp.is_none()))
}

/// Changes a child's metadata. The uid makes sure that it is still this object, the resourceVersion that nobody else was faster.
async fn write<C>(
    api: &Api<C>,
    cache: &Informer<C>,
    child: &C,
    mut metadata: serde_json::Value,
) -> Result<Option<Arc<C>>, Error>
where
    C: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    C::DynamicType: Default,
{
    metadata["uid"] = json!(child.uid());
    metadata["resourceVersion"] = json!(child.resource_version());
    let patch = json!({"metadata": metadata});
    let written = found(api.patch(&child.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
        .map_err(Error::at("adopting or releasing a child"))?;
    Ok(written.map(|child| {
        cache.observe(child.clone());
        Arc::new(child)
    }))
}

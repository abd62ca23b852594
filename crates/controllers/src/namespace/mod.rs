//! Namespace deletion: everything in a terminating namespace goes, then the namespace's own finalizer (Kubernetes
//! documentation, "Namespaces"). What hinders it is said in the namespace's conditions.

mod conditions;

use crate::{Cluster, Error, discovery};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::Request,
};
use orlop_client::{Key, Queue, api_reason, found, run_workers};
use std::{collections::BTreeMap, time::Duration};

const FINALIZER: &str = "kubernetes";
/// How often a namespace is looked at while its content winds down; pods that go are also noticed at once.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_namespace = queue.clone();
    cluster.namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.filter(|n| n.metadata.deletion_timestamp.is_some()) {
            on_namespace.add(Key::new("", namespace.name_any()));
        }
    });
    // Pods take longest to go.
    let (on_pod, namespaces) = (queue.clone(), cluster.namespaces.clone());
    cluster.pods.on_change(move |old, new| {
        if let (Some(pod), None) = (old, new) {
            let name = pod.namespace().unwrap_or_default();
            if namespaces.get("", &name).is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
                on_pod.add(Key::new("", name));
            }
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        run_workers("namespace", queue.clone(), 4, reconcile).await;
    })
}

/// What is left of one resource.
struct Remains {
    resource: String,
    count: usize,
    /// With how many objects have each.
    finalizers: BTreeMap<String, usize>,
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let api = Api::<Namespace>::all(cluster.client.clone());
    // Read anew: the finalizer is taken off on the strength of this.
    let namespace = found(api.get(&key.name).await).map_err(Error::at("reading a namespace"))?;
    let Some(namespace) = namespace.filter(|n| n.metadata.deletion_timestamp.is_some()) else {
        return Ok(());
    };
    let finalizers = namespace.spec.clone().unwrap_or_default().finalizers.unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    let served = discovery::deletable(&cluster.client).await.map_err(Error::at("listing what is served"))?;
    let undiscovered = served.failed.iter().map(|(version, error)| format!("{version}: {error}")).collect();
    let mut content = Content { undiscovered, ..Content::default() };
    let namespaced = served.resources.iter().filter(|r| r.namespaced).map(|r| &r.resource);
    // Pods go first: what they use should be there until they have ended.
    let (pods, others): (Vec<_>, Vec<_>) = namespaced.partition(|r| r.group.is_empty() && r.kind == "Pod");
    for resource in pods.into_iter().chain(others) {
        match empty(cluster, resource, &key.name).await {
            Ok(None) => {}
            Ok(Some(left)) => {
                let wait = left.resource == "pods.";
                content.remains.push(left);
                if wait {
                    break;
                }
            }
            // One kind that cannot be deleted must not keep the others.
            Err(error) => content.failures.push(error),
        }
    }
    if content.remains.is_empty() && content.failures.is_empty() && content.undiscovered.is_empty() {
        return finalize(cluster, namespace).await;
    }
    conditions::write(&api, &namespace, &content, cluster.now()).await?;
    if content.failures.is_empty() {
        queue.add_after(key, LOOK_AGAIN);
    }
    content.failures.pop().map_or(Ok(()), Err)
}

/// What is left of a namespace's content, and what could not be deleted.
#[derive(Default)]
struct Content {
    remains: Vec<Remains>,
    /// Group-versions that may hold more, and why that is not known.
    undiscovered: Vec<String>,
    failures: Vec<Error>,
}

/// Deletes all objects of a resource; says what is still there.
async fn empty(cluster: &Cluster, resource: &ApiResource, namespace: &str) -> Result<Option<Remains>, Error> {
    let api = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), namespace, resource);
    let gone = |error: &kube::Error| matches!(api_reason(error), Some("NotFound" | "MethodNotAllowed"));
    let list = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(Error::at("listing a namespace's content")(error)),
    };
    if list.items.iter().any(|o| o.metadata.deletion_timestamp.is_none()) {
        match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
            Ok(_) => {}
            Err(error) if gone(&error) => {}
            Err(error) => return Err(Error::at("deleting a namespace's content")(error)),
        }
    } else if list.items.is_empty() {
        return Ok(None);
    }
    let left = api
        .list_metadata(&ListParams::default())
        .await
        .map_err(Error::at("listing a namespace's content"))?;
    if left.items.is_empty() {
        return Ok(None);
    }
    let mut finalizers = BTreeMap::new();
    for finalizer in left.items.iter().flat_map(|o| o.finalizers()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(Some(Remains { resource: qualified(resource), count: left.items.len(), finalizers }))
}

fn qualified(resource: &ApiResource) -> String {
    if resource.group.is_empty() {
        format!("{}.", resource.plural)
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

/// Takes the finalizer off; with it the namespace goes.
async fn finalize(cluster: &Cluster, mut namespace: Namespace) -> Result<(), Error> {
    let name = namespace.name_any();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    let body = serde_json::to_vec(&namespace).map_err(|e| Error::Object(e.to_string()))?;
    let request = Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", &name, &PostParams::default(), body)
        .map_err(|e| Error::Object(e.to_string()))?;
    found(cluster.client.request::<Namespace>(request).await).map_err(Error::at("finalizing a namespace"))?;
    Ok(())
}

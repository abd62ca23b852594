//! Making and deleting the pods of a controller, with the Events that tell of it. What is written goes into the cache at once, so
//! that no later decision rests on a cache that lags behind. It decides nothing.

use crate::{Cluster, Error};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use orlop_client::{EventType, api_message, found};
use std::sync::Arc;

/// Requests under way at once.
const AT_ONCE: usize = 64;

/// The pods that were made, and what hindered the rest.
pub(crate) struct Made {
    pub pods: Vec<Arc<Pod>>,
    pub failure: Option<Error>,
}

/// Whether a namespace takes no new content because it is being deleted.
fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "NamespaceTerminating")
}

/// Makes pods in growing batches, so that an owner whose pods are refused asks once, not a thousand times.
pub(crate) async fn create<O>(cluster: &Cluster, owner: &O, pods: impl IntoIterator<Item = Pod>) -> Made
where
    O: Resource,
    O::DynamicType: Default,
{
    let api = cluster.api::<Pod>(&owner.namespace().unwrap_or_default());
    let params = PostParams::default();
    let mut made = Made { pods: Vec::new(), failure: None };
    let mut pods = pods.into_iter();
    let mut size = 1;
    while made.failure.is_none() {
        let batch: Vec<Pod> = pods.by_ref().take(size).collect();
        if batch.is_empty() {
            break;
        }
        let results = futures::future::join_all(batch.iter().map(|pod| api.create(&params, pod))).await;
        // All answers are taken in, also those after a refusal: what was made must be known.
        for result in results {
            match result {
                Ok(pod) => {
                    let message = format!("Created pod: {}", pod.name_any());
                    cluster.recorder.event(owner, EventType::Normal, "SuccessfulCreate", message);
                    cluster.pods.observe(pod.clone());
                    made.pods.push(Arc::new(pod));
                }
                // Nothing is left to do there, so this is no failure that anybody should hear of.
                Err(error) if namespace_ends(&error) => return made,
                Err(error) => {
                    let message = format!("Error creating: {}", api_message(&error));
                    cluster.recorder.event(owner, EventType::Warning, "FailedCreate", message);
                    made.failure = Some(Error::at("creating a pod")(error));
                }
            }
        }
        size = (size * 2).min(AT_ONCE);
    }
    made
}

/// Deletes pods, each only if it is still the same one.
pub(crate) async fn delete<O>(cluster: &Cluster, owner: &O, doomed: &[Arc<Pod>]) -> Result<(), Error>
where
    O: Resource,
    O::DynamicType: Default,
{
    let api = cluster.api::<Pod>(&owner.namespace().unwrap_or_default());
    let deletions: Vec<_> = doomed
        .iter()
        .map(|pod| {
            let api = &api;
            async move {
                let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let name = pod.name_any();
                match found(api.delete(&name, &params).await) {
                    Ok(Some(answer)) => {
                        match answer {
                            either::Either::Left(dying) if dying.metadata.deletion_timestamp.is_some() => {
                                cluster.pods.observe(dying);
                            }
                            _ => cluster.pods.forget(pod),
                        }
                        let message = format!("Deleted pod: {name}");
                        cluster.recorder.event(owner, EventType::Normal, "SuccessfulDelete", message);
                        Ok(())
                    }
                    Ok(None) => {
                        cluster.pods.forget(pod);
                        Ok(())
                    }
                    Err(error) => {
                        let message = format!("Error deleting: {}", api_message(&error));
                        cluster.recorder.event(owner, EventType::Warning, "FailedDelete", message);
                        Err(Error::at("deleting a pod")(error))
                    }
                }
            }
        })
        .collect();
    all(deletions).await
}

/// Does all, several at once; one that fails does not keep the others from being done.
pub(crate) async fn all(work: Vec<impl Future<Output = Result<(), Error>>>) -> Result<(), Error> {
    let results: Vec<_> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
    results.into_iter().collect()
}

//! What the scheduler writes: bindings, what must be true of claims before, conditions, nominations, and the end of those that are
//! preempted. Each act is told everything it needs; none decides.

use crate::volumes::{Preparation, SELECTED_NODE, is_bound};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_client::{EventType, Informer, Recorder, api_message, found};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Why a pod could not be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The plugin for volumes could not do its part.
    #[error("running PreBind plugin \"VolumeBinding\": {0}")]
    Volumes(String),
    /// The binding was not accepted.
    #[error("running Bind plugin \"DefaultBinder\": {0}")]
    Binding(String),
}

/// Prepares the claims of a pod, then binds it: the decision becomes true with the last write.
pub(crate) async fn bind(
    client: Client,
    pod: Arc<Pod>,
    node: String,
    preparations: Vec<Preparation>,
    claims: (Arc<Informer<PersistentVolumeClaim>>, watch::Receiver<u64>),
    patience: Duration,
) -> Result<(), BindError> {
    if !preparations.is_empty() {
        let all = prepare(&client, &node, &preparations, claims);
        match tokio::time::timeout(patience, all).await {
            Ok(prepared) => prepared?,
            Err(_) => return Err(BindError::Volumes("timed out waiting for the condition".into())),
        }
    }
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: pod.uid(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node),
            ..ObjectReference::default()
        },
    };
    let api = Api::<Pod>::namespaced(client, &namespace);
    let params = PostParams::default();
    let outcome = api.create_subresource::<Binding, Value>("binding", &name, &params, &binding).await;
    outcome.map(|_| ()).map_err(|e| BindError::Binding(api_message(&e)))
}

async fn prepare(
    client: &Client,
    node: &str,
    preparations: &[Preparation],
    (informer, mut changed): (Arc<Informer<PersistentVolumeClaim>>, watch::Receiver<u64>),
) -> Result<(), BindError> {
    let failed = |e: kube::Error| BindError::Volumes(api_message(&e));
    for preparation in preparations {
        match preparation {
            Preparation::Take(volume, claim) => {
                let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1",
                    "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid()});
                let patch = json!({
                    "metadata": {"resourceVersion": volume.resource_version(),
                        "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                    "spec": {"claimRef": reference},
                });
                let api = Api::<PersistentVolume>::all(client.clone());
                let patch = Patch::Merge(patch);
                api.patch(&volume.name_any(), &PatchParams::default(), &patch).await.map_err(failed)?;
            }
            Preparation::Select(claim) => {
                let patch = json!({"metadata": {"uid": claim.uid(), "annotations": {SELECTED_NODE: node}}});
                let api = claims_api(client, claim);
                let patch = Patch::Merge(patch);
                let claim =
                    api.patch(&claim.name_any(), &PatchParams::default(), &patch).await.map_err(failed)?;
                informer.observe(claim);
            }
            Preparation::Await(_) => {}
        }
    }
    loop {
        changed.mark_unchanged();
        let mut all = true;
        for preparation in preparations {
            let claim = preparation.claim();
            let name = claim.name_any();
            let now = informer.get(&claim.namespace().unwrap_or_default(), &name);
            let Some(now) = now.filter(|c| c.uid() == claim.uid()) else {
                return Err(BindError::Volumes(format!("persistentvolumeclaim \"{name}\" not found")));
            };
            // Whoever makes volumes takes the choice back if there is no place on the node.
            let chosen = now.annotations().get(SELECTED_NODE).is_none_or(|n| n == node);
            let given_up = matches!(preparation, Preparation::Select(_))
                && !is_bound(&now)
                && (!chosen || !now.annotations().contains_key(SELECTED_NODE));
            if given_up {
                return Err(BindError::Volumes(format!("provisioning failed for PVC \"{name}\"")));
            }
            all &= is_bound(&now);
        }
        if all {
            return Ok(());
        }
        if changed.changed().await.is_err() {
            return Err(BindError::Volumes("the watch of claims ended".into()));
        }
    }
}

fn claims_api(client: &Client, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default())
}

/// What becomes of a pod's `status.nominatedNodeName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nomination {
    Stays,
    Set(String),
    Clear,
}

/// Says why a pod is not placed, and where it is to come when others have left.
pub(crate) async fn say_unschedulable(
    client: Client,
    pod: Arc<Pod>,
    reason: &'static str,
    message: String,
    nomination: Nomination,
    now: Timestamp,
) {
    let before = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let before = before.and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"));
    let transition = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(transition),
        ..PodCondition::default()
    };
    let mut status = json!({"conditions": [condition]});
    match nomination {
        Nomination::Stays => {}
        Nomination::Set(node) => status["nominatedNodeName"] = node.into(),
        Nomination::Clear => status["nominatedNodeName"] = Value::Null,
    }
    patch_status(&client, &pod, status).await;
}

/// Takes back where a pod was to come.
pub(crate) async fn clear_nomination(client: Client, pod: Arc<Pod>) {
    patch_status(&client, &pod, json!({"nominatedNodeName": null})).await;
}

async fn patch_status(client: &Client, pod: &Pod, status: Value) -> bool {
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
    match found(written) {
        Ok(pod) => pod.is_some(),
        Err(error) => {
            tracing::debug!(%error, "the pod's status was not written");
            false
        }
    }
}

/// Sends a pod away for another: says so, then deletes it.
pub(crate) async fn evict(
    client: Client,
    recorder: Recorder,
    victim: Arc<Pod>,
    preemptor: Arc<Pod>,
    node: String,
    now: Timestamp,
) {
    if victim.metadata.deletion_timestamp.is_some() {
        return;
    }
    let scheduler = preemptor.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
    let scheduler = scheduler.unwrap_or(crate::profile::DEFAULT_NAME);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("PreemptionByScheduler".into()),
        message: Some(format!("{scheduler}: preempting to accommodate a higher priority pod")),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    if !patch_status(&client, &victim, json!({"conditions": [condition]})).await {
        return;
    }
    let api = Api::<Pod>::namespaced(client, &victim.namespace().unwrap_or_default());
    let only_this = Preconditions { uid: victim.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match found(api.delete(&victim.name_any(), &params).await) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let uid = preemptor.uid().unwrap_or_default();
            let message = format!("Preempted by pod {uid} on node {node}");
            recorder.event(&*victim, EventType::Normal, "Preempted", message);
        }
        Err(error) => tracing::warn!(%error, "a pod could not be preempted"),
    }
}

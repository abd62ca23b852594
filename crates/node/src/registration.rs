//! Keeps the Node object and its Lease: registers the node, says how it is when that changes (and every five minutes), renews the
//! Lease four times while it lasts. What the status says is built elsewhere.

use crate::{
    agent::Shared,
    node_object::{self, Health},
};
use futures::StreamExt;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeStatus},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use orlop_client::{Source, Watcher, api_reason, found};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the Lease is renewed while it lasts.
const RENEWALS: u32 = 4;
const LOOK: Duration = Duration::from_secs(30);
const REPORT: Duration = Duration::from_secs(300);
/// Delays between tries while the API cannot be reached.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Runs until dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    shared.events.node("Starting", "Starting kubelet.");
    let node = persist("registering the node", || register(&shared)).await;
    tokio::join!(keep_node(&shared, node), keep_lease(&shared));
}

/// Tries something until it works.
async fn persist<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut wait = FIRST_RETRY;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::debug!(%error, "{what} failed, will be tried again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

async fn keep_node(shared: &Shared, mut node: Node) {
    let mut pressures = shared.eviction.changes();
    let mut health = look(shared).await;
    node = persist("reporting the node's status", || report(shared, &node, &health)).await;
    let name = &shared.config.name;
    for (reason, is) in [
        ("NodeHasSufficientMemory", !health.pressure.memory),
        ("NodeHasNoDiskPressure", !health.pressure.disk),
        ("NodeHasSufficientPID", !health.pressure.pids),
        ("NodeReady", health.unready.is_none()),
    ] {
        if is {
            shared.events.node(reason, format!("Node {name} status is now: {reason}"));
        }
    }
    let mut reported = Instant::now();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let api = Api::<Node>::all(shared.client.clone());
    let mut news =
        std::pin::pin!(Watcher::follow_one::<Node>(api.clone().into_client(), Source::of(&api), name));
    loop {
        let mut again = false;
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = pressures.changed() => {}
            Some(item) = news.next() => match item {
                Ok(Some(newest)) => {
                    shared.set_node_labels(newest.metadata.labels.clone().unwrap_or_default());
                    node = newest;
                    let status = node.status.as_ref();
                    // The cluster believes that the node is gone, or somebody wrote into what it offers.
                    let is_wrong = |s| {
                        node_object::is_given_up(s)
                            || node_object::offers_something_else(&shared.capacity, s)
                    };
                    if !status.is_some_and(is_wrong) {
                        continue;
                    }
                    again = true;
                }
                // Somebody deleted it; but here we are.
                Ok(None) => {
                    node = persist("registering the node", || register(shared)).await;
                    again = true;
                }
                Err(_) => continue,
            },
        }
        let now = look(shared).await;
        if again || now != health || reported.elapsed() >= REPORT {
            match report(shared, &node, &now).await {
                Ok(newest) => {
                    tell_changes(shared, &health, &now);
                    (node, health, reported) = (newest, now, Instant::now());
                }
                Err(error) => tracing::debug!(%error, "the node's status was not reported"),
            }
        }
    }
}

fn tell_changes(shared: &Shared, old: &Health, new: &Health) {
    let name = &shared.config.name;
    for (was, is, reasons) in [
        (old.pressure.memory, new.pressure.memory, ["NodeHasInsufficientMemory", "NodeHasSufficientMemory"]),
        (old.pressure.disk, new.pressure.disk, ["NodeHasDiskPressure", "NodeHasNoDiskPressure"]),
        (old.pressure.pids, new.pressure.pids, ["NodeHasInsufficientPID", "NodeHasSufficientPID"]),
    ] {
        if was != is {
            let reason = reasons[usize::from(!is)];
            shared.events.node(reason, format!("Node {name} status is now: {reason}"));
        }
    }
    if old.unready.is_some() != new.unready.is_some() {
        let reason = if new.unready.is_some() { "NodeNotReady" } else { "NodeReady" };
        shared.events.node(reason, format!("Node {} status is now: {reason}", shared.config.name));
    }
}

/// Makes the Node, or brings the labels of the one that is there up to date.
async fn register(shared: &Shared) -> Result<Node, kube::Error> {
    let api = Api::<Node>::all(shared.client.clone());
    let mut wanted = node_object::node(&shared.config);
    // With its status from the start, it is ready with the first request.
    wanted.status = Some(status(shared, &NodeStatus::default(), &look(shared).await).await);
    let created = match api.create(&PostParams::default(), &wanted).await {
        Err(error) if api_reason(&error) == Some("AlreadyExists") => {
            let metadata = &wanted.metadata;
            let labels =
                json!({"metadata": {"labels": metadata.labels, "annotations": metadata.annotations}});
            api.patch(&shared.config.name, &PatchParams::default(), &Patch::Merge(labels)).await?
        }
        other => other?,
    };
    shared.set_node_labels(created.metadata.labels.clone().unwrap_or_default());
    Ok(created)
}

/// How the node is now.
async fn look(shared: &Shared) -> Health {
    let unready = match shared.runtime.list_sandboxes().await {
        Ok(_) => None,
        Err(error) => Some(format!("container runtime is down: {error}")),
    };
    Health { pressure: shared.eviction.pressure(), unready }
}

async fn status(shared: &Shared, before: &NodeStatus, health: &Health) -> NodeStatus {
    let images = shared.images.list().await.unwrap_or_default();
    node_object::status(&shared.config, &shared.capacity, health, &images, before, shared.now())
}

async fn report(shared: &Shared, node: &Node, health: &Health) -> Result<Node, kube::Error> {
    let none = NodeStatus::default();
    let before = node.status.as_ref().unwrap_or(&none);
    let images = shared.images.list().await.unwrap_or_default();
    let status = node_object::status(&shared.config, &shared.capacity, health, &images, before, shared.now());
    let api = Api::<Node>::all(shared.client.clone());
    let mut patch = json!({"status": status});
    for name in node_object::withdrawn(before) {
        patch["status"]["allocatable"][name] = Value::Null;
    }
    let patch = Patch::Strategic(patch);
    api.patch_status(&shared.config.name, &PatchParams::default(), &patch).await
}

async fn keep_lease(shared: &Shared) {
    let mut held = false;
    let mut ticks = interval(shared.config.lease / RENEWALS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        held = persist("renewing the lease", || renew(shared, held)).await;
        if !held {
            // It was deleted: make it anew.
            held = persist("making the lease", || renew(shared, false)).await;
        }
    }
}

/// Renews the Lease, or makes it. Says whether it is there.
async fn renew(shared: &Shared, held: bool) -> Result<bool, kube::Error> {
    let api = Api::<Lease>::namespaced(shared.client.clone(), LEASE_NAMESPACE);
    let name = &shared.config.name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: i32::try_from(shared.config.lease.as_secs()).ok(),
        renew_time: Some(MicroTime(shared.now())),
        ..LeaseSpec::default()
    };
    if held {
        let patch = Patch::Merge(json!({"spec": spec}));
        return Ok(found(api.patch(name, &PatchParams::default(), &patch).await)?.is_some());
    }
    let node = found(Api::<Node>::all(shared.client.clone()).get(name).await)?;
    let owner = node.and_then(|n| n.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(spec.clone()),
    };
    match api.create(&PostParams::default(), &lease).await {
        Err(error) if api_reason(&error) == Some("AlreadyExists") => {
            let patch = Patch::Merge(json!({"spec": spec}));
            api.patch(name, &PatchParams::default(), &patch).await.map(|_| true)
        }
        other => other.map(|_| true),
    }
}

//! The loop around the core: pods without a node come in from the watch, decisions are made on one snapshot, bindings go out. A
//! pod that fits nowhere waits until something changes that could help it, then tries again with back-off.

use crate::{
    core::{Decision, decide},
    line::{FIRST_BACKOFF, Line},
    snapshot::{PodInfo, Snapshot},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use orlop_client::{Clock, EventType, Informer, Recorder};
use serde_json::json;
use std::{collections::HashSet, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

/// The scheduler that pods name by default.
const NAME: &str = "default-scheduler";
/// Bindings under way at once.
const BINDINGS: usize = 64;
enum Change {
    Pod(Option<Arc<Pod>>, Option<Arc<Pod>>),
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
}

/// Runs the scheduler until dropped.
pub async fn run(client: Client, clock: Clock) {
    let (send, mut changes) = mpsc::unbounded_channel();
    let (pods, nodes) = (Arc::<Informer<Pod>>::default(), Arc::<Informer<Node>>::default());
    let on_pod = send.clone();
    pods.on_change(move |old, new| {
        let _ = on_pod.send(Change::Pod(old.cloned(), new.cloned()));
    });
    nodes.on_change(move |old, new| {
        let _ = send.send(Change::Node(old.cloned(), new.cloned()));
    });
    let mut scheduler = Scheduler {
        recorder: Recorder::new(client.clone(), NAME, None, clock.clone()),
        client: client.clone(),
        clock,
        snapshot: Snapshot::default(),
        pods: pods.clone(),
        line: Line::default(),
        binding: HashSet::new(),
        turn: 0,
    };
    let work = async {
        nodes.synced().await;
        pods.synced().await;
        let mut bindings: FuturesUnordered<BoxFuture<'static, Bound>> = FuturesUnordered::new();
        loop {
            let due = scheduler.line.next_due();
            let turn = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(change) = changes.recv() => scheduler.take_in(change),
                Some(binding) = bindings.next() => {
                    let (pod, node, outcome) = binding;
                    scheduler.bound(&pod, &node, outcome);
                }
                () = turn, if bindings.len() < BINDINGS => {}
            }
            // All that has arrived by now is one batch on one snapshot.
            while let Ok(change) = changes.try_recv() {
                scheduler.take_in(change);
            }
            for (pod, node) in scheduler.place(BINDINGS - bindings.len()) {
                bindings.push(Box::pin(bind(scheduler.client.clone(), pod, node)));
            }
        }
    };
    tokio::join!(pods.clone().run(Api::all(client.clone())), nodes.clone().run(Api::all(client)), work);
}

/// A pod, the node decided on, and whether the binding was accepted.
type Bound = (Arc<Pod>, String, Result<(), kube::Error>);

/// Binds a pod: the decision becomes true with this one write.
async fn bind(client: Client, pod: Arc<Pod>, node: String) -> Bound {
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
            name: Some(node.clone()),
            ..ObjectReference::default()
        },
    };
    let api = Api::<Pod>::namespaced(client, &namespace);
    let params = PostParams::default();
    let outcome =
        api.create_subresource::<Binding, serde_json::Value>("binding", &name, &params, &binding).await;
    (pod, node, outcome.map(|_| ()))
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    clock: Clock,
    snapshot: Snapshot,
    pods: Arc<Informer<Pod>>,
    line: Line,
    /// Pods whose binding is under way: decided, and counted on their node.
    binding: HashSet<String>,
    turn: usize,
}

fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether a pod waits for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_of(pod).is_none()
        && !is_finished(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

impl Scheduler {
    fn take_in(&mut self, change: Change) {
        match change {
            Change::Node(old, Some(node)) => {
                self.snapshot.set_node(&node);
                if old.is_none_or(|old| may_help(&old, &node)) {
                    self.line.wake(Instant::now());
                }
            }
            Change::Node(old, None) => {
                if let Some(node) = old {
                    self.snapshot.remove_node(&node.name_any());
                }
            }
            Change::Pod(old, new) => {
                let Some(uid) = new.as_ref().or(old.as_ref()).and_then(|p| p.uid()) else { return };
                match new {
                    Some(pod) if is_ours(&pod) => {
                        if !self.binding.contains(&uid) {
                            self.line.add(pod);
                        }
                    }
                    Some(pod) if !is_finished(&pod) => {
                        self.line.take(&uid);
                        if let Some(node) = node_of(&pod) {
                            let node = node.to_string();
                            self.snapshot.place(&node, PodInfo::new(pod));
                        }
                    }
                    _ => {
                        self.line.take(&uid);
                        if self.snapshot.remove_pod(&uid) {
                            self.line.wake(Instant::now());
                        }
                    }
                }
            }
        }
    }

    /// Decides for all pods that are due, at most `room` of them placed; the placed ones are counted on their node at once.
    fn place(&mut self, room: usize) -> Vec<(Arc<Pod>, String)> {
        let now = Instant::now();
        let mut placed = Vec::new();
        while placed.len() < room {
            let Some(mut waiting) = self.line.next(now) else { break };
            self.turn = self.turn.wrapping_add(1);
            match decide(&waiting.pod, &self.snapshot, self.turn) {
                Decision::Node(node) => {
                    self.binding.insert(waiting.pod.pod.uid().unwrap_or_default());
                    placed.push((waiting.pod.pod.clone(), node.clone()));
                    self.snapshot.place(&node, waiting.pod);
                }
                Decision::Unschedulable { message, .. } => {
                    if waiting.message != message {
                        waiting.message.clone_from(&message);
                        let pod = waiting.pod.pod.clone();
                        self.recorder.event(&*pod, EventType::Warning, "FailedScheduling", message.clone());
                        tokio::spawn(say_unschedulable(self.client.clone(), pod, message, (self.clock)()));
                    }
                    self.line.wait(waiting, now);
                }
            }
        }
        placed
    }

    fn bound(&mut self, pod: &Pod, node: &str, outcome: Result<(), kube::Error>) {
        let uid = pod.uid().unwrap_or_default();
        self.binding.remove(&uid);
        let Err(error) = outcome else {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let message = format!("Successfully assigned {namespace}/{name} to {node}");
            self.recorder.event(pod, EventType::Normal, "Scheduled", message);
            return;
        };
        tracing::debug!(uid, %error, "binding failed");
        // Gone, bound by another, or the server is busy: what the cache says decides.
        let here = self.pods.get(&pod.namespace().unwrap_or_default(), &pod.name_any());
        match here.filter(|p| p.metadata.uid == pod.metadata.uid) {
            Some(pod) if is_ours(&pod) => {
                self.snapshot.remove_pod(&uid);
                self.line.retry(pod, Instant::now() + FIRST_BACKOFF);
            }
            Some(pod) if node_of(&pod).is_some() => self.take_in(Change::Pod(None, Some(pod))),
            _ => {
                self.snapshot.remove_pod(&uid);
            }
        }
    }
}

/// Whether a change of a node could let a pod in that did not fit before.
fn may_help(old: &Node, new: &Node) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.spec != new.spec
        || old.status.as_ref().map(|s| &s.allocatable) != new.status.as_ref().map(|s| &s.allocatable)
}

async fn say_unschedulable(client: Client, pod: Arc<Pod>, message: String, now: Timestamp) {
    let before = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let before = before.and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"));
    let transition = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message),
        last_transition_time: Some(transition),
        ..PodCondition::default()
    };
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let api = Api::<Pod>::namespaced(client, &pod.namespace().unwrap_or_default());
    if let Err(error) =
        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await
    {
        tracing::debug!(%error, "the pod's condition was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSchedulingGate, PodSpec};
    use std::collections::BTreeMap;

    #[test]
    fn only_pods_that_wait_for_this_scheduler_are_ours() {
        let with = |change: fn(&mut Pod)| {
            let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
            change(&mut pod);
            is_ours(&pod)
        };
        assert!(with(|_| {}));
        assert!(!with(|p| p.spec.get_or_insert_default().node_name = Some("n".into())));
        assert!(!with(|p| p.spec.get_or_insert_default().scheduler_name = Some("mine".into())));
        assert!(!with(|p| {
            p.spec.get_or_insert_default().scheduling_gates =
                Some(vec![PodSchedulingGate { name: "wait".into() }]);
        }));
        assert!(!with(|p| p.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))));
    }

    #[test]
    fn only_changes_that_could_matter_wake_waiting_pods() {
        let old = Node::default();
        let mut heartbeat = Node::default();
        heartbeat.metadata.resource_version = Some("2".into());
        assert!(!may_help(&old, &heartbeat));
        let mut labelled = Node::default();
        labelled.metadata.labels = Some(BTreeMap::from([("zone".into(), "a".into())]));
        assert!(may_help(&old, &labelled));
    }
}

//! Draining nodes as `kubectl drain --ignore-daemonsets --delete-emptydir-data --force` does: no new pods, then an eviction for each that
//! is there, asked for again every five seconds while a budget refuses it. It deletes nothing itself.

use super::cluster::{OWNER, text};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use std::{cell::RefCell, collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long kubectl waits before it asks again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether evicted pods are gone.
const LOOK: Duration = Duration::from_secs(1);

/// How far the drain of a node has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    /// The node.
    pub node: String,
    /// Pods whose eviction was accepted.
    pub evicted: usize,
    /// Those that are refused, with why.
    pub refused: BTreeMap<String, String>,
    /// Evicted pods that no controller here makes anew, with why.
    pub lost: BTreeMap<String, String>,
    /// When the last pod was gone.
    pub done: Option<Duration>,
}

/// Drains nodes one after the other; all of them take no new pods from the beginning. Ends when all are drained, which may be never.
pub(crate) async fn drain(client: &Client, drains: &RefCell<Vec<Drain>>, start: Instant) {
    let names: Vec<String> = drains.borrow().iter().map(|d| d.node.clone()).collect();
    let nodes = Api::<Node>::all(client.clone());
    for name in &names {
        let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        while nodes.patch(name, &PatchParams::default(), &cordon).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }
    for (at, name) in names.iter().enumerate() {
        while let Some(wait) = step(client, name, at, drains).await {
            tokio::time::sleep(wait).await;
        }
        drains.borrow_mut()[at].done = Some(start.elapsed());
    }
}

/// Asks for the eviction of every pod of a node that must go; `None` if there is none any more, or else when to go on.
async fn step(client: &Client, node: &str, at: usize, drains: &RefCell<Vec<Drain>>) -> Option<Duration> {
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let Ok(pods) = Api::<Pod>::all(client.clone()).list(&here).await else { return Some(AGAIN) };
    let must_go: Vec<Pod> = pods.items.into_iter().filter(must_go).collect();
    if must_go.is_empty() {
        drains.borrow_mut()[at].refused.clear();
        return None;
    }
    let mut wait = LOOK;
    for pod in must_go.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let title = format!("{namespace}/{name}");
        let api = Api::<Pod>::namespaced(client.clone(), &namespace);
        let answer = api.evict(&name, &EvictParams::default()).await;
        let mut drains = drains.borrow_mut();
        let drain = &mut drains[at];
        drain.refused.remove(&title);
        match answer {
            Ok(_) => {
                drain.evicted += 1;
                if !pod.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true)) {
                    let why = match pod.annotations().get(OWNER) {
                        Some(owner) => format!("{owner} would have to make it anew, and is not simulated"),
                        None => "no controller makes it anew (kubectl drain wants --force)".into(),
                    };
                    drain.lost.insert(title, why);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                wait = AGAIN;
                drain.refused.insert(title, in_words(&error));
            }
        }
    }
    Some(wait)
}

/// What the server has against an eviction, with the budget that it names.
fn in_words(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else { return error.to_string() };
    let causes = status.details.iter().flat_map(|d| &d.causes).map(|c| c.message.clone());
    std::iter::once(status.message.clone()).chain(causes).collect::<Vec<_>>().join(" ")
}

/// Whether a pod leaves a node that is drained: those of DaemonSets and of the node itself stay.
fn must_go(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let of_daemon_set = owners.iter().any(|o| o.controller == Some(true) && o.kind == "DaemonSet");
    !of_daemon_set && !pod.annotations().contains_key("kubernetes.io/config.mirror")
}

/// Whether a node is there.
pub(crate) fn is_there(nodes: &[&str], name: &str) -> Result<(), String> {
    if nodes.contains(&name) {
        return Ok(());
    }
    let known = if nodes.len() > 10 { String::new() } else { format!(": there are {}", nodes.join(", ")) };
    Err(format!("--drain {name}: there is no such node{known}"))
}

/// The names of nodes among objects.
pub(crate) fn names<'a>(nodes: impl Iterator<Item = &'a serde_json::Value>) -> Vec<&'a str> {
    nodes.map(|n| text(n, "/metadata/name")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_node_stays() {
        let pod = |more: serde_json::Value| serde_json::from_value::<Pod>(json!({"metadata": more})).unwrap();
        let owned = |kind: &str| json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true}]});
        assert!(must_go(&pod(json!({}))) && must_go(&pod(owned("ReplicaSet"))));
        assert!(!must_go(&pod(owned("DaemonSet"))));
        assert!(!must_go(&pod(json!({"annotations": {"kubernetes.io/config.mirror": "x"}}))));
    }

    #[test]
    fn a_node_that_is_not_there_is_named_with_those_that_are() {
        assert!(is_there(&["a", "b"], "a").is_ok());
        assert_eq!(
            is_there(&["a", "b"], "c").unwrap_err(),
            "--drain c: there is no such node: there are a, b"
        );
    }
}

//! Carries Nodes from the API to the routes of this machine: which other nodes there are, where they are, and which pod addresses
//! are theirs. It makes no route itself. Without the API, what was carried last stays.

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use orlop_network::mesh::{Mesh, Peer};
use std::{collections::BTreeMap, fmt::Display, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// After a first change, how long others are waited for.
const GATHER: Duration = Duration::from_millis(3);
/// After the kernel refused, when it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is put right what others may have changed.
const AGAIN: Duration = Duration::from_secs(30);

/// Follows Nodes until dropped.
pub async fn run(client: Client, mesh: Arc<Mesh>) {
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let apply = |peers: Vec<Peer>| {
        let mesh = mesh.clone();
        async move { mesh.apply(&peers).await }
    };
    follow(nodes, apply).await;
}

/// What the network must know of a node.
fn peer(node: &Node) -> Peer {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let internal = addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok());
    let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    Peer {
        name: node.name_any(),
        addresses: internal.collect(),
        ranges: ranges.filter_map(|r| r.parse().ok()).collect(),
    }
}

async fn follow<E: Display, F: Display, Applied: Future<Output = Result<(), F>>>(
    nodes: impl Stream<Item = Result<Event<Node>, E>>,
    apply: impl Fn(Vec<Peer>) -> Applied,
) {
    let mut nodes = pin!(nodes.fuse());
    let mut known: BTreeMap<String, Peer> = BTreeMap::new();
    // A list that is on its way; nothing goes before all of it is here.
    let mut listing: Option<BTreeMap<String, Peer>> = None;
    let mut due: Option<Instant> = None;
    loop {
        let event = tokio::select! {
            event = nodes.next() => event,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let outcome = apply(known.values().cloned().collect()).await;
                if let Err(error) = &outcome {
                    tracing::error!(%error, "routes to other nodes are not as they should be; trying again");
                }
                due = Some(Instant::now() + if outcome.is_ok() { AGAIN } else { RETRY });
                continue;
            }
        };
        let changed = match event {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(%error, "nodes cannot be followed; connecting again");
                false
            }
            Some(Ok(Event::Init)) => {
                listing = Some(BTreeMap::new());
                false
            }
            Some(Ok(Event::InitApply(node))) => {
                listing.get_or_insert_default().insert(node.name_any(), peer(&node));
                false
            }
            Some(Ok(Event::InitDone)) => {
                let new = listing.take().unwrap_or_default();
                let first = due.is_none();
                let changed = first || new != known;
                known = new;
                changed
            }
            Some(Ok(Event::Apply(node))) => {
                let peer = peer(&node);
                known.insert(peer.name.clone(), peer.clone()) != Some(peer)
            }
            Some(Ok(Event::Delete(node))) => known.remove(&node.name_any()).is_some(),
        };
        if changed {
            let soon = Instant::now() + GATHER;
            due = Some(due.map_or(soon, |at| at.min(soon)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use parking_lot::Mutex;
    use serde_json::json;

    fn node(name: &str, address: &str, range: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"podCIDRs": [range]},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
        }))
        .unwrap()
    }

    fn listed(nodes: Vec<Node>) -> Vec<Result<Event<Node>, String>> {
        let all = nodes.into_iter().map(Event::InitApply);
        std::iter::once(Event::Init).chain(all).chain([Event::InitDone]).map(Ok).collect()
    }

    /// What was applied, each time as names with addresses.
    async fn applied(events: Vec<Result<Event<Node>, String>>, refusals: usize, seconds: u64) -> Vec<String> {
        let (applied, left) = (Mutex::new(Vec::new()), Mutex::new(refusals));
        let apply = |peers: Vec<Peer>| {
            let text = peers.iter().map(|p| format!("{}@{} {}", p.name, p.addresses[0], p.ranges[0]));
            applied.lock().push(text.collect::<Vec<_>>().join(", "));
            let mut left = left.lock();
            let outcome = if *left > 0 { Err("not now") } else { Ok(()) };
            *left = left.saturating_sub(1);
            async move { outcome }
        };
        let slow = stream::iter(events).then(|event| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            event
        });
        let carry = follow(slow.chain(stream::pending()), apply);
        let _ = tokio::time::timeout(Duration::from_secs(seconds), carry).await;
        applied.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_join_move_and_leave_are_carried_and_heartbeats_are_not() {
        let mut events = listed(vec![node("a", "192.0.2.1", "10.42.0.0/24")]);
        let mut beat = node("a", "192.0.2.1", "10.42.0.0/24");
        beat.metadata.resource_version = Some("7".into());
        events.push(Ok(Event::Apply(beat)));
        events.push(Ok(Event::Apply(node("b", "192.0.2.2", "10.42.1.0/24"))));
        events.push(Ok(Event::Apply(node("b", "192.0.2.9", "10.42.1.0/24"))));
        events.push(Ok(Event::Delete(node("a", "192.0.2.1", "10.42.0.0/24"))));
        assert_eq!(
            applied(events, 0, 20).await,
            [
                "a@192.0.2.1 10.42.0.0/24",
                "a@192.0.2.1 10.42.0.0/24, b@192.0.2.2 10.42.1.0/24",
                "a@192.0.2.1 10.42.0.0/24, b@192.0.2.9 10.42.1.0/24",
                "b@192.0.2.9 10.42.1.0/24",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_connection_changes_nothing_until_a_whole_new_list_is_there() {
        let mut events = listed(vec![node("a", "192.0.2.1", "10.42.0.0/24")]);
        events.push(Err("cut off".into()));
        events.push(Ok(Event::Init));
        events.push(Err("cut off again".into()));
        assert_eq!(applied(events, 0, 20).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_tried_again_and_what_others_change_is_put_right() {
        let events = listed(vec![node("a", "192.0.2.1", "10.42.0.0/24")]);
        assert_eq!(applied(events.clone(), 2, 10).await.len(), 3);
        assert_eq!(applied(events, 0, 65).await.len(), 3, "every half a minute");
    }
}

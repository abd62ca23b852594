//! Gives each Node its part of the cluster's pod ranges (`spec.podCIDRs`), as Kubernetes' range allocator does: never one part to
//! two nodes; what a Node had is free when the Node is gone; where nothing is left, an Event on the Node says so.

mod ranges;

pub use ranges::ClusterRange;

use crate::Error;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_client::{Clock, EventType, Informer, Key, Queue, Recorder, found, run_workers};
use parking_lot::Mutex;
use ranges::Ranges;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// A node without a range is looked at again after this long, or when another one goes.
const RETRY: Duration = Duration::from_secs(600);
/// Kubernetes' reason.
const NOT_AVAILABLE: &str = "CIDRNotAvailable";

/// What is given, and to whom first.
#[derive(Clone, Debug)]
pub struct NodeRanges {
    /// The cluster's ranges, one a family.
    pub cluster: Vec<ClusterRange>,
    /// The node that gets the first part of each; nobody else does.
    pub first: Option<String>,
}

struct Allocator {
    client: Client,
    recorder: Recorder,
    nodes: Arc<Informer<Node>>,
    queue: Queue,
    ranges: Mutex<Ranges>,
}

/// Gives and takes back until dropped.
pub async fn run_node_ranges(client: Client, clock: Clock, config: NodeRanges) {
    let nodes = Arc::<Informer<Node>>::default();
    let queue = Queue::default();
    let on_change = queue.clone();
    nodes.on_change(move |old, new| {
        // A Node that took the name of another is told of as one gone and one come.
        if let Some(node) = new.or(old) {
            on_change.add(Key::new("", node.name_any()));
        }
    });
    let this = Allocator {
        recorder: Recorder::new(client.clone(), "cidrAllocator", None, clock),
        client: client.clone(),
        nodes: nodes.clone(),
        queue: queue.clone(),
        ranges: Mutex::new(Ranges::new(config.cluster, config.first)),
    };
    let work = async {
        nodes.synced().await;
        this.take_note();
        run_workers("node-ranges", queue, 1, |key: Key| this.reconcile(key)).await;
    };
    tokio::join!(nodes.clone().run(Api::all(client)), work);
}

fn has(node: &Node) -> Vec<ipnet::IpNet> {
    let spec = node.spec.as_ref();
    spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().filter_map(|r| r.parse().ok()).collect()
}

impl Allocator {
    /// Before anything is given: what nodes have already, the oldest first.
    fn take_note(&self) {
        let mut all = self.nodes.all();
        all.sort_by_key(|n| (n.metadata.creation_timestamp.as_ref().map(|t| t.0), n.name_any()));
        for node in all {
            let ranges = has(&node);
            if !ranges.is_empty() {
                self.occupy(&node, &ranges);
            }
        }
    }

    fn occupy(&self, node: &Node, ranges: &[ipnet::IpNet]) {
        let noted = self.ranges.lock().occupy(&node.name_any(), ranges);
        if let Err(why) = noted {
            tracing::error!(
                why,
                "two nodes have the same pod addresses: remove one of them and let it join again"
            );
            self.say(node, why);
        }
    }

    fn say(&self, node: &Node, why: String) {
        self.recorder.event(node, EventType::Warning, NOT_AVAILABLE, why);
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &key.name) else {
            if self.ranges.lock().release(&key.name) {
                // Somebody may have waited for it.
                let waiting = self.nodes.all().into_iter().filter(|n| has(n).is_empty());
                waiting.for_each(|n| self.queue.add(Key::new("", n.name_any())));
            }
            return Ok(());
        };
        let ranges = has(&node);
        if !ranges.is_empty() {
            self.occupy(&node, &ranges);
            return Ok(());
        }
        let given = self.ranges.lock().give(&key.name);
        let Some(ranges) = given else {
            let why = format!("Node {} status is now: {NOT_AVAILABLE}", key.name);
            self.recorder.event(&*node, EventType::Normal, NOT_AVAILABLE, why);
            self.queue.add_after(key, RETRY);
            return Ok(());
        };
        // Only this Node: one that took its name since then is given what it gets by itself.
        let patch = json!({
            "metadata": {"uid": node.uid()},
            "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        });
        let api = Api::<Node>::all(self.client.clone());
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Some(written) = found(written).map_err(Error::at("giving a node its pod addresses"))? {
            self.nodes.observe(written);
        }
        Ok(())
    }
}

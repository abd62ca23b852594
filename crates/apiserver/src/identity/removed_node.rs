//! Nodes that were removed from the cluster: what they got before that lets them in no more (`orlop_api::removed_node`).

use crate::{pipeline::NodePeer, registry::Registry};
use orlop_api::{Status, removed_node};

/// Whether the certificate that a node shows was taken from it.
pub(crate) fn is_refused(registry: &Registry, node: &NodePeer) -> bool {
    let Some(records) = registry.find("", "v1", "configmaps") else { return false };
    let record = records.get(removed_node::NAMESPACE, &removed_node::record_name(&node.name));
    record.is_ok_and(|record| removed_node::refuses(&record.value(), &node.name, node.issued))
}

/// What such a node is told.
pub(crate) fn refusal(node: &str) -> Status {
    let mut status = Status::unauthorized();
    status.message = format!("node {node:?} was removed from the cluster: join it again with a new token");
    status
}

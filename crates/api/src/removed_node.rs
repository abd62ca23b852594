//! How the cluster remembers that a node was removed: a ConfigMap in kube-system for each. Certificates that the node got before
//! that are refused, so that it comes back with a new token or not at all. Pure.

use crate::object::text;
use serde_json::{Value, json};

/// Where the records are.
pub const NAMESPACE: &str = "kube-system";
/// The label that all of them have.
pub const LABEL: &str = "orlop.dev/removed-node";
const NODE: &str = "node";
const BEFORE: &str = "certificatesBefore";

/// The name of a node's record.
pub fn record_name(node: &str) -> String {
    format!("removed-node-{node}")
}

/// The record that refuses certificates issued up to `before` (RFC 3339).
pub fn record(node: &str, before: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": record_name(node), "namespace": NAMESPACE, "labels": {LABEL: ""}},
        "data": {NODE: node, BEFORE: before},
    })
}

/// Whether a record refuses a certificate that the node got at `issued`, in seconds since the epoch. A record that cannot be read
/// refuses all: somebody wanted the node out.
pub fn refuses(record: &Value, node: &str, issued: i64) -> bool {
    if text(record, &format!("/data/{NODE}")) != node {
        return false;
    }
    let before = text(record, &format!("/data/{BEFORE}"));
    before.parse::<jiff::Timestamp>().map_or(true, |before| issued <= before.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_issued_up_to_the_removal_is_refused() {
        let made = record("n1", "1970-01-01T00:01:40Z");
        assert!(refuses(&made, "n1", 99) && refuses(&made, "n1", 100) && !refuses(&made, "n1", 101));
        assert!(!refuses(&made, "n2", 99));
        assert!(refuses(&record("n1", "some day"), "n1", 101));
    }
}

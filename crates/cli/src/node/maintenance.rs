//! Keeping pods away from a node: a cordon, as kubectl makes it; and maintenance, which is a cordon, a taint, an empty node, and a
//! condition and an annotation that tell of it. `orlop node uncordon` ends both.

use super::{
    condition,
    drain::{self, DrainArgs},
    edit::edit,
    patch, path,
};
use crate::{Error, api::Api, print};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The taint that says so to the scheduler.
const TAINT: &str = "orlop.dev/maintenance";
/// The annotation that says why.
pub(super) const ANNOTATION: &str = "orlop.dev/maintenance";
/// The condition of the node.
pub(super) const CONDITION: &str = "Maintenance";

pub(super) async fn cordon(api: &Api, node: &str) -> Result<(), Error> {
    let done = edit(api, node, |now| {
        let is = now["spec"]["unschedulable"] == true;
        Ok((!is).then(|| json!({"spec": {"unschedulable": true}})))
    });
    say(node, done.await?, "cordoned")
}

fn say(node: &str, changed: bool, what: &str) -> Result<(), Error> {
    print(&format!("node/{node} {}{what}\n", if changed { "" } else { "already " }))
}

/// Begins maintenance and waits until the node is empty.
pub(super) async fn begin(api: &Api, node: &str, reason: &str, args: &DrainArgs) -> Result<(), Error> {
    if args.dry_run {
        return drain::run(api, node, args).await;
    }
    let changed = edit(api, node, |now| Ok(under_maintenance(now, reason))).await?;
    say(node, changed, "under maintenance")?;
    tell(api, node, "True", "Draining", reason).await?;
    drain::run(api, node, args).await?;
    tell(api, node, "True", "Drained", reason).await
}

/// Lets pods come again.
pub(super) async fn end(api: &Api, node: &str) -> Result<(), Error> {
    let changed = edit(api, node, |now| Ok(released(now))).await?;
    if condition(&super::get(api, node).await?, CONDITION) == "True" {
        tell(api, node, "False", "Ended", "").await?;
    }
    say(node, changed, "uncordoned")
}

fn taints_but_ours(node: &Value) -> Vec<Value> {
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.into_iter().filter(|t| t["key"] != TAINT).collect()
}

fn is_tainted(node: &Value) -> bool {
    node["spec"]["taints"].as_array().is_some_and(|t| t.iter().any(|t| t["key"] == TAINT))
}

fn under_maintenance(node: &Value, reason: &str) -> Option<Value> {
    let noted = &node["metadata"]["annotations"][ANNOTATION];
    if node["spec"]["unschedulable"] == true && is_tainted(node) && noted == reason {
        return None;
    }
    let mut taints = taints_but_ours(node);
    taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
    Some(json!({
        "metadata": {"annotations": {ANNOTATION: reason}}, "spec": {"unschedulable": true, "taints": taints},
    }))
}

fn released(node: &Value) -> Option<Value> {
    let noted = node["metadata"]["annotations"][ANNOTATION].is_string();
    if node["spec"]["unschedulable"] != true && !is_tainted(node) && !noted {
        return None;
    }
    Some(json!({
        "metadata": {"annotations": {ANNOTATION: null}},
        "spec": {"unschedulable": null, "taints": taints_but_ours(node)},
    }))
}

async fn tell(api: &Api, node: &str, status: &str, reason: &str, message: &str) -> Result<(), Error> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let change = json!({"status": {"conditions": [{
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]}});
    patch(api, &format!("{}/status", path(node)), "application/strategic-merge-patch+json", &change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_begins_and_ends_and_leaves_the_taints_of_others() {
        let others = json!({"key": "gpu", "effect": "NoSchedule"});
        let mut node = json!({"metadata": {}, "spec": {"taints": [others]}});
        let begun = under_maintenance(&node, "new disk").unwrap();
        assert_eq!(begun["spec"]["taints"].as_array().unwrap().len(), 2);
        node["metadata"] = begun["metadata"].clone();
        node["spec"] = begun["spec"].clone();
        assert_eq!(under_maintenance(&node, "new disk"), None);
        assert!(under_maintenance(&node, "another disk").is_some());
        let ended = released(&node).unwrap();
        assert_eq!(ended["spec"], json!({"unschedulable": null, "taints": [others]}));
        assert_eq!(released(&json!({"metadata": {}, "spec": {"taints": [others]}})), None);
    }
}

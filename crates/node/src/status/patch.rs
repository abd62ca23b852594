//! The smallest strategic merge patch that turns the status the API has into the one it should have. Pure.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

/// Fields of the status that the agent writes; all others are left alone.
const OWN: [&str; 15] = [
    "phase",
    "reason",
    "message",
    "startTime",
    "qosClass",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "resources",
    "allocatedResources",
];

/// The patch for `pods/NAME/status`, or `None` if nothing differs. It holds only for the pod with this uid.
pub(crate) fn patch(uid: &str, from: &PodStatus, to: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(from), serde_json::to_value(to))
    else {
        return None;
    };
    let mut status = Map::new();
    for field in OWN {
        let (old, new) = (old.get(field), new.get(field));
        if old == new {
            continue;
        }
        let value = match new {
            // Lists merged by key would keep what is not there any more.
            Some(Value::Array(list)) if field == "podIPs" || field == "hostIPs" => {
                let mut list = list.clone();
                if old.is_some() {
                    list.insert(0, json!({"$patch": "replace"}));
                }
                Value::Array(list)
            }
            Some(value) => value.clone(),
            None => Value::Null,
        };
        status.insert(field.into(), value);
    }
    let conditions = changed(from, to);
    if !conditions.is_empty() {
        status.insert("conditions".into(), json!(conditions));
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

/// The conditions that differ. Merged by type; an absent reason or message must be said to be null.
fn changed(from: &PodStatus, to: &PodStatus) -> Vec<Value> {
    let old: Vec<&PodCondition> = from.conditions.iter().flatten().collect();
    let new = to.conditions.iter().flatten();
    let differing = new.filter_map(|c| {
        let before = old.iter().find(|o| o.type_ == c.type_);
        let mut value = serde_json::to_value(c).ok()?;
        // Compared as written: the API keeps whole seconds.
        if before.is_some_and(|o| serde_json::to_value(o).is_ok_and(|o| o == value)) {
            return None;
        }
        if before.is_some_and(|o| o.reason.is_some()) && c.reason.is_none() {
            value["reason"] = Value::Null;
        }
        if before.is_some_and(|o| o.message.is_some()) && c.message.is_none() {
            value["message"] = Value::Null;
        }
        Some(value)
    });
    let gone = from
        .conditions
        .iter()
        .flatten()
        .filter(|o| !to.conditions.iter().flatten().any(|c| c.type_ == o.type_));
    let gone = gone.map(|o| json!({"type": o.type_, "$patch": "delete"}));
    differing.chain(gone).collect()
}

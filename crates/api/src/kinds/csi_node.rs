//! CSINode (storage.k8s.io/v1): which storage plugins run on a node, and what they call it.

use super::{base, csi_driver};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{int, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// The description of CSINode.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: vec![
            print::name_column(),
            print::int_column("Drivers", "How many plugins run on the node."),
            print::age_column(),
        ],
        ..base("storage.k8s.io", "v1", "CSINode", "csinodes", CsiNode)
    }
}

/// The longest name that a plugin may give a node.
const MAX_ID: usize = 256;

struct CsiNode;

impl Rules for CsiNode {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let mut names = BTreeSet::new();
        for (at, driver) in list(object, "/spec/drivers").iter().enumerate() {
            let path = Path::new("spec.drivers").index(at);
            let name = text(driver, "/name");
            csi_driver::validate_name(name, &path.child("name"), &mut errors);
            let id = text(driver, "/nodeID");
            if id.is_empty() {
                errors.required(path.child("nodeID"), "");
            } else if id.len() > MAX_ID {
                let message = format!("must be {MAX_ID} characters or less");
                errors.invalid(path.child("nodeID"), id, message);
            }
            errors.not_negative(&path.child("allocatable.count"), int(driver, "/allocatable/count"));
            if !names.insert(name) {
                errors.duplicate(path.child("name"), name);
            }
            let mut keys = BTreeSet::new();
            for key in list(driver, "/topologyKeys").iter().map(|k| k.as_str().unwrap_or_default()) {
                if !keys.insert(key) {
                    errors.duplicate(&path, key);
                }
                errors.required_and(&path, key, name::qualified_name);
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            if let Some(fields) = driver.as_object_mut() {
                fields.remove("allocatable");
            }
            driver
        };
        for before in list(old, "/spec/drivers") {
            let name = text(before, "/name");
            let after = list(new, "/spec/drivers").iter().find(|d| text(d, "/name") == name);
            if let Some(after) = after {
                errors.immutable(&Path::new("spec.drivers"), Some(&fixed(after)), Some(&fixed(before)));
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), list(object, "/spec/drivers").len().into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(driver: Value) -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"drivers": [driver]}})
    }

    #[test]
    fn a_driver_knows_the_node_by_a_name_that_stays() {
        let good = node(json!({"name": "d", "nodeID": "a", "topologyKeys": ["zone"]}));
        assert!(CsiNode.validate(&good).is_empty());
        let errors = CsiNode.validate(&node(json!({"name": "d", "topologyKeys": ["x", "x"]})));
        let found: Vec<String> = errors.into_iter().map(|e| e.to_string()).collect();
        assert_eq!(
            found,
            ["spec.drivers[0].nodeID: Required value", "spec.drivers[0]: Duplicate value: \"x\""]
        );
        let counted =
            node(json!({"name": "d", "nodeID": "a", "topologyKeys": ["zone"], "allocatable": {"count": 4}}));
        assert!(CsiNode.validate_update(&counted, &good).is_empty());
        let renamed = node(json!({"name": "d", "nodeID": "b", "topologyKeys": ["zone"]}));
        assert_eq!(CsiNode.validate_update(&renamed, &good)[0].path, "spec.drivers");
        assert!(CsiNode.validate_update(&json!({"spec": {"drivers": []}}), &good).is_empty());
    }
}

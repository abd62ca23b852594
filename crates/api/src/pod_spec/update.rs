//! What may change in the spec of a pod that exists: images, deadlines that get shorter, tolerations and gates in
//! one direction. All else is fixed (k8s.io/kubernetes `ValidatePodUpdate`).

use super::MAX_INT32;
use crate::{
    FieldErrors, Path,
    object::{carry_over, int, len, list, strings, text},
};
use serde_json::Value;

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// All that is wrong with a change from the spec `old` to `new`; both are filled in.
pub fn validate_spec_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    for (field, shown) in [("containers", "containers"), ("initContainers", "initContainers")] {
        let pointer = format!("/{field}");
        if len(new, &pointer) != len(old, &pointer) {
            errors.forbidden(path.child(shown), "pod updates may not add or remove containers");
            return;
        }
    }
    validate_deadline(new, old, &path, errors);
    validate_tolerations(new, old, &path.child("tolerations"), errors);
    validate_gates(new, old, &path.child("schedulingGates"), errors);

    // What may change is made equal; whatever still differs may not.
    let mut munged = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        carry_over(&mut munged, old, field);
    }
    for list in ["containers", "initContainers"] {
        let Some(containers) = munged.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for (at, container) in containers.iter_mut().enumerate() {
            carry_over(container, &old[list][at], "image");
        }
    }
    if int(old, "/terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && int(new, "/terminationGracePeriodSeconds") == Some(1)
    {
        carry_over(&mut munged, old, "terminationGracePeriodSeconds");
    }
    if len(old, "/schedulingGates") > 0 {
        allow_narrowing(&mut munged, old, &path, errors);
    }
    let mut changed = Vec::new();
    differences(&munged, old, "spec", &mut changed);
    if !changed.is_empty() {
        let shown = changed.into_iter().take(8).collect::<Vec<_>>().join(", ");
        errors.forbidden(&path, format!("{CHANGEABLE}\n changed: {shown}"));
    }
}

fn validate_deadline(new: &Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("activeDeadlineSeconds");
    match (int(new, "/activeDeadlineSeconds"), int(old, "/activeDeadlineSeconds")) {
        (Some(new), _) if !(1..=MAX_INT32).contains(&new) => {
            errors.invalid(&path, new, "must be between 1 and 2147483647, inclusive");
        }
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

/// Tolerations may be added; of those that are there only `tolerationSeconds` may change.
fn validate_tolerations(new: &Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(map) = toleration.as_object_mut() {
            map.remove("tolerationSeconds");
            map.retain(|_, v| !v.is_null());
        }
        toleration
    };
    let ours: Vec<Value> = list(new, "/tolerations").iter().map(without_seconds).collect();
    if list(old, "/tolerations").iter().any(|t| !ours.contains(&without_seconds(t))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn validate_gates(new: &Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    let before = list(old, "/schedulingGates");
    let after = list(new, "/schedulingGates").iter().enumerate();
    for (at, gate) in after.filter(|(_, gate)| !before.contains(gate)) {
        let name = text(gate, "/name");
        let path = path.index(at).child("name");
        errors.forbidden(path, format!("only deletion is allowed, but found new scheduling gate '{name}'"));
    }
}

/// While a pod is gated, it may be kept to fewer nodes than before.
fn allow_narrowing(munged: &mut Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    let (after, before) = (strings(munged, "/nodeSelector"), strings(old, "/nodeSelector"));
    if before.iter().all(|(key, value)| after.get(key) == Some(value)) {
        carry_over(munged, old, "nodeSelector");
    } else {
        let message = "additions to spec.nodeSelector are allowed, but removals and changes are not";
        errors.invalid(path.child("nodeSelector"), munged["nodeSelector"].clone(), message);
        carry_over(munged, old, "nodeSelector");
    }
    const REQUIRED: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    if old.pointer(REQUIRED).is_none_or(Value::is_null)
        && let Some(node) = munged.pointer_mut("/affinity/nodeAffinity").and_then(Value::as_object_mut)
    {
        node.remove("requiredDuringSchedulingIgnoredDuringExecution");
        prune_empty(munged, old, "/affinity", "nodeAffinity");
        prune_empty(munged, old, "", "affinity");
    }
}

/// Removes a member that is empty now and was not there before.
fn prune_empty(new: &mut Value, old: &Value, parent: &str, key: &str) {
    if old.pointer(&format!("{parent}/{key}")).is_none()
        && let Some(map) = new.pointer_mut(parent).and_then(Value::as_object_mut)
        && map.get(key).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    {
        map.remove(key);
    }
}

/// The paths at which two values differ. A member that is missing is the same as one that is `null` or empty.
pub(crate) fn differences(new: &Value, old: &Value, path: &str, found: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differences(a, b, &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}[{at}]"), found);
            }
        }
        (a, b) if a == b || (is_empty(a) && is_empty(b)) => {}
        _ => found.push(path.to_string()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"containers": [{"name": "a", "image": "x:1"}], "activeDeadlineSeconds": 10,
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]})
    }

    fn wrong(new: &Value, old: &Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        validate_spec_update(new, old, &mut errors);
        errors.into_vec().into_iter().map(|e| e.to_string()).collect()
    }

    fn changed(pointer: &str, value: Value) -> Vec<String> {
        let (old, mut new) = (base(), base());
        match new.pointer_mut(pointer) {
            Some(at) => *at = value,
            None => {
                new.as_object_mut().unwrap().insert(pointer[1..].to_string(), value);
            }
        }
        wrong(&new, &old)
    }

    #[test]
    fn images_shorter_deadlines_and_more_tolerations_may_change() {
        assert_eq!(changed("/containers/0/image", json!("x:2")), Vec::<String>::new());
        assert_eq!(changed("/activeDeadlineSeconds", json!(5)), Vec::<String>::new());
        assert_eq!(changed("/tolerations/0/tolerationSeconds", json!(9)), Vec::<String>::new());
        let mut more = base()["tolerations"].clone();
        more.as_array_mut().unwrap().push(json!({"operator": "Exists"}));
        assert_eq!(changed("/tolerations", more), Vec::<String>::new());
    }

    #[test]
    fn all_else_may_not() {
        assert!(
            changed("/nodeName", json!("n"))[0]
                .starts_with("spec: Forbidden: pod updates may not change fields")
        );
        assert!(changed("/containers/0/name", json!("b"))[0].ends_with("changed: spec.containers[0].name"));
        assert_eq!(
            changed("/containers", json!([])),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
        assert_eq!(
            changed("/activeDeadlineSeconds", json!(11)),
            ["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"]
        );
        assert!(changed("/activeDeadlineSeconds", Value::Null)[0].contains("to nil value"));
        assert!(changed("/tolerations", json!([]))[0].contains("existing toleration can not be modified"));
        assert!(changed("/schedulingGates", json!([{"name": "g"}]))[0].contains("new scheduling gate 'g'"));
    }

    #[test]
    fn a_gated_pod_may_be_kept_to_fewer_nodes() {
        let old = json!({"containers": [{"name": "a"}], "schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}});
        let mut new = old.clone();
        new["schedulingGates"] = json!([]);
        new["nodeSelector"]["c"] = json!("d");
        new["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]}}});
        assert_eq!(wrong(&new, &old), Vec::<String>::new());
        new["nodeSelector"] = json!({"c": "d"});
        assert_eq!(wrong(&new, &old).len(), 1);
    }
}

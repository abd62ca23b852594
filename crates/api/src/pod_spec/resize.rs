//! Changes of what the containers of a running pod may use (k8s.io/kubernetes `ValidatePodResize`).

use crate::{
    FieldError, FieldErrors, Path,
    object::{carry_over, has, len, list, map, text},
    qos::QosClass,
};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Makes `new` the pod `old` with the resources of the containers of `new`: all that the subresource writes. Where there
/// are other containers, they stay, for validation to refuse.
pub fn keep_resources(new: &mut Value, old: &Value) {
    let spec = new.get("spec").cloned().unwrap_or(Value::Null);
    super::keep_all_but_managed_fields(new, old);
    for field in LISTS {
        let (given, ours) = (list(&spec, &format!("/{field}")), list(old, &format!("/spec/{field}")));
        if given.is_empty() && ours.is_empty() {
            continue;
        }
        if !same_names(given, ours) {
            new["spec"][field] = given.to_vec().into();
            continue;
        }
        for (at, container) in given.iter().enumerate() {
            for part in ["resources", "resizePolicy"] {
                carry_over(&mut new["spec"][field][at], container, part);
            }
        }
    }
}

fn same_names(new: &[Value], old: &[Value]) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| text(new, "/name") == text(old, "/name"))
}

/// All that is wrong with the change.
pub fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    let refusal = match () {
        () if old.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() => {
            "static pods cannot be resized"
        }
        () if text(old, "/spec/os/name") == "windows" => "windows pods cannot be resized",
        () if len(old, "/spec/resources") > 0 => "pods with pod-level resources cannot be resized",
        () => "",
    };
    if !refusal.is_empty() {
        errors.forbidden("", refusal);
        return errors.into_vec();
    }
    let path = Path::new("spec");
    let class =
        |pod: &Value| PodSpec::deserialize(&pod["spec"]).ok().map(|spec| QosClass::of(&spec).as_str());
    if class(new) != class(old) {
        let message = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, class(new).unwrap_or_default(), message);
    }
    if !is_supported(old) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    let before = errors.len();
    for field in LISTS {
        validate_order(
            list(new, &format!("/spec/{field}")),
            list(old, &format!("/spec/{field}")),
            &path.child(field),
            &mut errors,
        );
    }
    if errors.len() > before {
        return errors.into_vec();
    }
    for field in LISTS {
        let (new, old) = (list(new, &format!("/spec/{field}")), list(old, &format!("/spec/{field}")));
        for (at, (new, old)) in new.iter().zip(old).enumerate() {
            let path = path.child(field).index(at).child("resources");
            validate_none_removed(new, old, &path, &mut errors);
            let sidecar = text(old, "/restartPolicy") == "Always";
            if field == "initContainers" && !sidecar && new.get("resources") != old.get("resources") {
                errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
            }
        }
    }
    let mut rest = new["spec"].clone();
    for field in LISTS {
        for (at, old) in list(old, &format!("/spec/{field}")).iter().enumerate() {
            forget_cpu_and_memory(&mut rest[field][at], old);
        }
    }
    if rest != old["spec"] {
        errors.forbidden(&path, "only cpu and memory resources are mutable\n");
    }
    errors.into_vec()
}

/// Whether the node of a running pod says what its containers may use: only such a node can change it.
fn is_supported(pod: &Value) -> bool {
    let mut running = list(pod, "/status/containerStatuses").iter().filter(|s| has(s, "/state/running"));
    running.next().is_none_or(|status| has(status, "/resources"))
}

fn validate_order(new: &[Value], old: &[Value], path: &Path, errors: &mut FieldErrors) {
    if new.len() != old.len() {
        errors.forbidden(path, "containers may not be added or removed on resize");
        return;
    }
    for (at, (new, old)) in new.iter().zip(old).enumerate() {
        if text(new, "/name") != text(old, "/name") {
            let message = "containers may not be renamed or reordered on resize";
            errors.forbidden(path.index(at).child("name"), message);
        }
    }
}

fn validate_none_removed(new: &Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    for field in ["requests", "limits"] {
        let pointer = format!("/resources/{field}");
        let after = map(new, &pointer);
        let gone = map(old, &pointer)
            .into_iter()
            .flatten()
            .any(|(name, _)| after.is_none_or(|after| !after.contains_key(name)));
        if gone {
            errors.forbidden(path.child(field), format!("resource {field} cannot be removed"));
        }
    }
}

/// Makes CPU and memory what they were, so that what still differs is what may not.
fn forget_cpu_and_memory(new: &mut Value, old: &Value) {
    for field in ["requests", "limits"] {
        let before = old.pointer(&format!("/resources/{field}"));
        let Some(resources) = new.get_mut("resources").and_then(Value::as_object_mut) else { continue };
        if before.is_none() && !resources.contains_key(field) {
            continue;
        }
        let amounts = resources.entry(field).or_insert_with(|| Value::Object(Default::default()));
        for name in ["cpu", "memory"] {
            carry_over(amounts, before.unwrap_or(&Value::Null), name);
        }
        if before.is_none() && amounts.as_object().is_some_and(serde_json::Map::is_empty) {
            resources.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(requests: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x",
            "resources": {"requests": requests}}]}, "status": {}})
    }

    fn said(new: Value, old: &Value) -> Vec<String> {
        let mut new = new;
        keep_resources(&mut new, old);
        validate_change(&new, old).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn only_cpu_and_memory_change() {
        let old = pod(json!({"cpu": "1", "memory": "1Gi"}));
        let mut moved = pod(json!({"cpu": "2", "memory": "1Gi"}));
        moved["spec"]["nodeName"] = json!("other");
        assert_eq!(said(moved, &old), Vec::<String>::new());
        assert_eq!(
            said(pod(json!({"cpu": "2"})), &old),
            ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
        );
        assert_eq!(
            said(pod(json!({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"})), &old),
            ["spec: Forbidden: only cpu and memory resources are mutable\n"]
        );
        assert_eq!(
            said(pod(json!({"cpu": "1", "memory": "2Gi"})), &pod(json!({"cpu": "1"}))),
            Vec::<String>::new()
        );
    }

    #[test]
    fn neither_the_class_nor_the_containers_change() {
        let old = pod(json!({"cpu": "1"}));
        let mut guaranteed = pod(json!({"cpu": "1", "memory": "1Gi"}));
        guaranteed["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            said(guaranteed, &old),
            ["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"]
        );
        let mut other = pod(json!({"cpu": "1"}));
        other["spec"]["containers"][0]["name"] = json!("d");
        assert_eq!(
            said(other, &old),
            ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
        );
    }

    #[test]
    fn a_node_that_cannot_resize_is_not_asked_to() {
        let mut old = pod(json!({"cpu": "1"}));
        old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
        let new = pod(json!({"cpu": "2"}));
        assert_eq!(
            said(new.clone(), &old),
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
        old["status"]["containerStatuses"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        assert!(said(new, &old).is_empty());
    }
}

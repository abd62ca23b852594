//! RuntimeClass: a pod gets the overhead, node selector and tolerations of the runtime class that it names (Kubernetes
//! documentation, "Runtime Class" and "Pod Overhead").

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{has, list, map, text},
};
use serde_json::{Map, Value, json};

const CLASSES: (&str, &str, &str) = ("node.k8s.io", "v1", "runtimeclasses");

pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let name = text(pod, "/spec/runtimeClassName").to_string();
        if name.is_empty() {
            return Ok(());
        }
        let class = request
            .look_up(CLASSES, "", &name)
            .ok_or_else(|| request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))?;
        apply(&class, pod).map_err(|why| request.forbidden(&why))
    }

    fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        let overhead = map(pod, "/spec/overhead").is_some_and(|o| !o.is_empty());
        if overhead && text(pod, "/spec/runtimeClassName").is_empty() {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(request.forbidden(why));
        }
        Ok(())
    }
}

/// Writes the class into the pod, or says what contradicts it.
fn apply(class: &Value, pod: &mut Value) -> Result<(), String> {
    let given = map(pod, "/spec/overhead").filter(|o| !o.is_empty());
    match (class.pointer("/overhead/podFixed").filter(|o| o.is_object()), given) {
        (Some(fixed), Some(given)) if fixed.as_object() != Some(given) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (None, Some(_)) => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into()
            );
        }
        (Some(fixed), _) => pod["spec"]["overhead"] = fixed.clone(),
        (None, None) => {}
    }
    if let Some(selector) = map(class, "/scheduling/nodeSelector") {
        let mut merged: Map<String, Value> = map(pod, "/spec/nodeSelector").cloned().unwrap_or_default();
        for (key, value) in selector {
            if let Some(other) = merged.get(key).filter(|o| *o != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    other.as_str().unwrap_or_default()
                ));
            }
            merged.insert(key.clone(), value.clone());
        }
        pod["spec"]["nodeSelector"] = merged.into();
    }
    let more: Vec<Value> = list(class, "/scheduling/tolerations")
        .iter()
        .filter(|t| !list(pod, "/spec/tolerations").contains(t))
        .cloned()
        .collect();
    if !more.is_empty() {
        if !has(pod, "/spec/tolerations") {
            pod["spec"]["tolerations"] = json!([]);
        }
        if let Some(own) = pod["spec"]["tolerations"].as_array_mut() {
            own.extend(more);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_brings_overhead_and_places() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "50m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        });
        let mut pod = json!({"spec": {"nodeSelector": {"zone": "a"}}});
        apply(&class, &mut pod).unwrap();
        let once = pod.clone();
        apply(&class, &mut pod).unwrap();
        assert_eq!(pod, once);
        assert_eq!(
            pod["spec"],
            json!({"overhead": {"cpu": "50m"}, "nodeSelector": {"zone": "a", "vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]})
        );
        let mut other = json!({"spec": {"nodeSelector": {"vm": "no"}}});
        assert!(apply(&class, &mut other).unwrap_err().starts_with("conflict: "));
        let mut heavy = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert!(apply(&class, &mut heavy).unwrap_err().contains("doesn't match"));
        assert!(apply(&json!({}), &mut heavy).unwrap_err().contains("without corresponding"));
    }
}

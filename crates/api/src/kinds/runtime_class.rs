//! RuntimeClass (node.k8s.io/v1): a way of running containers, and what it costs.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope,
    metadata::validate_labels,
    name,
    object::{each, map, put, text},
    pod_spec::{resources::validate_amount, scheduling::validate_tolerations},
    print,
    quantity::canonicalize,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::api::resource::Quantity};
use serde_json::Value;

/// The description of RuntimeClass.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: vec![
            print::name_column(),
            print::text_column("Handler", "What the node's runtime calls it."),
            print::age_column(),
        ],
        ..base("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", RuntimeClass)
    }
}

struct RuntimeClass;

impl Rules for RuntimeClass {
    fn default(&self, object: &mut Value) {
        let overhead = object.pointer_mut("/overhead/podFixed").and_then(Value::as_object_mut);
        overhead.into_iter().flatten().for_each(|(_, amount)| canonicalize(amount));
        if let Some(scheduling) = object.get_mut("scheduling") {
            each(scheduling, "tolerations", |toleration| {
                if text(toleration, "/operator").is_empty() && toleration.get("operator").is_some() {
                    put(toleration, "operator", "Equal");
                }
            });
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let handler = text(object, "/handler");
        errors.messages(&Path::new("handler"), handler, name::dns_label(handler));
        let path = Path::new("overhead.podFixed");
        for (name, amount) in map(object, "/overhead/podFixed").into_iter().flatten() {
            let amount = Quantity(amount.as_str().map_or_else(|| amount.to_string(), str::to_string));
            validate_amount(name, &amount, &path.key(name), &mut errors);
        }
        let path = Path::new("scheduling");
        validate_labels(map(object, "/scheduling/nodeSelector"), &path.child("nodeSelector"), &mut errors);
        if let Some(given) = object.pointer("/scheduling/tolerations").filter(|t| !t.is_null())
            && let Some(typed) = errors.decode::<Vec<Toleration>>(&path.child("tolerations"), given)
        {
            validate_tolerations(&typed, &path.child("tolerations"), &mut errors);
            for (at, toleration) in typed.iter().enumerate() {
                if typed[..at].contains(toleration) {
                    errors.duplicate(path.child("tolerations").index(at), given[at].clone());
                }
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("handler"), new.get("handler"), old.get("handler"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), text(object, "/handler").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_handler_is_a_name_that_stays() {
        let class = |handler: &str| json!({"metadata": {"name": "c"}, "handler": handler, "overhead": {"podFixed": {"cpu": "10m"}}});
        assert!(RuntimeClass.validate(&class("runc")).is_empty());
        assert!(
            RuntimeClass.validate(&class("Not_A_Label"))[0]
                .to_string()
                .starts_with("handler: Invalid value: \"Not_A_Label\"")
        );
        assert_eq!(
            RuntimeClass.validate_update(&class("kata"), &class("runc"))[0].to_string(),
            "handler: Invalid value: \"kata\": field is immutable"
        );
        let twice = json!({"handler": "a", "scheduling": {"tolerations": [{"key": "k", "operator": "Exists"}, {"key": "k", "operator": "Exists"}]}});
        assert_eq!(RuntimeClass.validate(&twice)[0].path, "scheduling.tolerations[1]");
    }
}

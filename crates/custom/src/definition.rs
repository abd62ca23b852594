//! CustomResourceDefinition (apiextensions.k8s.io/v1): its description, defaults, and what Kubernetes asks of it.

mod validate;

use jiff::Timestamp;
use orlop_api::{
    Column, FieldError, Kind, NameRule, Rules, Scope,
    object::{self, list, set_default, text},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whoever deletes a CustomResourceDefinition deletes its objects first: this finalizer sees to it.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The description of CustomResourceDefinition.
pub fn kind() -> Arc<Kind> {
    Arc::new(Kind {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
        singular: "customresourcedefinition".into(),
        short_names: vec!["crd".into(), "crds".into()],
        categories: vec!["api-extensions".into()],
        scope: Scope::Cluster,
        name_rule: NameRule::DnsSubdomain,
        has_status: true,
        has_generation: true,
        scale: None,
        columns: vec![
            orlop_api::print::name_column(),
            Column {
                name: "Created At".into(),
                kind: "date".into(),
                format: "".into(),
                description: "When it was created.".into(),
                priority: 0,
            },
        ],
        selectable_fields: Vec::new(),
        stored_as: None,
        rules: Arc::new(Definition),
    })
}

struct Definition;

/// The names of the versions that are marked as storage version.
pub(crate) fn storage_versions(definition: &Value) -> Vec<&str> {
    list(definition, "/spec/versions")
        .iter()
        .filter(|v| object::flag(v, "/storage"))
        .map(|v| text(v, "/name"))
        .collect()
}

impl Rules for Definition {
    fn default(&self, definition: &mut Value) {
        let Some(spec) = definition.get_mut("spec").filter(|s| s.is_object()) else { return };
        let kind = text(spec, "/names/kind").to_string();
        if let Some(names) = spec.get_mut("names").filter(|n| n.is_object()) {
            if text(names, "/singular").is_empty() && !kind.is_empty() {
                names["singular"] = json!(kind.to_lowercase());
            }
            if text(names, "/listKind").is_empty() && !kind.is_empty() {
                names["listKind"] = json!(format!("{kind}List"));
            }
        }
        if !spec.get("conversion").is_some_and(Value::is_object) {
            spec["conversion"] = json!({"strategy": "None"});
        }
        if let Some(service) =
            spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|s| s.is_object())
        {
            set_default(service, "port", 443);
        }
        // A flag that says nothing is not kept.
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false))
            && let Some(members) = spec.as_object_mut()
        {
            members.remove("preserveUnknownFields");
        }
    }

    fn prepare_create(&self, definition: &mut Value) {
        let stored: Vec<String> = storage_versions(definition).into_iter().map(str::to_string).collect();
        definition["status"] = json!({
            "conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored,
        });
        if let Some(status) = definition["status"].as_object_mut() {
            status.remove("conditions");
        }
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value) {
        let stored: Vec<String> = storage_versions(new).into_iter().map(str::to_string).collect();
        for version in stored {
            let known = list(new, "/status/storedVersions").iter().any(|v| *v == version);
            if !known && let Some(status) = new.get_mut("status").filter(|s| s.is_object()) {
                match status.get_mut("storedVersions").and_then(Value::as_array_mut) {
                    Some(versions) => versions.push(version.into()),
                    None => status["storedVersions"] = json!([version]),
                }
            }
        }
    }

    fn validate(&self, definition: &Value) -> Vec<FieldError> {
        validate::definition(definition)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::change(new, old)
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        validate::status(new)
    }

    fn cells(&self, definition: &Value, _now: Timestamp) -> Vec<Value> {
        vec![orlop_api::print::name(definition), text(definition, "/metadata/creationTimestamp").into()]
    }
}

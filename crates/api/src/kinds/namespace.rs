//! Namespace: a room for names.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope, name,
    object::{carry_over, child, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The description of Namespace.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ns"]),
        scope: Scope::Cluster,
        name_rule: NameRule::DnsLabel,
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Status", "Active, or Terminating while it is emptied."),
            print::age_column(),
        ],
        selectable_fields: texts(&["status.phase"]),
        ..base("", "v1", "Namespace", "namespaces", Namespace)
    }
}

struct Namespace;

impl Rules for Namespace {
    fn default(&self, object: &mut Value) {
        let name = text(object, "/metadata/name").to_string();
        if name.is_empty() {
            return;
        }
        if let Some(labels) = child(object, "metadata").and_then(|metadata| child(metadata, "labels")) {
            labels["kubernetes.io/metadata.name"] = name.into();
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        if !object.is_object() {
            return;
        }
        object["status"] = json!({"phase": "Active"});
        let given = list(object, "/spec/finalizers");
        if !given.contains(&json!("kubernetes")) {
            let mut finalizers = given.to_vec();
            finalizers.push("kubernetes".into());
            object["spec"] = json!({"finalizers": finalizers});
        }
    }

    /// Only the `finalize` subresource changes `spec.finalizers`, which is all there is to the spec.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        carry_over(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (at, finalizer) in list(object, "/spec/finalizers").iter().enumerate() {
            let finalizer = finalizer.as_str().unwrap_or_default();
            let path = Path::new("spec.finalizers").index(at);
            errors.messages(&path, finalizer, name::qualified_name(finalizer));
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let phase = text(new, "/status/phase");
        let deleting = crate::object::has(new, "/metadata/deletionTimestamp");
        let path = Path::new("status.phase");
        if deleting && phase != "Terminating" {
            let message = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            errors.invalid(&path, phase, message);
        } else if !deleting && phase != "Active" {
            let message = "may only be 'Active' if `deletionTimestamp` is empty";
            errors.invalid(&path, phase, message);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), text(object, "/status/phase").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_named_by_its_label_and_held_by_its_finalizer() {
        let mut object = json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "b"}}});
        Namespace.default(&mut object);
        Namespace.prepare_create(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
        Namespace.prepare_update(&mut new, &object);
        assert_eq!(new["spec"], object["spec"]);
    }

    #[test]
    fn the_phase_follows_the_deletion() {
        let wrong = |object: Value| !Namespace.validate_status(&object, &json!({})).is_empty();
        assert!(!wrong(json!({"status": {"phase": "Active"}})));
        assert!(wrong(json!({"status": {"phase": "Terminating"}})));
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(!wrong(json!({"metadata": deleting, "status": {"phase": "Terminating"}})));
    }
}

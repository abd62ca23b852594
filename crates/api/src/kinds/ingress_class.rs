//! IngressClass (networking.k8s.io/v1): who serves Ingresses.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{map, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of IngressClass.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Controller", "Who serves Ingresses of the class."),
            print::text_column("Parameters", "The object that configures it."),
            print::age_column(),
        ],
        ..base("networking.k8s.io", "v1", "IngressClass", "ingressclasses", IngressClass)
    }
}

const MAX_CONTROLLER: usize = 250;
/// The annotation of the class of Ingresses that name none.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

struct IngressClass;

impl Rules for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters") {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let controller = text(object, "/spec/controller");
        if controller.len() > MAX_CONTROLLER {
            errors.push(FieldError::too_long(path.child("controller"), MAX_CONTROLLER));
        }
        name::domain_prefixed_path(controller, &path.child("controller"), &mut errors);
        if let Some(parameters) = object.pointer("/spec/parameters").filter(|p| !p.is_null()) {
            validate_parameters(parameters, &path.child("parameters"), &mut errors);
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let of = |object: &Value| object.pointer("/spec/controller").cloned();
        errors.immutable(&Path::new("spec.controller"), of(new).as_ref(), of(old).as_ref());
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let parameters = object.pointer("/spec/parameters").unwrap_or(&Value::Null);
        let (kind, group) = (text(parameters, "/kind"), text(parameters, "/apiGroup"));
        let shown = match (kind, group) {
            ("", _) => String::new(),
            (kind, "") => format!("{kind}/{}", text(parameters, "/name")),
            (kind, group) => format!("{kind}.{group}/{}", text(parameters, "/name")),
        };
        let suffix = if is_default(object) { " (default)" } else { "" };
        vec![
            format!("{}{suffix}", text(object, "/metadata/name")).into(),
            text(object, "/spec/controller").into(),
            print::or_none(&shown),
            print::age(object, now),
        ]
    }
}

fn is_default(object: &Value) -> bool {
    map(object, "/metadata/annotations").and_then(|a| a.get(IS_DEFAULT)).is_some_and(|v| v == "true")
}

/// A reference to an object of any kind by its name.
pub(super) fn validate_reference(reference: &Value, path: &Path, errors: &mut FieldErrors) {
    if let Some(group) = reference.get("apiGroup").and_then(Value::as_str) {
        errors.messages(&path.child("apiGroup"), group, name::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = text(reference, &format!("/{field}"));
        if value.is_empty() {
            errors.required(path.child(field), &format!("{field} is required"));
        } else {
            errors.messages(&path.child(field), value, name::path_segment(value));
        }
    }
}

fn validate_parameters(parameters: &Value, path: &Path, errors: &mut FieldErrors) {
    validate_reference(parameters, path, errors);
    let namespace = parameters.get("namespace").and_then(Value::as_str);
    let at = path.child("namespace");
    match (text(parameters, "/scope"), namespace) {
        ("", _) => errors.required(path.child("scope"), ""),
        ("Namespace", None) => errors.required(&at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => errors.messages(&at, namespace, name::dns_label(namespace)),
        ("Cluster", Some(_)) => errors.forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => errors.one_of(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "c"}, "spec": spec});
        IngressClass.default(&mut object);
        object
    }

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |spec: Value| {
            let errors = IngressClass.validate(&class(spec));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        let with = |parameters: Value| json!({"controller": "example.com/c", "parameters": parameters});
        assert!(wrong(with(json!({"kind": "K", "name": "n"}))).is_empty());
        for (spec, want) in [
            (json!({}), "spec.controller: Required value"),
            (
                json!({"controller": "c"}),
                "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (with(json!({"kind": "K"})), "spec.parameters.name: Required value: name is required"),
            (
                with(json!({"kind": "K", "name": "n", "namespace": "x"})),
                "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
            ),
            (
                with(json!({"kind": "K", "name": "n", "scope": "Namespace"})),
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn the_controller_stays() {
        let errors = IngressClass.validate_update(
            &class(json!({"controller": "a.io/b"})),
            &class(json!({"controller": "a.io/a"})),
        );
        assert_eq!(errors[0].to_string(), "spec.controller: Invalid value: \"a.io/b\": field is immutable");
    }

    #[test]
    fn the_row_marks_the_default_and_names_the_parameters() {
        let mut object = class(json!({"controller": "a/b",
            "parameters": {"kind": "Params", "apiGroup": "a.b", "name": "p"}}));
        let row = IngressClass.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..3], ["c", "a/b", "Params.a.b/p"].map(Value::from));
        object["metadata"]["annotations"] = json!({IS_DEFAULT: "true"});
        assert_eq!(IngressClass.cells(&object, Timestamp::UNIX_EPOCH)[0], "c (default)");
    }
}

//! What is valid in roles and bindings (k8s.io/kubernetes `pkg/apis/rbac/validation`), and their defaults.

use super::GROUP;
use crate::{
    FieldError, FieldErrors, NameRule, Path, name,
    object::{child, each, len, list, set_default_nonzero, text},
};
use serde_json::{Value, json};

/// The rules of a role.
pub(crate) fn rules(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    for (at, rule) in list(object, "/rules").iter().enumerate() {
        let path = Path::new("rules").index(at);
        let empty = |field: &str| len(rule, &format!("/{field}")) == 0;
        if empty("verbs") {
            errors.required(path.child("verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            let (at, urls) = (path.child("nonResourceURLs"), rule["nonResourceURLs"].clone());
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(at.clone(), urls.clone(), why);
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                errors.invalid(
                    at,
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if empty("apiGroups") {
            errors.required(path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if empty("resources") {
            errors.required(path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// Which role a binding names, and whom. `role_kinds` are those that it may name.
pub(crate) fn binding(object: &Value, role_kinds: &[&str], namespaced: bool) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    let path = Path::new("roleRef");
    errors.one_of(&path.child("apiGroup"), text(object, "/roleRef/apiGroup"), &[GROUP]);
    errors.one_of(&path.child("kind"), text(object, "/roleRef/kind"), role_kinds);
    errors.required_and(&path.child("name"), text(object, "/roleRef/name"), |n| {
        name::object_name(NameRule::PathSegment, n)
    });
    for (at, subject) in list(object, "/subjects").iter().enumerate() {
        self::subject(subject, namespaced, &Path::new("subjects").index(at), &mut errors);
    }
    errors.into_vec()
}

fn subject(subject: &Value, namespaced: bool, path: &Path, errors: &mut FieldErrors) {
    let (its_name, group) = (text(subject, "/name"), text(subject, "/apiGroup"));
    if its_name.is_empty() {
        errors.required(path.child("name"), "");
    }
    match text(subject, "/kind") {
        "ServiceAccount" => {
            if !its_name.is_empty() {
                let wrong = name::object_name(NameRule::DnsSubdomain, its_name);
                errors.messages(&path.child("name"), its_name, wrong);
            }
            errors.one_of(&path.child("apiGroup"), group, &[""]);
            if !namespaced && text(subject, "/namespace").is_empty() {
                errors.required(path.child("namespace"), "");
            }
        }
        "User" | "Group" => errors.one_of(&path.child("apiGroup"), group, &[GROUP]),
        other => errors.one_of(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding stays with its role.
pub(crate) fn same_role(new: &Value, old: &Value) -> Vec<FieldError> {
    if new.get("roleRef") == old.get("roleRef") {
        return Vec::new();
    }
    let sent = new.get("roleRef").cloned().unwrap_or_else(|| json!({}));
    vec![FieldError::invalid("roleRef", sent, "cannot change roleRef")]
}

/// The API groups that a binding leaves out.
pub(crate) fn default_binding(object: &mut Value) {
    if let Some(role) = child(object, "roleRef") {
        set_default_nonzero(role, "apiGroup", GROUP);
    }
    each(object, "subjects", |subject| {
        if matches!(text(subject, "/kind"), "User" | "Group") {
            set_default_nonzero(subject, "apiGroup", GROUP);
        }
    });
}

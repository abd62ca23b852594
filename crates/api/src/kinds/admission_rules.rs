//! What webhook configurations and admission policies have in common (admissionregistration.k8s.io/v1): rules, selectors and
//! match conditions.

use crate::{
    FieldErrors, Path, name,
    object::{each, list, set_default, text},
    selector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

/// At most so many match conditions.
const MOST_CONDITIONS: usize = 64;

/// What a missing field of matching means.
pub(super) fn default_matching(about: &mut Value, rules: &str) {
    set_default(about, "matchPolicy", "Equivalent");
    set_default(about, "namespaceSelector", json!({}));
    set_default(about, "objectSelector", json!({}));
    each(about, rules, |rule| set_default(rule, "scope", "*"));
}

fn strings<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer).iter().filter_map(Value::as_str).collect()
}

/// A list of names where `*` must stand alone.
fn wild_list(errors: &mut FieldErrors, path: &Path, names: &[&str], may_be_empty_text: bool) {
    if names.is_empty() {
        errors.required(path, "");
    }
    if names.len() > 1 && names.contains(&"*") {
        let shown: Vec<Value> = names.iter().map(|n| json!(n)).collect();
        errors.invalid(path, shown, "if '*' is present, must not specify other items");
    }
    for (at, name) in names.iter().enumerate().filter(|(_, n)| n.is_empty() && !may_be_empty_text) {
        let _ = name;
        errors.required(path.index(at), "");
    }
}

/// What is wrong with `resources` of a rule.
fn resources(errors: &mut FieldErrors, path: &Path, names: &[&str]) {
    if names.is_empty() {
        errors.required(path, "");
    }
    let shown = || -> Vec<Value> { names.iter().map(|n| json!(n)).collect() };
    if names.len() > 1 && names.contains(&"*/*") {
        errors.invalid(path, shown(), "if '*/*' is present, must not specify other resources");
    }
    for (at, name) in names.iter().enumerate() {
        let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
        let others = || names.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, n)| *n);
        if name.is_empty() {
            errors.required(path.index(at), "");
        } else if subresource == "*" && resource != "*" {
            if others().any(|n| n.split_once('/').is_some_and(|(r, _)| r == resource)) {
                let why = format!("if '{resource}/*' is present, must not specify {resource}/subresource");
                errors.invalid(path.index(at), *name, why);
            }
        } else if resource == "*"
            && !subresource.is_empty()
            && subresource != "*"
            && others().any(|n| n.split_once('/').is_some_and(|(_, s)| s == subresource))
        {
            let why = format!("if '*/{subresource}' is present, must not specify resource/{subresource}");
            errors.invalid(path.index(at), *name, why);
        }
    }
    if names.contains(&"*") && names.iter().any(|n| *n != "*" && !n.contains('/')) {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, shown(), why);
    }
}

/// What is wrong with rules.
pub(super) fn rules(errors: &mut FieldErrors, path: &Path, rules: &[Value]) {
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let operations = strings(rule, "/operations");
        wild_list(errors, &path.child("operations"), &operations, false);
        for (at, operation) in operations.iter().enumerate() {
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            errors.one_of(&path.child("operations").index(at), operation, &known);
        }
        wild_list(errors, &path.child("apiGroups"), &strings(rule, "/apiGroups"), true);
        wild_list(errors, &path.child("apiVersions"), &strings(rule, "/apiVersions"), false);
        resources(errors, &path.child("resources"), &strings(rule, "/resources"));
        let scope = text(rule, "/scope");
        if !scope.is_empty() {
            errors.one_of(&path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
        }
    }
}

/// What is wrong with `matchPolicy` and the selectors.
pub(super) fn matching(errors: &mut FieldErrors, path: &Path, about: &Value) {
    let policy = text(about, "/matchPolicy");
    if !policy.is_empty() {
        errors.one_of(&path.child("matchPolicy"), policy, &["Equivalent", "Exact"]);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let path = path.child(field);
        if let Some(value) = about.get(field).filter(|v| !v.is_null())
            && let Some(typed) = errors.decode::<LabelSelector>(&path, value)
        {
            errors.extend(selector::validate(&typed, path.as_str()));
        }
    }
}

/// What is wrong with match conditions. Whether their expressions compile is the API server's to say.
pub(super) fn match_conditions(errors: &mut FieldErrors, path: &Path, conditions: &[Value]) {
    if conditions.len() > MOST_CONDITIONS {
        errors.push(crate::FieldError::too_many(path, conditions.len(), MOST_CONDITIONS));
    }
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        let given = text(condition, "/name");
        errors.required_and(&path.child("name"), given, name::qualified_name);
        if conditions[..at].iter().any(|c| text(c, "/name") == given) {
            errors.duplicate(path.child("name"), given);
        }
        if text(condition, "/expression").trim().is_empty() {
            errors.required(path.child("expression"), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(rule: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        rules(&mut errors, &Path::new("rules"), &[rule]);
        errors.into_vec().into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn rules_name_operations_groups_versions_and_resources() {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/status"]});
        assert!(wrong(rule.clone()).is_empty());
        assert_eq!(wrong(json!({})).len(), 4);
        let mut wild = rule.clone();
        wild["operations"] = json!(["*", "CREATE"]);
        assert_eq!(
            wrong(wild),
            [
                "rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other items"
            ]
        );
        let mut sub = rule;
        sub["resources"] = json!(["pods/*", "pods/status"]);
        assert!(wrong(sub)[0].contains("if 'pods/*' is present, must not specify pods/subresource"));
    }
}

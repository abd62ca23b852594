//! What ValidatingAdmissionPolicy and MutatingAdmissionPolicy have in common, and their bindings: what they are about, parameters
//! and variables.

use super::{admission_rules as shared, base, texts};
use crate::{
    Column, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{each, has, len, list, map, set_default, text},
    print, selector,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

/// The description of a kind of policy; its rows count what `counted` names.
pub(super) fn policy_kind(
    kind: &'static str,
    plural: &'static str,
    counted: Column,
    rules: impl Rules + 'static,
) -> Kind {
    let params = print::text_column(
        "ParamKind",
        "ParamKind specifies the kind of resources used to parameterize this policy",
    );
    described(kind, plural, [counted, params], rules)
}

/// The description of a kind of binding.
pub(super) fn binding_kind(kind: &'static str, plural: &'static str, rules: impl Rules + 'static) -> Kind {
    let columns = [
        print::text_column(
            "PolicyName",
            "PolicyName indicates the policy definition which the policy binding binded to",
        ),
        print::text_column(
            "ParamRef",
            "ParamRef indicates the param resource which sets the configration param",
        ),
    ];
    described(kind, plural, columns, rules)
}

fn described(
    kind: &'static str,
    plural: &'static str,
    [first, second]: [Column; 2],
    rules: impl Rules + 'static,
) -> Kind {
    Kind {
        categories: texts(&["api-extensions"]),
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![print::name_column(), first, second, print::age_column()],
        ..base("admissionregistration.k8s.io", "v1", kind, plural, rules)
    }
}

/// A policy's row; `counted` are the items that it counts.
pub(super) fn policy_cells(object: &Value, counted: &str, now: Timestamp) -> Vec<Value> {
    vec![print::name(object), len(object, counted).into(), param_kind(object).into(), print::age(object, now)]
}

/// A binding's row.
pub(super) fn binding_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let policy = text(object, "/spec/policyName");
    vec![print::name(object), policy.into(), param_ref(object).into(), print::age(object, now)]
}

/// What missing fields of a policy mean.
pub(super) fn default_policy(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    set_default(spec, "failurePolicy", "Fail");
    if let Some(constraints) = spec.get_mut("matchConstraints").filter(|c| c.is_object()) {
        default_resources(constraints);
    }
}

/// What missing fields of a binding mean.
pub(super) fn default_binding(object: &mut Value) {
    if let Some(resources) = object.pointer_mut("/spec/matchResources").filter(|r| r.is_object()) {
        default_resources(resources);
    }
}

fn default_resources(resources: &mut Value) {
    shared::default_matching(resources, "resourceRules");
    each(resources, "excludeResourceRules", |rule| set_default(rule, "scope", "*"));
}

/// Whether it can stand behind `variables.`.
fn identifier(value: &str) -> Vec<String> {
    let good = |at: usize, c: char| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
    if value.chars().enumerate().all(|(at, c)| good(at, c)) {
        Vec::new()
    } else {
        vec!["name is not a valid CEL identifier".into()]
    }
}

/// What is wrong with the parts of a policy that all policies have. `operations` are those that it may be about, where that is
/// not any.
pub(super) fn policy(errors: &mut FieldErrors, object: &Value, operations: Option<&[&str]>) {
    let path = Path::new("spec");
    errors.one_of(&path.child("failurePolicy"), text(object, "/spec/failurePolicy"), &["Fail", "Ignore"]);
    if has(object, "/spec/paramKind") {
        for field in ["apiVersion", "kind"] {
            if text(object, &format!("/spec/paramKind/{field}")).is_empty() {
                errors.required(path.child("paramKind").child(field), "");
            }
        }
    }
    let at = path.child("matchConstraints");
    match object.pointer("/spec/matchConstraints").filter(|c| !c.is_null()) {
        None => errors.required(&at, ""),
        Some(constraints) => {
            if list(constraints, "/resourceRules").is_empty() {
                errors.required(at.child("resourceRules"), "");
            }
            resources(errors, &at, constraints, operations);
        }
    }
    let conditions = list(object, "/spec/matchConditions");
    shared::match_conditions(errors, &path.child("matchConditions"), conditions);
    let variables = list(object, "/spec/variables");
    for (at, variable) in variables.iter().enumerate() {
        let path = path.child("variables").index(at);
        let given = text(variable, "/name");
        errors.required_and(&path.child("name"), given, identifier);
        if variables[..at].iter().any(|v| text(v, "/name") == given) {
            errors.duplicate(path.child("name"), given);
        }
        if text(variable, "/expression").trim().is_empty() {
            errors.required(path.child("expression"), "expression is not specified");
        }
    }
}

/// What is wrong with the parts of a binding that all bindings have.
pub(super) fn binding(errors: &mut FieldErrors, object: &Value, operations: Option<&[&str]>) {
    let path = Path::new("spec");
    errors.required_and(&path.child("policyName"), text(object, "/spec/policyName"), name::dns_subdomain);
    if let Some(reference) = object.pointer("/spec/paramRef").filter(|r| !r.is_null()) {
        let at = path.child("paramRef");
        let (named, selected) = (!text(reference, "/name").is_empty(), has(reference, "/selector"));
        if named && selected {
            errors.forbidden(at.child("name"), "name and selector are mutually exclusive");
            errors.forbidden(at.child("selector"), "name and selector are mutually exclusive");
        } else if !named && !selected {
            errors.required(&at, "one of name or selector must be specified");
        }
        if let Some(value) = reference.get("selector").filter(|s| !s.is_null())
            && let Some(typed) = errors.decode::<LabelSelector>(&at.child("selector"), value)
        {
            errors.extend(selector::validate(&typed, at.child("selector").as_str()));
        }
        let action = text(reference, "/parameterNotFoundAction");
        errors.required_one_of(&at.child("parameterNotFoundAction"), action, &["Allow", "Deny"]);
    }
    if let Some(about) = object.pointer("/spec/matchResources").filter(|r| !r.is_null()) {
        resources(errors, &path.child("matchResources"), about, operations);
    }
}

fn resources(errors: &mut FieldErrors, at: &Path, about: &Value, operations: Option<&[&str]>) {
    let rules = list(about, "/resourceRules");
    shared::rules(errors, &at.child("resourceRules"), rules);
    let excluded = list(about, "/excludeResourceRules");
    shared::rules(errors, &at.child("excludeResourceRules"), excluded);
    shared::matching(errors, at, about);
    let at = at.child("resourceRules").child("operations");
    for operation in rules.iter().flat_map(|rule| list(rule, "/operations")).filter_map(Value::as_str) {
        if let Some(operations) = operations {
            errors.one_of(&at, operation, operations);
        }
    }
}

/// The kind of a policy's parameters, as its row shows it.
fn param_kind(object: &Value) -> String {
    match (text(object, "/spec/paramKind/apiVersion"), text(object, "/spec/paramKind/kind")) {
        ("", _) => "<unset>".to_string(),
        (version, kind) => format!("{version}/{kind}"),
    }
}

/// A binding's parameters, as its row shows them.
fn param_ref(object: &Value) -> String {
    match (text(object, "/spec/paramRef/namespace"), text(object, "/spec/paramRef/name")) {
        (_, "") => selected(object.pointer("/spec/paramRef/selector")),
        // Whether the parameter lives in a namespace cannot be told from here.
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// A selector of parameters as Kubernetes prints the type (Go's `String` of meta/v1 `LabelSelector`).
fn selected(selector: Option<&Value>) -> String {
    let Some(selector) = selector.filter(|s| s.is_object()) else { return "<unset>".into() };
    let mut labels: Vec<String> = map(selector, "/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    let expression = |e: &Value| {
        let values: Vec<&str> = list(e, "/values").iter().filter_map(Value::as_str).collect();
        let (key, operator) = (text(e, "/key"), text(e, "/operator"));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    };
    let expressions: String = list(selector, "/matchExpressions").iter().map(expression).collect();
    let labels = labels.concat();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

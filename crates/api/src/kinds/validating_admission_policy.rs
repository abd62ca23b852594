//! ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1): what objects must fulfil, in expressions.

use super::{admission_rules as shared, base, texts};
use crate::{
    FieldErrors, Kind, Path, Rules, Scope, name,
    object::{has, len, list, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ValidatingAdmissionPolicy.
pub(super) fn kind() -> Kind {
    Kind {
        categories: texts(&["api-extensions"]),
        scope: Scope::Cluster,
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::int_column("Validations", "How many validations there are."),
            print::text_column("ParamKind", "The kind of the parameters."),
            print::age_column(),
        ],
        ..base(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            ValidatingAdmissionPolicy,
        )
    }
}

struct ValidatingAdmissionPolicy;

/// Reasons that a validation may give.
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

/// Whether it can stand behind `variables.`.
fn identifier(value: &str) -> Vec<String> {
    let good = |at: usize, c: char| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
    if value.chars().enumerate().all(|(at, c)| good(at, c)) {
        Vec::new()
    } else {
        vec!["name is not a valid CEL identifier".into()]
    }
}

impl Rules for ValidatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "failurePolicy", "Fail");
        if let Some(constraints) = spec.get_mut("matchConstraints").filter(|c| c.is_object()) {
            shared::default_matching(constraints, "resourceRules");
            crate::object::each(constraints, "excludeResourceRules", |rule| set_default(rule, "scope", "*"));
        }
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
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
                let rules = list(constraints, "/resourceRules");
                if rules.is_empty() {
                    errors.required(at.child("resourceRules"), "");
                }
                shared::rules(&mut errors, &at.child("resourceRules"), rules);
                let excluded = list(constraints, "/excludeResourceRules");
                shared::rules(&mut errors, &at.child("excludeResourceRules"), excluded);
                shared::matching(&mut errors, &at, constraints);
            }
        }
        let conditions = list(object, "/spec/matchConditions");
        shared::match_conditions(&mut errors, &path.child("matchConditions"), conditions);
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
        if len(object, "/spec/validations") + len(object, "/spec/auditAnnotations") == 0 {
            let why = "validations or auditAnnotations must be specified";
            errors.required(path.child("validations"), why);
            errors.required(path.child("auditAnnotations"), why);
        }
        for (at, validation) in list(object, "/spec/validations").iter().enumerate() {
            let path = path.child("validations").index(at);
            if text(validation, "/expression").trim().is_empty() {
                errors.required(path.child("expression"), "expression is not specified");
            }
            if validation.get("message").is_some_and(|m| m.as_str().is_some_and(|m| m.trim().is_empty())) {
                errors.invalid(path.child("message"), "", "message must be non-empty if specified");
            }
            let reason = text(validation, "/reason");
            if !reason.is_empty() {
                errors.one_of(&path.child("reason"), reason, &REASONS);
            }
        }
        let annotations = list(object, "/spec/auditAnnotations");
        for (at, annotation) in annotations.iter().enumerate() {
            let path = path.child("auditAnnotations").index(at);
            let key = text(annotation, "/key");
            errors.required_and(&path.child("key"), key, name::qualified_name);
            if annotations[..at].iter().any(|a| text(a, "/key") == key) {
                errors.duplicate(path.child("key"), key);
            }
            if text(annotation, "/valueExpression").trim().is_empty() {
                errors.required(path.child("valueExpression"), "valueExpression is not specified");
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let kind = match (text(object, "/spec/paramKind/apiVersion"), text(object, "/spec/paramKind/kind")) {
            ("", _) => "<unset>".to_string(),
            (version, kind) => format!("{version}/{kind}"),
        };
        vec![
            print::name(object),
            len(object, "/spec/validations").into(),
            kind.into(),
            print::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(change: Value) -> Vec<String> {
        let mut spec = json!({
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
            "validations": [{"expression": "true"}],
        });
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut object = json!({"spec": spec});
        ValidatingAdmissionPolicy.default(&mut object);
        ValidatingAdmissionPolicy.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_policy_says_what_it_is_about_and_what_it_wants() {
        assert!(wrong(json!({})).is_empty());
        assert_eq!(wrong(json!({"matchConstraints": null})), ["spec.matchConstraints: Required value"]);
        assert_eq!(
            wrong(json!({"validations": [{"expression": "", "reason": "Because"}]})),
            [
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].reason: Unsupported value: \"Because\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
            ]
        );
        assert_eq!(wrong(json!({"validations": []})).len(), 2);
        assert_eq!(
            wrong(json!({"variables": [{"name": "1x", "expression": "1"}]})),
            ["spec.variables[0].name: Invalid value: \"1x\": name is not a valid CEL identifier"]
        );
    }
}

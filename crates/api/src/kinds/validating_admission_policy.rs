//! ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1): what objects must fulfil, in expressions.

use super::admission_policy as shared;
use crate::{
    FieldErrors, Kind, Path, Rules, name,
    object::{len, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ValidatingAdmissionPolicy.
pub(super) fn kind() -> Kind {
    let counted = print::int_column(
        "Validations",
        "Validations indicates the number of validation rules defined in this configuration",
    );
    Kind {
        has_status: true,
        ..shared::policy_kind(
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            counted,
            ValidatingAdmissionPolicy,
        )
    }
}

struct ValidatingAdmissionPolicy;

/// Reasons that a validation may give.
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

impl Rules for ValidatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        shared::default_policy(object);
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        shared::policy(&mut errors, object, None);
        let path = Path::new("spec");
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
        shared::policy_cells(object, "/spec/validations", now)
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

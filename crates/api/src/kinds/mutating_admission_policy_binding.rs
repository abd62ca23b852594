//! MutatingAdmissionPolicyBinding (admissionregistration.k8s.io/v1): where a policy holds, and with which parameters.

use super::{admission_policy as shared, mutating_admission_policy::OPERATIONS};
use crate::{FieldErrors, Kind, Rules};
use jiff::Timestamp;
use serde_json::Value;

/// The description of MutatingAdmissionPolicyBinding.
pub(super) fn kind() -> Kind {
    shared::binding_kind(
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        MutatingAdmissionPolicyBinding,
    )
}

struct MutatingAdmissionPolicyBinding;

impl Rules for MutatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        shared::default_binding(object);
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        shared::binding(&mut errors, object, Some(OPERATIONS));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        shared::binding_cells(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_binding_names_a_policy_and_maybe_parameters() {
        let wrong = |spec: Value| {
            let errors = MutatingAdmissionPolicyBinding.validate(&json!({"spec": spec}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"policyName": "p.example.com"})).is_empty());
        assert_eq!(wrong(json!({})), ["spec.policyName: Required value"]);
        assert_eq!(
            wrong(json!({"policyName": "p", "paramRef": {"parameterNotFoundAction": "Deny"}})),
            ["spec.paramRef: Required value: one of name or selector must be specified"]
        );
        let both = json!({"name": "x", "selector": {}, "parameterNotFoundAction": "Deny"});
        assert_eq!(wrong(json!({"policyName": "p", "paramRef": both})).len(), 2);
        let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let about = json!({"matchPolicy": "Exact", "resourceRules": [rule]});
        assert_eq!(
            wrong(json!({"policyName": "p", "matchResources": about})),
            [
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }
}

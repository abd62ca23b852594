//! ValidatingAdmissionPolicyBinding (admissionregistration.k8s.io/v1): where a policy holds, with which parameters, and what
//! follows from breaking it.

use super::admission_policy as shared;
use crate::{FieldErrors, Kind, Path, Rules, object::list};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ValidatingAdmissionPolicyBinding.
pub(super) fn kind() -> Kind {
    shared::binding_kind(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        ValidatingAdmissionPolicyBinding,
    )
}

struct ValidatingAdmissionPolicyBinding;

impl Rules for ValidatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        shared::default_binding(object);
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        shared::binding(&mut errors, object, None);
        let path = Path::new("spec");
        let at = path.child("validationActions");
        let actions: Vec<&str> =
            list(object, "/spec/validationActions").iter().filter_map(Value::as_str).collect();
        if actions.is_empty() {
            errors.required(&at, "at least one validation action is required");
        }
        for (index, action) in actions.iter().enumerate() {
            errors.one_of(&at.index(index), action, &["Audit", "Deny", "Warn"]);
            if actions[..index].contains(action) {
                errors.duplicate(at.index(index), *action);
            }
        }
        if actions.contains(&"Deny") && actions.contains(&"Warn") {
            let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            errors.invalid(&at, actions.clone(), why);
        }
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
    fn a_binding_names_a_policy_and_says_what_follows() {
        let wrong = |spec: Value| {
            let errors = ValidatingAdmissionPolicyBinding.validate(&json!({"spec": spec}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"policyName": "p", "validationActions": ["Deny", "Audit"]})).is_empty());
        assert_eq!(wrong(json!({})).len(), 2);
        assert!(
            wrong(json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}))[0]
                .contains("both Deny and Warn")
        );
        assert_eq!(
            wrong(json!({"policyName": "p", "validationActions": ["Warn"], "paramRef": {"name": "x"}})),
            ["spec.paramRef.parameterNotFoundAction: Required value"]
        );
    }

    #[test]
    fn the_row_names_the_parameters() {
        for (reference, want) in [
            (json!(null), "<unset>"),
            (json!({"name": "p", "namespace": "n"}), "n/p"),
            (json!({"name": "p"}), "*/p"),
            (
                json!({"selector": {"matchLabels": {"b": "c", "a": "b"},
                    "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}}),
                "&LabelSelector{MatchLabels:map[string]string{a: b,b: c,},\
                 MatchExpressions:[]LabelSelectorRequirement{\
                 LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}",
            ),
        ] {
            let object = json!({"spec": {"policyName": "p", "paramRef": reference}});
            let row = ValidatingAdmissionPolicyBinding.cells(&object, Timestamp::UNIX_EPOCH);
            assert_eq!(row[2], want, "{reference}");
        }
    }
}

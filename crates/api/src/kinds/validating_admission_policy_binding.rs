//! ValidatingAdmissionPolicyBinding (admissionregistration.k8s.io/v1): where a policy holds, with which parameters, and what
//! follows from breaking it.

use super::{admission_rules as shared, base, texts};
use crate::{
    FieldErrors, Kind, Path, Rules, Scope,
    object::{each, has, list, set_default, text},
    print, selector,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

/// The description of ValidatingAdmissionPolicyBinding.
pub(super) fn kind() -> Kind {
    Kind {
        categories: texts(&["api-extensions"]),
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("PolicyName", "The policy."),
            print::text_column("ParamRef", "The parameters."),
            print::age_column(),
        ],
        ..base(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            ValidatingAdmissionPolicyBinding,
        )
    }
}

struct ValidatingAdmissionPolicyBinding;

impl Rules for ValidatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        if let Some(resources) = object.pointer_mut("/spec/matchResources").filter(|r| r.is_object()) {
            shared::default_matching(resources, "resourceRules");
            each(resources, "excludeResourceRules", |rule| set_default(rule, "scope", "*"));
        }
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        if text(object, "/spec/policyName").is_empty() {
            errors.required(path.child("policyName"), "");
        }
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
        if let Some(reference) = object.pointer("/spec/paramRef").filter(|r| !r.is_null()) {
            let at = path.child("paramRef");
            let (named, selected) = (!text(reference, "/name").is_empty(), has(reference, "/selector"));
            if named && selected {
                errors.forbidden(at.child("name"), "name and selector are mutually exclusive");
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
        if let Some(resources) = object.pointer("/spec/matchResources").filter(|r| !r.is_null()) {
            let at = path.child("matchResources");
            shared::rules(&mut errors, &at.child("resourceRules"), list(resources, "/resourceRules"));
            let excluded = list(resources, "/excludeResourceRules");
            shared::rules(&mut errors, &at.child("excludeResourceRules"), excluded);
            shared::matching(&mut errors, &at, resources);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let reference = match (text(object, "/spec/paramRef/namespace"), text(object, "/spec/paramRef/name"))
        {
            (_, "") => "<unset>".to_string(),
            ("", name) => name.to_string(),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            print::name(object),
            text(object, "/spec/policyName").into(),
            reference.into(),
            print::age(object, now),
        ]
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
}

//! MutatingAdmissionPolicy (admissionregistration.k8s.io/v1): how objects are changed before they are kept, in expressions.

use super::admission_policy as shared;
use crate::{
    FieldErrors, Kind, Path, Rules,
    object::{has, len, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// What there can be to change: a delete brings no object.
pub(super) const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

/// The description of MutatingAdmissionPolicy.
pub(super) fn kind() -> Kind {
    let counted = print::int_column(
        "Mutations",
        "Mutation indicates the number of mutations rules defined in this configuration",
    );
    shared::policy_kind(
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        counted,
        MutatingAdmissionPolicy,
    )
}

struct MutatingAdmissionPolicy;

/// The types of patch, with the fields that hold them.
const PATCHES: [(&str, &str); 2] = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];

fn mutation(errors: &mut FieldErrors, path: &Path, mutation: &Value) {
    let given = text(mutation, "/patchType");
    let known = PATCHES.map(|(kind, _)| kind);
    errors.required_one_of(&path.child("patchType"), given, &known);
    if !known.contains(&given) {
        return;
    }
    for (kind, field) in PATCHES {
        let path = path.child(field);
        match (kind == given, has(mutation, &format!("/{field}"))) {
            (true, false) => errors.required(&path, &format!("must be specified when patchType is {given}")),
            (true, true) if text(mutation, &format!("/{field}/expression")).trim().is_empty() => {
                errors.required(path.child("expression"), "");
            }
            (false, true) => {
                let why = format!("must not be specified when patchType is {given}");
                errors.invalid(&path, format!("{{{field}}}"), why);
            }
            _ => {}
        }
    }
}

impl Rules for MutatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        shared::default_policy(object);
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        shared::policy(&mut errors, object, Some(OPERATIONS));
        let path = Path::new("spec");
        if len(object, "/spec/mutations") == 0 {
            errors.required(path.child("mutations"), "mutations must contain at least one item");
        }
        for (at, one) in list(object, "/spec/mutations").iter().enumerate() {
            mutation(&mut errors, &path.child("mutations").index(at), one);
        }
        let policy = text(object, "/spec/reinvocationPolicy");
        errors.required_one_of(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        shared::policy_cells(object, "/spec/mutations", now)
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
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}],
            "reinvocationPolicy": "Never",
        });
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut object = json!({"spec": spec});
        MutatingAdmissionPolicy.default(&mut object);
        MutatingAdmissionPolicy.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_policy_says_what_it_is_about_and_what_it_changes() {
        assert!(wrong(json!({})).is_empty());
        assert_eq!(
            wrong(json!({"mutations": [], "reinvocationPolicy": "Often"})),
            [
                "spec.mutations: Required value: mutations must contain at least one item",
                "spec.reinvocationPolicy: Unsupported value: \"Often\": supported values: \"IfNeeded\", \"Never\"",
            ]
        );
        assert_eq!(wrong(json!({"reinvocationPolicy": null})), ["spec.reinvocationPolicy: Required value"]);
        let rule = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        assert_eq!(
            wrong(json!({"matchConstraints": {"resourceRules": [rule]}})),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }

    #[test]
    fn a_mutation_has_one_patch_of_its_type() {
        for (mutation, why) in [
            (json!({"patchType": ""}), vec!["patchType: Required value"]),
            (
                json!({"patchType": "Merge"}),
                vec![
                    "patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                ],
            ),
            (
                json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}),
                vec![
                    "applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                    "jsonPatch: Required value: must be specified when patchType is JSONPatch",
                ],
            ),
            (
                json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": " "}}),
                vec!["applyConfiguration.expression: Required value"],
            ),
        ] {
            let why: Vec<String> = why.into_iter().map(|w| format!("spec.mutations[0].{w}")).collect();
            assert_eq!(wrong(json!({"mutations": [mutation]})), why);
        }
    }
}

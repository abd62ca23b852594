//! Role (rbac.authorization.k8s.io/v1): what may be done in a namespace.

use super::base;
use crate::{
    Column, FieldError, FieldErrors, Kind, NameRule, Rules,
    object::text,
    print,
    rbac::{GROUP, validate},
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of Role.
pub(super) fn kind() -> Kind {
    Kind { name_rule: NameRule::PathSegment, columns: columns(), ..base(GROUP, "v1", "Role", "roles", Role) }
}

/// The columns of roles, whatever their scope.
pub(super) fn columns() -> Vec<Column> {
    let created = print::text_column("Created At", "When the object was created.");
    vec![print::name_column(), Column { kind: "date".into(), ..created }]
}

/// The cells of [`columns`].
pub(super) fn cells(object: &Value) -> Vec<Value> {
    vec![print::name(object), text(object, "/metadata/creationTimestamp").into()]
}

struct Role;

impl Rules for Role {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::rules(object, true, &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        cells(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_must_say_what_may_be_done_to_what() {
        let wrong = |rule: Value| {
            let errors = Role.validate(&json!({"rules": [rule]}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})).is_empty());
        assert_eq!(
            wrong(json!({})),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        assert_eq!(
            wrong(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"
            ]
        );
    }
}

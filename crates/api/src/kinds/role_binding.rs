//! RoleBinding (rbac.authorization.k8s.io/v1): who holds a role in a namespace.

use super::base;
use crate::{
    Column, FieldError, Kind, NameRule, Rules,
    object::{list, text},
    print,
    rbac::{GROUP, validate},
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of RoleBinding.
pub(super) fn kind() -> Kind {
    Kind {
        name_rule: NameRule::PathSegment,
        columns: columns(),
        ..base(GROUP, "v1", "RoleBinding", "rolebindings", RoleBinding)
    }
}

/// The columns of bindings, whatever their scope.
pub(super) fn columns() -> Vec<Column> {
    vec![
        print::name_column(),
        print::text_column("Role", "The role that is bound."),
        print::age_column(),
        print::wide_column("Users", "The users that hold it."),
        print::wide_column("Groups", "The groups whose members hold it."),
        print::wide_column("ServiceAccounts", "The service accounts that hold it."),
    ]
}

/// The cells of [`columns`].
pub(super) fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let names: Vec<String> = list(object, "/subjects")
            .iter()
            .filter(|s| text(s, "/kind") == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
                _ => text(s, "/name").to_string(),
            })
            .collect();
        names.join(", ").into()
    };
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    vec![
        print::name(object),
        role.into(),
        print::age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

struct RoleBinding;

impl Rules for RoleBinding {
    fn default(&self, object: &mut Value) {
        validate::default_binding(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate::binding(object, &["Role", "ClusterRole"], true)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::same_role(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(mut object: Value) -> Vec<String> {
        RoleBinding.default(&mut object);
        RoleBinding.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_binding_names_a_role_and_known_kinds_of_subjects() {
        let subjects = json!([
            {"kind": "User", "name": "jane"}, {"kind": "Group", "name": "dev"}, {"kind": "ServiceAccount", "name": "a"},
        ]);
        let role = json!({"kind": "Role", "name": "r"});
        assert!(wrong(json!({"roleRef": role, "subjects": subjects})).is_empty());
        assert_eq!(
            wrong(
                json!({"roleRef": {"kind": "Pod"}, "subjects": [{"kind": "Robot", "name": "x"}, {"kind": "User"}]})
            ),
            [
                "roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                "subjects[1].name: Required value",
            ]
        );
    }

    #[test]
    fn a_binding_stays_with_its_role() {
        let of = |name: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name}});
        assert!(RoleBinding.validate_update(&of("a"), &of("a")).is_empty());
        let errors = RoleBinding.validate_update(&of("b"), &of("a"));
        assert!(errors[0].to_string().ends_with("cannot change roleRef"), "{errors:?}");
    }

    #[test]
    fn the_row_lists_who_holds_the_role() {
        let row = cells(
            &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [
                {"kind": "User", "name": "jane"}, {"kind": "User", "name": "joe"},
                {"kind": "ServiceAccount", "name": "a", "namespace": "n"}]}),
            Timestamp::UNIX_EPOCH,
        );
        let expected = ["b", "ClusterRole/view", "<unknown>", "jane, joe", "", "n/a"].map(Value::from);
        assert_eq!(row, expected);
    }
}

//! ClusterRoleBinding (rbac.authorization.k8s.io/v1): who holds a role in the whole cluster.

use super::{base, role_binding};
use crate::{
    FieldError, Kind, NameRule, Rules, Scope,
    rbac::{GROUP, validate},
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ClusterRoleBinding.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        name_rule: NameRule::PathSegment,
        columns: role_binding::columns(),
        ..base(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", ClusterRoleBinding)
    }
}

struct ClusterRoleBinding;

impl Rules for ClusterRoleBinding {
    fn default(&self, object: &mut Value) {
        validate::default_binding(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate::binding(object, &["ClusterRole"], false)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::same_role(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        role_binding::cells(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_account_needs_its_namespace_and_the_role_must_be_the_clusters() {
        let mut object = json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "a"}]});
        ClusterRoleBinding.default(&mut object);
        let wrong: Vec<String> =
            ClusterRoleBinding.validate(&object).into_iter().map(|e| e.to_string()).collect();
        assert_eq!(
            wrong,
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
            ]
        );
    }
}

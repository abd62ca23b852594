//! ClusterRole (rbac.authorization.k8s.io/v1): what may be done in the whole cluster, or in any namespace that binds it.

use super::{base, role};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope,
    object::{has, list},
    rbac::{GROUP, validate},
    selector::Selector,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ClusterRole.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        name_rule: NameRule::PathSegment,
        columns: role::columns(),
        ..base(GROUP, "v1", "ClusterRole", "clusterroles", ClusterRole)
    }
}

struct ClusterRole;

impl Rules for ClusterRole {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::rules(object, false, &mut errors);
        if has(object, "/aggregationRule") {
            let path = Path::new("aggregationRule.clusterRoleSelectors");
            let selectors = list(object, "/aggregationRule/clusterRoleSelectors");
            if selectors.is_empty() {
                let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.required(&path, why);
            }
            for (at, selector) in selectors.iter().enumerate() {
                if Selector::from_json(Some(selector)).is_err() {
                    errors.invalid(path.index(at), selector.clone(), "invalid label selector.");
                }
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        role::cells(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_is_for_resources_or_for_paths() {
        let both =
            json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "apiGroups": [""], "resources": ["pods"]});
        let errors = ClusterRole.validate(&json!({"rules": [both]}));
        assert_eq!(
            errors[0].to_string(),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs"
        );
    }

    #[test]
    fn an_aggregation_needs_a_valid_selector() {
        let wrong = |rule: Value| ClusterRole.validate(&json!({"aggregationRule": rule})).len();
        assert_eq!(wrong(json!({})), 1);
        assert_eq!(wrong(json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]})), 0);
        let odd = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert_eq!(wrong(json!({"clusterRoleSelectors": [odd]})), 1);
    }
}

//! Role-based access control (Kubernetes documentation, "Using RBAC Authorization"): what roles allow those to whom they are
//! bound. Nothing is forbidden by it; what no rule allows it has no opinion on.

pub(crate) mod defaults;
pub(crate) mod index;

use super::{
    Attributes, Authorizer, Decision, Identity,
    authorize::{Because, Held},
};
use index::{RbacIndex, RoleRef};
use orlop_api::rbac::{PolicyRule, Request, compact, describe, uncovered};
use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

/// The authorizer.
#[derive(Default)]
pub(crate) struct Rbac {
    pub(crate) index: Arc<RbacIndex>,
}

fn missing(role: &RoleRef) -> String {
    let kind = if role.cluster { "clusterrole" } else { "role" };
    format!("{kind}.{} {:?} not found", orlop_api::rbac::GROUP, role.name)
}

/// Several errors as one, in the words of k8s.io/apimachinery's aggregates.
fn joined(errors: &BTreeSet<String>) -> String {
    match errors.first() {
        Some(one) if errors.len() == 1 => one.clone(),
        _ => format!("[{}]", errors.iter().cloned().collect::<Vec<_>>().join(", ")),
    }
}

impl Authorizer for Rbac {
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        let request = if what.resource.is_empty() {
            Request::Path { verb: what.verb, path: what.path }
        } else {
            Request::Resource {
                verb: what.verb,
                group: what.group,
                resource: what.resource,
                subresource: what.subresource,
                name: what.name,
            }
        };
        let mut allowed = None;
        let mut errors = BTreeSet::new();
        self.index.visit(who, what.namespace, |seen| {
            match seen {
                Ok((rules, source)) if rules.iter().any(|rule| rule.allows(request)) => {
                    allowed = Some(source.clone());
                    return ControlFlow::Break(());
                }
                Ok(_) => {}
                Err(role) => drop(errors.insert(missing(role))),
            }
            ControlFlow::Continue(())
        });
        match allowed {
            Some(source) => Decision::Allow(Because::Rbac(source)),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", joined(&errors))),
        }
    }

    fn held(&self, who: &Identity, namespace: &str) -> Held {
        let mut held = Held::default();
        let mut errors = BTreeSet::new();
        self.index.visit(who, namespace, |seen| {
            match seen {
                Ok((rules, _)) => held.rules.extend_from_slice(rules),
                Err(role) => drop(errors.insert(missing(role))),
            }
            ControlFlow::Continue(())
        });
        if !errors.is_empty() {
            held.incomplete = true;
            held.error = joined(&errors);
        }
        held
    }
}

impl Rbac {
    /// The rules of the role that a binding in `namespace` names.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.index.rules_of(role, namespace)
    }

    /// Why `who` must not give `wanted` away: they do not hold it themselves.
    pub(crate) fn escalation(
        &self,
        who: &Identity,
        namespace: &str,
        wanted: &[PolicyRule],
    ) -> Result<(), String> {
        let held = self.held(who, namespace);
        let lacking = uncovered(&held.rules, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = compact(lacking).iter().map(describe).collect();
        let groups: Vec<String> = who.groups.iter().map(|g| format!("{g:?}")).collect();
        let mut message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            who.user,
            groups.join(" "),
            lines.into_iter().collect::<Vec<_>>().join("\n")
        );
        if !held.error.is_empty() {
            message.push_str(&format!("; resolution errors: [{}]", held.error));
        }
        Err(message)
    }
}

#[cfg(test)]
mod tests {
    use super::{index::tests::index, *};
    use serde_json::{Value, json};

    fn rbac(objects: &[(&str, Value)]) -> Rbac {
        Rbac { index: Arc::new(index(objects)) }
    }

    fn binding(role: &str, user: &str) -> Value {
        let kind = if role.starts_with("cluster") { "ClusterRole" } else { "Role" };
        json!({"roleRef": {"kind": kind, "name": role}, "subjects": [{"kind": "User", "name": user}]})
    }

    fn reading(resource: &str) -> Value {
        json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": [resource]}]})
    }

    fn get<'a>(namespace: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes { verb: "get", namespace, resource, name: "x", ..Attributes::default() }
    }

    #[test]
    fn a_role_counts_in_its_namespace_and_a_cluster_role_where_it_is_bound() {
        let rbac = rbac(&[
            ("roles/n/pods", reading("pods")),
            ("clusterroles/cluster-secrets", reading("secrets")),
            ("rolebindings/n/a", binding("pods", "jane")),
            ("rolebindings/n/b", binding("cluster-secrets", "jane")),
            ("clusterrolebindings/c", binding("cluster-secrets", "root")),
        ]);
        let may = |user: &str, namespace: &str, resource: &str| {
            let what = get(namespace, resource);
            matches!(rbac.decide(&Identity::new(user, &[]), &what), Decision::Allow(_))
        };
        assert!(may("jane", "n", "pods") && may("jane", "n", "secrets"));
        assert!(!may("jane", "m", "pods") && !may("jane", "", "secrets") && !may("jane", "n", "nodes"));
        assert!(may("root", "m", "secrets") && may("root", "", "secrets") && !may("root", "n", "pods"));
        match rbac.decide(&Identity::new("root", &[]), &get("", "secrets")) {
            Decision::Allow(why) => assert_eq!(
                why.to_string(),
                "RBAC: allowed by ClusterRoleBinding \"c\" of ClusterRole \"cluster-secrets\" to User \"root\""
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_binding_to_a_role_that_is_not_there_is_named_in_the_reason() {
        let rbac = rbac(&[
            ("rolebindings/n/a", binding("r", "jane")),
            ("clusterrolebindings/c", binding("cluster-r", "jane")),
        ]);
        let decision = rbac.decide(&Identity::new("jane", &[]), &get("n", "pods"));
        let reason = "RBAC: [clusterrole.rbac.authorization.k8s.io \"cluster-r\" not found, role.rbac.authorization.k8s.io \"r\" not found]";
        assert_eq!(decision, Decision::NoOpinion(reason.into()));
    }

    #[test]
    fn nobody_gives_away_what_they_do_not_hold() {
        let rbac = rbac(&[("roles/n/pods", reading("pods")), ("rolebindings/n/a", binding("pods", "jane"))]);
        let jane = Identity::new("jane", &["dev"]);
        let wanted: Vec<PolicyRule> = serde_json::from_value(json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["secrets"]},
        ]))
        .unwrap();
        assert_eq!(rbac.escalation(&jane, "n", &wanted[..1]), Ok(()));
        assert_eq!(
            rbac.escalation(&jane, "n", &wanted).unwrap_err(),
            "user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
        );
    }
}

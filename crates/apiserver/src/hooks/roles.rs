//! Roles and bindings: nobody may give away rights that they do not hold, unless they may `escalate` the role or `bind` it
//! (Kubernetes documentation, "Using RBAC Authorization", "Privilege escalation prevention and bootstrapping").

use crate::{
    identity::{Attributes, Identity, MASTERS, authorize::Authorization, rbac::index::RoleRef},
    registry::{Cx, Hooks, Plan, metadata},
};
use async_trait::async_trait;
use orlop_api::{
    Kind, Status,
    object::{has, list, text},
    rbac::{GROUP, PolicyRule, full_authority},
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Role and ClusterRole.
pub(super) struct Roles {
    pub kind: Kind,
    pub authorization: Arc<Authorization>,
}

/// RoleBinding and ClusterRoleBinding.
pub(super) struct Bindings {
    pub kind: Kind,
    pub authorization: Arc<Authorization>,
}

/// Whether nothing changes but what the garbage collector needs to change.
fn only_for_collection(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = metadata::of(&mut object) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                meta.remove(field);
            }
        }
        object
    };
    rest(new) == rest(old)
}

impl Roles {
    fn check(&self, who: &Identity, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        let (namespace, name) = (metadata::text(new, "namespace"), metadata::text(new, "name"));
        let escalate = Attributes {
            verb: "escalate",
            group: GROUP,
            resource: &self.kind.plural,
            namespace,
            name,
            ..Attributes::default()
        };
        if who.is_in(MASTERS) || self.authorization.allows(who, &escalate) {
            return Ok(());
        }
        let forbidden = |why: String| Status::forbidden(&self.kind, name, &why);
        let rules: Vec<PolicyRule> =
            list(new, "/rules").iter().filter_map(|rule| PolicyRule::deserialize(rule).ok()).collect();
        self.authorization.rbac.escalation(who, namespace, &rules).map_err(forbidden)?;
        // What is aggregated can be anything.
        let aggregates = has(new, "/aggregationRule") || old.is_some_and(|o| has(o, "/aggregationRule"));
        if aggregates && self.authorization.rbac.escalation(who, namespace, &full_authority()).is_err() {
            return Err(forbidden("must have cluster-admin privileges to use the aggregationRule".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Hooks for Roles {
    fn create(&self, cx: &Cx<'_>, object: &mut Value, _plan: &mut Plan) -> Result<(), Status> {
        self.check(cx.who, object, None)
    }

    fn update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value, _plan: &mut Plan) -> Result<(), Status> {
        if only_for_collection(new, old) { Ok(()) } else { self.check(cx.who, new, Some(old)) }
    }
}

impl Bindings {
    fn check(&self, cx: &Cx<'_>, new: &Value) -> Result<(), Status> {
        let (namespace, name) = (metadata::text(new, "namespace"), metadata::text(new, "name"));
        let role = RoleRef {
            cluster: text(new, "/roleRef/kind") == "ClusterRole",
            name: text(new, "/roleRef/name").to_string(),
        };
        let resource = if role.cluster { "clusterroles" } else { "roles" };
        let bind = Attributes {
            verb: "bind",
            group: GROUP,
            resource,
            namespace,
            name: &role.name,
            ..Attributes::default()
        };
        if cx.who.is_in(MASTERS) || self.authorization.allows(cx.who, &bind) {
            return Ok(());
        }
        let rules = self.authorization.rbac.rules_of(&role, namespace).ok_or_else(|| {
            let kind = cx.registry.find(GROUP, "v1", resource).map(|r| r.kind.clone());
            kind.map_or_else(Status::no_such_resource, |kind| Status::not_found(&kind, &role.name))
        })?;
        let checked = self.authorization.rbac.escalation(cx.who, namespace, &rules);
        checked.map_err(|why| Status::forbidden(&self.kind, name, &why))
    }
}

#[async_trait]
impl Hooks for Bindings {
    fn create(&self, cx: &Cx<'_>, object: &mut Value, _plan: &mut Plan) -> Result<(), Status> {
        self.check(cx, object)
    }

    fn update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value, _plan: &mut Plan) -> Result<(), Status> {
        if only_for_collection(new, old) { Ok(()) } else { self.check(cx, new) }
    }
}

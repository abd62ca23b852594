//! Whether an identity may do what it asks: the question, the answers, and how authorizers are put together.
//! What nobody allows is forbidden.

use super::{Identity, MASTERS, node::NodeAuthorizer, rbac::Rbac};
use orlop_api::{Status, rbac::PolicyRule};
use serde_json::json;
use std::fmt;

/// What is asked, in the words of authorization.k8s.io/v1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes<'a> {
    /// `get`, `list`, …; for a path that is no resource the HTTP method in lower case.
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Plural name; empty for a path that is no resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name, or empty.
    pub name: &'a str,
    /// The path of a request that is no resource.
    pub path: &'a str,
    /// Of a list or watch: the fields that its selector pins, with their values.
    pub fields: &'a [(String, String)],
}

/// Why a request is allowed.
#[derive(Clone, Debug, Default)]
pub(crate) enum Because {
    /// The authorizer does not say.
    #[default]
    Unsaid,
    /// A binding gives the right.
    Rbac(super::rbac::index::Source),
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => Ok(()),
            Self::Rbac(source) => write!(f, "RBAC: allowed by {source}"),
        }
    }
}

impl PartialEq for Because {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// The answer of an authorizer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Yes.
    Allow(Because),
    /// Neither yes nor no: others may decide, and if nobody says yes it is no. With a reason, which may be empty.
    NoOpinion(String),
}

/// What somebody may do, as rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The rules.
    pub rules: Vec<PolicyRule>,
    /// Whether there may be more rights than these.
    pub incomplete: bool,
    /// What went wrong while they were gathered, or empty.
    pub error: String,
}

/// Decides what identities may do.
pub(crate) trait Authorizer: Send + Sync + 'static {
    /// Whether `who` may do `what`.
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision;

    /// What `who` may do in a namespace, as far as it can be told as rules.
    fn held(&self, who: &Identity, namespace: &str) -> Held;
}

/// All authorizers, asked one after the other. Who is in `system:masters` is not asked about at all.
pub(crate) struct Authorization {
    node: NodeAuthorizer,
    pub(crate) rbac: Rbac,
}

impl Authorization {
    pub(crate) fn new(node: NodeAuthorizer, rbac: Rbac) -> Self {
        Self { node, rbac }
    }

    /// Whether `who` may do `what`.
    pub(crate) fn allows(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        matches!(self.decide(who, what), Decision::Allow(_))
    }
}

impl Authorizer for Authorization {
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        if who.is_in(MASTERS) {
            return Decision::Allow(Because::Unsaid);
        }
        let mut reasons = Vec::new();
        let members: [&dyn Authorizer; 2] = [&self.node, &self.rbac];
        for member in members {
            match member.decide(who, what) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                allow => return allow,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    fn held(&self, who: &Identity, namespace: &str) -> Held {
        let mut held = self.rbac.held(who, namespace);
        held.incomplete |= self.node.held(who, namespace).incomplete;
        held
    }
}

/// 403 in Kubernetes' words.
pub(crate) fn forbidden(who: &Identity, what: &Attributes<'_>, reason: &str) -> Status {
    let user = &who.user;
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if what.resource.is_empty() {
        let mut status = Status::new(
            403,
            "Forbidden",
            format!("forbidden: User {user:?} cannot {} path {:?}{tail}", what.verb, what.path),
        );
        status.details = Some(json!({}));
        return status;
    }
    let resource = if what.subresource.is_empty() {
        what.resource.to_string()
    } else {
        format!("{}/{}", what.resource, what.subresource)
    };
    let place = if what.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {:?}", what.namespace)
    };
    let qualified = if what.group.is_empty() {
        what.resource.to_string()
    } else {
        format!("{}.{}", what.resource, what.group)
    };
    let subject = if what.name.is_empty() { qualified } else { format!("{qualified} {:?}", what.name) };
    let message = format!(
        "{subject} is forbidden: User {user:?} cannot {} resource {resource:?} in API group {:?} {place}{tail}",
        what.verb, what.group
    );
    let mut details = json!({"kind": what.resource});
    if !what.group.is_empty() {
        details["group"] = json!(what.group);
    }
    if !what.name.is_empty() {
        details["name"] = json!(what.name);
    }
    Status { details: Some(details), ..Status::new(403, "Forbidden", message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_what_they_may_not() {
        let who = Identity::new("x", &[]);
        let list_pods =
            Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() };
        let nobody = Authorization::new(NodeAuthorizer::new(Vec::new()), Rbac::default());
        assert_eq!(nobody.decide(&who, &list_pods), Decision::NoOpinion(String::new()));
        assert!(nobody.allows(&Identity::new("admin", &[MASTERS]), &list_pods));
        assert_eq!(
            forbidden(&who, &list_pods, "").message,
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(
            forbidden(&who, &path, "because").message,
            "forbidden: User \"x\" cannot get path \"/metrics\": because"
        );
    }
}

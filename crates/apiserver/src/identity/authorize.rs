//! Whether an identity may do what it asks. Until there is RBAC: the cluster's own parts and `system:masters` may do all,
//! everybody else may only look around.

use super::{AUTHENTICATED, Identity, MASTERS};
use orlop_api::Status;
use serde_json::json;

/// What is asked, in the words of authorization.k8s.io/v1.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, …; for a path that is no resource the HTTP method in lower case.
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Version of the resource.
    pub version: &'a str,
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
}

/// The answer of an authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, with the reason, which may be empty.
    Deny(String),
}

/// Decides what identities may do.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `who` may do `what`.
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision;
}

/// The rule until RBAC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemOnly;

/// Paths that anyone may read: Kubernetes' `system:public-info-viewer`.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];
/// Paths that anyone known may read: Kubernetes' `system:discovery` and `system:service-account-issuer-discovery`.
const DISCOVERY: &[&str] =
    &["/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"];
/// Questions about oneself: Kubernetes' `system:basic-user`.
const SELF_REVIEWS: &[&str] = &["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

/// Whether a path is `root` or lies below it.
fn is_under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Authorizer for SystemOnly {
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        if who.is_in(MASTERS) || (who.is_in(AUTHENTICATED) && who.is_system()) {
            return Decision::Allow;
        }
        let known = who.is_in(AUTHENTICATED);
        let allowed = if what.resource.is_empty() {
            let reads = matches!(what.verb, "get" | "head");
            reads
                && (PUBLIC.iter().any(|p| is_under(what.path, p))
                    || (known && DISCOVERY.iter().any(|p| is_under(what.path, p))))
        } else {
            known && what.verb == "create" && SELF_REVIEWS.contains(&what.resource)
        };
        if allowed { Decision::Allow } else { Decision::Deny(String::new()) }
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
    Status { code: 403, reason: "Forbidden", message, details: Some(details) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_pods<'a>() -> Attributes<'a> {
        Attributes {
            verb: "list",
            version: "v1",
            resource: "pods",
            namespace: "default",
            ..Attributes::default()
        }
    }

    #[test]
    fn a_stranger_is_told_what_they_may_not() {
        let who = Identity::new("x", &[]);
        assert_eq!(SystemOnly.decide(&who, &list_pods()), Decision::Deny(String::new()));
        assert_eq!(
            forbidden(&who, &list_pods(), "").message,
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }

    #[test]
    fn masters_and_the_clusters_parts_may_do_all_and_the_rest_may_look_around() {
        let path = |path: &'static str| Attributes { verb: "get", path, ..Attributes::default() };
        let known = Identity::new("x", &[]);
        let anonymous = Identity::anonymous();
        for who in [
            Identity::new("admin", &["system:masters"]),
            Identity::new("system:node:a", &["system:nodes"]),
            Identity::new("system:kube-scheduler", &[]),
        ] {
            assert_eq!(SystemOnly.decide(&who, &list_pods()), Decision::Allow, "{who:?}");
        }
        let allowed = |who: &Identity, what: Attributes<'_>| SystemOnly.decide(who, &what) == Decision::Allow;
        assert!(allowed(&anonymous, path("/healthz")) && allowed(&anonymous, path("/readyz/ping")));
        assert!(!allowed(&anonymous, path("/apis")) && !allowed(&anonymous, path("/versions")));
        assert!(allowed(&known, path("/apis/apps/v1")) && !allowed(&known, path("/metrics")));
        let review = Attributes { verb: "create", resource: "selfsubjectreviews", ..Attributes::default() };
        assert!(allowed(&known, review.clone()) && !allowed(&anonymous, review));
        let mut liar = Identity::anonymous();
        liar.user = "system:kube-scheduler".into();
        assert!(!allowed(&liar, list_pods()));
    }
}

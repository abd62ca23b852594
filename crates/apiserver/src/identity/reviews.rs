//! Questions about identities and what they may do: authentication.k8s.io/v1 and authorization.k8s.io/v1. They are
//! answered, never stored.

use super::{Attributes, Decision, Identity};
use crate::{
    ApiServer,
    discovery::Described,
    pipeline::Admitted,
    registry::{metadata, schema},
    request::{Target, Verb},
    response::{self, Response},
};
use orlop_api::Status;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    SelfSubject,
    Token,
    SelfAccess,
    SelfRules,
    SubjectAccess,
    LocalSubjectAccess,
}

impl Review {
    const ALL: [Self; 6] = [
        Self::SelfSubject,
        Self::Token,
        Self::LocalSubjectAccess,
        Self::SelfAccess,
        Self::SelfRules,
        Self::SubjectAccess,
    ];

    /// Group, kind, plural name, whether it is namespaced.
    fn names(self) -> (&'static str, &'static str, &'static str, bool) {
        match self {
            Self::SelfSubject => (AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", false),
            Self::Token => (AUTHENTICATION, "TokenReview", "tokenreviews", false),
            Self::SelfAccess => (AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
            Self::SelfRules => (AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
            Self::SubjectAccess => (AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", false),
            Self::LocalSubjectAccess => {
                (AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", true)
            }
        }
    }
}

/// The question that a path stands for.
pub(crate) fn find(target: &Target) -> Option<Review> {
    Review::ALL.into_iter().find(|review| {
        let (group, _, plural, namespaced) = review.names();
        target.version == "v1"
            && target.group == group
            && target.resource == plural
            && target.namespace.is_empty() != namespaced
    })
}

/// What discovery says of them.
pub(crate) fn described() -> Vec<Described> {
    Review::ALL
        .into_iter()
        .map(|review| {
            let (group, kind, plural, namespaced) = review.names();
            Described {
                group: group.into(),
                version: "v1".into(),
                name: plural.into(),
                singular: kind.to_lowercase(),
                namespaced,
                kind: (group.into(), "v1".into(), kind.into()),
                verbs: vec!["create"],
                short_names: Vec::new(),
                categories: Vec::new(),
            }
        })
        .collect()
}

fn user_info(who: &Identity) -> Value {
    let mut info = json!({"username": who.user, "groups": who.groups});
    if !who.uid.is_empty() {
        info["uid"] = json!(who.uid);
    }
    if !who.extra.is_empty() {
        info["extra"] = json!(who.extra);
    }
    info
}

impl ApiServer {
    /// Answers a question.
    pub(crate) fn review(
        self: &Arc<Self>,
        review: Review,
        request: &Admitted,
        target: &Target,
    ) -> Result<Response, Status> {
        if request.info.verb != Verb::Create || !target.name.is_empty() {
            return Err(Status::method_not_allowed(
                "the server does not allow this method on the requested resource",
            ));
        }
        let mut body = schema::read(&request.parts.headers, &request.body)?.value;
        let (group, kind, ..) = review.names();
        let Some(members) = body.as_object_mut() else {
            return Err(Status::bad_request(format!("the body is not a {kind}")));
        };
        if members.get("kind").and_then(Value::as_str).is_some_and(|k| k != kind) {
            return Err(Status::bad_request(format!("the body cannot be handled as a {kind}")));
        }
        members.insert("kind".into(), kind.into());
        members.insert("apiVersion".into(), format!("{group}/v1").into());
        if let Some(meta) = metadata::of(&mut body) {
            meta.insert("creationTimestamp".into(), Value::Null);
        }
        let spec = body.get("spec").cloned().unwrap_or_default();
        let status = match review {
            Review::SelfSubject => {
                if let Some(meta) = metadata::of(&mut body) {
                    let now = metadata::format_time(self.registry.now());
                    meta.insert("creationTimestamp".into(), now.into());
                }
                json!({"userInfo": user_info(&request.who)})
            }
            Review::Token => self.review_token(&spec),
            Review::SelfAccess => self.review_access(&request.who, &spec)?,
            Review::SubjectAccess | Review::LocalSubjectAccess => {
                let asked = text(&spec, "/resourceAttributes/namespace");
                if review == Review::LocalSubjectAccess && asked != target.namespace {
                    return Err(Status::bad_request(format!(
                        "spec.resourceAttributes.namespace: must match the namespace of the path: {}",
                        target.namespace
                    )));
                }
                self.review_access(&subject(&spec)?, &spec)?
            }
            Review::SelfRules => self.review_rules(&request.who),
        };
        body["status"] = status;
        Ok(response::json(201, &body))
    }

    fn review_token(&self, spec: &Value) -> Value {
        let asked: Vec<String> = strings(spec, "/audiences");
        let audiences = if asked.is_empty() { vec![self.config.issuer.clone()] } else { asked };
        match self.authenticator.verify(text(spec, "/token"), &audiences) {
            Ok((who, theirs)) => {
                let common: Vec<&String> = audiences.iter().filter(|a| theirs.contains(a)).collect();
                json!({"authenticated": true, "user": user_info(&who), "audiences": common})
            }
            Err(why) => json!({"authenticated": false, "error": why}),
        }
    }

    fn review_access(&self, who: &Identity, spec: &Value) -> Result<Value, Status> {
        let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
        let attributes = match (resource.filter(|v| v.is_object()), path.filter(|v| v.is_object())) {
            (Some(r), None) => Attributes {
                verb: text(r, "/verb"),
                group: text(r, "/group"),
                version: text(r, "/version"),
                resource: text(r, "/resource"),
                subresource: text(r, "/subresource"),
                namespace: text(r, "/namespace"),
                name: text(r, "/name"),
                path: "",
            },
            (None, Some(p)) => {
                Attributes { verb: text(p, "/verb"), path: text(p, "/path"), ..Attributes::default() }
            }
            _ => {
                return Err(Status::bad_request(
                    "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ));
            }
        };
        Ok(match self.config.authorizer.decide(who, &attributes) {
            Decision::Allow => json!({"allowed": true}),
            Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
            Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
        })
    }

    fn review_rules(&self, who: &Identity) -> Value {
        let everything = Attributes { verb: "*", group: "*", resource: "*", ..Attributes::default() };
        if self.config.authorizer.decide(who, &everything) == Decision::Allow {
            return json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            });
        }
        let selves: Vec<Value> = [Review::SelfSubject, Review::SelfAccess, Review::SelfRules]
            .into_iter()
            .map(|review| {
                let (group, _, plural, _) = review.names();
                json!({"verbs": ["create"], "apiGroups": [group], "resources": [plural]})
            })
            .collect();
        let paths = [
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
        ];
        json!({
            "resourceRules": selves,
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
            "incomplete": true,
        })
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    orlop_api::object::text(value, pointer)
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    orlop_api::object::list(value, pointer).iter().filter_map(Value::as_str).map(str::to_string).collect()
}

/// The identity that a `SubjectAccessReview` asks about.
fn subject(spec: &Value) -> Result<Identity, Status> {
    let who = Identity {
        user: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        groups: strings(spec, "/groups"),
        extra: BTreeMap::new(),
    };
    if who.user.is_empty() && who.groups.is_empty() {
        return Err(Status::bad_request("spec: at least one of user or group must be specified"));
    }
    Ok(who)
}

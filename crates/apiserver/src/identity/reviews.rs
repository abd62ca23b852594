//! Questions about identities and what they may do: authentication.k8s.io/v1 and authorization.k8s.io/v1. They are
//! answered, never stored.

use super::{Attributes, Authorizer, Decision, Identity};
use crate::{
    ApiServer,
    discovery::Described,
    dispatch::pretty,
    pipeline::Admitted,
    registry::{metadata, schema},
    request::{Target, Verb, negotiate},
    response::{self, Response},
};
use orlop_api::{FieldError, FieldErrors, Status};
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
        let headers = &request.parts.headers;
        let negotiated = negotiate::negotiate_whole(headers, pretty(headers, &request.query))?;
        let mut body = schema::read(headers, &request.body)?.value;
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
        if matches!(review, Review::SelfAccess | Review::SubjectAccess | Review::LocalSubjectAccess) {
            let errors = validate(review, &spec, &target.namespace);
            if !errors.is_empty() {
                return Err(Status::invalid_of(group, kind, "", &errors));
            }
        }
        let status = match review {
            Review::SelfSubject => {
                if let Some(meta) = metadata::of(&mut body) {
                    let now = metadata::format_time(self.registry.now());
                    meta.insert("creationTimestamp".into(), now.into());
                }
                json!({"userInfo": user_info(&request.who)})
            }
            Review::Token => self.review_token(&spec),
            Review::SelfAccess => self.review_access(&request.who, &spec),
            Review::SubjectAccess | Review::LocalSubjectAccess => self.review_access(&subject(&spec), &spec),
            Review::SelfRules => {
                let namespace = text(&spec, "/namespace");
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                self.review_rules(&request.who, namespace)
            }
        };
        body["status"] = status;
        Ok(response::encoded(201, body.to_string().into(), negotiated))
    }

    fn review_token(&self, spec: &Value) -> Value {
        let asked: Vec<String> = strings(spec, "/audiences");
        let audiences = if asked.is_empty() { vec![self.config.issuer.clone()] } else { asked };
        match self.authenticator.verify(text(spec, "/token"), &audiences) {
            Ok((who, meant)) => {
                json!({"authenticated": true, "user": user_info(&who), "audiences": meant})
            }
            Err(why) => json!({"authenticated": false, "error": format!("[invalid bearer token, {why}]")}),
        }
    }

    fn review_access(&self, who: &Identity, spec: &Value) -> Value {
        let fields = pinned_fields(spec);
        let attributes =
            match (attributes(spec, "resourceAttributes"), attributes(spec, "nonResourceAttributes")) {
                (Some(r), _) => Attributes {
                    verb: text(r, "/verb"),
                    group: text(r, "/group"),
                    resource: text(r, "/resource"),
                    subresource: text(r, "/subresource"),
                    namespace: text(r, "/namespace"),
                    name: text(r, "/name"),
                    path: "",
                    fields: &fields,
                },
                (None, p) => {
                    let p = p.unwrap_or(&Value::Null);
                    Attributes { verb: text(p, "/verb"), path: text(p, "/path"), ..Attributes::default() }
                }
            };
        let (allowed, reason) = match self.authorization.decide(who, &attributes) {
            Decision::Allow(why) => (true, why.to_string()),
            Decision::NoOpinion(reason) => (false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        status
    }

    fn review_rules(&self, who: &Identity, namespace: &str) -> Value {
        let held = self.authorization.held(who, namespace);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in &held.rules {
            if rule.non_resource_urls.is_empty() {
                resources.push(json!(rule));
            } else {
                paths.push(json!(rule));
            }
        }
        let mut status = json!({
            "resourceRules": resources, "nonResourceRules": paths, "incomplete": held.incomplete,
        });
        if !held.error.is_empty() {
            status["evaluationError"] = json!(held.error);
        }
        status
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    orlop_api::object::text(value, pointer)
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    orlop_api::object::list(value, pointer).iter().filter_map(Value::as_str).map(str::to_string).collect()
}

fn attributes<'a>(spec: &'a Value, kind: &str) -> Option<&'a Value> {
    spec.get(kind).filter(|v| v.is_object())
}

/// The identity that a `SubjectAccessReview` asks about.
fn subject(spec: &Value) -> Identity {
    Identity {
        user: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        groups: strings(spec, "/groups"),
        extra: BTreeMap::new(),
        fence: None,
    }
}

/// The fields that the question's selector pins to a value.
fn pinned_fields(spec: &Value) -> Vec<(String, String)> {
    let requirements = orlop_api::object::list(spec, "/resourceAttributes/fieldSelector/requirements");
    requirements
        .iter()
        .filter(|r| text(r, "/operator") == "In")
        .filter_map(|r| match strings(r, "/values").as_slice() {
            [value] => Some((text(r, "/key").to_string(), value.clone())),
            _ => None,
        })
        .collect()
}

/// What is wrong with a question about access.
fn validate(review: Review, spec: &Value, namespace: &str) -> Vec<FieldError> {
    let (resource, path) =
        (attributes(spec, "resourceAttributes"), attributes(spec, "nonResourceAttributes"));
    let mut errors = FieldErrors::new();
    match (resource, path) {
        (Some(_), Some(path)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", path.clone(), why);
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", Value::Null, why);
        }
        _ => {}
    }
    if review != Review::SelfAccess && text(spec, "/user").is_empty() && strings(spec, "/groups").is_empty() {
        errors.invalid("spec.user", "", "at least one of user or group must be specified");
    }
    if review == Review::LocalSubjectAccess {
        let asked = text(spec, "/resourceAttributes/namespace");
        if resource.is_some() && asked != namespace {
            errors.invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace");
        }
        if let Some(path) = path {
            let why = "disallowed on this kind of request";
            errors.invalid("spec.nonResourceAttributes", path.clone(), why);
        }
    }
    errors.into_vec()
}

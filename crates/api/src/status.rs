//! The answer to a request that failed: `Status` of meta/v1, with the HTTP code and reason that Kubernetes
//! gives for each case (API conventions, "Response Status Kind"). Every error that leaves Orlop's API has
//! this shape; what only a log should hold never goes into it.

use crate::{FieldError, Kind};
use serde_json::{Value, json};

/// A failed request, ready to be sent.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
#[error("{message}")]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Machine-readable reason (`NotFound`, `AlreadyExists`, …).
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// `details`, where there are any.
    pub details: Option<Value>,
    /// `metadata.continue`: with which a list that is too old can be gone on with.
    pub continue_token: Option<String>,
}

/// `pods "web" …` or `deployments.apps "web" …`: how Kubernetes names an object in a message.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") }
}

/// Takes out the texts that say nothing.
fn without_empty(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, inner| inner.as_str() != Some(""));
    }
}

impl Status {
    /// A status without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn about(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> Self {
        let details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        Self { details: Some(details), ..Self::new(code, reason, message) }
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let q = qualified(&kind.group, &kind.plural);
        Self::about(404, "NotFound", kind, name, format!("{q} \"{name}\" not found"))
    }

    /// 404: no such path or resource.
    pub fn no_such_resource() -> Self {
        let mut s = Self::new(404, "NotFound", "the server could not find the requested resource");
        s.details = Some(json!({}));
        s
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let q = qualified(&kind.group, &kind.plural);
        Self::about(409, "AlreadyExists", kind, name, format!("{q} \"{name}\" already exists"))
    }

    /// 409: somebody else wrote first, or a precondition failed. `why` completes the sentence.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let q = qualified(&kind.group, &kind.plural);
        let message = format!("Operation cannot be fulfilled on {q} \"{name}\": {why}");
        Self::about(409, "Conflict", kind, name, message)
    }

    /// 409 in the usual words for a stale `resourceVersion`.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: one or more fields are wrong. Messages and causes list each of them.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_of(&kind.group, &kind.kind, name, errors)
    }

    /// [`Status::invalid`] for what is in no table of kinds: questions that are answered and not kept.
    pub fn invalid_of(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.kind.reason(), "message": e.message(), "field": e.path}))
            .collect();
        // The causes are all there; the sentence says nothing twice.
        let mut said: Vec<String> = Vec::new();
        for error in errors.iter().map(ToString::to_string) {
            if !said.contains(&error) {
                said.push(error);
            }
        }
        let list = match said.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            many => format!(": [{}]", many.join(", ")),
        };
        let q = if group.is_empty() { kind.to_string() } else { format!("{kind}.{group}") };
        Self {
            details: Some(json!({"name": name, "group": group, "kind": kind, "causes": causes})),
            ..Self::new(422, "Invalid", format!("{q} \"{name}\" is invalid{list}"))
        }
    }

    /// 403: this identity may not do that. `why` completes the sentence.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let q = qualified(&kind.group, &kind.plural);
        Self::about(403, "Forbidden", kind, name, format!("{q} \"{name}\" is forbidden: {why}"))
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: who are you?
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405: the resource does not do that.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "MethodNotAllowed", message)
    }

    /// 406: no representation that the client accepts.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 410: the revision asked for is gone; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is larger than allowed.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: a body of a type that is not understood here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 429: try again after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u64) -> Self {
        let mut s = Self::new(429, "TooManyRequests", message);
        s.details = Some(json!({"retryAfterSeconds": seconds}));
        s
    }

    /// 500: ours is the fault. The message must not leak what belongs into the log.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let mut s = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        s.details = Some(json!({"causes": [{"message": message}]}));
        s
    }

    /// 503: not now (starting, shutting down, the disk is full).
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into()))
    }

    /// The object as it goes over the wire. What is empty is not said.
    pub fn to_json(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        without_empty(&mut v);
        if let Some(details) = &self.details {
            let mut details = details.clone();
            without_empty(&mut details);
            if let Some(causes) = details.get_mut("causes").and_then(Value::as_array_mut) {
                causes.iter_mut().for_each(without_empty);
            }
            v["details"] = details;
        }
        if let Some(token) = &self.continue_token {
            v["metadata"]["continue"] = json!(token);
        }
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn what_is_empty_is_not_said() {
        let pods = kinds::find("", "v1", "pods").expect("pods");
        assert_eq!(
            Status::not_found(&pods, "web").to_json()["details"],
            json!({"name": "web", "kind": "pods"})
        );
        let apps = kinds::find("apps", "v1", "deployments").expect("deployments");
        let wrong = Status::invalid(&apps, "", &[FieldError::required("metadata.name", "")]).to_json();
        let details = wrong["details"].as_object().expect("details");
        assert!(!details.contains_key("name") && details["group"] == "apps", "{wrong}");
        assert_eq!(Status::no_such_resource().to_json()["details"], json!({}));
        assert!(Status::new(500, "", "why").to_json().get("reason").is_none());
    }
}

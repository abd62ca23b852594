//! Refuses policies and bindings about parameters that whoever writes them may not read: expressions would tell what is in them.
//! In Kubernetes the strategies of the four kinds look after this.

use crate::{
    admission::{Operation, Plugin, Request},
    identity::{Attributes, Decision, MASTERS},
};
use orlop_api::{FieldError, Status, object::text};
use serde_json::Value;

pub(super) struct ParamAccess;

const GROUP: &str = "admissionregistration.k8s.io";
/// Policies with their bindings.
const KINDS: [(&str, &str); 2] = [
    ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
    ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
];

/// What must be readable: group and plural name, `*` where it is not known.
fn parameters(request: &Request<'_>, kind: Option<&Value>) -> (String, String) {
    let Some(kind) = kind.filter(|k| k.is_object()) else { return ("*".into(), "*".into()) };
    let (version, name) = (text(kind, "/apiVersion"), text(kind, "/kind"));
    let resource = request
        .registry
        .resources()
        .into_iter()
        .find(|r| r.kind.kind == name && r.kind.api_version() == version)
        .map_or_else(|| "*".to_string(), |r| r.kind.plural.to_string());
    (version.split_once('/').map_or("", |(group, _)| group).to_string(), resource)
}

fn may(request: &Request<'_>, verb: &str, kind: Option<&Value>, (namespace, name): (&str, &str)) -> bool {
    let Some(authorizer) = request.registry.admission.authorizer.get() else { return true };
    let (group, resource) = parameters(request, kind);
    let wanted =
        Attributes { verb, group: &group, resource: &resource, namespace, name, ..Attributes::default() };
    matches!(authorizer.decide(request.who, &wanted), Decision::Allow(_))
}

/// Whether an update leaves what is at these pointers as it is.
fn unchanged(request: &Request<'_>, object: &Value, pointers: &[&str]) -> bool {
    request.old.is_some_and(|old| pointers.iter().all(|p| old.pointer(p) == object.pointer(p)))
}

fn check_policy(request: &Request<'_>, object: &Value) -> Option<FieldError> {
    let kind = object.pointer("/spec/paramKind").filter(|k| k.is_object())?;
    if unchanged(request, object, &["/spec/paramKind"]) || may(request, "get", Some(kind), ("*", "*")) {
        return None;
    }
    let why = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        request.who.user,
        text(kind, "/kind"),
        text(kind, "/apiVersion")
    );
    Some(FieldError::forbidden("spec.paramKind", why))
}

fn check_binding(request: &Request<'_>, policies: &str, object: &Value) -> Option<FieldError> {
    let reference = object.pointer("/spec/paramRef").filter(|r| r.is_object())?;
    if unchanged(request, object, &["/spec/paramRef", "/spec/policyName"]) {
        return None;
    }
    let policy = request.look_up((GROUP, "v1", policies), "", text(object, "/spec/policyName"));
    let kind = policy.as_ref().and_then(|p| p.pointer("/spec/paramKind"));
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    let verb = if name.is_empty() { "list" } else { "get" };
    if may(request, verb, kind, (namespace, name)) {
        return None;
    }
    let why = format!(
        "user {} does not have {verb:?} permission on the object referenced by paramRef",
        request.who.user
    );
    Some(FieldError::forbidden("spec.paramRef", why))
}

impl Plugin for ParamAccess {
    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && request.kind.group == GROUP
            && request.subresource.is_empty()
            && !request.who.is_in(MASTERS)
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let error = KINDS.iter().find_map(|(policies, bindings)| match &*request.kind.plural {
            plural if plural == *policies => check_policy(request, object),
            plural if plural == *bindings => check_binding(request, policies, object),
            _ => None,
        });
        error.map_or(Ok(()), |error| Err(Status::invalid(request.kind, request.name, &[error])))
    }
}

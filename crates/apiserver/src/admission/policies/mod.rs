//! What the policies of both kinds, ValidatingAdmissionPolicy and MutatingAdmissionPolicy, have in common: which of them and of
//! their bindings a request concerns, their parameters, and the names that their expressions may use. Decides nothing.

mod evaluate;
pub(super) mod mutating;
pub(super) mod validating;

pub(super) use evaluate::names;

use super::{
    Request,
    expressions::{self, Expressions},
    matching,
    view::View,
};
use crate::identity::Authorizer;
use evaluate::Scope;
use orlop_api::{
    object::{list, text},
    selector::Selector,
};
use orlop_cel::Value as Cel;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

/// What evaluations need.
pub(super) struct Evaluator<'a> {
    pub expressions: &'a Expressions,
    pub authorizer: Option<&'a Arc<dyn Authorizer>>,
}

/// A kind of policy with the kind of its bindings, by their plural names.
#[derive(Clone, Copy)]
struct Family {
    policies: &'static str,
    bindings: &'static str,
}

/// A policy that concerns a request.
struct Concern {
    policy: Value,
    /// The version of the resource that its rules name, where that is not the request's.
    version: Option<String>,
    /// Those of its bindings that concern the request too, by their names.
    bindings: Vec<Value>,
}

impl Family {
    /// Whether there are any bindings at all: a policy without one does nothing.
    fn exists(self, request: &Request<'_>) -> bool {
        request.registry.find(GROUP, "v1", self.bindings).is_some_and(|r| r.cache.len() > 0)
            && !matching::is_exempt(request)
    }

    /// The policies that concern the request, by their names.
    fn concerning(self, request: &Request<'_>, object: Option<&Value>) -> Vec<Concern> {
        let bindings = request.look_up_all((GROUP, "v1", self.bindings), "");
        let mut found = Vec::new();
        for policy in request.look_up_all((GROUP, "v1", self.policies), "") {
            let name = text(&policy, "/metadata/name");
            let bound: Vec<Value> =
                bindings.iter().filter(|b| text(b, "/spec/policyName") == name).cloned().collect();
            let null = Value::Null;
            let constraints = policy.pointer("/spec/matchConstraints").unwrap_or(&null);
            if bound.is_empty() {
                continue;
            }
            let Some(version) = concerned_version(constraints, request, object) else { continue };
            let about = |binding: &Value| {
                let resources = binding.pointer("/spec/matchResources").filter(|r| r.is_object());
                resources.is_none_or(|r| concerned_version(r, request, object).is_some())
            };
            let bindings = bound.into_iter().filter(about).collect();
            let version = (version != &*request.kind.version).then(|| version.to_string());
            found.push(Concern { policy, version, bindings });
        }
        found
    }
}

/// In which version of the resource `matchConstraints` or `matchResources` are about the request, if they are.
fn concerned_version<'a>(about: &'a Value, request: &Request<'a>, object: Option<&Value>) -> Option<&'a str> {
    let policy = text(about, "/matchPolicy");
    let included = list(about, "/resourceRules");
    let version = match included {
        [] => &*request.kind.version,
        rules => matching::matched_version(rules, policy, request)?,
    };
    let excluded = matching::rules_match(list(about, "/excludeResourceRules"), policy, request);
    (!excluded && matching::selectors_match(about, request, object)).then_some(version)
}

/// A request as a policy sees it whose rules name a version; as it is where they name none but its own.
async fn view(
    version: Option<&str>,
    request: &Request<'_>,
    object: Option<&Value>,
) -> Result<Option<View>, String> {
    let Some(version) = version else { return Ok(None) };
    let view = View::new(version, request, object).await;
    view.map(Some).map_err(|status| format!("failed to convert object version: {}", status.message))
}

/// What a policy sees.
fn seen<'v>(
    view: Option<&'v View>,
    request: &Request<'v>,
    object: Option<&'v Value>,
) -> (Request<'v>, Option<&'v Value>) {
    match view {
        Some(view) => (view.request(request), view.object.as_ref()),
        None => (Request { ..*request }, object),
    }
}

/// The parameters that a binding refers to. An empty list means that the binding does not apply.
fn params(policy: &Value, binding: &Value, request: &Request<'_>) -> Result<Vec<Value>, String> {
    let Some(kind) = policy.pointer("/spec/paramKind").filter(|k| k.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let Some(reference) = binding.pointer("/spec/paramRef").filter(|r| r.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let (group, version) =
        text(kind, "/apiVersion").split_once('/').unwrap_or(("", text(kind, "/apiVersion")));
    let name = text(kind, "/kind");
    let resource = request
        .registry
        .resources()
        .into_iter()
        .find(|r| r.kind.group == group && r.kind.version == version && r.kind.kind == name)
        .ok_or_else(|| {
            format!("failed to configure policy: failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'")
        })?;
    let place = if resource.kind.namespaced() {
        match (text(reference, "/namespace"), request.namespace) {
            ("", "") => {
                return Err("failed to configure binding: cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            ("", own) => own,
            (named, _) => named,
        }
    } else {
        ""
    };
    let of = (&*resource.kind.group, &*resource.kind.version, &*resource.kind.plural);
    let name = text(reference, "/name");
    let found: Vec<Value> = if name.is_empty() {
        let selector = Selector::from_json(reference.get("selector")).map_err(|e| e.to_string())?;
        request
            .look_up_all(of, place)
            .into_iter()
            .filter(|o| selector.matches_json(orlop_api::object::map(o, "/metadata/labels")))
            .collect()
    } else {
        request.look_up(of, place, name).into_iter().collect()
    };
    if found.is_empty() && text(reference, "/parameterNotFoundAction") == "Deny" {
        return Err(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found)
}

impl Evaluator<'_> {
    /// The values of the names that expressions of all policies may use, but for parameters and variables.
    fn values(&self, request: &Request<'_>, object: Option<&Value>) -> Vec<(&'static str, Cel)> {
        let mut values = expressions::values(request, object, self.authorizer);
        let namespace = matching::namespace(request, None).filter(|_| request.kind.namespaced());
        values.push(("namespaceObject", namespace.map_or(Cel::Null, |n| Cel::from_json(&shown(n)))));
        values
    }
}

/// A namespace as `namespaceObject` shows it.
fn shown(mut namespace: Value) -> Value {
    if let Some(meta) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "ownerReferences", "selfLink"] {
            meta.remove(field);
        }
    }
    namespace
}

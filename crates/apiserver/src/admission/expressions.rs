//! CEL in admission: match conditions and what policies say, with the names and limits that Kubernetes gives them
//! (Kubernetes documentation, "Common Expression Language in Kubernetes"). Expressions are compiled once and kept.

use super::Request;
use crate::identity::{Attributes, Authorizer, Decision, Identity};
use orlop_api::Kind;
use orlop_cel::{AUTHORIZER, Budget, Decl, Env, Program, Question, RESOURCE_CHECK, Type, Value as Cel};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// What one expression may cost.
const PER_CALL: u64 = 1_000_000;
/// What all expressions of one policy may cost for a request.
const TOTAL: u64 = 10_000_000;
/// What all match conditions together may cost.
const CONDITIONS: u64 = 2_500_000;
/// So many compiled expressions are kept.
const KEPT: usize = 4096;

type Compiled = Result<Arc<Program>, String>;

/// Compiled expressions by the names that they may use and their text.
#[derive(Default)]
pub(crate) struct Expressions {
    kept: Mutex<HashMap<(Names, String), Compiled>>,
}

/// Which names an expression may use besides those of the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Names {
    /// `params`, `namespaceObject`.
    pub policy: bool,
    /// `Object{…}` and `JSONPatch{…}`.
    pub patches: bool,
    /// `variables.x`.
    pub variables: Vec<String>,
}

impl Names {
    /// What an expression may use.
    pub(crate) fn env(&self) -> Env {
        let any = || Decl::of(Type::Dyn);
        let mut env = Env::new()
            .with("object", any())
            .with("oldObject", any())
            .with("request", any())
            .with("authorizer", Decl::of(AUTHORIZER))
            .with("authorizer.requestResource", Decl::of(RESOURCE_CHECK));
        if self.policy {
            env = env.with("params", any()).with("namespaceObject", any());
            for name in &self.variables {
                env = env.with(&format!("variables.{name}"), any());
            }
        }
        if self.patches { env.with_patches() } else { env }
    }
}

impl Expressions {
    /// The compiled expression, or why it is none.
    pub(crate) fn program(&self, names: &Names, text: &str) -> Compiled {
        let key = (names.clone(), text.to_string());
        if let Some(found) = self.kept.lock().get(&key) {
            return found.clone();
        }
        let compiled = Program::compile(&names.env(), text).map(Arc::new).map_err(|e| e.to_string());
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, compiled.clone());
        compiled
    }
}

/// What one policy or webhook may spend on one request.
pub(crate) fn budget<'a>() -> Budget<'a> {
    Budget::new(TOTAL, PER_CALL)
}

/// An authorizer that answers for one identity.
struct Asker {
    authorizer: Arc<dyn Authorizer>,
    who: Identity,
}

impl orlop_cel::Authorizer for Asker {
    fn check(&self, question: &Question) -> Result<(bool, String), String> {
        let mut who = self.who.clone();
        if let Some((namespace, name)) = &question.service_account {
            let groups =
                ["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")];
            who = Identity::new(
                format!("system:serviceaccount:{namespace}:{name}"),
                &groups.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
        let path = question.path.as_deref().unwrap_or_default();
        let attributes = Attributes {
            verb: &question.verb,
            group: &question.group,
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            path,
            fields: &[],
        };
        Ok(match self.authorizer.decide(&who, &attributes) {
            Decision::Allow(because) => (true, because.to_string()),
            Decision::NoOpinion(reason) => (false, reason),
        })
    }
}

/// The request as admission.k8s.io/v1 `AdmissionRequest` without the objects.
pub(crate) fn request_json(request: &Request<'_>, uid: &str) -> Value {
    let kind = request.kind;
    let (group, version, name) = request.object_kind();
    let object_kind = json!({"group": group, "version": version, "kind": name});
    let resource_of =
        |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let original = request.original.unwrap_or(kind);
    let asked_kind = match request.original {
        Some(kind) if request.object_kind.is_none() => {
            json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
        }
        _ => object_kind.clone(),
    };
    let mut user = json!({"username": request.who.user, "groups": request.who.groups});
    if !request.who.uid.is_empty() {
        user["uid"] = json!(request.who.uid);
    }
    if !request.who.extra.is_empty() {
        user["extra"] = json!(request.who.extra);
    }
    let mut json = json!({
        "uid": uid, "kind": object_kind, "resource": resource_of(kind), "requestKind": asked_kind,
        "requestResource": resource_of(original), "operation": request.operation.name(), "userInfo": user,
        "dryRun": request.dry_run, "options": request.options_json(),
    });
    for (field, value) in [
        ("name", request.name),
        ("namespace", request.namespace),
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
    ] {
        if !value.is_empty() {
            json[field] = json!(value);
        }
    }
    json
}

/// The values of the names that every expression may use.
pub(crate) fn values(
    request: &Request<'_>,
    object: Option<&Value>,
    authorizer: Option<&Arc<dyn Authorizer>>,
) -> Vec<(&'static str, Cel)> {
    let of = |value: Option<&Value>| value.map_or(Cel::Null, Cel::from_json);
    let mut values = vec![
        ("object", of(object)),
        ("oldObject", of(request.old)),
        ("request", Cel::from_json(&request_json(request, ""))),
    ];
    if let Some(authorizer) = authorizer {
        let asker = Arc::new(Asker { authorizer: authorizer.clone(), who: request.who.clone() });
        let kind = request.kind;
        let question = Question {
            group: kind.group.to_string(),
            resource: kind.plural.to_string(),
            subresource: request.subresource.to_string(),
            namespace: request.namespace.to_string(),
            name: request.name.to_string(),
            ..Question::default()
        };
        let about = orlop_cel::Authorization { authorizer: asker.clone(), question, answer: None };
        values.push(("authorizer", Cel::authorizer(asker)));
        values.push(("authorizer.requestResource", Cel::Authorization(Arc::new(about))));
    }
    values
}

/// Whether all match conditions hold; an error where one cannot be evaluated and none is false.
pub(crate) fn conditions_hold(
    expressions: &Expressions,
    conditions: &[Value],
    names: &Names,
    values: &[(&str, Cel)],
) -> Result<bool, String> {
    let mut budget = Budget::new(CONDITIONS, PER_CALL);
    let mut failed = Vec::new();
    for condition in conditions {
        let text = orlop_api::object::text(condition, "/expression");
        let name = orlop_api::object::text(condition, "/name");
        let result = expressions
            .program(names, text)
            .and_then(|program| program.eval(values, &mut budget).map_err(|e| e.to_string()));
        match result {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => return Ok(false),
            Ok(_) => failed.push(format!("match condition {name:?} is not a boolean")),
            Err(why) => failed.push(format!("expression '{text}' resulted in error: {why}")),
        }
    }
    match failed.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

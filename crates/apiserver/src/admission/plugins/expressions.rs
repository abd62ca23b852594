//! Refuses webhook configurations and admission policies whose expressions do not compile, so that nobody finds out with the
//! first request that they concern.

use crate::admission::{Operation, Plugin, Request, expressions::Names, policies};
use orlop_api::{
    FieldError, Path, Status,
    object::{list, text},
};
use orlop_cel::{Type, json_patch_type, object_type};
use serde_json::Value;

pub(super) struct CompiledExpressions;

const KINDS: &[&str] = &[
    "mutatingadmissionpolicies",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingwebhookconfigurations",
];

/// One expression to be checked.
struct Checked<'a> {
    path: Path,
    source: &'a str,
    wanted: Wanted,
}

/// What an expression must give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Anything,
    Bool,
    Text,
    TextOrNull,
    /// `Object{…}`.
    Configuration,
    /// `[JSONPatch{…}]`.
    Patch,
}

impl Wanted {
    fn types(self) -> Vec<Type> {
        match self {
            Self::Anything => Vec::new(),
            Self::Bool => vec![Type::Bool],
            Self::Text => vec![Type::String],
            Self::TextOrNull => vec![Type::String, Type::Null],
            Self::Configuration => vec![object_type()],
            Self::Patch => vec![Type::list(json_patch_type())],
        }
    }

    /// Why a type is not what is wanted. What is known only while evaluating fits everywhere.
    fn refuses(self, given: &Type) -> Option<String> {
        let wanted = self.types();
        let unknown = *given == Type::Dyn || (self == Self::Patch && *given == Type::list(Type::Dyn));
        if unknown || wanted.is_empty() || wanted.contains(given) {
            return None;
        }
        Some(match wanted.as_slice() {
            [one] => format!("must evaluate to {one} but got {given}"),
            many => {
                let many: Vec<String> = many.iter().map(ToString::to_string).collect();
                format!("must evaluate to one of [{}]", many.join(" "))
            }
        })
    }
}

impl Plugin for CompiledExpressions {
    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && request.kind.group == "admissionregistration.k8s.io"
            && KINDS.contains(&&*request.kind.plural)
            && request.subresource.is_empty()
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let errors = check(request, object);
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(request.kind, request.name, &errors)) }
    }
}

fn conditions<'a>(path: &Path, about: &'a Value, pointer: &str, all: &mut Vec<Checked<'a>>) {
    for (at, condition) in list(about, pointer).iter().enumerate() {
        let path = path.child("matchConditions").index(at).child("expression");
        all.push(Checked { path, source: text(condition, "/expression"), wanted: Wanted::Bool });
    }
}

fn check(request: &Request<'_>, object: &Value) -> Vec<FieldError> {
    let mut all = Vec::new();
    let mut names = Names::default();
    for (at, hook) in list(object, "/webhooks").iter().enumerate() {
        conditions(&Path::new("webhooks").index(at), hook, "/matchConditions", &mut all);
    }
    let is_policy = request.kind.plural.ends_with("policies");
    if is_policy {
        names = policies::names(object);
        let path = Path::new("spec");
        conditions(&path, object, "/spec/matchConditions", &mut all);
        for (at, variable) in list(object, "/spec/variables").iter().enumerate() {
            let path = path.child("variables").index(at).child("expression");
            all.push(Checked { path, source: text(variable, "/expression"), wanted: Wanted::Anything });
        }
        for (at, mutation) in list(object, "/spec/mutations").iter().enumerate() {
            let path = path.child("mutations").index(at);
            let (field, wanted) = match text(mutation, "/patchType") {
                "JSONPatch" => ("jsonPatch", Wanted::Patch),
                _ => ("applyConfiguration", Wanted::Configuration),
            };
            let source = text(mutation, &format!("/{field}/expression")).trim();
            all.push(Checked { path: path.child(field).child("expression"), source, wanted });
        }
        for (at, validation) in list(object, "/spec/validations").iter().enumerate() {
            let path = path.child("validations").index(at);
            let source = text(validation, "/expression");
            all.push(Checked { path: path.child("expression"), source, wanted: Wanted::Bool });
            let source = text(validation, "/messageExpression");
            if !source.is_empty() {
                all.push(Checked { path: path.child("messageExpression"), source, wanted: Wanted::Text });
            }
        }
        for (at, annotation) in list(object, "/spec/auditAnnotations").iter().enumerate() {
            let path = path.child("auditAnnotations").index(at).child("valueExpression");
            let source = text(annotation, "/valueExpression");
            all.push(Checked { path, source, wanted: Wanted::TextOrNull });
        }
    }
    let expressions = &request.registry.admission.expressions;
    all.into_iter()
        .filter_map(|checked| {
            let mut names = names.clone();
            names.patches = matches!(checked.wanted, Wanted::Configuration | Wanted::Patch);
            let why = match expressions.program(&names, checked.source) {
                Err(why) => format!("compilation failed: {why}"),
                Ok(program) => checked.wanted.refuses(program.result())?,
            };
            Some(FieldError::invalid(checked.path, checked.source, why))
        })
        .collect()
}

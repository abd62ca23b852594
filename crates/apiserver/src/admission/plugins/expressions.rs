//! Refuses webhook configurations and admission policies whose expressions do not compile, so that nobody finds out with the
//! first request that they concern.

use crate::admission::{Operation, Plugin, Request, expressions::Names, policies};
use orlop_api::{
    FieldError, Path, Status,
    object::{list, text},
};
use orlop_cel::Type;
use serde_json::Value;

pub(super) struct CompiledExpressions;

const KINDS: &[&str] =
    &["mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies"];

/// One expression to be checked.
struct Checked<'a> {
    path: Path,
    source: &'a str,
    wanted: &'static [Type],
    kind: &'static str,
}

const BOOL: &[Type] = &[Type::Bool];
const TEXT: &[Type] = &[Type::String];
const TEXT_OR_NULL: &[Type] = &[Type::String, Type::Null];

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
        all.push(Checked { path, source: text(condition, "/expression"), wanted: BOOL, kind: "bool" });
    }
}

fn check(request: &Request<'_>, object: &Value) -> Vec<FieldError> {
    let mut all = Vec::new();
    let mut names = Names::default();
    for (at, hook) in list(object, "/webhooks").iter().enumerate() {
        conditions(&Path::new("webhooks").index(at), hook, "/matchConditions", &mut all);
    }
    if request.kind.plural == "validatingadmissionpolicies" {
        names = policies::names(object);
        let path = Path::new("spec");
        conditions(&path, object, "/spec/matchConditions", &mut all);
        for (at, variable) in list(object, "/spec/variables").iter().enumerate() {
            let path = path.child("variables").index(at).child("expression");
            all.push(Checked { path, source: text(variable, "/expression"), wanted: &[], kind: "" });
        }
        for (at, validation) in list(object, "/spec/validations").iter().enumerate() {
            let path = path.child("validations").index(at);
            let source = text(validation, "/expression");
            all.push(Checked { path: path.child("expression"), source, wanted: BOOL, kind: "bool" });
            let source = text(validation, "/messageExpression");
            if !source.is_empty() {
                all.push(Checked {
                    path: path.child("messageExpression"),
                    source,
                    wanted: TEXT,
                    kind: "string",
                });
            }
        }
        for (at, annotation) in list(object, "/spec/auditAnnotations").iter().enumerate() {
            let path = path.child("auditAnnotations").index(at).child("valueExpression");
            let source = text(annotation, "/valueExpression");
            all.push(Checked { path, source, wanted: TEXT_OR_NULL, kind: "string or null" });
        }
    }
    let expressions = &request.registry.admission.expressions;
    all.into_iter()
        .filter_map(|checked| {
            let why = match expressions.program(&names, checked.source) {
                Err(why) => format!("compilation failed: {why}"),
                Ok(program) => {
                    let result = program.result();
                    let fits =
                        checked.wanted.is_empty() || *result == Type::Dyn || checked.wanted.contains(result);
                    if fits {
                        return None;
                    }
                    format!("must evaluate to {}", checked.kind)
                }
            };
            Some(FieldError::invalid(checked.path, checked.source, why))
        })
        .collect()
}

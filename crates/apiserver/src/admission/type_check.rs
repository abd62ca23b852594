//! Checks the expressions of a policy against the types of what it is about (Kubernetes documentation, "Validating Admission
//! Policy", "Type checking"): warnings for its status, for an expression may still be right for objects that are not known here.
//! Pure, but for the types of the kinds that are served.

use super::expressions::Names;
use crate::registry::Registry;
use orlop_api::object::{list, text};
use orlop_cel::{Decl, Env, FieldDecl, ListType, Program, Type, escape};
use orlop_schema::types::{List, Scalar, Shape, Type as Schema};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// So many types are checked for one policy, as in Kubernetes.
const MOST_TYPES: usize = 10;

/// What expressions may assume of a value of a type. `within` are the types that it is inside of: one that contains itself is
/// taken as it comes.
fn decl(schema: Schema<'_>, within: &mut Vec<String>) -> Arc<Decl> {
    match schema.shape() {
        Shape::Struct(fields) => {
            let name = fields.name().to_string();
            if fields.open() || (!name.is_empty() && within.contains(&name)) {
                return Decl::of(Type::Dyn);
            }
            within.push(name.clone());
            let mut known: BTreeMap<String, FieldDecl> = BTreeMap::new();
            for field in fields.fields() {
                let json = field.name().to_string();
                let decl = decl(field.ty(), within);
                // Both ways of writing a name that is a word of the language (`namespace`) are understood.
                for name in [Some(json.clone()), escape(&json)].into_iter().flatten() {
                    known.insert(name, FieldDecl { decl: decl.clone(), json: json.clone() });
                }
            }
            within.pop();
            Decl::object(&name, known)
        }
        Shape::Map { value, .. } => Decl::map(decl(value, within), u64::MAX),
        Shape::List { item, list } => {
            let kind = match list {
                List::Set => ListType::Set,
                _ => ListType::Atomic,
            };
            Decl::list(decl(item, within), u64::MAX, kind)
        }
        Shape::Scalar(scalar) => Decl::of(match scalar {
            Scalar::String => Type::String,
            Scalar::Boolean => Type::Bool,
            Scalar::Int32 | Scalar::Int64 => Type::Int,
            Scalar::Float => Type::Double,
            // Expressions meet these as they stand in JSON, not as their type.
            _ => Type::Dyn,
        }),
        _ => Decl::of(Type::Dyn),
    }
}

/// The kinds that a policy's rules name without wildcards, with what they look like.
fn subjects(registry: &Registry, policy: &Value) -> Vec<(String, Arc<Decl>)> {
    let names = |rule: &Value, field: &str| -> Vec<String> {
        list(rule, field).iter().filter_map(Value::as_str).map(str::to_string).collect()
    };
    let mut found: Vec<(String, Arc<Decl>)> = Vec::new();
    for rule in list(policy, "/spec/matchConstraints/resourceRules") {
        for group in names(rule, "/apiGroups") {
            for version in names(rule, "/apiVersions") {
                for plural in names(rule, "/resources") {
                    let Some(resource) = registry.find(&group, &version, &plural) else { continue };
                    let Some(types) = &resource.types else { continue };
                    let kind = &resource.kind;
                    let name = format!("{}, Kind={}", kind.api_version(), kind.kind);
                    if found.len() < MOST_TYPES && !found.iter().any(|(n, _)| *n == name) {
                        found.push((name, decl(types.as_type(), &mut Vec::new())));
                    }
                }
            }
        }
    }
    found
}

fn params(registry: &Registry, policy: &Value) -> Arc<Decl> {
    let (version, kind) = (text(policy, "/spec/paramKind/apiVersion"), text(policy, "/spec/paramKind/kind"));
    let resource =
        registry.resources().iter().find(|r| r.kind.api_version() == version && r.kind.kind == kind).cloned();
    let types = resource.as_ref().and_then(|r| r.types.as_ref());
    types.map_or_else(|| Decl::of(Type::Dyn), |t| decl(t.as_type(), &mut Vec::new()))
}

/// The names of one kind's check: the object as it is known, variables with the types that they turn out to have.
fn env(names: &Names, policy: &Value, object: &Arc<Decl>, params: &Arc<Decl>) -> Env {
    let mut env = names
        .env()
        .with("object", object.clone())
        .with("oldObject", object.clone())
        .with("params", params.clone());
    for variable in list(policy, "/spec/variables") {
        if let Ok(program) = Program::compile(&env, text(variable, "/expression")) {
            let name = format!("variables.{}", text(variable, "/name"));
            env = env.with(&name, Decl::of(program.result().clone()));
        }
    }
    env
}

/// `status.typeChecking` of a policy.
pub(crate) fn status(registry: &Registry, policy: &Value) -> Value {
    let names = super::policies::names(policy);
    let params = params(registry, policy);
    let subjects = subjects(registry, policy);
    let mut expressions: Vec<(String, &str)> = Vec::new();
    for (at, validation) in list(policy, "/spec/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &format!("/{field}"));
            if !source.is_empty() {
                expressions.push((format!("spec.validations[{at}].{field}"), source));
            }
        }
    }
    let envs: Vec<(&String, Env)> =
        subjects.iter().map(|(name, object)| (name, env(&names, policy, object, &params))).collect();
    let warnings: Vec<Value> = expressions
        .into_iter()
        .filter_map(|(field, source)| {
            let found: Vec<String> = envs
                .iter()
                .filter_map(|(name, env)| Some(format!("{name}: {}", Program::compile(env, source).err()?)))
                .collect();
            (!found.is_empty()).then(|| json!({"fieldRef": field, "warning": found.join("\n")}))
        })
        .collect();
    if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) }
}

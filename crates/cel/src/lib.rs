//! The Common Expression Language as Kubernetes speaks it: for `x-kubernetes-validations`, match conditions and admission
//! policies. Pure: no clock, no I/O; limits are handed in.
//!
//! ```
//! use orlop_cel::{Budget, Decl, Env, Program, Type, Value};
//! use serde_json::json;
//!
//! // 1. What names there are, and what they look like (`Type::Dyn` where that is not known).
//! let env = Env::new().with("object", Decl::of(Type::Dyn)).with("limit", Decl::of(Type::Int));
//! // 2. Parse, check and estimate once; an error reads like Kubernetes'.
//! let program = Program::compile(&env, "object.spec.replicas <= limit").unwrap();
//! assert_eq!(program.result(), &Type::Bool);
//! // 3. Evaluate as often as needed. The budget is shared by evaluations that count together.
//! let mut budget = Budget::new(10_000_000, 1_000_000);
//! let object = Value::from_json(&json!({"spec": {"replicas": 3}}));
//! let vars = [("object", object), ("limit", Value::Int(5))];
//! assert!(matches!(program.eval(&vars, &mut budget), Ok(Value::Bool(true))));
//! ```
//!
//! - [`Env::with`] takes names with a dot too (`authorizer.requestResource`).
//! - [`Budget::interrupt`] is asked now and then whether to stop: put a deadline there.
//! - `variables.x` of a policy: declare `variables` as an object, give a map; a variable whose evaluation failed is
//!   [`Value::Failed`] and fails whoever looks at it.
//! - `authorizer`: [`Value::authorizer`] over an [`Authorizer`], declared with [`AUTHORIZER`].
//! - [`Program::cost`] is the largest cost by the sizes that the declarations allow.

mod ast;
mod check;
mod cost;
mod decl;
mod eval;
mod lexer;
mod library;
mod message;
mod parser;
mod types;
mod value;
mod work;

pub use decl::{Decl, FieldDecl, ListType, escape};
pub use eval::EvalError;
pub use library::format::is_uuid;
pub use library::time::parse_duration;
pub use library::url::is_uri;
pub use message::{Message, json_patch_type, object_type};
pub use types::{ObjectType, Type};
pub use value::{Authorization, Authorizer, Key, Question, Value};

use ast::{Expr, Node};
use check::Checker;
use std::{fmt, sync::Arc};

/// The type of an `authorizer` variable.
pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
/// The type of `authorizer.requestResource`.
pub const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// The names that an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    vars: Vec<(String, Arc<Decl>)>,
    /// Whether there are `Object{…}` and `JSONPatch{…}`.
    patches: bool,
}

impl Env {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more name.
    #[must_use]
    pub fn with(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.vars.retain(|(n, _)| n != name);
        self.vars.push((name.to_string(), decl));
        self
    }

    /// With the types that a mutation is made of: `Object{…}` and `JSONPatch{…}`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// The type of objects that an expression may make.
    pub(crate) fn message(&self, name: &str) -> Option<Type> {
        message::named(name).filter(|_| self.patches)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Decl>> {
        self.vars.iter().find(|(n, _)| n == name).map(|(_, d)| d)
    }
}

/// Why an expression is none. It reads as Kubernetes' messages do, without their `compilation failed: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// What is wrong, one part an error, with the place shown.
    text: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// So many errors of one expression are told, as in cel-go.
const MOST_ERRORS: usize = 100;
/// When so many bytes are told, the rest of the errors is only counted.
const LONGEST_TEXT: usize = 64 << 10;

impl CompileError {
    fn new(source: &str, errors: &[(usize, String)]) -> Self {
        let lines: Vec<&str> = source.split('\n').collect();
        let show = |(at, message): &(usize, String)| {
            let (mut row, mut column) = (0, *at);
            for (number, line) in lines.iter().enumerate() {
                row = number;
                let length = line.chars().count();
                if column <= length {
                    break;
                }
                column -= length + 1;
            }
            let line = lines.get(row).copied().unwrap_or_default();
            let dots = ".".repeat(column);
            format!("ERROR: <input>:{}:{}: {message}\n | {line}\n | {dots}^", row + 1, column + 1)
        };
        let (mut text, mut told) = (String::new(), 0);
        for error in errors.iter().take(MOST_ERRORS) {
            if text.len() > LONGEST_TEXT {
                break;
            }
            let sep = if told == 0 { "" } else { "\n" };
            text.push_str(&format!("{sep}{}", show(error)));
            told += 1;
        }
        if told < errors.len() {
            text.push_str(&format!("\n{} more errors were truncated", errors.len() - told));
        }
        Self { text }
    }
}

/// An expression, checked.
#[derive(Debug)]
pub struct Program {
    expr: Expr,
    result: Type,
    cost: u64,
}

/// How much evaluations may cost.
pub struct Budget<'a> {
    /// What is left for all together.
    pub remaining: u64,
    /// What a single one may cost.
    pub per_call: u64,
    /// What is left of the work for all together: looks at values and their bytes, also those that cost nothing by
    /// Kubernetes' prices. Bounds the time, where a price does not.
    pub work: u64,
    /// Whether to stop, because time is over. Asked every so often.
    pub interrupt: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl Budget<'_> {
    /// So much in all, and so much for each.
    pub fn new(total: u64, per_call: u64) -> Self {
        Self { remaining: total, per_call, work: work::MOST, interrupt: None }
    }
}

impl Program {
    /// Parses, checks and estimates an expression.
    pub fn compile(env: &Env, source: &str) -> Result<Self, CompileError> {
        let mut expr = parser::parse(source).map_err(|e| CompileError::new(source, &[(e.at, e.message)]))?;
        qualify(&mut expr, env);
        let mut checker = Checker::new(env);
        let known = checker.check(&expr);
        if !checker.errors.is_empty() {
            return Err(CompileError::new(source, &checker.errors));
        }
        Ok(Self { expr, result: known.decl.ty.clone(), cost: known.cost })
    }

    /// The type of its value.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// The most that an evaluation can cost, by what the declarations say of sizes; `u64::MAX` where they say nothing.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Whether it mentions a name.
    pub fn mentions(&self, name: &str) -> bool {
        mentions(&self.expr, name)
    }

    /// Evaluates it. What it cost is taken from the budget, also where it failed.
    pub fn eval(&self, vars: &[(&str, Value)], budget: &mut Budget<'_>) -> Result<Value, EvalError> {
        let mut machine = eval::Machine { vars, scope: Vec::new(), budget, spent: 0, turns: 0 };
        let out = machine.eval(&self.expr).and_then(|value| machine.result(value));
        let spent = machine.spent;
        budget.remaining = budget.remaining.saturating_sub(spent);
        out
    }
}

/// All direct parts of a node.
fn parts(expr: &mut Expr) -> Vec<&mut Expr> {
    match &mut expr.node {
        Node::Literal(_) | Node::Ident(_) => Vec::new(),
        Node::Select { operand, .. } => vec![operand],
        Node::Call { target, args, .. } => target.iter_mut().map(|t| &mut **t).chain(args).collect(),
        Node::List(entries) => entries.iter_mut().map(|e| &mut e.0).collect(),
        Node::Map(entries) => entries.iter_mut().flat_map(|e| [&mut e.0, &mut e.1]).collect(),
        Node::Message { fields, .. } => fields.iter_mut().map(|f| &mut f.value).collect(),
        Node::Fold(f) => [&mut f.range, &mut f.step].into_iter().chain(&mut f.filter).collect(),
        Node::Bind(b) => vec![&mut b.init, &mut b.body],
    }
}

/// `a.b.c` of plain names, as one text.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select { operand, field, test: false, optional: false } => {
            Some(format!("{}.{field}", dotted(operand)?))
        }
        _ => None,
    }
}

/// Makes one name of `a.b` where that is one.
fn qualify(expr: &mut Expr, env: &Env) {
    if matches!(expr.node, Node::Select { .. })
        && let Some(name) = dotted(expr)
        && (env.find(&name).is_some() || check::type_value(&name) || env.message(&name).is_some())
    {
        *expr = Expr::new(expr.at, Node::Ident(name));
        return;
    }
    parts(expr).into_iter().for_each(|part| qualify(part, env));
}

fn mentions(expr: &Expr, name: &str) -> bool {
    match &expr.node {
        Node::Ident(n) => n == name,
        Node::Literal(_) => false,
        Node::Select { operand, .. } => mentions(operand, name),
        Node::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).any(|e| mentions(e, name)),
        Node::List(entries) => entries.iter().any(|e| mentions(&e.0, name)),
        Node::Map(entries) => entries.iter().any(|e| mentions(&e.0, name) || mentions(&e.1, name)),
        Node::Message { fields, .. } => fields.iter().any(|f| mentions(&f.value, name)),
        Node::Fold(f) => {
            mentions(&f.range, name) || mentions(&f.step, name) || f.filter.iter().any(|e| mentions(e, name))
        }
        Node::Bind(b) => mentions(&b.init, name) || mentions(&b.body, name),
    }
}

#[cfg(test)]
mod tests;

//! A CEL expression and the object that it is about: parsed, checked, priced, and evaluated within a budget.

use crate::sections::{sections, text};
use orlop_cel::{Budget, Decl, Env, Program, Type, Value};
use orlop_schema::parse_json;
use serde_json::json;

/// How much may be spent.
const BUDGET: u64 = 1_000_000;

pub(super) fn run(input: &[u8]) {
    let parts = sections(input, 2);
    let source = text(parts[0]);
    let env = Env::new()
        .with("self", Decl::of(Type::Dyn))
        .with("words", Decl::of(Type::list(Type::String)))
        .with("object", Decl::of(Type::map(Type::String, Type::Dyn)));
    let program = match Program::compile(&env, &source) {
        Ok(program) => program,
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() < 3 * source.len() + (1 << 17), "{} bytes about {}", told.len(), source.len());
            return;
        }
    };
    let this = parts.get(1).and_then(|p| parse_json(p).ok()).map_or(json!({"a": [1, 2]}), |p| p.value);
    let vars = [
        ("self", Value::from_json(&this)),
        ("words", Value::from_json(&json!(["a", "b", "a"]))),
        ("object", Value::from_json(&this)),
    ];
    let mut budget = Budget::new(BUDGET, BUDGET);
    let _ = program.eval(&vars, &mut budget);
}

//! The functions of the language and of Kubernetes' libraries, by what values they are called with. Their types stand in
//! `signatures`. None reads a clock or does I/O; the `authorizer` asks whom it was given.

pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod lists;
pub(crate) mod net;
pub(crate) mod operators;
pub(crate) mod semver;
pub(crate) mod signatures;
pub(crate) mod strings;
pub(crate) mod time;
pub(crate) mod url;

use crate::value::Value;

/// Why a function has no result.
pub(crate) type Outcome = Result<Value, String>;

/// Calls a function. A method's target is its first argument.
pub(crate) fn call(function: &str, args: &[Value]) -> Outcome {
    if let Some(Value::Failed(why)) = args.iter().find(|a| matches!(a, Value::Failed(_))) {
        return Err(why.to_string());
    }
    let libraries = [
        operators::call,
        convert::call,
        strings::call,
        lists::call,
        time::call,
        url::call,
        net::call,
        semver::call,
    ];
    for library in libraries {
        if let Some(outcome) = library(function, args) {
            return outcome;
        }
    }
    for library in [quantity, format::call, authz::call] {
        if let Some(outcome) = library(function, args) {
            return outcome;
        }
    }
    Err("no such overload".to_string())
}

fn quantity(function: &str, args: &[Value]) -> Option<Outcome> {
    use orlop_api::quantity::Quantity;
    let parse = |text: &str| Quantity::parse(text);
    Some(Ok(match (function, args) {
        ("quantity", [Value::String(text)]) => match parse(text) {
            Ok(quantity) => Value::Quantity(quantity),
            Err(_) => {
                return Some(Err("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into()));
            }
        },
        ("isQuantity", [Value::String(text)]) => Value::Bool(parse(text).is_ok()),
        ("sign", [Value::Quantity(q)]) => Value::Int(if q.is_zero() {
            0
        } else if q.is_negative() {
            -1
        } else {
            1
        }),
        ("isInteger", [Value::Quantity(q)]) => Value::Bool(q.is_whole()),
        ("asInteger", [Value::Quantity(q)]) if q.is_whole() => Value::Int(q.value()),
        ("asInteger", [Value::Quantity(_)]) => {
            return Some(Err("cannot convert value to integer".into()));
        }
        ("asApproximateFloat", [Value::Quantity(q)]) => Value::Double(q.approximate()),
        ("add" | "sub", [Value::Quantity(a), Value::Quantity(b)]) => {
            Value::Quantity(if function == "add" { *a + *b } else { *a - *b })
        }
        ("add" | "sub", [Value::Quantity(a), Value::Int(b)]) => {
            let b = Quantity::from_units(*b);
            Value::Quantity(if function == "add" { *a + b } else { *a - b })
        }
        ("isLessThan", [Value::Quantity(a), Value::Quantity(b)]) => Value::Bool(a < b),
        ("isGreaterThan", [Value::Quantity(a), Value::Quantity(b)]) => Value::Bool(a > b),
        ("compareTo", [Value::Quantity(a), Value::Quantity(b)]) => Value::Int(a.cmp(b) as i64),
        _ => return None,
    }))
}

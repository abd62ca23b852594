//! What evaluating really takes, where Kubernetes' prices do not tell: looking at nested values, making long texts, compiling
//! regular expressions. It keeps an expression that is cheap by its price from taking minutes or gigabytes.

use crate::{
    library::strings,
    value::{Value, pairs},
};

/// What the evaluations of one budget may take: a second or so.
pub(crate) const MOST: u64 = 100_000_000;
/// The weight that the result of an evaluation may have.
pub(crate) const RESULT: u64 = 4_000_000;
/// Texts up to this long, and lists up to so many entries, are made at their price.
const SMALL: u64 = 1 << 14;
/// What compiling a regular expression takes.
const COMPILING: u64 = 1_000_000;

/// The work of looking at all of a value, or `most` if it is more. Values share their parts, so that a small one may have
/// more of them than there are bytes in the world.
pub(crate) fn weight(value: &Value, most: u64) -> u64 {
    let mut sum = 1;
    match value {
        Value::String(text) => sum += text.len() as u64 / 4,
        Value::Bytes(bytes) => sum += bytes.len() as u64 / 4,
        Value::Map(map) => {
            for value in map.values() {
                if sum >= most {
                    break;
                }
                sum += 1 + weight(value, most - sum);
            }
        }
        Value::Optional(Some(inner)) => sum += weight(inner, most),
        other => {
            for entry in other.entries().unwrap_or_default() {
                if sum >= most {
                    break;
                }
                sum += weight(entry, most - sum);
            }
        }
    }
    sum.min(most)
}

/// What a call takes. It is never told to be more than `most`.
pub(crate) fn of(function: &str, args: &[Value], most: u64) -> u64 {
    let texts = || args.iter().filter(|a| matches!(a, Value::String(_) | Value::Bytes(_)));
    let all =
        |args: &[Value]| args.iter().fold(0, |sum: u64, a| sum.saturating_add(weight(a, most)).min(most));
    match (function, args) {
        // These look at no more than one entry.
        ("size" | "_[_]" | "_[?_]" | "value" | "hasValue" | "optional.of" | "dyn" | "type", _)
        | ("@in", [_, Value::Map(_)]) => texts().map(|t| weight(t, most)).sum(),
        ("_==_" | "_!=_", [a, b]) => match (a.entries(), b.entries(), a, b) {
            (Some(x), Some(y), ..) if x.len() != y.len() => 1,
            (_, _, Value::Map(x), Value::Map(y)) if x.len() != y.len() => 1,
            _ => all(args).saturating_add(pairs(a, b)).min(most),
        },
        ("_+_", [a @ (Value::Set(_) | Value::MapList(_)), b]) => {
            all(args).saturating_add(pairs(a, b)).min(most)
        }
        ("matches" | "find" | "findAll", [_, Value::String(pattern), ..]) if strings::is_new(pattern) => {
            all(args).saturating_add(COMPILING)
        }
        _ => all(args),
    }
}

/// What is to be paid for a text that is much longer than what it is made of.
pub(crate) fn growth(function: &str, args: &[Value]) -> u64 {
    let made = match (function, args) {
        ("replace", [Value::String(text), Value::String(old), Value::String(new), ..]) => {
            let most = (text.len() / old.len().max(1) + 1).saturating_mul(new.len());
            if most as u64 <= SMALL {
                0
            } else {
                text.matches(&**old).count().saturating_mul(new.len()) as u64
            }
        }
        ("join", [list, rest @ ..]) => {
            let entries = list.entries().unwrap_or_default();
            let separator = rest.first().map_or(0, |s| if let Value::String(s) = s { s.len() } else { 0 });
            let length = |e: &Value| if let Value::String(s) = e { s.len() + separator } else { 0 };
            entries.iter().map(length).sum::<usize>() as u64
        }
        ("format", [Value::String(pattern), list]) => {
            let precise = pattern.matches("%.").count() as u64 * 1024;
            precise.saturating_add(weight(list, MOST).saturating_mul(4))
        }
        _ => 0,
    };
    if made <= SMALL { 0 } else { made / 10 }
}

/// What is to be paid for a list of very many pieces of a text.
pub(crate) fn parts(function: &str, made: &Value) -> u64 {
    let count = match function {
        "split" | "findAll" | "getQuery" => made.size(),
        _ => 0,
    };
    if count <= SMALL { 0 } else { count }
}

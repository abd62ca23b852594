//! Arithmetic, comparison, membership and indexing, `size`, optionals and sets.

use super::Outcome;
use crate::value::{Key, Value, identity};
use jiff::{SignedDuration, Timestamp};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn overflow(what: &str) -> String {
    format!("{what} overflow")
}

fn time(time: Option<Timestamp>) -> Outcome {
    time.map(Value::Timestamp).ok_or_else(|| overflow("timestamp"))
}

fn length(duration: Option<SignedDuration>) -> Outcome {
    duration.map(Value::Duration).ok_or_else(|| overflow("duration"))
}

fn arithmetic(function: &str, a: &Value, b: &Value) -> Option<Outcome> {
    use Value::{Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let int = |n: Option<i64>| n.map(Int).ok_or_else(|| overflow("integer"));
    let uint = |n: Option<u64>| n.map(Uint).ok_or_else(|| overflow("unsigned integer"));
    Some(match (function, a, b) {
        ("_+_", Int(a), Int(b)) => int(a.checked_add(*b)),
        ("_-_", Int(a), Int(b)) => int(a.checked_sub(*b)),
        ("_*_", Int(a), Int(b)) => int(a.checked_mul(*b)),
        ("_/_", Int(_), Int(0)) | ("_/_", Uint(_), Uint(0)) => Err("division by zero".into()),
        ("_%_", Int(_), Int(0)) | ("_%_", Uint(_), Uint(0)) => Err("modulus by zero".into()),
        ("_/_", Int(a), Int(b)) => int(a.checked_div(*b)),
        ("_%_", Int(a), Int(b)) => int(a.checked_rem(*b)),
        ("_+_", Uint(a), Uint(b)) => uint(a.checked_add(*b)),
        ("_-_", Uint(a), Uint(b)) => uint(a.checked_sub(*b)),
        ("_*_", Uint(a), Uint(b)) => uint(a.checked_mul(*b)),
        ("_/_", Uint(a), Uint(b)) => uint(a.checked_div(*b)),
        ("_%_", Uint(a), Uint(b)) => uint(a.checked_rem(*b)),
        ("_+_", Double(a), Double(b)) => Ok(Double(a + b)),
        ("_-_", Double(a), Double(b)) => Ok(Double(a - b)),
        ("_*_", Double(a), Double(b)) => Ok(Double(a * b)),
        ("_/_", Double(a), Double(b)) => Ok(Double(a / b)),
        ("_+_", String(a), String(b)) => Ok(String(format!("{a}{b}").into())),
        ("_+_", Bytes(a), Bytes(b)) => Ok(Bytes([&**a, &**b].concat().into())),
        ("_+_", Timestamp(t), Duration(d)) | ("_+_", Duration(d), Timestamp(t)) => {
            time(t.checked_add(*d).ok())
        }
        ("_-_", Timestamp(t), Duration(d)) => time(t.checked_sub(*d).ok()),
        ("_-_", Timestamp(a), Timestamp(b)) => Ok(Duration(a.duration_since(*b))),
        ("_+_", Duration(a), Duration(b)) => length(a.checked_add(*b)),
        ("_-_", Duration(a), Duration(b)) => length(a.checked_sub(*b)),
        ("_+_", a, b) => Ok(join(a, b)?),
        _ => return None,
    })
}

/// Lists joined. A set or a list with keys takes from the right what it does not have yet, or replaces it.
fn join(a: &Value, b: &Value) -> Option<Value> {
    let right = b.entries()?;
    Some(match a {
        Value::Set(left) => {
            let mut out = (**left).clone();
            let mut known: Option<BTreeSet<Key>> = left.iter().chain(right).map(Value::key).collect();
            if known.is_some() {
                known = left.iter().map(Value::key).collect();
            }
            for entry in right {
                let new = match (&mut known, entry.key()) {
                    (Some(known), Some(key)) => known.insert(key),
                    _ => !out.contains(entry),
                };
                if new {
                    out.push(entry.clone());
                }
            }
            Value::Set(Arc::new(out))
        }
        Value::MapList(left) => {
            let (keys, mut out) = (left.0.clone(), left.1.clone());
            let same = |a: &Value, b: &Value| keys.iter().all(|k| field(a, k) == field(b, k));
            let id = |entry: &Value| identity(entry, &keys);
            let all_known = left.1.iter().chain(right).all(|e| id(e).is_some());
            let mut known: BTreeMap<_, usize> = BTreeMap::new();
            if all_known {
                for (at, entry) in out.iter().enumerate() {
                    known.entry(id(entry)).or_insert(at);
                }
            }
            for entry in right {
                let at = if all_known {
                    let next = out.len();
                    Some(*known.entry(id(entry)).or_insert(next)).filter(|at| *at < next)
                } else {
                    out.iter().position(|e| same(e, entry))
                };
                match at {
                    Some(at) => out[at] = entry.clone(),
                    None => out.push(entry.clone()),
                }
            }
            Value::MapList(Arc::new((keys, out)))
        }
        _ => Value::list(a.entries()?.iter().chain(right).cloned().collect()),
    })
}

fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    match object {
        Value::Map(map) => map.get(&Key::String(name.into())),
        _ => None,
    }
}

/// How messages show a key.
pub(crate) fn show_key(key: &Value) -> String {
    match key {
        Value::String(s) => s.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        other => other.type_name().to_string(),
    }
}

/// `container[key]`; `Err` says what is missing.
pub(crate) fn index(container: &Value, key: &Value) -> Outcome {
    if let Value::Map(map) = container {
        let found = key.key().and_then(|k| map.get(&k));
        return match found {
            Some(Value::Failed(why)) => Err(why.to_string()),
            Some(value) => Ok(value.clone()),
            None => Err(format!("no such key: {}", show_key(key))),
        };
    }
    let Some(entries) = container.entries() else { return Err("no such overload".into()) };
    let at = match key.key() {
        Some(Key::Int(at)) => at,
        _ => return Err(format!("unsupported index type '{}' in list", key.type_name())),
    };
    usize::try_from(at)
        .ok()
        .and_then(|at| entries.get(at))
        .cloned()
        .ok_or_else(|| format!("index out of bounds: {at}"))
}

pub(crate) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    let compared = |test: fn(Ordering) -> bool| match args {
        [a, b] => match a.compare(b) {
            Some(order) => Some(Ok(Value::Bool(test(order)))),
            None if matches!((a, b), (Value::Double(_), _) | (_, Value::Double(_))) => {
                Some(Ok(Value::Bool(false)))
            }
            None => Some(Err("no such overload".to_string())),
        },
        _ => None,
    };
    match (function, args) {
        ("_==_", [a, b]) => Some(Ok(Value::Bool(a == b))),
        ("_!=_", [a, b]) => Some(Ok(Value::Bool(a != b))),
        ("_<_", _) => compared(Ordering::is_lt),
        ("_<=_", _) => compared(Ordering::is_le),
        ("_>_", _) => compared(Ordering::is_gt),
        ("_>=_", _) => compared(Ordering::is_ge),
        ("!_", [Value::Bool(b)]) => Some(Ok(Value::Bool(!b))),
        ("-_", [Value::Int(n)]) => Some(n.checked_neg().map(Value::Int).ok_or_else(|| overflow("integer"))),
        ("-_", [Value::Double(n)]) => Some(Ok(Value::Double(-n))),
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => arithmetic(function, a, b),
        ("@in", [key, Value::Map(map)]) => {
            Some(Ok(Value::Bool(key.key().is_some_and(|k| map.contains_key(&k)))))
        }
        ("@in", [entry, list]) => Some(Ok(Value::Bool(list.entries()?.contains(entry)))),
        ("_[_]", [Value::Optional(None), _]) => Some(Ok(Value::Optional(None))),
        ("_[?_]" | "_[_]", [Value::Optional(inner), key]) => {
            let found = inner.as_ref().and_then(|c| index(c, key).ok());
            Some(Ok(Value::Optional(found.map(Arc::new))))
        }
        ("_[?_]", [container, key]) => Some(Ok(Value::Optional(index(container, key).ok().map(Arc::new)))),
        ("_[_]", [container, key]) => Some(index(container, key)),
        ("size", [Value::String(_) | Value::Bytes(_) | Value::Map(_)]) => {
            Some(Ok(Value::Int(args[0].size() as i64)))
        }
        ("size", [list]) => Some(Ok(Value::Int(list.entries()?.len() as i64))),
        ("optional.of", [value]) => Some(Ok(Value::Optional(Some(Arc::new(value.clone()))))),
        ("optional.ofNonZeroValue", [value]) => {
            Some(Ok(Value::Optional(Some(value.clone()).filter(|v| !v.is_zero()).map(Arc::new))))
        }
        ("optional.none", []) => Some(Ok(Value::Optional(None))),
        ("hasValue", [Value::Optional(value)]) => Some(Ok(Value::Bool(value.is_some()))),
        ("value", [Value::Optional(value)]) => {
            Some(value.as_ref().map(|v| (**v).clone()).ok_or_else(|| "optional.none() dereference".into()))
        }
        ("sets.contains", [a, b]) => {
            let (a, b) = (a.entries()?, b.entries()?);
            Some(Ok(Value::Bool(b.iter().all(|x| a.contains(x)))))
        }
        ("sets.equivalent", [a, b]) => {
            let (a, b) = (a.entries()?, b.entries()?);
            Some(Ok(Value::Bool(b.iter().all(|x| a.contains(x)) && a.iter().all(|x| b.contains(x)))))
        }
        ("sets.intersects", [a, b]) => {
            let (a, b) = (a.entries()?, b.entries()?);
            Some(Ok(Value::Bool(b.iter().any(|x| a.contains(x)))))
        }
        _ => None,
    }
}

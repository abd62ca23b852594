//! Lists whose entries must differ (`x-kubernetes-list-type`), and when two values are the same. However long a list is,
//! each entry is looked at a fixed number of times.

use crate::{
    place::{child, entry, index},
    schema::Schema,
};
use orlop_api::FieldErrors;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
};

/// Equality of JSON where `1` and `1.0` are the same.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

/// A text that two values share exactly if they are [`same`].
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(n) => {
            // Adding nothing makes one of both zeroes.
            let _ = write!(out, "{:x}", (n.as_f64().unwrap_or_default() + 0.0).to_bits());
        }
        Value::Array(entries) => {
            out.push('[');
            for entry in entries {
                canonical(entry, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                let _ = write!(out, "{key:?}:");
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::String(text) => {
            let _ = write!(out, "{text:?}");
        }
        Value::Null | Value::Bool(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// What an entry of a list of objects is known by: a text for the values of its keys, absent ones among them.
pub fn identity(entry: &Value, keys: &[String]) -> String {
    let mut out = String::new();
    for key in keys {
        if let Some(value) = entry.get(key) {
            canonical(value, &mut out);
        }
        out.push(';');
    }
    out
}

/// What is wrong with lists whose entries must differ.
pub fn validate_lists(schema: &Schema, value: &Value, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::Array(entries) => {
            let mut seen = HashSet::new();
            let mut duplicate = |at: usize, id: String, shown: &dyn Fn() -> Value| {
                if !seen.insert(id) && !errors.is_full() {
                    errors.duplicate(index(path, at), shown());
                }
            };
            match schema.list_type.as_deref() {
                Some("set") => {
                    for (at, entry) in entries.iter().enumerate() {
                        let mut id = String::new();
                        canonical(entry, &mut id);
                        duplicate(at, id, &|| entry.clone());
                    }
                }
                Some("map") => {
                    let keys = &schema.list_map_keys;
                    for (at, entry) in entries.iter().enumerate() {
                        if keys.iter().all(|k| entry.get(k).is_some()) {
                            let shown = || keys.iter().map(|k| (k.clone(), entry[k].clone())).collect();
                            duplicate(at, identity(entry, keys), &|| Value::Object(shown()));
                        }
                    }
                }
                _ => {}
            }
            if let Some(items) = &schema.items {
                for (at, entry) in entries.iter().enumerate() {
                    validate_lists(items, entry, &index(path, at), errors);
                }
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(field) = schema.field(key) {
                    let known = schema.properties.contains_key(key);
                    let here = if known { child(path, key) } else { entry(path, key) };
                    validate_lists(field, value, &here, errors);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2i64..3).prop_map(Value::from),
            (-2i64..3).prop_map(|n| Value::from(n as f64)),
            "[a,\"]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-b]", inner, 0..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_the_same_has_the_same_text_and_nothing_else_has(a in values(), b in values()) {
            let text = |v: &Value| { let mut out = String::new(); canonical(v, &mut out); out };
            prop_assert_eq!(text(&a) == text(&b), same(&a, &b), "{} {}", a, b);
        }
    }

    #[test]
    fn long_lists_are_checked_in_reasonable_time() {
        let set = Schema::parse(
            &json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}),
        );
        let map = Schema::parse(&json!({"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}}));
        let numbers: Vec<Value> = (0..100_000).chain([7]).map(Value::from).collect();
        let entries: Vec<Value> = numbers.iter().map(|n| json!({ "k": n })).collect();
        for (schema, list) in [(set, numbers), (map, entries)] {
            let mut errors = FieldErrors::new();
            validate_lists(&schema, &list.into(), "spec.l", &mut errors);
            let errors = errors.into_vec();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].path, "spec.l[100000]");
        }
    }
}

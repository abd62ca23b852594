//! What writing and reading an object does to it before anybody judges it: undeclared fields go (and are told), defaults
//! come. Both idempotent.

use crate::{
    place::{child, entry, index},
    schema::{Additional, JsonType, Schema},
};
use serde_json::{Map, Value};

/// So many undeclared fields are told, as in Kubernetes.
const MOST_TOLD: usize = 100;

/// Removes what the schema does not declare, and tells where it was. `root` says whether the value is a whole object, of
/// which `apiVersion`, `kind` and `metadata` are known.
pub fn prune(schema: &Schema, value: &mut Value, root: bool) -> Vec<String> {
    let mut gone = Vec::new();
    prune_at(schema, value, root, "", &mut gone);
    gone
}

fn prune_at(schema: &Schema, value: &mut Value, whole: bool, path: &str, gone: &mut Vec<String>) {
    match value {
        Value::Array(entries) => {
            let Some(items) = &schema.items else {
                // A list of anything: what its entries have is kept only where that is said.
                if !schema.preserves() {
                    for (at, entry) in entries.iter_mut().enumerate() {
                        if let Value::Object(map) = entry {
                            let room = MOST_TOLD.saturating_sub(gone.len());
                            let here = index(path, at);
                            gone.extend(map.keys().take(room).map(|k| child(&here, k)));
                            map.clear();
                        }
                    }
                }
                return;
            };
            for (at, entry) in entries.iter_mut().enumerate() {
                prune_at(items, entry, items.embedded, &index(path, at), gone);
            }
        }
        Value::Object(map) => {
            if matches!(schema.additional, Some(Additional::Bool(true))) && schema.properties.is_empty() {
                return;
            }
            let keep = schema.preserves();
            map.retain(|key, value| {
                if whole && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                let here = child(path, key);
                match schema.field(key) {
                    Some(field) => {
                        prune_at(field, value, field.embedded, &here, gone);
                        true
                    }
                    None if keep => true,
                    None => {
                        if gone.len() < MOST_TOLD {
                            gone.push(here);
                        }
                        false
                    }
                }
            });
        }
        _ => {}
    }
}

/// Removes `null` where the schema does not allow it and has a default, then fills in what has a default.
pub fn default(schema: &Schema, value: &mut Value) {
    default_at(schema, value);
}

fn default_at(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, field) in &schema.properties {
                let Some(default) = field.default.as_ref().filter(|d| !d.is_null()) else { continue };
                let missing = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !field.nullable,
                    Some(_) => false,
                };
                if missing {
                    map.insert(name.clone(), default.clone());
                }
            }
            default_values(schema, map);
        }
        Value::Array(entries) => {
            if let Some(items) = &schema.items {
                for entry in entries {
                    default_or(items, entry);
                }
            }
        }
        _ => {}
    }
}

fn default_values(schema: &Schema, map: &mut Map<String, Value>) {
    for (key, value) in map.iter_mut() {
        if let Some(field) = schema.field(key) {
            default_or(field, value);
        }
    }
}

/// Defaults below a value, or the value itself where it is a `null` that may not be.
fn default_or(schema: &Schema, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = schema.default.as_ref().filter(|d| !d.is_null())
    {
        *value = default.clone();
    }
    default_at(schema, value);
}

/// Whether anything in the schema has a default.
pub fn has_defaults(schema: &Schema) -> bool {
    let mut found = false;
    schema.walk(&mut |s| found |= s.default.is_some());
    found
}

/// What the apiVersion, kind and metadata of embedded objects must be: the paths of those that are not.
pub fn embedded_objects<'a>(
    schema: &'a Schema,
    value: &'a Value,
    path: &str,
    out: &mut Vec<(String, &'a Value)>,
) {
    if schema.embedded && !path.is_empty() && value.is_object() {
        out.push((path.to_string(), value));
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(field) = schema.field(key) {
                    let here =
                        if schema.properties.contains_key(key) { child(path, key) } else { entry(path, key) };
                    embedded_objects(field, value, &here, out);
                }
            }
        }
        Value::Array(entries) => {
            if let Some(items) = &schema.items {
                for (at, entry) in entries.iter().enumerate() {
                    embedded_objects(items, entry, &index(path, at), out);
                }
            }
        }
        _ => {}
    }
}

/// The name of a JSON value's type, as messages say it.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value is of a type.
pub fn is_type(ty: JsonType, value: &Value) -> bool {
    match ty {
        JsonType::Number => value.is_number(),
        ty => ty.name() == type_of(value),
    }
}

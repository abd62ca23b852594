//! Reading and filling in objects that are JSON: short ways to the fields that rules look at. A field that is
//! missing, `null` or of another type reads as empty, as a Go client would see it. Knows no kind.

use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The string at a JSON pointer, or the empty string.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a JSON pointer.
pub fn int(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The boolean at a JSON pointer, or false.
pub fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The map at a JSON pointer.
pub fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// The entries of the map of strings at a JSON pointer.
pub fn strings<'a>(object: &'a Value, pointer: &str) -> BTreeMap<&'a str, &'a str> {
    map(object, pointer)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect()
}

/// How many entries the list or map at a JSON pointer has.
pub fn len(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// The time at a JSON pointer.
pub fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer).parse().ok()
}

/// Whether the pointer leads to anything but `null`.
pub fn has(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).is_some_and(|v| !v.is_null())
}

/// The scalar at a dotted path as a field selector sees it; a missing one is the empty string.
pub fn field(object: &Value, path: &str) -> String {
    let mut at = object;
    for part in path.split('.') {
        match at.get(part) {
            Some(next) => at = next,
            None => return String::new(),
        }
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The status (`True`, `False`, `Unknown`) of the condition of that type, or the empty string.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    list(object, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == kind)
        .map_or("", |c| text(c, "/status"))
}

/// The member `key` of an object, made an empty object first where it is missing. `None` where either is
/// anything else than an object.
pub fn child<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let member = object.as_object_mut()?.entry(key).or_insert(Value::Null);
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    Some(member).filter(|member| member.is_object())
}

/// Sets a member; does nothing to what is no object.
pub fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_string(), value.into());
    }
}

/// Calls `change` for each entry of the list `key`.
pub fn each(object: &mut Value, key: &str, mut change: impl FnMut(&mut Value)) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
        list.iter_mut().for_each(&mut change);
    }
}

/// Sets a member that is missing or `null`.
pub fn set_default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_string(), value.into());
    }
}

/// Sets a member that is missing, `null`, `""` or `0`: what Go calls the zero value, for fields that are not
/// pointers there.
pub fn set_default_nonzero(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(|v| v.is_null() || v == "" || v.as_i64() == Some(0))
    {
        map.insert(key.to_string(), value.into());
    }
}

/// Makes the member `key` of `new` what it is in `old`: set, or absent.
pub fn carry_over(new: &mut Value, old: &Value, key: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(key) {
            Some(value) => map.insert(key.to_string(), value.clone()),
            None => map.remove(key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_or_mistyped_field_reads_as_empty() {
        let v = json!({"a": {"s": "x", "n": 3, "l": [1]}, "z": null});
        assert_eq!((text(&v, "/a/s"), text(&v, "/a/n"), text(&v, "/b/c")), ("x", "", ""));
        assert_eq!((int(&v, "/a/n"), int(&v, "/a/s")), (Some(3), None));
        assert_eq!((len(&v, "/a"), len(&v, "/a/l"), len(&v, "/z")), (3, 1, 0));
        assert!(!has(&v, "/z") && has(&v, "/a"));
    }

    #[test]
    fn defaults_fill_only_what_is_unset() {
        let mut v = json!({"null": null, "zero": 0, "empty": "", "set": 7});
        for key in ["null", "zero", "empty", "set", "missing"] {
            set_default(&mut v, key, 1);
        }
        assert_eq!(v, json!({"null": 1, "zero": 0, "empty": "", "set": 7, "missing": 1}));
        for key in ["zero", "empty", "set"] {
            set_default_nonzero(&mut v, key, 2);
        }
        assert_eq!(v, json!({"null": 1, "zero": 2, "empty": 2, "set": 7, "missing": 1}));
    }
}

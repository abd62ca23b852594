//! ConfigMap: configuration as text and bytes.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{flag, len, map},
    print,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ConfigMap.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["cm"]),
        columns: vec![
            print::name_column(),
            print::text_column("Data", "How many keys it holds."),
            print::age_column(),
        ],
        ..base("", "v1", "ConfigMap", "configmaps", ConfigMap)
    }
}

struct ConfigMap;

/// All keys' values together, in bytes.
pub(super) const MAX_DATA: usize = 1024 * 1024;

impl Rules for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let mut size = 0;
        for (key, value) in map(object, "/data").into_iter().flatten() {
            let path = Path::new("data").key(key);
            errors.messages(&path, key, name::config_key(key));
            if object.pointer("/binaryData").is_some_and(|binary| binary.get(key).is_some()) {
                errors.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in map(object, "/binaryData").into_iter().flatten() {
            let path = Path::new("binaryData").key(key);
            errors.messages(&path, key, name::config_key(key));
            size += decoded_len(value, &path, &mut errors);
        }
        if size > MAX_DATA {
            errors.push(FieldError::too_long("", MAX_DATA));
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_immutable(new, old, &["data", "binaryData"], &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let keys = len(object, "/data") + len(object, "/binaryData");
        vec![print::name(object), keys.into(), print::age(object, now)]
    }
}

/// How many bytes base64 text stands for.
pub(super) fn decoded_len(value: &Value, path: &Path, errors: &mut FieldErrors) -> usize {
    match BASE64_STANDARD.decode(value.as_str().unwrap_or_default()) {
        Ok(bytes) => bytes.len(),
        Err(e) => {
            // The value may be secret: it is not shown.
            errors.push(FieldError::type_invalid(path, format!("illegal base64 data: {e}")));
            0
        }
    }
}

/// What `immutable: true` fixes: itself and the data.
pub(super) fn validate_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if !flag(old, "/immutable") {
        return;
    }
    let message = "field is immutable when `immutable` is set";
    if !flag(new, "/immutable") {
        errors.forbidden("immutable", message);
    }
    for field in fields {
        let empty = |v: &&Value| !v.is_null() && v.as_object().is_none_or(|m| !m.is_empty());
        if new.get(field).filter(empty) != old.get(field).filter(empty) {
            errors.forbidden(*field, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(object: Value) -> Vec<String> {
        ConfigMap.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn keys_and_size_are_checked() {
        assert_eq!(
            wrong(json!({"data": {"a.conf": "x"}, "binaryData": {"b": "AAEC"}})),
            Vec::<String>::new()
        );
        assert!(
            wrong(json!({"data": {"a/b": "x"}}))[0]
                .starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key")
        );
        assert_eq!(
            wrong(json!({"data": {"a": "x"}, "binaryData": {"a": ""}})),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
        assert!(wrong(json!({"binaryData": {"a": "!"}}))[0].contains("illegal base64 data"));
        assert!(wrong(json!({"data": {"a": "x".repeat(MAX_DATA)}})).is_empty());
        assert_eq!(
            wrong(json!({"data": {"a": "x".repeat(MAX_DATA + 1)}})),
            [": Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn an_immutable_one_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "x"}});
        let paths = |new: Value| {
            ConfigMap.validate_update(&new, &old).into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(paths(json!({"immutable": true, "data": {"a": "x"}, "binaryData": {}})).is_empty());
        assert_eq!(paths(json!({"data": {"a": "y"}})), ["immutable", "data"]);
    }
}

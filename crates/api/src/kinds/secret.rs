//! Secret: configuration that few may read.

use super::{
    base,
    config_map::{MAX_DATA, decoded_len, validate_immutable},
    texts,
};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{has, len, map, set_default_nonzero, text},
    print,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The description of Secret.
pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![
            print::name_column(),
            print::text_column("Type", "What the keys are for."),
            print::text_column("Data", "How many keys it holds."),
            print::age_column(),
        ],
        selectable_fields: texts(&["type"]),
        ..base("", "v1", "Secret", "secrets", Secret)
    }
}

struct Secret;

impl Rules for Secret {
    fn default(&self, object: &mut Value) {
        if !object.is_object() {
            return;
        }
        set_default_nonzero(object, "type", "Opaque");
        // Write-only: what is written as text is kept as bytes, over what is there.
        let text = object.as_object_mut().and_then(|map| map.remove("stringData"));
        if let Some(Value::Object(text)) = text
            && !text.is_empty()
        {
            if !object["data"].is_object() {
                object["data"] = json!({});
            }
            for (key, value) in text {
                object["data"][key] = BASE64_STANDARD.encode(value.as_str().unwrap_or_default()).into();
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let data = Path::new("data");
        let mut size = 0;
        for (key, value) in map(object, "/data").into_iter().flatten() {
            let path = data.key(key);
            errors.messages(&path, key, name::config_key(key));
            size += decoded_len(value, &path, &mut errors);
        }
        if size > MAX_DATA {
            errors.push(FieldError::too_long(&data, MAX_DATA));
        }
        validate_type(object, &data, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("type"), new.get("type"), old.get("type"));
        validate_immutable(new, old, &["data"], &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(object),
            text(object, "/type").into(),
            len(object, "/data").into(),
            print::age(object, now),
        ]
    }
}

/// What each of the known types must hold.
fn validate_type(object: &Value, data: &Path, errors: &mut FieldErrors) {
    let has_key = |key: &str| object.get("data").is_some_and(|data| data.get(key).is_some());
    let mut required = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has_key(key)) {
            errors.required(data.key(key), "");
        }
    };
    match text(object, "/type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            let named =
                object.pointer("/metadata/annotations").and_then(|a| a.get(NAME)).is_some_and(|n| n != "");
            if !named {
                errors.required(Path::new("metadata.annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(object, ".dockercfg", data, errors),
        "kubernetes.io/dockerconfigjson" => validate_json(object, ".dockerconfigjson", data, errors),
        "kubernetes.io/basic-auth" if !has_key("username") && !has_key("password") => {
            required(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => required(&["ssh-privatekey"]),
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn validate_json(object: &Value, key: &str, data: &Path, errors: &mut FieldErrors) {
    if !has(object, &format!("/data/{key}")) {
        errors.required(data.key(key), "");
        return;
    }
    let bytes = BASE64_STANDARD.decode(text(object, &format!("/data/{key}"))).unwrap_or_default();
    if let Err(e) = serde_json::from_slice::<Value>(&bytes) {
        errors.invalid(data.key(key), "<secret contents redacted>", e.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(mut object: Value) -> Value {
        Secret.default(&mut object);
        object
    }

    fn wrong(object: Value) -> Vec<String> {
        Secret.validate(&secret(object)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn text_becomes_data() {
        assert_eq!(
            secret(json!({"stringData": {"a": "new", "b": "x"}, "data": {"a": "b2xk", "c": "eQ=="}})),
            json!({"type": "Opaque", "data": {"a": "bmV3", "b": "eA==", "c": "eQ=="}})
        );
    }

    #[test]
    fn each_type_must_hold_its_keys() {
        for (object, want) in [
            (
                json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}),
                vec!["data[tls.key]: Required value"],
            ),
            (json!({"type": "kubernetes.io/ssh-auth"}), vec!["data[ssh-privatekey]: Required value"]),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/basic-auth", "stringData": {"password": "x"}}), vec![]),
            (
                json!({"type": "kubernetes.io/dockerconfigjson"}),
                vec!["data[.dockerconfigjson]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}),
                vec![],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (json!({"type": "example.com/mine"}), vec![]),
        ] {
            assert_eq!(wrong(object.clone()), want, "{object}");
        }
        let found = wrong(json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "hush"}}));
        assert!(found[0].starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\""));
        assert!(!wrong(json!({"data": {"a": "not base64"}}))[0].contains("not base64"));
    }

    #[test]
    fn the_type_may_not_change() {
        let old = secret(json!({"type": "kubernetes.io/tls"}));
        assert_eq!(
            Secret.validate_update(&secret(json!({})), &old)[0].to_string(),
            "type: Invalid value: \"Opaque\": field is immutable"
        );
    }
}

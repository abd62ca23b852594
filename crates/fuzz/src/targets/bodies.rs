//! Bodies of every kind, as JSON, YAML and protobuf, through decoding, defaults, validation and printing, as a write has
//! them. The first line says the format.

use jiff::Timestamp;
use orlop_api::{Kind, kinds};
use orlop_schema::{Types, conform, parse_json, parse_yaml, protobuf};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    let mut kinds = kinds::table();
    kinds.push(orlop_custom::definition::kind());
    kinds
});

/// The kind that an object says it is.
pub(super) fn kind_of(object: &Value) -> Option<&'static Arc<Kind>> {
    let (version, kind) = (object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?);
    KINDS.iter().find(|k| k.kind == kind && k.api_version() == version)
}

pub(super) fn run(input: &[u8]) {
    let end = input.iter().position(|b| *b == b'\n').unwrap_or(input.len());
    let (format, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let parsed = match format {
        b"json" => parse_json(body).map(|p| p.value).ok(),
        b"yaml" => parse_yaml(body).map(|p| p.value).ok(),
        _ => protobuf::decode(body).ok(),
    };
    let Some(value) = parsed else { return };
    read_again(&value);
    written(value);
}

/// What was read can be stored, and read as part of a list in an event.
pub(super) fn read_again(value: &Value) {
    let text = format!("{{\"type\":\"ADDED\",\"object\":{{\"items\":[{value}]}}}}");
    let again: Value = serde_json::from_str(&text).expect("what was read can be read again");
    assert_eq!(again["object"]["items"][0].to_string(), value.to_string());
}

fn written(mut object: Value) {
    let Some(kind) = kind_of(&object) else { return };
    let Some(ty) = Types::of(&kind.api_version(), &kind.kind) else { return };
    if conform(&ty, &mut object).is_err() {
        return;
    }
    let clean = object.clone();
    assert!(conform(&ty, &mut object).is_ok_and(|unknown| unknown.is_empty()), "conforming is final");
    assert_eq!(object, clean, "conforming twice is conforming once");
    let _ = orlop_api::metadata::validate_object_meta(kind, &object);
    let rules = &kind.rules;
    rules.default(&mut object);
    let defaulted = object.clone();
    rules.default(&mut object);
    assert_eq!(object, defaulted, "defaulting twice is defaulting once");
    assert!(conform(&ty, &mut object).is_ok(), "defaults fit the type: {object}");
    rules.prepare_create(&mut object);
    let errors = rules.validate(&object);
    assert!(orlop_api::Status::invalid(kind, "x", &errors).to_json().is_object());
    let mut new = object.clone();
    rules.prepare_update(&mut new, &object);
    let _ = rules.validate_change(&new, &object);
    let _ = rules.validate_update(&clean, &object);
    let mut new = object.clone();
    rules.prepare_status(&mut new, &clean);
    let _ = rules.validate_status(&new, &clean);
    assert_eq!(rules.cells(&object, Timestamp::UNIX_EPOCH).len(), kind.columns.len());
    let _ = rules.row_conditions(&object);
    let _ = rules.deletion(&object, Some(i64::MIN));
    let _ = orlop_api::quota::usage(&kind.group, &kind.plural, &object);
    for field in &kind.selectable_fields {
        let _ = rules.field(&object, field);
    }
    if let Some(bytes) = protobuf::encode(&object) {
        let again = protobuf::decode(&bytes).expect("what was encoded can be decoded");
        if errors.is_empty() {
            let twice = protobuf::encode(&again).expect("it can be encoded again");
            assert_eq!(protobuf::decode(&twice).expect("decoded"), again, "encoding loses nothing more");
        }
    }
}

//! A CustomResourceDefinition, and two objects of it one after the other: whatever the definition is, it is judged; if it
//! is good, so are the objects.

use crate::sections::sections;
use jiff::Timestamp;
use orlop_schema::{Types, apply, conform, parse_json, parse_yaml};
use serde_json::{Value, json};

pub(super) fn run(input: &[u8]) {
    let parts = sections(input, 3);
    let Some(Ok(parsed)) = parts.first().map(|p| parse_yaml(p)) else { return };
    let mut definition = parsed.value;
    let kind = orlop_custom::definition::kind();
    let Some(ty) = Types::of(&kind.api_version(), &kind.kind) else { return };
    if conform(&ty, &mut definition).is_err() {
        return;
    }
    kind.rules.default(&mut definition);
    kind.rules.prepare_create(&mut definition);
    let errors = kind.rules.validate(&definition);
    let _ = orlop_api::Status::invalid(&kind, "x", &errors).to_json();
    if !errors.is_empty() {
        return;
    }
    definition["status"]["acceptedNames"] = definition["spec"]["names"].clone();
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        let served = orlop_custom::build(&definition, version);
        let mut before: Option<Value> = None;
        for part in &parts[1..] {
            let Ok(parsed) = parse_json(part) else { continue };
            before = Some(object(&served, parsed.value, before));
        }
    }
}

fn object(served: &orlop_custom::Served, mut object: Value, before: Option<Value>) -> Value {
    let rules = &served.kind.rules;
    if !object.is_object() {
        return object;
    }
    object["apiVersion"] = json!(served.kind.api_version());
    object["kind"] = json!(served.kind.kind);
    if !matches!(rules.fit(&mut object), Some(Ok(_))) {
        return object;
    }
    let pruned = object.clone();
    assert!(matches!(rules.fit(&mut object), Some(Ok(gone)) if gone.is_empty()), "pruning is final");
    assert_eq!(object, pruned);
    rules.default(&mut object);
    let defaulted = object.clone();
    rules.default(&mut object);
    assert_eq!(object, defaulted, "defaulting twice is defaulting once");
    let errors = rules.validate(&object);
    let _ = orlop_api::Status::invalid(&served.kind, "x", &errors).to_json();
    assert_eq!(rules.cells(&object, Timestamp::UNIX_EPOCH).len(), served.kind.columns.len());
    for field in &served.kind.selectable_fields {
        let _ = rules.field(&object, field);
    }
    let writer =
        apply::Writer { manager: "m", subresource: "", now: Timestamp::UNIX_EPOCH, ignored: &["/status"] };
    apply::update_managed_fields(&served.types, before.as_ref(), &mut object, &writer);
    if let Some(before) = before {
        let _ = rules.validate_change(&object, &before);
        let _ = rules.validate_status(&object, &before);
    }
    object
}

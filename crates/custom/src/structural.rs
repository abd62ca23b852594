//! Whether a schema is one that Kubernetes takes: structural (every field has a type, declared outside of `allOf` and its
//! like), without what custom resources may not use (Kubernetes documentation, "Specifying a structural schema"). Says
//! where it is not, in Kubernetes' words.

use crate::{
    fit, patterns, rules,
    schema::{Additional, JsonType, Schema},
    value,
};
use orlop_api::{FieldErrors, Path};
use serde_json::Value;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueRequired", "FieldValueInvalid", "FieldValueForbidden", "FieldValueDuplicate"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// All that is wrong with the schema of a version, which stands at `path`.
pub fn validate(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    keywords(schema, path, errors);
    let before = errors.len();
    structure(schema, path, Level::Root, errors);
    metadata(schema, path, errors);
    if errors.len() > before {
        return;
    }
    defaults(schema, path, errors);
    let (_, broken) = rules::compile(schema, path.as_str());
    for broken in broken {
        if broken.forbidden {
            errors.forbidden(broken.path, broken.why);
        } else {
            errors.invalid(broken.path, broken.value, broken.why);
        }
    }
}

/// Keywords that may not be used at all, or not like this.
fn keywords(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    for keyword in &schema.forbidden {
        errors.forbidden(path.child(keyword), format!("{keyword} is not supported"));
    }
    if schema.unique_items {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(path.child("uniqueItems"), why);
    }
    match &schema.additional {
        Some(Additional::Bool(false)) => {
            errors
                .forbidden(path.child("additionalProperties"), "additionalProperties cannot be set to false");
        }
        Some(_) if !schema.properties.is_empty() => {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(path.child("additionalProperties"), why);
        }
        _ => {}
    }
    if schema.items_is_list {
        errors.forbidden(path.child("items"), "items must be a schema object and not an array");
    }
    if !schema.type_name.is_empty() {
        if schema.type_name == "null" {
            errors
                .forbidden(path.child("type"), "type cannot be set to null, use nullable as an alternative");
        } else {
            errors.one_of(&path.child("type"), &schema.type_name, &TYPES);
        }
    }
    if !schema.pattern.is_empty()
        && let Err(why) = patterns::compile(&schema.pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(path.child("pattern"), schema.pattern.as_str(), why);
    }
    if schema.preserve_unknown == Some(false) {
        errors.invalid(
            path.child("x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
    list_type(schema, path, errors);
    if let Some(map_type) = &schema.map_type {
        if schema.ty != Some(JsonType::Object) {
            let why = "must be object if x-kubernetes-map-type is specified";
            errors.invalid(path.child("type"), schema.type_name.as_str(), why);
        }
        errors.one_of(&path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
    }
    rule_fields(schema, path, errors);
    each_part(schema, path, &mut |part, at| keywords(part, at, errors));
}

/// Calls `each` with every schema directly below.
fn each_part(schema: &Schema, path: &Path, each: &mut dyn FnMut(&Schema, &Path)) {
    for (name, field) in &schema.properties {
        each(field, &path.child("properties").key(name));
    }
    if let Some(Additional::Schema(values)) = &schema.additional {
        each(values, &path.child("additionalProperties"));
    }
    if let Some(items) = &schema.items {
        each(items, &path.child("items"));
    }
    for (name, list) in [("allOf", &schema.all_of), ("anyOf", &schema.any_of), ("oneOf", &schema.one_of)] {
        for (at, part) in list.iter().enumerate() {
            each(part, &path.child(name).index(at));
        }
    }
    if let Some(not) = &schema.not {
        each(not, &path.child("not"));
    }
}

fn list_type(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    let keys_at = path.child("x-kubernetes-list-map-keys");
    let Some(list_type) = schema.list_type.as_deref() else {
        if !schema.list_map_keys.is_empty() {
            errors.required(
                path.child("x-kubernetes-list-type"),
                "must be map if x-kubernetes-list-map-keys is non-empty",
            );
        }
        return;
    };
    if schema.ty != Some(JsonType::Array) {
        let why = "must be array if x-kubernetes-list-type is specified";
        if schema.type_name.is_empty() {
            errors.required(path.child("type"), why);
        } else {
            errors.invalid(path.child("type"), schema.type_name.as_str(), why);
        }
    }
    let at = path.child("x-kubernetes-list-type");
    errors.one_of(&at, list_type, &["atomic", "map", "set"]);
    if list_type != "map" {
        if !schema.list_map_keys.is_empty() {
            errors.forbidden(&keys_at, "must be map if x-kubernetes-list-map-keys is non-empty");
        }
    } else if schema.list_map_keys.is_empty() {
        errors.required(&keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = schema.items.as_deref() else { return };
    let below = path.child("items");
    match list_type {
        "map" => {
            if items.ty != Some(JsonType::Object) {
                let why = "must be object if parent array's x-kubernetes-list-type is map";
                errors.invalid(below.child("type"), items.type_name.as_str(), why);
            }
            for (at, key) in schema.list_map_keys.iter().enumerate() {
                if schema.list_map_keys[..at].contains(key) {
                    errors.duplicate(keys_at.index(at), key.as_str());
                    continue;
                }
                let Some(field) = items.properties.get(key) else {
                    let why = "entries must all be names of item properties";
                    errors.invalid(keys_at.index(at), key.as_str(), why);
                    continue;
                };
                let here = below.child("properties").key(key);
                if matches!(field.ty, Some(JsonType::Object | JsonType::Array)) {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.invalid(here.child("type"), field.type_name.as_str(), why);
                }
                if field.nullable {
                    errors.forbidden(
                        here.child("nullable"),
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
                    );
                }
                if !items.required.contains(key) && field.default.is_none() {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.required(here.child("default"), why);
                }
            }
        }
        "set" => {
            if items.nullable {
                let why = "cannot be nullable when x-kubernetes-list-type is set";
                errors.forbidden(below.child("nullable"), why);
            }
            let atomic = match items.ty {
                Some(JsonType::Object) => items.map_type.as_deref() == Some("atomic"),
                Some(JsonType::Array) => matches!(items.list_type.as_deref(), None | Some("atomic")),
                _ => true,
            };
            if !atomic {
                let field = if items.ty == Some(JsonType::Object) {
                    "x-kubernetes-map-type"
                } else {
                    "x-kubernetes-list-type"
                };
                let given =
                    if items.ty == Some(JsonType::Object) { &items.map_type } else { &items.list_type };
                let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                errors.invalid(below.child(field), given.clone().map_or(Value::Null, Value::from), why);
            }
        }
        _ => {}
    }
}

/// What can be wrong with a CEL rule besides its expressions.
fn rule_fields(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("x-kubernetes-validations");
    for (number, rule) in schema.rules.iter().enumerate() {
        let here = at.index(number);
        if rule.rule.trim().is_empty() {
            errors.required(here.child("rule"), "rule is not specified");
        }
        if !rule.message.is_empty() {
            if rule.message.trim().is_empty() {
                errors.invalid(
                    here.child("message"),
                    rule.message.as_str(),
                    "message must be non-empty if specified",
                );
            } else if rule.message.trim().contains('\n') {
                errors.invalid(
                    here.child("message"),
                    rule.message.as_str(),
                    "message must not contain line breaks",
                );
            }
        }
        if rule.message.is_empty() && rule.rule.trim().contains('\n') {
            errors.required(here.child("message"), "message must be specified if rule contains line breaks");
        }
        if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.required(here.child("messageExpression"), why);
        }
        if let Some(reason) = &rule.reason {
            errors.one_of(&here.child("reason"), reason, &REASONS);
        }
        if !rule.field_path.is_empty() && !leads_somewhere(schema, &rule.field_path) {
            let why = format!(
                "fieldPath must be a valid path: does not refer to a valid field: {}",
                rule.field_path.trim()
            );
            errors.invalid(here.child("fieldPath"), rule.field_path.as_str(), why);
        }
    }
}

/// Whether a `fieldPath` (`.spec.x`, `['a.b']`) names a field of the schema.
fn leads_somewhere(schema: &Schema, path: &str) -> bool {
    let (mut here, mut rest) = (schema, path.trim());
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let name;
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            name = &tail[..end];
            rest = &tail[end..];
        } else if let Some(tail) = rest.strip_prefix("['") {
            let Some(end) = tail.find("']") else { return false };
            name = &tail[..end];
            rest = &tail[end + 2..];
        } else {
            return false;
        }
        match here.field(name) {
            Some(field) => here = field,
            None => return false,
        }
    }
    true
}

fn structure(schema: &Schema, path: &Path, level: Level, errors: &mut FieldErrors) {
    let type_at = path.child("type");
    let free = schema.int_or_string || schema.preserves();
    match (schema.ty, level) {
        (None, Level::Root) if schema.type_name.is_empty() => {
            errors.required(&type_at, "must not be empty at the root");
        }
        (Some(JsonType::Object), Level::Root) => {}
        (_, Level::Root) if !schema.type_name.is_empty() => {
            errors.invalid(&type_at, schema.type_name.as_str(), "must be object at the root");
        }
        (None, level) if schema.type_name.is_empty() && !free => {
            let what = if level == Level::Item { "array items" } else { "object fields" };
            errors.required(&type_at, &format!("must not be empty for specified {what}"));
        }
        _ => {}
    }
    if schema.int_or_string && !schema.type_name.is_empty() {
        errors.invalid(
            &type_at,
            schema.type_name.as_str(),
            "must be empty if x-kubernetes-int-or-string is true",
        );
    }
    if schema.embedded {
        if schema.ty != Some(JsonType::Object) {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            if schema.type_name.is_empty() {
                errors.required(&type_at, why);
            } else {
                errors.invalid(&type_at, schema.type_name.as_str(), why);
            }
        }
        if !schema.preserves() && schema.properties.is_empty() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            errors.required(path.child("properties"), why);
        }
    }
    if schema.ty == Some(JsonType::Array)
        && schema.items.is_none()
        && !schema.preserves()
        && !schema.items_is_list
    {
        errors.required(path.child("items"), "must be specified");
    }
    for (name, field) in &schema.properties {
        structure(field, &path.child("properties").key(name), Level::Field, errors);
    }
    if let Some(Additional::Schema(values)) = &schema.additional {
        structure(values, &path.child("additionalProperties"), Level::Field, errors);
    }
    if let Some(items) = &schema.items {
        structure(items, &path.child("items"), Level::Item, errors);
    }
    for (name, list) in [("allOf", &schema.all_of), ("anyOf", &schema.any_of), ("oneOf", &schema.one_of)] {
        for (at, part) in list.iter().enumerate() {
            judgement(part, Some(schema), &path.child(name).index(at), schema.int_or_string, errors);
        }
    }
    if let Some(not) = &schema.not {
        judgement(not, Some(schema), &path.child("not"), false, errors);
    }
}

/// What stands in `allOf` and its like may only judge values, not declare structure.
fn judgement(
    part: &Schema,
    core: Option<&Schema>,
    path: &Path,
    int_or_string: bool,
    errors: &mut FieldErrors,
) {
    let empty = "must be empty to be structural";
    // `anyOf: [{type: integer}, {type: string}]` is how an int-or-string is written.
    let written_so = int_or_string && matches!(part.ty, Some(JsonType::Integer | JsonType::String));
    if !part.type_name.is_empty() && !written_so {
        errors.forbidden(path.child("type"), empty);
    }
    for (field, text) in [("title", &part.title), ("description", &part.description)] {
        if !text.is_empty() {
            errors.forbidden(path.child(field), empty);
        }
    }
    if part.default.is_some() {
        errors.forbidden(path.child("default"), "must be undefined to be structural");
    }
    if part.additional.is_some() {
        errors.forbidden(path.child("additionalProperties"), "must be undefined to be structural");
    }
    let flags = [
        ("nullable", part.nullable),
        ("x-kubernetes-preserve-unknown-fields", part.preserve_unknown.is_some()),
        ("x-kubernetes-embedded-resource", part.embedded),
        ("x-kubernetes-int-or-string", part.int_or_string),
    ];
    for (field, set) in flags {
        if set {
            errors.forbidden(path.child(field), "must be false to be structural");
        }
    }
    if !part.rules.is_empty() {
        errors.forbidden(path.child("x-kubernetes-validations"), empty);
    }
    for (name, field) in &part.properties {
        let at = path.child("properties").key(name);
        let declared = core.and_then(|c| c.field(name));
        if declared.is_none() && core.is_some_and(|c| !c.preserves() || !c.properties.is_empty()) {
            errors.required(&at, "because it is defined in this part, it must be defined outside of it too");
        }
        judgement(field, declared, &at, declared.is_some_and(|d| d.int_or_string), errors);
    }
    if let Some(items) = &part.items {
        judgement(items, core.and_then(|c| c.items.as_deref()), &path.child("items"), false, errors);
    }
    for (name, list) in [("allOf", &part.all_of), ("anyOf", &part.any_of), ("oneOf", &part.one_of)] {
        for (at, inner) in list.iter().enumerate() {
            judgement(inner, core, &path.child(name).index(at), int_or_string, errors);
        }
    }
    if let Some(not) = &part.not {
        judgement(not, core, &path.child("not"), false, errors);
    }
}

/// Of metadata a schema may restrict nothing but the names.
fn metadata(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    let properties = path.child("properties");
    if let Some(metadata) = schema.properties.get("metadata") {
        let at = properties.key("metadata");
        let others = metadata.properties.keys().any(|k| !matches!(k.as_str(), "name" | "generateName"));
        if others || metadata.additional.is_some() || metadata.preserves() || !metadata.required.is_empty() {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(&at, why);
        }
        if metadata.ty.is_some() && metadata.ty != Some(JsonType::Object) {
            errors.invalid(at.child("type"), metadata.type_name.as_str(), "must be object");
        }
    }
    for name in ["apiVersion", "kind"] {
        if let Some(field) =
            schema.properties.get(name).filter(|f| f.ty.is_some() && f.ty != Some(JsonType::String))
        {
            errors.invalid(properties.key(name).child("type"), field.type_name.as_str(), "must be string");
        }
    }
}

/// Defaults must fit the schema that they stand in.
fn defaults(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    if let Some(default) = &schema.default {
        let at = path.child("default");
        let mut kept = default.clone();
        let gone = fit::prune(schema, &mut kept, schema.embedded);
        if gone.is_empty() {
            let patterns = patterns::Patterns::of(schema);
            let mut filled = default.clone();
            fit::default(schema, &mut filled);
            errors.append(value::validate_at(schema, &patterns, &filled, at.as_str()));
        } else {
            let why = format!("must not have unknown fields: {}", gone.join(", "));
            errors.invalid(&at, default.clone(), why);
        }
    }
    for (name, field) in &schema.properties {
        defaults(field, &path.child("properties").key(name), errors);
    }
    if let Some(Additional::Schema(values)) = &schema.additional {
        defaults(values, &path.child("additionalProperties"), errors);
    }
    if let Some(items) = &schema.items {
        defaults(items, &path.child("items"), errors);
    }
}

//! Paths and operations as each version of OpenAPI writes them down.

use super::{
    paths::{Answer, Body, DELETE_OPTIONS, Operation, PATCH, Parameter, PathItem},
    schemas::Dialect,
};
use serde_json::{Map, Value, json};

const MEDIA: [&str; 2] = ["application/json", "application/yaml"];
const WATCH: &str = "application/json;stream=watch";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
];

/// Everything at a path.
pub(super) fn write(dialect: Dialect, item: &PathItem, tag: &str) -> Value {
    let mut out = Map::new();
    for operation in &item.operations {
        out.insert(operation.method.to_string(), write_operation(dialect, operation, tag));
    }
    if !item.parameters.is_empty() {
        out.insert("parameters".to_string(), parameters(dialect, &item.parameters).into());
    }
    Value::Object(out)
}

fn parameters(dialect: Dialect, list: &[&'static Parameter]) -> Vec<Value> {
    list.iter().map(|p| parameter(dialect, p)).collect()
}

fn parameter(dialect: Dialect, p: &Parameter) -> Value {
    let place = if p.in_path { "path" } else { "query" };
    let mut out = json!({"name": p.name, "in": place, "description": p.description});
    if p.in_path {
        out["required"] = json!(true);
    }
    match dialect {
        Dialect::V2 => {
            out["type"] = json!(p.ty);
            out["uniqueItems"] = json!(true);
        }
        Dialect::V3 => out["schema"] = json!({"type": p.ty, "uniqueItems": true}),
    }
    out
}

fn write_operation(dialect: Dialect, operation: &Operation, tag: &str) -> Value {
    let mut out = json!({
        "description": operation.description,
        "operationId": operation.id,
        "tags": [tag],
    });
    let mut parameters = parameters(dialect, &operation.parameters);
    if !operation.action.is_empty() {
        out["x-kubernetes-action"] = json!(operation.action);
    }
    if let Some((group, version, kind)) = &operation.gvk {
        out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    if let Some(body) = &operation.body {
        let (definition, required) = match body {
            Body::Object(definition) => (definition.as_str(), true),
            Body::Patch { .. } => (PATCH, true),
            Body::DeleteOptions => (DELETE_OPTIONS, false),
        };
        let reference = dialect.reference(definition);
        let media = match body {
            Body::Patch { strategic } => &PATCHES[..if *strategic { 4 } else { 3 }],
            _ => &MEDIA[..],
        };
        match dialect {
            Dialect::V2 => {
                let mut parameter = json!({"name": "body", "in": "body", "schema": reference});
                if required {
                    parameter["required"] = json!(true);
                }
                parameters.insert(0, parameter);
                out["consumes"] =
                    if matches!(body, Body::Patch { .. }) { json!(media) } else { json!(["*/*"]) };
            }
            Dialect::V3 => {
                out["requestBody"] = json!({"content": content(&reference, media)});
                if required {
                    out["requestBody"]["required"] = json!(true);
                }
            }
        }
    } else if dialect == Dialect::V2 {
        out["consumes"] = json!(["*/*"]);
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    answers(dialect, operation, &mut out);
    out
}

fn content(schema: &Value, media: &[&str]) -> Value {
    media.iter().map(|m| (m.to_string(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn answers(dialect: Dialect, operation: &Operation, out: &mut Value) {
    let (schema, mut media) = match &operation.answer {
        Answer::Object(definition) => (dialect.reference(definition), MEDIA.to_vec()),
        Answer::Stream(definition) => (dialect.reference(definition), MEDIA.to_vec()),
        Answer::Text => (json!({"type": "string"}), vec!["*/*"]),
    };
    if matches!(operation.answer, Answer::Stream(_)) {
        media.push(WATCH);
    }
    let mut responses = Map::new();
    for code in operation.codes {
        let description = match code {
            201 => "Created",
            202 => "Accepted",
            _ => "OK",
        };
        let response = match dialect {
            Dialect::V2 => json!({"description": description, "schema": schema}),
            Dialect::V3 => json!({"description": description, "content": content(&schema, &media)}),
        };
        responses.insert(code.to_string(), response);
    }
    let unauthorized = json!({"description": "Unauthorized"});
    responses.insert("401".to_string(), unauthorized);
    out["responses"] = responses.into();
    if dialect == Dialect::V2 {
        out["produces"] = json!(media);
        out["schemes"] = json!(["https"]);
    }
}

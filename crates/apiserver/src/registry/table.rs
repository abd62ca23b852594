//! Other forms of objects and lists: `Table` for `kubectl get`, `PartialObjectMetadata` for those who need no more
//! (meta.k8s.io/v1). And the plain list, put together from bytes that are there already.

use crate::{cache::object::Object, request::Form};
use bytes::Bytes;
use jiff::Timestamp;
use orlop_api::Kind;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// What a table's rows carry besides their cells (query parameter `includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// How objects are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub form: Form,
    pub include: IncludeObject,
    pub now: Timestamp,
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// `PartialObjectMetadata` of an object.
fn partial(body: &[u8]) -> Vec<u8> {
    let metadata = serde_json::from_slice::<OnlyMetadata<'_>>(body).map_or("{}", |o| o.metadata.get());
    let mut out = Vec::with_capacity(metadata.len() + 80);
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
    );
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
    out
}

fn columns(kind: &Kind) -> Value {
    kind.columns
        .iter()
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
        })
        .collect()
}

/// A row, as JSON text.
fn row(kind: &Kind, body: &[u8], shape: Shape, out: &mut Vec<u8>) {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let cells = Value::Array(kind.rules.cells(&value, shape.now));
    out.extend_from_slice(b"{\"cells\":");
    // Writing JSON into memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &cells);
    let conditions = kind.rules.row_conditions(&value);
    if !conditions.is_empty() {
        out.extend_from_slice(b",\"conditions\":");
        let _ = serde_json::to_writer(&mut *out, &conditions);
    }
    out.extend_from_slice(b",\"object\":");
    match shape.include {
        IncludeObject::None => out.extend_from_slice(b"null"),
        IncludeObject::Metadata => out.extend_from_slice(&partial(body)),
        IncludeObject::Object => out.extend_from_slice(body),
    }
    out.push(b'}');
}

fn table(kind: &Kind, bodies: &[Bytes], metadata: &Value, shape: Shape, with_columns: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 + bodies.len() * 1024);
    out.extend_from_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    out.extend_from_slice(metadata.to_string().as_bytes());
    out.extend_from_slice(b",\"columnDefinitions\":");
    let columns = if with_columns { columns(kind).to_string() } else { "null".to_string() };
    out.extend_from_slice(columns.as_bytes());
    out.extend_from_slice(b",\"rows\":[");
    for (at, body) in bodies.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        row(kind, body, shape, &mut out);
    }
    out.extend_from_slice(b"]}");
    out
}

/// One object in the wanted form.
pub(crate) fn one(kind: &Kind, body: &Bytes, shape: Shape) -> Bytes {
    match shape.form {
        Form::Whole => body.clone(),
        Form::Metadata => partial(body).into(),
        Form::Table => {
            let revision = serde_json::from_slice::<Value>(body)
                .ok()
                .and_then(|v| v.pointer("/metadata/resourceVersion").cloned())
                .unwrap_or(json!(""));
            table(kind, std::slice::from_ref(body), &json!({"resourceVersion": revision}), shape, true).into()
        }
    }
}

/// A list in the wanted form. `metadata` is that of the list.
pub(crate) fn many(kind: &Kind, objects: &[Arc<Object>], metadata: &Value, shape: Shape) -> Bytes {
    if shape.form == Form::Table {
        let bodies: Vec<Bytes> = objects.iter().map(|o| o.body()).collect();
        return table(kind, &bodies, metadata, shape, true).into();
    }
    let (kind_name, version) = match shape.form {
        Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_string()),
        _ => (&*kind.kind, kind.api_version()),
    };
    let head = format!(
        "{{\"kind\":\"{kind_name}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    );
    let size: usize = objects.iter().map(|o| o.size() + 1).sum();
    let mut out = Vec::with_capacity(head.len() + size + 2);
    out.extend_from_slice(head.as_bytes());
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match shape.form {
            Form::Metadata => out.extend_from_slice(&partial(&object.body())),
            _ => object.write(&mut out),
        }
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// An object of a watch event in the wanted form, appended to `out`. A watch's columns are told once, in its first event.
pub(crate) fn event(kind: &Kind, object: &Object, shape: Shape, with_columns: bool, out: &mut Vec<u8>) {
    match shape.form {
        Form::Whole => object.write(out),
        Form::Metadata => out.extend_from_slice(&partial(&object.body())),
        Form::Table => out.extend_from_slice(&table(kind, &[object.body()], &json!({}), shape, with_columns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::kinds;

    #[test]
    fn a_table_has_the_kinds_columns_and_a_row_for_each_object() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let body = Bytes::from_static(
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"9","name":"a"},"data":{"k":"v"}}"#,
        );
        let shape = Shape { form: Form::Table, include: IncludeObject::Metadata, now: Timestamp::UNIX_EPOCH };
        let value: Value = serde_json::from_slice(&one(&kind, &body, shape)).unwrap();
        assert_eq!(value["columnDefinitions"].as_array().unwrap().len(), kind.columns.len());
        assert_eq!(value["rows"][0]["cells"][0], "a");
        assert_eq!(value["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(value["rows"][0]["object"]["metadata"]["name"], "a");
        assert_eq!(value["metadata"]["resourceVersion"], "9");
        assert!(value["rows"][0]["object"].get("data").is_none());
        assert!(value["rows"][0].get("conditions").is_none());
    }

    #[test]
    fn the_row_of_a_pod_that_is_over_says_so() {
        let kind = kinds::find("", "v1", "pods").unwrap();
        let body = Bytes::from_static(br#"{"metadata":{"name":"a"},"status":{"phase":"Failed"}}"#);
        let shape = Shape { form: Form::Table, include: IncludeObject::None, now: Timestamp::UNIX_EPOCH };
        let value: Value = serde_json::from_slice(&one(&kind, &body, shape)).unwrap();
        let want = json!([{"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}]);
        assert_eq!(value["rows"][0]["conditions"], want);
    }
}

//! Other forms of objects and lists: `Table` for `kubectl get`, `PartialObjectMetadata` for those who need no more
//! (meta.k8s.io/v1). And the plain list, put together from bytes that are there already.

use crate::{
    cache::object::Object,
    request::{Form, negotiate::MetaVersion},
};
use bytes::Bytes;
use jiff::Timestamp;
use orlop_api::Kind;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// A piece of a list is as large as this, or ends with the object that goes beyond.
const PIECE: usize = 64 << 10;

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
    /// In which version the form is.
    pub meta: MetaVersion,
    pub include: IncludeObject,
    pub now: Timestamp,
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// `PartialObjectMetadata` of an object.
fn partial(body: &[u8], shape: Shape) -> Vec<u8> {
    let metadata = serde_json::from_slice::<OnlyMetadata<'_>>(body).map_or("{}", |o| o.metadata.get());
    let mut out = Vec::with_capacity(metadata.len() + 80);
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(shape.meta.api_version().as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
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
        IncludeObject::Metadata => out.extend_from_slice(&partial(body, shape)),
        IncludeObject::Object => out.extend_from_slice(body),
    }
    out.push(b'}');
}

/// A table up to where its rows start.
fn table_head(kind: &Kind, metadata: &Value, shape: Shape, with_columns: bool) -> Vec<u8> {
    let version = shape.meta.api_version();
    let columns = if with_columns { columns(kind) } else { Value::Null };
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":["
    )
    .into()
}

/// A table of one row.
fn table(kind: &Kind, body: &[u8], metadata: &Value, shape: Shape, with_columns: bool) -> Vec<u8> {
    let mut out = table_head(kind, metadata, shape, with_columns);
    row(kind, body, shape, &mut out);
    out.extend_from_slice(b"]}");
    out
}

/// One object in the wanted form.
pub(crate) fn one(kind: &Kind, body: &Bytes, shape: Shape) -> Bytes {
    match shape.form {
        Form::Whole => body.clone(),
        Form::Metadata => partial(body, shape).into(),
        Form::Table => {
            let revision = serde_json::from_slice::<Value>(body)
                .ok()
                .and_then(|v| v.pointer("/metadata/resourceVersion").cloned())
                .unwrap_or(json!(""));
            table(kind, body, &json!({"resourceVersion": revision}), shape, true).into()
        }
    }
}

/// A list in the wanted form, in pieces that are made when they are asked for: what a large list costs does not grow with it.
pub(crate) struct Pieces {
    kind: Arc<Kind>,
    shape: Shape,
    /// What stands before the items.
    head: Option<Vec<u8>>,
    objects: std::vec::IntoIter<Arc<Object>>,
    begun: bool,
    ended: bool,
}

/// A list in the wanted form. `metadata` is that of the list.
pub(crate) fn many(kind: &Arc<Kind>, objects: Vec<Arc<Object>>, metadata: &Value, shape: Shape) -> Pieces {
    let head = head(kind, metadata, shape);
    Pieces {
        kind: kind.clone(),
        shape,
        head: Some(head),
        objects: objects.into_iter(),
        begun: false,
        ended: false,
    }
}

/// What stands before the items.
fn head(kind: &Kind, metadata: &Value, shape: Shape) -> Vec<u8> {
    match shape.form {
        Form::Table => table_head(kind, metadata, shape, true),
        Form::Metadata => list_head("PartialObjectMetadata", shape.meta.api_version(), metadata),
        Form::Whole => list_head(&kind.kind, &kind.api_version(), metadata),
    }
}

fn list_head(kind: &str, version: &str, metadata: &Value) -> Vec<u8> {
    format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[")
        .into()
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = self.head.take().unwrap_or_default();
        let sizes = self.objects.as_slice().iter().scan(2, |sum, object| {
            let before = *sum;
            *sum += object.size() + 1;
            (before < PIECE).then_some(*sum)
        });
        out.reserve(sizes.last().unwrap_or(2));
        while out.len() < PIECE {
            let Some(object) = self.objects.next() else {
                out.extend_from_slice(b"]}");
                self.ended = true;
                break;
            };
            if std::mem::replace(&mut self.begun, true) {
                out.push(b',');
            }
            match self.shape.form {
                Form::Table => row(&self.kind, &object.body(), self.shape, &mut out),
                Form::Metadata => out.extend_from_slice(&partial(&object.body(), self.shape)),
                Form::Whole => object.write(&mut out),
            }
        }
        Some(out.into())
    }
}

/// A list of objects that are kept nowhere, in the wanted form.
pub(crate) fn list(kind: &Kind, bodies: &[Bytes], metadata: &Value, shape: Shape) -> Bytes {
    let mut out = head(kind, metadata, shape);
    for (at, body) in bodies.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match shape.form {
            Form::Table => row(kind, body, shape, &mut out),
            Form::Metadata => out.extend_from_slice(&partial(body, shape)),
            Form::Whole => out.extend_from_slice(body),
        }
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// An object of a watch event in the wanted form, appended to `out`. A watch's columns are told once, in its first event.
pub(crate) fn event(kind: &Kind, object: &Object, shape: Shape, with_columns: bool, out: &mut Vec<u8>) {
    match shape.form {
        Form::Whole => object.write(out),
        Form::Metadata => out.extend_from_slice(&partial(&object.body(), shape)),
        Form::Table => out.extend_from_slice(&table(kind, &object.body(), &json!({}), shape, with_columns)),
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
        let meta = MetaVersion::V1Beta1;
        let include = IncludeObject::Metadata;
        let shape = Shape { form: Form::Table, meta, include, now: Timestamp::UNIX_EPOCH };
        let value: Value = serde_json::from_slice(&one(&kind, &body, shape)).unwrap();
        assert_eq!(value["columnDefinitions"].as_array().unwrap().len(), kind.columns.len());
        let version = "meta.k8s.io/v1beta1";
        assert_eq!(
            (&value["apiVersion"], &value["rows"][0]["object"]["apiVersion"]),
            (&json!(version), &json!(version))
        );
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
        let (meta, include) = (MetaVersion::V1, IncludeObject::None);
        let shape = Shape { form: Form::Table, meta, include, now: Timestamp::UNIX_EPOCH };
        let value: Value = serde_json::from_slice(&one(&kind, &body, shape)).unwrap();
        let want = json!([{"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}]);
        assert_eq!(value["rows"][0]["conditions"], want);
    }
}

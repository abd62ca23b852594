//! From JSON to protobuf. Writes a field that stands in the JSON, in ascending order of numbers, and nothing else:
//! readers of protobuf take what is missing for zero.

use super::{MAGIC, Root, as_struct, numbers::*, step, wire::Message};
use crate::types::{Field, PATH_BITS, Scalar, Shape, Struct, Type};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A Kubernetes protobuf body from an object or list in its JSON form. `None` if protobuf cannot say it: a kind or
/// field without a number, or a value that does not fit its type.
pub fn encode(value: &Value) -> Option<Vec<u8>> {
    let object = value.as_object()?;
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let mut raw = Message::default();
    match Root::of(api_version, kind)? {
        Root::Object(ty) => message(as_struct(ty.as_type())?, 0, object, &mut raw)?,
        Root::List { metadata, item } => {
            if let Some(value) = object.get("metadata") {
                one(LIST_METADATA, metadata.as_type(), value, &mut raw)?;
            }
            for value in object.get("items").and_then(Value::as_array).into_iter().flatten() {
                one(LIST_ITEMS, item.as_type(), value, &mut raw)?;
            }
        }
    }
    let mut meta = Message::default();
    meta.bytes(API_VERSION, api_version.as_bytes());
    meta.bytes(KIND, kind.as_bytes());
    let mut envelope = Message::default();
    envelope.message(TYPE_META, meta);
    envelope.message(RAW, raw);
    envelope.bytes(CONTENT_ENCODING, b"");
    envelope.bytes(CONTENT_TYPE, b"");
    let mut bytes = MAGIC.to_vec();
    bytes.extend(envelope.into_bytes());
    Some(bytes)
}

/// Writes what `object` says of the fields of `s` that stand in the message at `place`.
fn message(s: Struct<'_>, place: u32, object: &Map<String, Value>, out: &mut Message) -> Option<()> {
    let mut at_number: BTreeMap<u32, (Field<'_>, &Value)> = BTreeMap::new();
    for (key, value) in object.iter().filter(|(_, v)| !v.is_null()) {
        let field = s.field(key)?;
        if let Some(path) = step(field.path(), place) {
            at_number.insert(path, (field, value));
        } else if field.path() == 0 && !is_type_meta(key) {
            return None;
        }
    }
    for (path, (field, value)) in at_number {
        let number = path & ((1 << PATH_BITS) - 1);
        if field.path() == path {
            many(number, field.ty(), value, out)?;
        } else {
            let mut inline = Message::default();
            message(s, path, object, &mut inline)?;
            out.message(number, inline);
        }
    }
    Some(())
}

/// What the envelope of the outermost object says, and nothing says of the objects in it.
fn is_type_meta(key: &str) -> bool {
    key == "apiVersion" || key == "kind"
}

/// A field's value: each entry of a list or map is a field.
fn many(number: u32, ty: Type<'_>, value: &Value, out: &mut Message) -> Option<()> {
    match ty.shape() {
        Shape::List { item, .. } => value.as_array()?.iter().try_for_each(|v| one(number, item, v, out)),
        Shape::Map { value: inner, .. } => value.as_object()?.iter().try_for_each(|(key, value)| {
            let mut entry = Message::default();
            entry.bytes(KEY, key.as_bytes());
            if let Shape::List { .. } = inner.shape() {
                let mut list = Message::default();
                many(ONLY, inner, value, &mut list)?;
                entry.message(VALUE, list);
            } else {
                one(VALUE, inner, value, &mut entry)?;
            }
            out.message(number, entry);
            Some(())
        }),
        _ => one(number, ty, value, out),
    }
}

fn one(number: u32, ty: Type<'_>, value: &Value, out: &mut Message) -> Option<()> {
    let mut inner = Message::default();
    match ty.shape() {
        Shape::Struct(s) => message(s, 0, value.as_object()?, &mut inner)?,
        Shape::Either { object, item } => either(object, item, value, &mut inner)?,
        Shape::Any => inner.bytes(ONLY, value.to_string().as_bytes()),
        Shape::Scalar(scalar) => return single(number, scalar, value, out),
        Shape::List { .. } | Shape::Map { .. } => return None,
    }
    out.message(number, inner);
    Some(())
}

fn either(object: Type<'_>, item: Option<Type<'_>>, value: &Value, out: &mut Message) -> Option<()> {
    match (value, item) {
        (Value::Array(items), Some(item)) => items.iter().try_for_each(|v| one(ITEMS, item, v, out)),
        (Value::Bool(allows), None) => {
            out.varint(ALLOWS, u64::from(*allows));
            Some(())
        }
        (Value::Object(_), Some(_)) => one(SCHEMA, object, value, out),
        (Value::Object(_), None) => {
            out.varint(ALLOWS, 1);
            one(ALLOWED, object, value, out)
        }
        _ => None,
    }
}

fn single(number: u32, scalar: Scalar, value: &Value, out: &mut Message) -> Option<()> {
    let mut inner = Message::default();
    match scalar {
        Scalar::String => {
            out.bytes(number, value.as_str()?.as_bytes());
            return Some(());
        }
        Scalar::Bytes => {
            out.bytes(number, &STANDARD.decode(value.as_str()?).ok()?);
            return Some(());
        }
        Scalar::Boolean => {
            out.varint(number, u64::from(value.as_bool()?));
            return Some(());
        }
        Scalar::Int32 | Scalar::Int64 => {
            out.varint(number, value.as_i64()? as u64);
            return Some(());
        }
        Scalar::Float => {
            out.double(number, value.as_f64()?);
            return Some(());
        }
        Scalar::Time | Scalar::MicroTime => {
            let at: Timestamp = value.as_str()?.parse().ok()?;
            let nanos = if scalar == Scalar::Time { 0 } else { at.subsec_nanosecond() / 1000 * 1000 };
            // Seconds are rounded down, so that the rest is never negative.
            let (seconds, nanos) =
                if nanos < 0 { (at.as_second() - 1, nanos + 1_000_000_000) } else { (at.as_second(), nanos) };
            inner.varint(SECONDS, seconds as u64);
            inner.varint(NANOS, nanos as u64);
        }
        Scalar::IntOrString => {
            let text = value.as_str();
            let int = if text.is_some() { 0 } else { value.as_i64()? };
            inner.varint(TYPE, u64::from(text.is_some()));
            inner.varint(INT, int as u64);
            inner.bytes(STR, text.unwrap_or_default().as_bytes());
        }
        Scalar::Quantity => match value {
            Value::String(text) => inner.bytes(ONLY, text.as_bytes()),
            Value::Number(n) => inner.bytes(ONLY, n.to_string().as_bytes()),
            _ => return None,
        },
    }
    out.message(number, inner);
    Some(())
}

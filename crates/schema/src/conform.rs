//! Makes an object fit its type the way Kubernetes' decoder does: unknown fields go (and are told), a value of the
//! wrong type is an error in the words of Go's JSON package, `null` means "not set", times and quantities are
//! written in their canonical form. Knows no rule of any kind beyond its type.

use crate::{
    trail::Trail,
    types::{Scalar, Shape, Struct, Type, TypeRef},
};
use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use orlop_api::Status;
use serde_json::{Map, Number, Value, json};
use std::fmt;

/// So many fields that nobody knows are told, as in Kubernetes.
const MOST_UNKNOWN: usize = 100;

/// How `metav1.Time` is written.
pub(crate) const TIME: &str = "%Y-%m-%dT%H:%M:%SZ";
/// How `metav1.MicroTime` is written.
pub(crate) const MICRO_TIME: &str = "%Y-%m-%dT%H:%M:%S.%6fZ";

/// A field that the type does not have. Prints as `unknown field "spec.foo"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// `spec.template.spec.containers[0].imag`.
    pub path: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field \"{}\"", self.path)
    }
}

/// A value that its field cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mismatch {
    /// `spec.template.spec.containers[0].ports`.
    pub path: String,
    /// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    pub message: String,
}

impl Mismatch {
    /// The answer to a request whose body says this.
    pub fn to_status(&self, kind: &str, version: &str) -> Status {
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {}",
            self.message
        ))
    }
}

/// Removes what `ty` does not know from `value` and tells it; fails on values of the wrong type.
pub fn conform(ty: &TypeRef, value: &mut Value) -> Result<Vec<Unknown>, Mismatch> {
    let mut walk = Walk { unknown: Vec::new() };
    walk.value(ty.as_type(), value, &Trail::ROOT, None)?;
    Ok(walk.unknown)
}

/// The 400 that `fieldValidation=Strict` answers, or `None` where there is nothing to complain of. The items are
/// what `conform` and the parser found, printed.
pub fn strict_status(kind: &str, version: &str, complaints: &[String]) -> Option<Status> {
    (!complaints.is_empty()).then(|| {
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
            complaints.join(", ")
        ))
    })
}

struct Walk {
    unknown: Vec<Unknown>,
}

impl Walk {
    /// `owner` is the struct whose field the value sits in, however deep in lists and maps.
    fn value<'t>(
        &mut self,
        ty: Type<'t>,
        value: &mut Value,
        trail: &Trail<'_>,
        owner: Option<Struct<'t>>,
    ) -> Result<(), Mismatch> {
        let wrong = |value: &Value| mismatch(ty, value, trail, owner);
        match ty.shape() {
            Shape::Any => Ok(()),
            Shape::Struct(s) => match value {
                Value::Object(map) => self.object(s, map, trail),
                other => Err(wrong(other)),
            },
            Shape::Map { value: inner, .. } => match value {
                Value::Object(map) => map.iter_mut().try_for_each(|(key, value)| {
                    if value.is_null() {
                        *value = zero(inner);
                    }
                    self.value(inner, value, &trail.key(key), owner)
                }),
                other => Err(wrong(other)),
            },
            Shape::List { item, .. } => match value {
                Value::Array(items) => self.items(item, items, trail, owner),
                other => Err(wrong(other)),
            },
            Shape::Either { object, item } => match (value, item) {
                (value @ Value::Object(_), _) => self.value(object, value, trail, owner),
                (Value::Array(items), Some(item)) => self.items(item, items, trail, owner),
                _ => Ok(()),
            },
            Shape::Scalar(scalar) => {
                let fits = scalar_fits(scalar, value).map_err(|told| match told {
                    Wrong::Type => wrong(value),
                    Wrong::Text(message) => Mismatch { path: trail.path(), message },
                })?;
                if let Some(canonical) = fits {
                    *value = canonical;
                }
                Ok(())
            }
        }
    }

    fn items<'t>(
        &mut self,
        item: Type<'t>,
        items: &mut [Value],
        trail: &Trail<'_>,
        owner: Option<Struct<'t>>,
    ) -> Result<(), Mismatch> {
        items.iter_mut().enumerate().try_for_each(|(i, value)| {
            if value.is_null() {
                *value = zero(item);
            }
            self.value(item, value, &trail.index(i), owner)
        })
    }

    fn object(
        &mut self,
        s: Struct<'_>,
        map: &mut Map<String, Value>,
        trail: &Trail<'_>,
    ) -> Result<(), Mismatch> {
        let mut failed = None;
        map.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = s.field(key) else {
                if !s.open() && self.unknown.len() < MOST_UNKNOWN {
                    self.unknown.push(Unknown { path: trail.key(key).path() });
                }
                return s.open();
            };
            if value.is_null() {
                return field.nullable();
            }
            failed = self.value(field.ty(), value, &trail.key(key), Some(s)).err();
            true
        });
        failed.map_or(Ok(()), Err)
    }
}

/// What Go leaves in a list entry or map value that was `null`.
pub(crate) fn zero(ty: Type<'_>) -> Value {
    match ty.shape() {
        Shape::Struct(_) => json!({}),
        Shape::Scalar(Scalar::String | Scalar::Bytes) => json!(""),
        Shape::Scalar(Scalar::Boolean) => json!(false),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float | Scalar::IntOrString) => json!(0),
        Shape::Scalar(Scalar::Quantity) => json!("0"),
        Shape::Map { .. } => json!({}),
        Shape::List { .. } => json!([]),
        Shape::Scalar(Scalar::Time | Scalar::MicroTime) | Shape::Either { .. } | Shape::Any => Value::Null,
    }
}

fn mismatch(ty: Type<'_>, value: &Value, trail: &Trail<'_>, owner: Option<Struct<'_>>) -> Mismatch {
    let found = match value {
        Value::Null => "null".to_string(),
        Value::Bool(_) => "bool".to_string(),
        Value::String(_) => "string".to_string(),
        Value::Array(_) => "array".to_string(),
        Value::Object(_) => "object".to_string(),
        // Go shows the number only where it is one of the wrong sort.
        Value::Number(n) => match ty.shape() {
            Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString) => format!("number {n}"),
            _ => "number".to_string(),
        },
    };
    let expected = match ty.shape() {
        Shape::Scalar(Scalar::IntOrString) => "int32".to_string(),
        _ => ty.go_name(),
    };
    let message = match owner {
        Some(s) if !s.short_name().is_empty() => format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {expected}",
            s.short_name(),
            trail.fields()
        ),
        Some(_) => format!("json: cannot unmarshal {found} into field {} of type {expected}", trail.fields()),
        None => format!("json: cannot unmarshal {found} into Go value of type {expected}"),
    };
    Mismatch { path: trail.path(), message }
}

/// How a scalar is wrong.
enum Wrong {
    /// It is of another JSON type.
    Type,
    /// Its text cannot be read.
    Text(String),
}

/// Whether the value can stand where `scalar` is expected; `Some` is how it should be written.
fn scalar_fits(scalar: Scalar, value: &Value) -> Result<Option<Value>, Wrong> {
    let fits = |yes: bool| if yes { Ok(None) } else { Err(Wrong::Type) };
    match (scalar, value) {
        (Scalar::String, _) => fits(value.is_string()),
        (Scalar::Boolean, _) => fits(value.is_boolean()),
        (Scalar::Float, _) => fits(value.is_number()),
        (Scalar::Int64, Value::Number(n)) => fits(n.is_i64()),
        (Scalar::Int32, Value::Number(n)) => fits(is_i32(n)),
        (Scalar::IntOrString, Value::Number(n)) => fits(is_i32(n)),
        (Scalar::IntOrString, Value::String(_)) => Ok(None),
        (Scalar::Bytes, Value::String(text)) => base64_fits(text),
        (Scalar::Time, Value::String(text)) => time(text, TIME),
        (Scalar::MicroTime, Value::String(text)) => time(text, MICRO_TIME),
        (Scalar::Quantity, Value::String(_) | Value::Number(_)) => quantity(value),
        _ => Err(Wrong::Type),
    }
}

fn is_i32(n: &Number) -> bool {
    n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

fn base64_fits(text: &str) -> Result<Option<Value>, Wrong> {
    // Go's decoder skips line ends.
    let bare: String;
    let text = if text.contains(['\r', '\n']) {
        bare = text.replace(['\r', '\n'], "");
        bare.as_str()
    } else {
        text
    };
    match STANDARD.decode(text) {
        Ok(_) => Ok(None),
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => {
            Err(Wrong::Text(format!("illegal base64 data at input byte {at}")))
        }
        Err(_) => Err(Wrong::Text(format!("illegal base64 data at input byte {}", text.len()))),
    }
}

fn time(text: &str, format: &str) -> Result<Option<Value>, Wrong> {
    // RFC 3339 demands the T; the parser would take a blank too.
    let parsed = text.parse::<Timestamp>().ok().filter(|_| text.as_bytes().get(10) == Some(&b'T'));
    let Some(at) = parsed else {
        return Err(Wrong::Text(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )));
    };
    let canonical = at.strftime(format).to_string();
    Ok((canonical != text).then(|| canonical.into()))
}

fn quantity(value: &Value) -> Result<Option<Value>, Wrong> {
    let text = match value {
        Value::String(text) => text.trim().to_string(),
        other => other.to_string(),
    };
    match orlop_api::quantity::Quantity::parse(&text) {
        Ok(quantity) => {
            let canonical = Value::String(quantity.to_string());
            Ok((canonical != *value).then_some(canonical))
        }
        Err(_) => Err(Wrong::Text(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_string(),
        )),
    }
}

#[cfg(test)]
mod tests;

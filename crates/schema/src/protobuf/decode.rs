//! From protobuf to JSON. Fields without a number here are passed over, as every protobuf decoder does; a zero value
//! becomes a field only where it says something (Go's encoder writes all fields that are no pointers).

use super::{Error, MAGIC, MAX_DEPTH, Root, as_struct, numbers::*, step, wire::*};
use crate::{
    conform::{MICRO_TIME, TIME, zero},
    types::{Field, PATH_BITS, Scalar, Shape, Struct, Type},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

/// The seconds of Go's zero time, 0001-01-01T00:00:00Z.
const GO_ZERO_TIME: i64 = -62_135_596_800;

/// The JSON form of the object in a Kubernetes protobuf body.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Error::Prefix)?;
    let (mut meta, mut raw, mut encoding): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    fields(envelope, |number, payload| {
        match number {
            TYPE_META => meta = payload.bytes("typeMeta")?,
            RAW => raw = payload.bytes("raw")?,
            CONTENT_ENCODING => encoding = payload.bytes("contentEncoding")?,
            _ => {}
        }
        Ok(())
    })?;
    if !encoding.is_empty() {
        return Err(Error::ContentEncoding(String::from_utf8_lossy(encoding).into_owned()));
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    fields(meta, |number, payload| {
        match number {
            API_VERSION => api_version = payload.text("apiVersion")?.to_string(),
            KIND => kind = payload.text("kind")?.to_string(),
            _ => {}
        }
        Ok(())
    })?;
    let mut object = match Root::of(&api_version, &kind) {
        Some(Root::Object(ty)) => one(ty.as_type(), raw, MAX_DEPTH)?,
        Some(Root::List { metadata, item }) => {
            let mut list = Map::new();
            let mut items = Vec::new();
            fields(raw, |number, payload| {
                match number {
                    LIST_METADATA => {
                        let metadata = one(metadata.as_type(), payload.bytes("metadata")?, MAX_DEPTH)?;
                        list.insert("metadata".into(), metadata.into());
                    }
                    LIST_ITEMS => {
                        items.push(one(item.as_type(), payload.bytes("items")?, MAX_DEPTH)?.into());
                    }
                    _ => {}
                }
                Ok(())
            })?;
            list.insert("items".into(), Value::Array(items));
            list
        }
        None => return Err(Error::Kind { api_version, kind }),
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(object.into())
}

fn one(ty: Type<'_>, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Error> {
    let mut object = Map::new();
    if let Some(s) = as_struct(ty) {
        message(s, 0, bytes, &mut object, depth)?;
    }
    Ok(object)
}

fn fields<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(u32, Payload<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.field()? {
        each(number, payload)?;
    }
    Ok(())
}

impl<'a> Payload<'a> {
    fn bytes(self, field: &str) -> Result<&'a [u8], Error> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::WireType { field: field.to_string() }),
        }
    }

    fn text(self, field: &str) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| wrong(field, "the text is not UTF-8"))
    }

    fn varint(self, field: &str) -> Result<u64, Error> {
        match self {
            Payload::Varint(number) => Ok(number),
            _ => Err(Error::WireType { field: field.to_string() }),
        }
    }
}

fn wrong(field: &str, what: impl ToString) -> Error {
    Error::Value { field: field.to_string(), what: what.to_string() }
}

/// Reads a message of `s` into `out`, or the part of it that JSON has inline at `place`.
fn message(
    s: Struct<'_>,
    place: u32,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
    fields(bytes, |number, payload| {
        if number >> PATH_BITS != 0 {
            return Ok(());
        }
        let path = place << PATH_BITS | number;
        let known = s.fields().find(|f| step(f.path(), place) == Some(path));
        match known {
            None => Ok(()),
            Some(f) if f.path() == path => field(f, payload, out, depth),
            Some(f) => message(s, path, payload.bytes(f.name())?, out, depth),
        }
    })
}

fn field(
    f: Field<'_>,
    payload: Payload<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    let name = f.name();
    match f.ty().shape() {
        Shape::List { item, .. } => {
            let Value::Array(items) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) else {
                return Ok(());
            };
            match (item.shape(), payload) {
                (Shape::Scalar(scalar @ (Scalar::Int32 | Scalar::Int64)), Payload::Bytes(bytes)) => {
                    let mut reader = Reader::new(bytes);
                    while let Some(number) = reader.packed()? {
                        items.push(integer(scalar, number));
                    }
                }
                _ => items.push(value(item, payload, name, depth)?.unwrap_or_else(|| zero(item))),
            }
        }
        Shape::Map { value: inner, .. } => {
            let (mut key, mut held) = (String::new(), None);
            fields(payload.bytes(name)?, |number, payload| {
                match number {
                    KEY => key = payload.text(name)?.to_string(),
                    VALUE => held = map_value(inner, payload, name, depth)?,
                    _ => {}
                }
                Ok(())
            })?;
            if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, held.unwrap_or_else(|| zero(inner)));
            }
        }
        Shape::Struct(s) => {
            // A message that comes in parts is put together.
            let mut object = match out.remove(name) {
                Some(Value::Object(object)) => object,
                _ => Map::new(),
            };
            message(s, 0, payload.bytes(name)?, &mut object, depth)?;
            if f.zero_tells() || !object.is_empty() {
                out.insert(name.to_string(), object.into());
            }
        }
        _ => {
            let value = value(f.ty(), payload, name, depth)?;
            match value.filter(|v| f.zero_tells() || !is_zero(f.ty(), v)) {
                Some(value) => out.insert(name.to_string(), value),
                None => out.remove(name),
            };
        }
    }
    Ok(())
}

/// A list in a map is a message of its own (`ExtraValue`).
fn map_value(ty: Type<'_>, payload: Payload<'_>, name: &str, depth: usize) -> Result<Option<Value>, Error> {
    let Shape::List { item, .. } = ty.shape() else { return value(ty, payload, name, depth) };
    let mut items = Vec::new();
    fields(payload.bytes(name)?, |number, payload| {
        if number == ONLY {
            items.push(value(item, payload, name, depth)?.unwrap_or_else(|| zero(item)));
        }
        Ok(())
    })?;
    Ok(Some(Value::Array(items)))
}

/// One value that is no list and no map; `None` if it says "not set".
fn value(ty: Type<'_>, payload: Payload<'_>, name: &str, depth: usize) -> Result<Option<Value>, Error> {
    match ty.shape() {
        Shape::Struct(_) => Ok(Some(one(ty, payload.bytes(name)?, depth)?.into())),
        Shape::Either { object, item } => either(object, item, payload.bytes(name)?, name, depth).map(Some),
        Shape::Any => {
            let mut raw: &[u8] = &[];
            fields(payload.bytes(name)?, |number, payload| {
                if number == ONLY {
                    raw = payload.bytes(name)?;
                }
                Ok(())
            })?;
            if raw.is_empty() {
                return Ok(None);
            }
            let value = serde_json::from_slice(raw).map_err(|e| wrong(name, format!("not JSON: {e}")))?;
            // What is deeper could be stored, but not be read again.
            if crate::parse::depth(&value) > depth { Err(Error::Depth) } else { Ok(Some(value)) }
        }
        Shape::Scalar(scalar) => single(scalar, payload, name),
        // Kubernetes has no list of lists and no list of maps.
        Shape::List { .. } | Shape::Map { .. } => Err(Error::WireType { field: name.to_string() }),
    }
}

/// `JSONSchemaPropsOrBool`, `JSONSchemaPropsOrArray`, `JSONSchemaPropsOrStringArray`.
fn either(
    object: Type<'_>,
    item: Option<Type<'_>>,
    bytes: &[u8],
    name: &str,
    depth: usize,
) -> Result<Value, Error> {
    let (mut schema, mut items, mut allows) = (None, Vec::new(), false);
    fields(bytes, |number, payload| {
        match (item, number) {
            (None, ALLOWS) => allows = payload.varint(name)? != 0,
            (None, ALLOWED) | (Some(_), SCHEMA) => schema = value(object, payload, name, depth)?,
            (Some(item), ITEMS) => items.extend(value(item, payload, name, depth)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(schema.unwrap_or_else(|| if item.is_some() { Value::Array(items) } else { Value::Bool(allows) }))
}

fn integer(scalar: Scalar, number: u64) -> Value {
    match scalar {
        Scalar::Int32 => (number as i32).into(),
        _ => (number as i64).into(),
    }
}

fn single(scalar: Scalar, payload: Payload<'_>, name: &str) -> Result<Option<Value>, Error> {
    Ok(Some(match scalar {
        Scalar::String => payload.text(name)?.into(),
        Scalar::Bytes => STANDARD.encode(payload.bytes(name)?).into(),
        Scalar::Boolean => (payload.varint(name)? != 0).into(),
        Scalar::Int32 | Scalar::Int64 => integer(scalar, payload.varint(name)?),
        Scalar::Float => {
            let Payload::Fixed64(bits) = payload else {
                return Err(Error::WireType { field: name.to_string() });
            };
            float(f64::from_bits(bits)).ok_or_else(|| wrong(name, "not a number that JSON has"))?
        }
        Scalar::Time | Scalar::MicroTime => return time(scalar, payload.bytes(name)?, name),
        Scalar::IntOrString => int_or_string(payload.bytes(name)?, name)?,
        Scalar::Quantity => {
            let mut text = "";
            fields(payload.bytes(name)?, |number, payload| {
                if number == ONLY {
                    text = payload.text(name)?;
                }
                Ok(())
            })?;
            if text.is_empty() { "0".into() } else { text.into() }
        }
    }))
}

/// As Go writes it: without a fraction where there is none.
fn float(n: f64) -> Option<Value> {
    const EXACT: f64 = (1u64 << 53) as f64;
    if n.fract() == 0.0 && n.abs() < EXACT {
        return Some((n as i64).into());
    }
    Number::from_f64(n).map(Value::Number)
}

fn time(scalar: Scalar, bytes: &[u8], name: &str) -> Result<Option<Value>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    fields(bytes, |number, payload| {
        match number {
            SECONDS => seconds = payload.varint(name)? as i64,
            NANOS => nanos = payload.varint(name)? as i32,
            _ => {}
        }
        Ok(())
    })?;
    if seconds == GO_ZERO_TIME && nanos == 0 {
        return Ok(None);
    }
    let at = Timestamp::new(seconds, nanos).map_err(|e| wrong(name, e))?;
    let format = if scalar == Scalar::Time { TIME } else { MICRO_TIME };
    Ok(Some(at.strftime(format).to_string().into()))
}

fn int_or_string(bytes: &[u8], name: &str) -> Result<Value, Error> {
    let (mut is_text, mut number, mut text) = (false, 0i32, "");
    fields(bytes, |field, payload| {
        match field {
            TYPE => is_text = payload.varint(name)? != 0,
            INT => number = payload.varint(name)? as i32,
            STR => text = payload.text(name)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_text { text.into() } else { number.into() })
}

/// Whether it is what Go has where nothing was said.
fn is_zero(ty: Type<'_>, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes && !matches!(ty.shape(), Shape::Either { .. } | Shape::Any),
        Value::Number(n) => n.as_f64() == Some(0.0) && !matches!(ty.shape(), Shape::Any),
        Value::String(text) => match ty.shape() {
            Shape::Scalar(Scalar::Quantity) => text == "0",
            Shape::Any => false,
            _ => text.is_empty(),
        },
        Value::Array(_) | Value::Object(_) => false,
    }
}

//! What a variable looks like: its type, how large it can be, and what its fields are called in JSON. Made from a schema by
//! whoever has one; turns JSON into values.

use crate::{
    library::time::parse_duration,
    parser::{LITERALS, RESERVED},
    types::{ObjectType, Type},
    value::{Key, Value},
};
use base64::Engine;
use serde_json::Value as Json;
use std::{collections::BTreeMap, sync::Arc};

/// Whose entries a list has, which says when two are equal and how `+` joins them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// In order.
    #[default]
    Atomic,
    /// Without order, none twice.
    Set,
    /// Objects known by these fields.
    Map(Vec<String>),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct FieldDecl {
    /// Its name in JSON, where expressions may call it by another (`__namespace__`).
    pub json: String,
    /// What it looks like.
    pub decl: Arc<Decl>,
}

/// What a value looks like.
#[derive(Clone, Debug)]
pub struct Decl {
    /// Its type.
    pub ty: Type,
    /// The most entries, or characters, that it can have.
    pub max: u64,
    /// What a list's entries or a map's values look like.
    pub entry: Option<Arc<Decl>>,
    /// The fields of an object, by the names that expressions use.
    pub fields: BTreeMap<String, FieldDecl>,
    /// Of a list.
    pub list: ListType,
}

impl Decl {
    /// A value without parts.
    pub fn leaf(ty: Type, max: u64) -> Arc<Self> {
        Arc::new(Self { ty, max, entry: None, fields: BTreeMap::new(), list: ListType::Atomic })
    }

    /// A value of a type, as large as it likes.
    pub fn of(ty: Type) -> Arc<Self> {
        let entry = match &ty {
            Type::List(entry) | Type::Map(_, entry) => Some(Self::of((**entry).clone())),
            _ => None,
        };
        let fields = match &ty {
            Type::Object(object) => object
                .fields
                .iter()
                .map(|(name, ty)| {
                    (name.clone(), FieldDecl { json: name.clone(), decl: Self::of(ty.clone()) })
                })
                .collect(),
            _ => BTreeMap::new(),
        };
        Arc::new(Self { ty, max: u64::MAX, entry, fields, list: ListType::Atomic })
    }

    /// A list.
    pub fn list(entry: Arc<Decl>, max: u64, list: ListType) -> Arc<Self> {
        let ty = Type::list(entry.ty.clone());
        Arc::new(Self { ty, max, entry: Some(entry), fields: BTreeMap::new(), list })
    }

    /// A map with text keys.
    pub fn map(value: Arc<Decl>, max: u64) -> Arc<Self> {
        let ty = Type::map(Type::String, value.ty.clone());
        Arc::new(Self { ty, max, entry: Some(value), fields: BTreeMap::new(), list: ListType::Atomic })
    }

    /// An object.
    pub fn object(name: &str, fields: BTreeMap<String, FieldDecl>) -> Arc<Self> {
        let types = fields.iter().map(|(name, field)| (name.clone(), field.decl.ty.clone()));
        let ty = Type::Object(ObjectType::new(name, types));
        Arc::new(Self { ty, max: fields.len() as u64, entry: None, fields, list: ListType::Atomic })
    }

    /// The value that JSON of this declaration has.
    pub fn value(&self, json: &Json) -> Value {
        match (&self.ty, json) {
            (_, Json::Null) => Value::Null,
            (Type::List(_), Json::Array(entries)) => {
                let entry = |e| self.entry.as_ref().map_or_else(|| Value::from_json(e), |d| d.value(e));
                let entries: Vec<Value> = entries.iter().map(entry).collect();
                match &self.list {
                    ListType::Atomic => Value::list(entries),
                    ListType::Set => Value::Set(Arc::new(entries)),
                    ListType::Map(keys) => Value::MapList(Arc::new((keys.clone(), entries))),
                }
            }
            (Type::Map(..), Json::Object(map)) => {
                let value = |v| self.entry.as_ref().map_or_else(|| Value::from_json(v), |d| d.value(v));
                Value::object(map.iter().map(|(k, v)| (k.clone(), value(v))))
            }
            (Type::Object(_), Json::Object(map)) => {
                let known = self.fields.iter().filter_map(|(name, field)| {
                    let value = map.get(&field.json)?;
                    Some((Key::String(name.as_str().into()), field.decl.value(value)))
                });
                Value::Map(Arc::new(known.collect()))
            }
            (Type::Timestamp, Json::String(text)) => match text.parse() {
                Ok(time) => Value::Timestamp(time),
                // A date is midnight.
                Err(_) => format!("{text}T00:00:00Z")
                    .parse()
                    .map_or_else(|_| Value::from_json(json), Value::Timestamp),
            },
            (Type::Duration, Json::String(text)) => {
                parse_duration(text).map_or_else(|| Value::from_json(json), Value::Duration)
            }
            (Type::Bytes, Json::String(text)) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_or_else(|_| Value::from_json(json), |b| Value::Bytes(b.into())),
            (Type::Double, Json::Number(n)) => Value::Double(n.as_f64().unwrap_or_default()),
            (Type::Int, Json::Number(n)) if n.as_i64().is_none() => {
                let number = n.as_f64().unwrap_or_default();
                if number.fract() == 0.0 { Value::Int(number as i64) } else { Value::Double(number) }
            }
            _ => Value::from_json(json),
        }
    }
}

/// What expressions call a property: those of names that the language cannot say are escaped (`__dot__`). `None` for a
/// name that cannot be said at all.
pub fn escape(property: &str) -> Option<String> {
    if LITERALS.contains(&property) || RESERVED.contains(&property) {
        return Some(format!("__{property}__"));
    }
    if property.is_empty() || property.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mut out, mut rest) = (String::new(), property);
    while let Some(c) = rest.chars().next() {
        let (text, skip) = if rest.starts_with("__") {
            ("__underscores__", 2)
        } else {
            match c {
                '.' => ("__dot__", 1),
                '-' => ("__dash__", 1),
                '/' => ("__slash__", 1),
                c if c == '_' || c.is_ascii_alphanumeric() => (&rest[..1], 1),
                _ => return None,
            }
        };
        out.push_str(text);
        rest = &rest[skip..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_expressions_cannot_say_are_escaped() {
        for (name, escaped) in [
            ("replicas", Some("replicas")),
            ("namespace", Some("__namespace__")),
            ("x-prop", Some("x__dash__prop")),
            ("redact__d", Some("redact__underscores__d")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("1a", None),
            ("ä", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }
}

//! Objects without what whoever reads them does not look at. The larger half of most objects is such: not building it saves the
//! larger half of the time.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Who wrote what, in `metadata`.
pub(crate) const MANAGED_FIELDS: &str = "managedFields";
/// What is large and seldom asked for, by its key in `metadata`, `spec` or `status`.
pub(crate) const LARGE: [&str; 9] = [
    MANAGED_FIELDS,
    "affinity",
    "containerStatuses",
    "containers",
    "ephemeralContainers",
    "initContainers",
    "template",
    "tolerations",
    "volumes",
];

/// Reads an object, but not the members of its members whose keys are in `skip`. `None` where it is not one.
pub(crate) fn value(json: &[u8], skip: &[&str]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Slim { skip, depth: 0 }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(Value::Object(value))
}

/// The object itself at depth 0, a member of it at depth 1.
#[derive(Clone, Copy)]
struct Slim<'a> {
    skip: &'a [&'a str],
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Slim<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Slim<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = if self.depth == 1 && self.skip.contains(&key.as_str()) {
                access.next_value::<IgnoredAny>()?;
                continue;
            } else if self.depth == 0 && matches!(key.as_str(), "metadata" | "spec" | "status") {
                access.next_value_seed(Member(Self { depth: 1, ..self }))?
            } else {
                access.next_value()?
            };
            members.insert(key, value);
        }
        Ok(members)
    }
}

/// A member that is an object as a rule; what is something else is read as it is.
struct Member<'a>(Slim<'a>);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        self.0.visit_map(access).map(Value::Object)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_skipped_is_missing_and_all_else_is_there() {
        let object = json!({
            "kind": "Pod", "managedFields": [1], "status": null, "other": {"volumes": [2]},
            "metadata": {"name": "a", "managedFields": [{"x": {"y": [1, 2]}}], "labels": {"volumes": "b"}},
            "spec": {"volumes": [{"name": "v"}], "nodeName": "n", "count": -3, "share": 0.5},
        });
        let mut want = object.clone();
        want["metadata"].as_object_mut().unwrap().remove("managedFields");
        want["spec"].as_object_mut().unwrap().remove("volumes");
        let text = object.to_string();
        assert_eq!(value(text.as_bytes(), &["managedFields", "volumes"]), Some(want));
        assert_eq!(value(text.as_bytes(), &[]), Some(object));
    }

    #[test]
    fn odd_objects_are_read_as_they_are_and_what_is_none_is_refused() {
        for text in [
            r#"{"spec":[1,"a"],"status":"up","metadata":7}"#,
            r#"{"spec":-1,"status":true,"metadata":0.5}"#,
            "{}",
        ] {
            assert_eq!(value(text.as_bytes(), &LARGE), serde_json::from_str(text).ok(), "{text}");
        }
        for text in ["", "[]", "7", "{\"a\":}", "{} {}", "{\"spec\":{\"volumes\":[}}"] {
            assert_eq!(value(text.as_bytes(), &LARGE), None, "{text}");
        }
    }
}

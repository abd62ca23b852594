//! The objects that expressions of a mutating policy make: `Object{…}` and its parts (`Object.spec{…}`), whose fields nobody has
//! declared, and `JSONPatch{…}` (Kubernetes documentation, "Mutating Admission Policy"). Knows no schema of any kind.

use crate::{
    types::{ObjectType, Type},
    value::Value,
};
use std::{collections::BTreeMap, sync::Arc};

/// The type of the whole object, and the first part of the names of its parts.
const OBJECT: &str = "Object";
/// The type of one operation of a JSON patch.
const JSON_PATCH: &str = "JSONPatch";
/// Fields of a JSON patch that are text.
const TEXTS: [&str; 3] = ["op", "path", "from"];

/// The type that `Object{…}` has.
pub fn object_type() -> Type {
    Type::Object(ObjectType::open(OBJECT))
}

/// The type that `JSONPatch{…}` has.
pub fn json_patch_type() -> Type {
    let texts = TEXTS.iter().map(|field| ((*field).to_string(), Type::String));
    let fields = texts.chain([("value".to_string(), Type::Dyn)]);
    Type::Object(ObjectType::new(JSON_PATCH, fields))
}

/// The type of that name.
pub(crate) fn named(name: &str) -> Option<Type> {
    match name {
        JSON_PATCH => Some(json_patch_type()),
        OBJECT => Some(object_type()),
        _ if name.strip_prefix(OBJECT).is_some_and(|rest| rest.starts_with('.')) => {
            Some(Type::Object(ObjectType::open(name)))
        }
        _ => None,
    }
}

/// An object that an expression made.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The name of its type: `Object.spec`.
    pub name: Arc<str>,
    /// The fields that were said.
    pub fields: BTreeMap<Arc<str>, Value>,
}

impl Message {
    /// A field, where it was said.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    /// What `message.field` gives where the field was not said: text of a JSON patch is empty.
    pub(crate) fn unsaid(&self, field: &str) -> Option<Value> {
        (&*self.name == JSON_PATCH && TEXTS.contains(&field)).then(|| Value::string(""))
    }

    /// Whether the type of each part is named for the place where it stands.
    ///
    /// # Errors
    /// Tells all that are not, in Kubernetes' words.
    pub fn check_names(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        self.check(&self.name, &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn check(&self, place: &str, wrong: &mut Vec<String>) {
        if &*self.name != place {
            wrong.push(format!(
                "unexpected type name {:?}, expected {place:?}, which matches field name path from root Object type",
                &*self.name
            ));
        }
        for (field, value) in &self.fields {
            check_value(value, &format!("{place}.{field}"), wrong);
        }
    }
}

/// Lists and maps have no name of their own.
fn check_value(value: &Value, place: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Message(message) => message.check(place, wrong),
        Value::Map(map) => map.values().for_each(|v| check_value(v, place, wrong)),
        list => list.entries().unwrap_or_default().iter().for_each(|v| check_value(v, place, wrong)),
    }
}

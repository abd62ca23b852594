//! Reading a tree of fields with the path of each at hand, so that what is wrong can be named.

use serde_json::{Map, Value};
use std::fmt;

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    path: String,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

impl ConfigError {
    pub(super) fn new(path: &str, what: String) -> Self {
        Self { path: path.into(), what }
    }
}

/// A field that may be there.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) value: Option<&'a Value>,
    path: String,
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value: Some(value), path: String::new() }
    }

    pub(super) fn is_there(&self) -> bool {
        self.value.is_some_and(|v| !v.is_null())
    }

    pub(super) fn fail<T>(&self, what: String) -> Result<T, ConfigError> {
        Err(ConfigError { path: self.path.clone(), what })
    }

    /// A field of this one, for its path.
    pub(super) fn inner(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { value: self.value.and_then(|v| v.get(name)), path }
    }

    pub(super) fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        match self.value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.fail("must be a string".into()),
        }
    }

    pub(super) fn truth(&self) -> Result<Option<bool>, ConfigError> {
        match self.value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => self.fail("must be true or false".into()),
        }
    }

    /// A whole number of a range.
    pub(super) fn number(&self, least: i64, most: i64) -> Result<Option<i64>, ConfigError> {
        match self.value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64().filter(|n| (least..=most).contains(n)) {
                Some(number) => Ok(Some(number)),
                None => self.fail(format!("must be a whole number from {least} to {most}")),
            },
        }
    }

    /// The elements of a list; none where it is missing.
    pub(super) fn items(&self) -> Result<Vec<Field<'a>>, ConfigError> {
        match self.value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let path = |at: usize| format!("{}[{at}]", self.path);
                let each = items.iter().enumerate();
                Ok(each.map(|(at, value)| Field { value: Some(value), path: path(at) }).collect())
            }
            Some(_) => self.fail("must be a list".into()),
        }
    }

    /// Reads the field as an object of the Kubernetes API.
    pub(super) fn typed<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.value.filter(|v| !v.is_null()) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).or_else(|e| self.fail(e.to_string()))
    }
}

/// A field that is a map.
pub(super) struct Fields<'a> {
    field: Field<'a>,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(field: Field<'a>) -> Result<Self, ConfigError> {
        match field.value {
            Some(Value::Object(map)) => Ok(Self { map, field }),
            _ => field.fail("must be a map".into()),
        }
    }

    pub(super) fn get(&self, name: &str) -> Field<'a> {
        self.field.inner(name)
    }

    /// Refuses fields that are none of these.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), ConfigError> {
        match self.map.keys().find(|k| !names.contains(&k.as_str())) {
            Some(key) => self.get(key).fail("unknown field".into()),
            None => Ok(()),
        }
    }
}

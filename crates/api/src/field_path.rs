//! Paths to fields as Kubernetes writes them, and a collector of what is wrong along them. Rules walk an object
//! with a [`Path`] in hand and put into a [`FieldErrors`] what they find.

use crate::FieldError;
use serde_json::Value;
use std::fmt;

/// `spec.containers[0].image`, `metadata.labels[app]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a field of the object itself.
    pub fn new(root: &str) -> Self {
        Self(root.to_string())
    }

    /// A field below this one; dots lead deeper.
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An entry of this list.
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// An entry of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// As it stands in messages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Path> for String {
    fn from(path: &Path) -> Self {
        path.0.clone()
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.0
    }
}

/// What was found wrong so far.
#[derive(Debug, Default)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All that was found.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// How much was found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all is right.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one error.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds errors found elsewhere.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    /// A missing value.
    pub fn required(&mut self, path: impl Into<String>, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    /// A value that breaks a rule.
    pub fn invalid(&mut self, path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::invalid(path, value, detail));
    }

    /// A field that may not be set or changed.
    pub fn forbidden(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// An entry that appears twice.
    pub fn duplicate(&mut self, path: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, value));
    }

    /// A value that breaks each of the rules that the messages name.
    pub fn messages(&mut self, path: &Path, value: &str, messages: Vec<String>) {
        self.0.extend(messages.into_iter().map(|message| FieldError::invalid(path, value, message)));
    }

    /// A value that must be there and be right.
    pub fn required_and(&mut self, path: &Path, value: &str, check: impl Fn(&str) -> Vec<String>) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.messages(path, value, check(value));
        }
    }

    /// A value that must be one of a few. `supported` stands in the order of the message.
    pub fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.push(FieldError::not_supported(path, value, supported));
        }
    }

    /// A value that must be there and be one of a few.
    pub fn required_one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.one_of(path, value, supported);
        }
    }

    /// A number that, where there is one, must not be negative.
    pub fn not_negative(&mut self, path: &Path, value: Option<impl Into<i64>>) {
        if let Some(value) = value.map(Into::into).filter(|v| *v < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// A value that may not change.
    pub fn immutable(&mut self, path: &Path, new: Option<&Value>, old: Option<&Value>) {
        let unset = |v: &&Value| !v.is_null();
        if new.filter(unset) != old.filter(unset) {
            self.invalid(path, new.cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }

    /// Reads a part of an object into a typed struct; one that has another shape is an error.
    pub fn decode<T: serde::de::DeserializeOwned>(&mut self, path: &Path, value: &Value) -> Option<T> {
        match T::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(e) => {
                self.push(FieldError::type_invalid(path, e.to_string()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let path = Path::new("spec").child("containers").index(0).child("resources.limits").key("cpu");
        assert_eq!(path.as_str(), "spec.containers[0].resources.limits[cpu]");
    }

    #[test]
    fn unset_and_null_are_the_same_to_an_immutable_field() {
        let mut errors = FieldErrors::new();
        let path = Path::new("x");
        errors.immutable(&path, None, Some(&Value::Null));
        errors.immutable(&path, Some(&json!(1)), Some(&json!(1)));
        assert!(errors.is_empty());
        errors.immutable(&path, Some(&json!(1)), None);
        assert_eq!(errors.into_vec()[0].to_string(), "x: Invalid value: 1: field is immutable");
    }
}

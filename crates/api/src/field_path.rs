//! Paths to fields as Kubernetes writes them, and a collector of what is wrong along them. Rules walk an object
//! with a [`Path`] in hand and put into a [`FieldErrors`] what they find.

use crate::FieldError;
use serde_json::Value;
use std::fmt;

/// Beyond this many bytes a path is not told in full: keys come from strangers, and all that stands below a long one would
/// say it again.
const LONGEST: usize = 4096;
/// So many errors are told of one object.
const MOST: usize = 10_000;
/// So many bytes of errors are told of one object, and the error that goes beyond.
const MOST_BYTES: usize = 4 << 20;

/// `path` with `more` at its end, unless it is too long to be told.
pub fn longer(path: &str, more: fmt::Arguments<'_>) -> String {
    if path.len() > LONGEST {
        return path.to_string();
    }
    let mut path = format!("{path}{more}");
    cut(&mut path);
    path
}

/// Cuts a path that is too long to be told.
pub fn cut(path: &mut String) {
    if path.len() > LONGEST {
        path.truncate(path.floor_char_boundary(LONGEST));
        path.push_str("...");
    }
}

/// `spec.containers[0].image`, `metadata.labels[app]`. One that is absurdly long ends in dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a field of the object itself.
    pub fn new(root: &str) -> Self {
        Self(root.to_string())
    }

    /// A field below this one; dots lead deeper.
    pub fn child(&self, name: &str) -> Self {
        Self(longer(&self.0, format_args!(".{name}")))
    }

    /// An entry of this list.
    pub fn index(&self, at: usize) -> Self {
        Self(longer(&self.0, format_args!("[{at}]")))
    }

    /// An entry of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(longer(&self.0, format_args!("[{key}]")))
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

/// What was found wrong so far. When it is more than anyone reads, the rest is not kept: a small schema or object may be
/// wrong in very many places, and each error shows a value.
#[derive(Debug)]
pub struct FieldErrors {
    found: Vec<FieldError>,
    most: usize,
    /// How many bytes more may be told.
    room: usize,
}

impl Default for FieldErrors {
    fn default() -> Self {
        Self { found: Vec::new(), most: MOST, room: MOST_BYTES }
    }
}

impl FieldErrors {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing wrong yet with a part that at most so many errors are asked of, and no more than there is room for here.
    pub fn of_part(&self, most: usize) -> Self {
        Self { found: Vec::new(), most: most.min(self.most.saturating_sub(self.len())), room: self.room }
    }

    /// All that was found, and last that it was too much, if it was.
    pub fn into_vec(mut self) -> Vec<FieldError> {
        if self.is_full() {
            self.found.push(FieldError::invalid("<nil>", "", "too many errors"));
        }
        self.found
    }

    /// Whether nothing more is kept.
    pub fn is_full(&self) -> bool {
        self.len() >= self.most || self.room == 0
    }

    /// How much was found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether all is right.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.found.iter()
    }

    /// Keeps only some of what was found.
    pub fn retain(&mut self, keep: impl FnMut(&FieldError) -> bool) {
        self.found.retain(keep);
    }

    /// Adds one error.
    pub fn push(&mut self, error: FieldError) {
        if !self.is_full() {
            self.room = self.room.saturating_sub(error.bytes());
            self.found.push(error);
        }
    }

    /// Adds errors found elsewhere.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// Adds what was found wrong with a part.
    pub fn append(&mut self, part: Self) {
        self.extend(part.found);
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
        self.extend(messages.into_iter().map(|message| FieldError::invalid(path, value, message)));
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
    fn a_path_is_told_in_full_unless_it_is_absurdly_long() {
        let long = Path::new("spec").key(&"é".repeat(100_000));
        assert!(long.as_str().starts_with("spec[é") && long.as_str().ends_with("é..."));
        assert!(long.as_str().len() < 5000);
        assert_eq!(long.child("a").index(1), long);
    }

    #[test]
    fn errors_are_told_unless_they_are_too_many_or_too_much() {
        let mut many = FieldErrors::new();
        (0..20_000).for_each(|_| many.required("x", ""));
        assert_eq!(many.len(), MOST);
        assert_eq!(many.into_vec()[MOST].detail, "too many errors");
        let mut large = FieldErrors::new();
        (0..20_000).for_each(|_| large.invalid("x", json!({"a": ["v".repeat(1000)]}), ""));
        assert!((4000..5000).contains(&large.len()), "{}", large.len());
        assert!(large.of_part(5).is_full());
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

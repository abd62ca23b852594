//! One wrong field: where it is, what is wrong with it, and the words Kubernetes uses to say so
//! (k8s.io/apimachinery `field.Error`). A write collects them all and answers with one 422 `Status`.

use serde_json::Value;

/// What is wrong with a field. The variants are the causes that `Status.details.causes[].reason` may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value that must be there is missing.
    Required,
    /// The value breaks a rule (`FieldValueInvalid`).
    Invalid,
    /// The value is not one of the known ones.
    NotSupported,
    /// Two entries of a list that must differ do not.
    Duplicate,
    /// The field may not be set, or not be changed, here.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more entries than allowed.
    TooMany,
    /// The value names something that does not exist.
    NotFound,
    /// The value has the wrong JSON type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The machine-readable `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::TooLong | Self::TooMany => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path as Kubernetes writes it: `spec.containers[0].image`, `metadata.labels[app]`.
    pub path: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The offending value, where showing it helps. `None` prints no value.
    pub value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    /// A missing value.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: FieldErrorKind::Required, value: None, detail: detail.into() }
    }

    /// A value that breaks a rule.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: FieldErrorKind::Invalid,
            value: Some(value.into()),
            detail: detail.into(),
        }
    }

    /// A value outside an enumeration; `supported` is listed in the message.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        Self {
            path: path.into(),
            kind: FieldErrorKind::NotSupported,
            value: Some(value.into()),
            detail: format!("supported values: {list}"),
        }
    }

    /// An entry that appears twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            path: path.into(),
            kind: FieldErrorKind::Duplicate,
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A field that may not be set or changed.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: FieldErrorKind::Forbidden, value: None, detail: detail.into() }
    }

    /// A value longer than `max` bytes.
    pub fn too_long(path: impl Into<String>, max: usize) -> Self {
        Self {
            path: path.into(),
            kind: FieldErrorKind::TooLong,
            value: None,
            detail: format!("may not be more than {max} bytes"),
        }
    }

    /// A list with more than `max` entries.
    pub fn too_many(path: impl Into<String>, count: usize, max: usize) -> Self {
        Self {
            path: path.into(),
            kind: FieldErrorKind::TooMany,
            value: Some(count.into()),
            detail: format!("must have at most {max} items"),
        }
    }

    /// A value that names something that is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            path: path.into(),
            kind: FieldErrorKind::NotFound,
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A value of the wrong type.
    pub fn type_invalid(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), kind: FieldErrorKind::TypeInvalid, value: None, detail: detail.into() }
    }

    /// About how long it is.
    pub(crate) fn bytes(&self) -> usize {
        fn size(value: &Value) -> usize {
            2 + match value {
                Value::Null | Value::Bool(_) | Value::Number(_) => 4,
                Value::String(text) => text.len(),
                Value::Array(entries) => entries.iter().map(size).sum(),
                Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
            }
        }
        self.path.len() + self.detail.len() + self.value.as_ref().map_or(0, size)
    }

    /// The message without the path, as it stands in `StatusCause.message`.
    pub fn message(&self) -> String {
        let mut out = self.kind.words().to_string();
        if let Some(value) = &self.value {
            // Kubernetes prints strings quoted and everything else as JSON.
            out.push_str(&format!(": {value}"));
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_kubernetes_writes_them() {
        let e = FieldError::invalid("metadata.name", "A_b", "must be lower case");
        assert_eq!(e.to_string(), "metadata.name: Invalid value: \"A_b\": must be lower case");
        let e = FieldError::invalid("spec", serde_json::json!({"a": [1, true]}), "no");
        assert_eq!(e.to_string(), "spec: Invalid value: {\"a\":[1,true]}: no");
        let e = FieldError::required("spec.containers", "");
        assert_eq!(e.to_string(), "spec.containers: Required value");
        let e = FieldError::not_supported("spec.restartPolicy", "Maybe", &["Always", "Never"]);
        assert_eq!(
            e.to_string(),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\""
        );
    }
}

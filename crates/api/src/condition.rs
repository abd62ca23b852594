//! The rules of meta/v1 `Condition`, wherever a status has a list of them. Says nothing of what a condition means.

use crate::{
    FieldError, FieldErrors, Path, name,
    object::{int, text},
};
use serde_json::Value;
use std::collections::BTreeSet;

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;
const REASON_MESSAGE: &str = "a condition reason must start with alphabetic character, optionally followed by a string \
    of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or \
    'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
    '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// All that is wrong with a list of conditions.
pub fn validate(conditions: &[Value], path: &Path, errors: &mut FieldErrors) {
    let mut types = BTreeSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        let kind = text(condition, "/type");
        if !types.insert(kind) {
            errors.duplicate(path.child("type"), kind);
        }
        validate_one(condition, &path, errors);
    }
}

fn validate_one(condition: &Value, path: &Path, errors: &mut FieldErrors) {
    let kind = text(condition, "/type");
    errors.messages(&path.child("type"), kind, name::qualified_name(kind));
    errors.one_of(&path.child("status"), text(condition, "/status"), &["False", "True", "Unknown"]);
    if let Some(generation) = int(condition, "/observedGeneration").filter(|g| *g < 0) {
        let message = "must be greater than or equal to zero";
        errors.invalid(path.child("observedGeneration"), generation, message);
    }
    if text(condition, "/lastTransitionTime").is_empty() {
        errors.required(path.child("lastTransitionTime"), "must be set");
    }
    let reason = text(condition, "/reason");
    if reason.is_empty() {
        errors.required(path.child("reason"), "must be set");
    } else {
        if !is_reason(reason) {
            errors.invalid(path.child("reason"), reason, REASON_MESSAGE);
        }
        if reason.len() > MAX_REASON {
            errors.push(FieldError::too_long(path.child("reason"), MAX_REASON));
        }
    }
    if text(condition, "/message").len() > MAX_MESSAGE {
        errors.push(FieldError::too_long(path.child("message"), MAX_MESSAGE));
    }
}

/// `[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?`
fn is_reason(reason: &str) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|b| word(b) || b",:".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condition_has_a_type_of_its_own_a_status_a_time_and_a_reason() {
        let found = |conditions: Value| {
            let mut errors = FieldErrors::new();
            validate(list(&conditions), &Path::new("c"), &mut errors);
            errors.into_vec().into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        fn list(value: &Value) -> &[Value] {
            value.as_array().map(Vec::as_slice).unwrap_or_default()
        }
        let good = json!({"type": "example.com/Ready", "status": "True", "reason": "A:b_c", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert!(found(json!([good])).is_empty());
        assert_eq!(found(json!([good, good])), ["c[1].type: Duplicate value: \"example.com/Ready\""]);
        let bad = found(json!([{"type": "Ready", "status": "Maybe", "observedGeneration": -1}]));
        assert_eq!(
            bad,
            [
                "c[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                "c[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                "c[0].lastTransitionTime: Required value: must be set",
                "c[0].reason: Required value: must be set",
            ]
        );
        for (reason, right) in
            [("a", true), ("A1", true), ("1a", false), ("a,", false), ("a b", false), ("_a", false)]
        {
            assert_eq!(is_reason(reason), right, "{reason}");
        }
    }
}

//! Rules that the kinds with a pod template share, besides those of the template itself.

use crate::{FieldError, FieldErrors, Path, int_or_string::Amount, object::has};
use serde_json::Value;

const SHARE_MESSAGE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
    or '93%', regex used for validation is '[0-9]+%')";

/// Numbers of the spec that must not be negative.
pub(super) fn validate_not_negative(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    numbers(object, "spec", fields, errors);
}

/// Numbers of the status that must not be negative.
pub(super) fn validate_status_numbers(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    numbers(object, "status", fields, errors);
    let generation = &object["status"]["observedGeneration"];
    errors.not_negative(&Path::new("status.observedGeneration"), generation.as_i64());
}

fn numbers(object: &Value, part: &str, fields: &[&str], errors: &mut FieldErrors) {
    for field in fields {
        errors.not_negative(&Path::new(part).child(field), object[part][field].as_i64());
    }
}

/// A number or a percentage, not negative.
pub(super) fn validate_share(share: &Value, path: &Path, errors: &mut FieldErrors) {
    match Amount::from_json(share) {
        Some(Amount::Count(count)) => errors.not_negative(path, Some(count)),
        Some(Amount::Percent(_)) => {}
        None if share.is_null() => {}
        None => errors.invalid(path, share.clone(), SHARE_MESSAGE),
    }
}

/// A percentage of at most 100.
pub(super) fn validate_at_most_all(share: &Value, path: &Path, errors: &mut FieldErrors) {
    if let Some(Amount::Percent(101..)) = Amount::from_json(share) {
        errors.invalid(path, share.clone(), "must not be greater than 100%");
    }
}

/// Pods that run for ever have no deadline.
pub(super) fn validate_no_deadline(object: &Value, kind: &str, errors: &mut FieldErrors) {
    if has(object, "/spec/template/spec/activeDeadlineSeconds") {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", message);
    }
}

/// The selector is fixed when the object is made: with another one its pods would be lost.
pub(super) fn validate_selector_unchanged(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    errors.immutable(
        &Path::new("spec.selector"),
        new.pointer("/spec/selector"),
        old.pointer("/spec/selector"),
    );
    errors.into_vec()
}

//! ResourceClaim (resource.k8s.io/v1): which devices somebody wants, and in its status which ones it got and for whom.

use super::{
    base,
    devices::{allocation, claim},
};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{has, len},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ResourceClaim.
pub(super) fn kind() -> Kind {
    Kind {
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column(
                "State",
                "A summary of the current state (allocated, pending, reserved, etc.).",
            ),
            print::age_column(),
        ],
        ..base("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", ResourceClaim)
    }
}

struct ResourceClaim;

impl Rules for ResourceClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            claim::set_defaults(spec);
        }
        if let Some(status) = object.get_mut("status") {
            allocation::set_defaults(status);
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        allocation::forget_deallocated(new, old);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        claim::validate_spec(spec, &Path::new("spec"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("spec"), new.get("spec"), old.get("spec"));
        errors.into_vec()
    }

    /// What cannot change needs no second look.
    fn validate_change(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.validate_update(new, old)
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        allocation::validate_status(new, old, &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut states = Vec::new();
        let deleted = has(object, "/metadata/deletionTimestamp");
        if deleted {
            states.push("deleted");
        }
        if has(object, "/status/allocation") {
            states.push("allocated");
            if len(object, "/status/reservedFor") > 0 {
                states.push("reserved");
            }
        } else if !deleted {
            states.push("pending");
        }
        vec![print::name(object), states.join(",").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_stays_as_it_was_made() {
        let claim = |class: &str| json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}}});
        assert!(ResourceClaim.validate_change(&claim("a"), &claim("a")).is_empty());
        let errors = ResourceClaim.validate_change(&claim("b"), &claim("a"));
        assert!(errors[0].to_string().starts_with("spec: Invalid value: "), "{errors:?}");
        assert!(errors[0].to_string().ends_with(": field is immutable"), "{errors:?}");
    }

    #[test]
    fn its_row_says_how_far_it_is() {
        let state = |object: Value| ResourceClaim.cells(&object, Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!(state(json!({})), "pending");
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(state(json!({"metadata": deleted})), "deleted");
        assert_eq!(state(json!({"status": {"allocation": {}}})), "allocated");
        assert_eq!(
            state(json!({"metadata": deleted, "status": {"allocation": {}, "reservedFor": [{"uid": "u"}]}})),
            "deleted,allocated,reserved"
        );
    }
}

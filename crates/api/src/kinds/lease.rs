//! Lease (coordination.k8s.io/v1): who holds something, and until when.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{int, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of Lease.
pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![
            print::name_column(),
            print::text_column("Holder", "Who holds it."),
            print::age_column(),
        ],
        ..base("coordination.k8s.io", "v1", "Lease", "leases", Lease)
    }
}

struct Lease;

impl Rules for Lease {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        if let Some(seconds) = int(object, "/spec/leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        let transitions = int(object, "/spec/leaseTransitions");
        errors.not_negative(&path.child("leaseTransitions"), transitions);
        if object.pointer("/spec/preferredHolder").is_some_and(|h| h == "") {
            errors.invalid(path.child("preferredHolder"), "", "must not be empty");
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), text(object, "/spec/holderIdentity").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_checked() {
        let wrong = |spec: Value| {
            let errors = Lease.validate(&json!({"spec": spec}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"leaseDurationSeconds": 40, "leaseTransitions": 0})).is_empty());
        assert_eq!(
            wrong(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}

//! VolumeAttributesClass (storage.k8s.io/v1): attributes that a volume may be given while it is used.

use super::{
    base,
    storage_class::{forbid_change, validate_parameters, validate_provisioner},
    texts,
};
use crate::{FieldError, FieldErrors, Kind, Path, Rules, Scope, object::text, print};
use jiff::Timestamp;
use serde_json::Value;

/// The description of VolumeAttributesClass.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["vac"]),
        scope: Scope::Cluster,
        columns: vec![
            print::name_column(),
            print::text_column("DriverName", "Who gives volumes the attributes."),
            print::age_column(),
        ],
        ..base(
            "storage.k8s.io",
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            VolumeAttributesClass,
        )
    }
}

struct VolumeAttributesClass;

impl Rules for VolumeAttributesClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_provisioner(text(object, "/driverName"), &Path::new("driverName"), &mut errors);
        validate_parameters(object, false, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for field in ["driverName", "parameters"] {
            forbid_change(new, old, field, &mut errors);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), text(object, "/driverName").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_says_what_to_change_and_stays() {
        let class = |value: &str| json!({"metadata": {"name": "c"}, "driverName": "d.example.com", "parameters": {"iops": value}});
        assert!(VolumeAttributesClass.validate(&class("5")).is_empty());
        let bare = json!({"driverName": "d"});
        assert_eq!(
            VolumeAttributesClass.validate(&bare)[0].to_string(),
            "parameters: Required value: must contain at least one key/value pair"
        );
        assert_eq!(
            VolumeAttributesClass.validate_update(&class("6"), &class("5"))[0].to_string(),
            "parameters: Forbidden: updates to parameters are forbidden."
        );
    }
}

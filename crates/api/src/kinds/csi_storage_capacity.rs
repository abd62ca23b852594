//! CSIStorageCapacity (storage.k8s.io/v1): how much room a class of storage has in a part of the cluster.

use super::{base, persistent_volume};
use crate::{FieldError, FieldErrors, Kind, Path, Rules, name, object::text, print, quantity, selector};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

/// The description of CSIStorageCapacity.
pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![
            print::name_column(),
            print::text_column("StorageClassName", "The class of storage."),
            print::text_column("Capacity", "How much room there is."),
        ],
        ..base("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", CsiStorageCapacity)
    }
}

struct CsiStorageCapacity;

impl Rules for CsiStorageCapacity {
    fn default(&self, object: &mut Value) {
        for field in ["capacity", "maximumVolumeSize"] {
            if let Some(amount) = object.get_mut(field) {
                quantity::canonicalize(amount);
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        if let Some(given) = object.get("nodeTopology").filter(|t| !t.is_null())
            && let Some(typed) = errors.decode::<LabelSelector>(&Path::new("nodeTopology"), given)
        {
            errors.extend(selector::validate(&typed, "nodeTopology"));
        }
        let class = text(object, "/storageClassName");
        errors.messages(&Path::new("storageClassName"), class, name::dns_subdomain(class));
        for field in ["capacity", "maximumVolumeSize"] {
            if let Some(amount) = object.get(field).filter(|a| !a.is_null()) {
                persistent_volume::validate_amount(amount, &Path::new(field), &mut errors);
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for field in ["nodeTopology", "storageClassName"] {
            errors.immutable(&Path::new(field), new.get(field), old.get(field));
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let capacity = match object.get("capacity").filter(|c| !c.is_null()) {
            Some(amount) => quantity::Quantity::from_json(amount).unwrap_or_default().to_string(),
            None => "<unset>".into(),
        };
        vec![print::name(object), text(object, "/storageClassName").into(), capacity.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_amounts_may_change() {
        let capacity = |class: &str, amount: &str| json!({"metadata": {"name": "c"}, "storageClassName": class, "capacity": amount});
        let old = capacity("fast", "1Gi");
        assert!(CsiStorageCapacity.validate(&old).is_empty());
        assert!(CsiStorageCapacity.validate_update(&capacity("fast", "2Gi"), &old).is_empty());
        assert_eq!(
            CsiStorageCapacity.validate_update(&capacity("slow", "1Gi"), &old)[0].path,
            "storageClassName"
        );
        assert_eq!(
            CsiStorageCapacity.validate(&capacity("fast", "-1"))[0].to_string(),
            "capacity: Invalid value: \"-1\": must be greater than or equal to 0"
        );
        assert_eq!(CsiStorageCapacity.cells(&old, Timestamp::UNIX_EPOCH)[2], "1Gi");
    }
}

//! DeviceClass (resource.k8s.io/v1): a name for the devices that selectors choose, and how drivers configure them.

use super::{base, devices};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{has, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of DeviceClass.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![print::name_column(), print::age_column()],
        ..base("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", DeviceClass)
    }
}

struct DeviceClass;

/// Whether pods may ask for a resource of that name without being taken to mean one of Kubernetes' own.
fn is_extended_resource(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with("requests.")
        // As a quota would call it.
        && name::qualified_name(&format!("requests.{resource}")).is_empty()
}

impl Rules for DeviceClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        devices::validate_selectors(spec, &path, &mut errors);
        devices::validate_class_configurations(spec, &path, &mut errors);
        if has(spec, "/extendedResourceName") {
            let resource = text(spec, "/extendedResourceName");
            if !is_extended_resource(resource) {
                let message = "must be a valid extended resource name";
                errors.invalid(path.child("extendedResourceName"), resource, message);
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_selects_devices_configures_drivers_and_may_stand_for_a_resource() {
        let found = |spec: Value| {
            let errors = DeviceClass.validate(&json!({"metadata": {"name": "gpu"}, "spec": spec}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        let selector = json!({"cel": {"expression": "true"}});
        let opaque = json!({"opaque": {"driver": "d.example.com", "parameters": {"a": 1}}});
        assert!(found(json!({"selectors": [selector], "config": [opaque], "extendedResourceName": "example.com/gpu"})).is_empty());
        for (spec, want) in [
            (json!({"selectors": [{}]}), "spec.selectors[0].cel: Required value"),
            (
                json!({"selectors": vec![selector; 33]}),
                "spec.selectors: Too many: 33: must have at most 32 items",
            ),
            (
                json!({"selectors": [{"cel": {"expression": "x".repeat(10241)}}]}),
                "spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes",
            ),
            (json!({"config": [{}]}), "spec.config[0].opaque: Required value"),
            (
                json!({"config": [{"opaque": {"driver": "", "parameters": {}}}]}),
                "spec.config[0].opaque.driver: Required value",
            ),
            (
                json!({"config": [{"opaque": {"driver": "d", "parameters": [1]}}]}),
                "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
            ),
            (
                json!({"extendedResourceName": "cpu"}),
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ),
        ] {
            assert_eq!(found(spec), [want]);
        }
    }
}

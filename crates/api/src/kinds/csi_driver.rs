//! CSIDriver (storage.k8s.io/v1): what a storage plugin wants of the cluster.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{flag, int, len, list, set_default, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The description of CSIDriver.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::bool_column("AttachRequired", "Whether volumes are attached to nodes first."),
            print::bool_column("PodInfoOnMount", "Whether it wants to know the pod."),
            print::bool_column("StorageCapacity", "Whether it publishes how much room it has."),
            print::text_column("TokenRequests", "The audiences of tokens that it wants."),
            print::bool_column("RequiresRepublish", "Whether it wants to be asked again from time to time."),
            print::text_column("Modes", "Whether its volumes outlive pods."),
            print::age_column(),
        ],
        ..base("storage.k8s.io", "v1", "CSIDriver", "csidrivers", CsiDriver)
    }
}

struct CsiDriver;

const POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];

impl Rules for CsiDriver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_default(spec, field, false);
        }
        set_default_nonzero(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if len(spec, "/volumeLifecycleModes") == 0 {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        for (field, shown) in [
            ("attachRequired", "attachedRequired"),
            ("podInfoOnMount", "podInfoOnMount"),
            ("storageCapacity", "storageCapacity"),
            ("seLinuxMount", "seLinuxMount"),
        ] {
            if spec.get(field).is_none_or(Value::is_null) {
                errors.required(path.child(shown), "");
            }
        }
        let policy = text(spec, "/fsGroupPolicy");
        if !policy.is_empty() {
            errors.one_of(&path.child("fsGroupPolicy"), policy, &POLICIES);
        }
        validate_tokens(list(spec, "/tokenRequests"), &path.child("tokenRequests"), &mut errors);
        for mode in list(spec, "/volumeLifecycleModes") {
            let known = ["Persistent", "Ephemeral"];
            errors.one_of(&path.child("volumeLifecycleModes"), mode.as_str().unwrap_or_default(), &known);
        }
        if let Some(seconds) = int(spec, "/nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < 10) {
            let message = "must be greater than or equal to 10 seconds";
            errors.invalid(path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, message);
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (field, shown) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            let at = format!("/spec/{field}");
            errors.immutable(&Path::new("spec").child(shown), new.pointer(&at), old.pointer(&at));
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let join = |items: Vec<&str>| items.join(",");
        let requests = object.pointer("/spec/tokenRequests").and_then(Value::as_array);
        let audiences = requests.map_or_else(
            || "<unset>".to_string(),
            |requests| join(requests.iter().map(|t| text(t, "/audience")).collect()),
        );
        let modes = list(object, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        let attach = object.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
        vec![
            print::name(object),
            attach.into(),
            flag(object, "/spec/podInfoOnMount").into(),
            flag(object, "/spec/storageCapacity").into(),
            audiences.into(),
            flag(object, "/spec/requiresRepublish").into(),
            print::or_none(&join(modes)),
            print::age(object, now),
        ]
    }
}

/// The name of a driver wherever it stands.
pub(super) fn validate_name(driver: &str, path: &Path, errors: &mut FieldErrors) {
    errors.messages(path, driver, name::dns_subdomain(driver));
}

fn validate_tokens(requests: &[Value], path: &Path, errors: &mut FieldErrors) {
    let mut audiences = BTreeSet::new();
    for (at, request) in requests.iter().enumerate() {
        let path = path.index(at);
        let audience = text(request, "/audience");
        if !audiences.insert(audience) {
            errors.duplicate(path.child("audience"), audience);
            continue;
        }
        let Some(seconds) = int(request, "/expirationSeconds") else { continue };
        let message = match seconds {
            ..600 => "may not specify a duration less than 10 minutes",
            4_294_967_297.. => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        errors.invalid(path.child("expirationSeconds"), seconds, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "d.example.com"}, "spec": spec});
        CsiDriver.default(&mut object);
        object
    }

    #[test]
    fn a_bare_driver_attaches_volumes_that_outlive_pods() {
        let object = driver(json!({}));
        let row = CsiDriver.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..7],
            [json!(true), json!(false), json!(false), json!("<unset>"), json!(false), json!("Persistent")]
        );
        assert!(CsiDriver.validate(&object).is_empty());
    }

    #[test]
    fn wrong_fields_are_named_and_the_way_of_volumes_stays() {
        for (spec, want) in [
            (
                json!({"fsGroupPolicy": "Always"}),
                "spec.fsGroupPolicy: Unsupported value: \"Always\": supported values: \"File\", \"None\", \
                 \"ReadWriteOnceWithFSType\"",
            ),
            (
                json!({"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}),
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ),
            (
                json!({"tokenRequests": [{"audience": "a", "expirationSeconds": 5}]}),
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ),
            (
                json!({"volumeLifecycleModes": ["Forever"]}),
                "spec.volumeLifecycleModes: Unsupported value: \"Forever\": supported values: \"Persistent\", \"Ephemeral\"",
            ),
        ] {
            let found: Vec<String> =
                CsiDriver.validate(&driver(spec.clone())).into_iter().map(|e| e.to_string()).collect();
            assert_eq!(found, [want], "{spec}");
        }
        let errors = CsiDriver.validate_update(&driver(json!({"attachRequired": false})), &driver(json!({})));
        assert_eq!(errors[0].to_string(), "spec.attachedRequired: Invalid value: false: field is immutable");
    }
}

//! PersistentVolumeClaim (core/v1): storage that pods of a namespace want.

use super::{base, persistent_volume, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{carry_over, child, has, list, text},
    print,
    quantity::{Quantity, canonicalize},
    selector,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

/// The description of PersistentVolumeClaim.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["pvc"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Status", "Whether it has its volume."),
            print::text_column("Volume", "The volume it has."),
            print::text_column("Capacity", "How large the volume is."),
            print::text_column("Access Modes", "How the volume can be mounted."),
            print::text_column("StorageClass", "The class of storage it wants."),
            print::text_column("VolumeAttributesClass", "The class of attributes it wants."),
            print::age_column(),
            print::wide_column("VolumeMode", "Whether it is mounted, or used as a block device."),
        ],
        ..base("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", PersistentVolumeClaim)
    }
}

struct PersistentVolumeClaim;

/// Fills in a claim, or a template of claims.
pub(super) fn set_defaults(claim: &mut Value) {
    if let Some(spec) = claim.get_mut("spec").filter(|s| s.is_object()) {
        crate::object::set_default_nonzero(spec, "volumeMode", "Filesystem");
        for pointer in ["/resources/requests", "/resources/limits"] {
            let amounts = spec.pointer_mut(pointer).and_then(Value::as_object_mut);
            amounts.into_iter().flatten().for_each(|(_, amount)| canonicalize(amount));
        }
        mirror_data_source(spec);
    }
    if let Some(status) = child(claim, "status") {
        crate::object::set_default_nonzero(status, "phase", "Pending");
    }
}

/// `dataSource` is the older form of `dataSourceRef`: what both can say, both say.
fn mirror_data_source(spec: &mut Value) {
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old.filter(|s| s.is_object()), new.filter(|s| s.is_object())) {
        (Some(source), None) => spec["dataSourceRef"] = source,
        (None, Some(reference)) if text(&reference, "/namespace").is_empty() => {
            let group = text(&reference, "/apiGroup");
            let kind = text(&reference, "/kind");
            let known = matches!(
                (group, kind),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            );
            if known {
                spec["dataSource"] = reference;
            }
        }
        _ => {}
    }
}

impl Rules for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        set_defaults(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if object.is_object() {
            object["status"] = json!({"phase": "Pending"});
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_spec(object.get("spec").unwrap_or(&Value::Null), &Path::new("spec"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_change(new, old, &mut errors);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("status");
        if list(new, "/spec/accessModes").is_empty() {
            errors.required("Spec.accessModes", "");
        }
        for field in ["capacity", "allocatedResources"] {
            let amounts = new["status"][field].as_object();
            for (name, amount) in amounts.into_iter().flatten() {
                persistent_volume::validate_amount(amount, &path.child(field).key(name), &mut errors);
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let phase = match has(object, "/metadata/deletionTimestamp") {
            true => "Terminating",
            false => text(object, "/status/phase"),
        };
        let bound = !text(object, "/spec/volumeName").is_empty();
        let capacity = object.pointer("/status/capacity/storage").filter(|_| bound);
        let modes = if bound {
            persistent_volume::short_modes(list(object, "/status/accessModes"))
        } else {
            String::new()
        };
        let attributes = text(object, "/spec/volumeAttributesClassName");
        vec![
            print::name(object),
            phase.into(),
            text(object, "/spec/volumeName").into(),
            capacity.map_or(String::new(), |c| Quantity::from_json(c).unwrap_or_default().to_string()).into(),
            modes.into(),
            class(object).into(),
            print::or_unset(attributes),
            print::age(object, now),
            print::or_unset(text(object, "/spec/volumeMode")),
        ]
    }
}

/// The annotation that was there before the field.
pub(super) fn class(object: &Value) -> &str {
    let old = object.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    old.and_then(Value::as_str).unwrap_or_else(|| text(object, "/spec/storageClassName"))
}

/// All that is wrong with the spec of a claim.
pub(crate) fn validate_spec(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.required(path.child("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = spec.get("selector").filter(|s| !s.is_null())
        && let Some(typed) = errors.decode::<LabelSelector>(&path.child("selector"), selector)
    {
        errors.extend(selector::validate(&typed, path.child("selector").as_str()));
    }
    persistent_volume::validate_modes(modes, &path.child("accessModes"), errors);
    let at = path.child("resources");
    match spec.pointer("/resources/requests/storage").filter(|s| !s.is_null()) {
        None => errors.required(at.key("storage"), ""),
        Some(amount) => persistent_volume::validate_size(amount, &at.key("storage"), errors),
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, &format!("/{field}"));
        if !class.is_empty() {
            errors.messages(&path.child(field), class, name::dns_subdomain(class));
        }
    }
    let mode = text(spec, "/volumeMode");
    if !mode.is_empty() {
        errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"] {
        let at = path.child(field);
        let Some(source) = spec.get(field).filter(|s| !s.is_null()) else { continue };
        for part in ["name", "kind"] {
            if text(source, &format!("/{part}")).is_empty() {
                errors.required(at.child(part), "");
            }
        }
        if text(source, "/apiGroup").is_empty() && text(source, "/kind") != "PersistentVolumeClaim" {
            let message = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&at, text(source, "/kind"), message);
        }
        let namespace = text(source, "/namespace");
        if field == "dataSourceRef" && !namespace.is_empty() {
            errors.messages(&at.child("namespace"), namespace, name::dns_label(namespace));
        }
    }
    let part = |source: &str, field: &str| text(spec, &format!("/{source}/{field}")).to_owned();
    let differ = |field: &&str| part("dataSource", field) != part("dataSourceRef", field);
    if has(spec, "/dataSource") && has(spec, "/dataSourceRef") {
        let at = path.child("dataSource").as_str().to_owned();
        if !part("dataSourceRef", "namespace").is_empty() {
            errors.invalid(path, at, "may not be specified when dataSourceRef.namespace is specified");
        } else if ["apiGroup", "kind", "name"].iter().any(differ) {
            errors.invalid(path, at, "must match dataSourceRef");
        }
    }
}

/// A claim stays what it is; once it has its volume it may grow.
fn validate_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let bound = text(old, "/status/phase") == "Bound";
    let mut kept = new["spec"].clone();
    if text(old, "/spec/volumeName").is_empty() {
        // The binder's word, said once.
        carry_over(&mut kept, &old["spec"], "volumeName");
    }
    if !has(old, "/spec/storageClassName") {
        // A class may be given to what was made before there was a default one.
        carry_over(&mut kept, &old["spec"], "storageClassName");
    }
    if bound {
        if let (Some(requests), Some(before)) =
            (kept.pointer_mut("/resources/requests"), old.pointer("/spec/resources/requests"))
        {
            carry_over(requests, before, "storage");
        }
        carry_over(&mut kept, &old["spec"], "volumeAttributesClassName");
    }
    if kept != old["spec"] {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |object: &Value, pointer: &str| {
        object.pointer(pointer).and_then(|v| Quantity::from_json(v).ok()).unwrap_or_default()
    };
    let (wanted, before) =
        (size(new, "/spec/resources/requests/storage"), size(old, "/spec/resources/requests/storage"));
    if wanted < before && wanted <= size(old, "/status/capacity/storage") {
        let message = "field can not be less than status.capacity";
        errors.forbidden("spec.resources.requests.storage", message);
    }
    let class = |object: &Value| object["spec"].get("volumeAttributesClassName").cloned().unwrap_or_default();
    if !class(old).is_null() && class(old) != class(new) {
        let path = Path::new("spec.volumeAttributesClassName");
        if class(new).is_null() {
            errors.forbidden(path, "update from non-nil value to nil is forbidden");
        } else if class(new) == "" {
            errors.forbidden(path, "update from non-nil value to an empty string is forbidden");
        }
    }
    let mode = |object: &Value| object.pointer("/spec/volumeMode").cloned();
    errors.immutable(&Path::new("volumeMode"), mode(new).as_ref(), mode(old).as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        set_defaults(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        PersistentVolumeClaim.validate(&claim(spec)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_bare_claim_is_a_pending_filesystem() {
        let object = claim(json!({}));
        assert_eq!(
            (&object["spec"]["volumeMode"], &object["status"]["phase"]),
            (&json!("Filesystem"), &json!("Pending"))
        );
        assert_eq!(wrong(json!({})), Vec::<String>::new());
        let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        assert_eq!(claim(json!({"dataSource": source}))["spec"]["dataSourceRef"], source);
        assert_eq!(claim(json!({"dataSourceRef": source}))["spec"]["dataSource"], source);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (spec, want) in [
            (
                json!({"accessModes": []}),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            (
                json!({"accessModes": ["Sometimes"]}),
                "spec.accessModes: Unsupported value: \"Sometimes\": supported values: \"ReadOnlyMany\", \
                 \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
            (
                json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            (json!({"resources": {}}), "spec.resources[storage]: Required value"),
            (
                json!({"resources": {"requests": {"storage": "0"}}}),
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                json!({"volumeMode": "Tape"}),
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ),
            (
                json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"},
                    "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "b"}}),
                "spec: Invalid value: \"spec.dataSource\": must match dataSourceRef",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn only_a_bound_claim_may_grow() {
        let paths = |new: &Value, old: &Value| {
            PersistentVolumeClaim.validate_update(new, old).into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        let mut old = claim(json!({}));
        let mut new = claim(json!({"resources": {"requests": {"storage": "2Gi"}}}));
        assert_eq!(paths(&new, &old), ["spec"]);
        old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        assert!(paths(&new, &old).is_empty());
        new["spec"]["resources"]["requests"]["storage"] = json!("512Mi");
        assert_eq!(paths(&new, &old), ["spec.resources.requests.storage"]);
        assert!(paths(&claim(json!({"volumeName": "v"})), &old).is_empty());
        assert_eq!(paths(&claim(json!({"volumeName": "w"})), &claim(json!({"volumeName": "v"}))), ["spec"]);
        old["spec"]["volumeAttributesClassName"] = json!("gold");
        let mut new = old.clone();
        new["spec"]["volumeAttributesClassName"] = json!("");
        assert_eq!(paths(&new, &old), ["spec.volumeAttributesClassName"]);
    }

    #[test]
    fn the_row_shows_the_volume_once_it_is_bound() {
        let mut object = claim(json!({"volumeName": "v", "storageClassName": "fast"}));
        object["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        let row = PersistentVolumeClaim.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..7], ["Bound", "v", "1Gi", "RWO,ROX", "fast", "<unset>"].map(Value::from));
        assert_eq!(row[8], "Filesystem");
    }
}

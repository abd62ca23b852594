//! PersistentVolume (core/v1): storage that is there, for a claim to have.

use super::{base, persistent_volume_claim, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{has, list, map, set_default_nonzero, text},
    pod_spec::{scheduling::validate_node_selector, volume_sources},
    print,
    quantity::{Quantity, canonicalize},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelector;
use serde_json::{Map, Value, json};

/// The description of PersistentVolume.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["pv"]),
        scope: Scope::Cluster,
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Capacity", "How large it is."),
            print::text_column("Access Modes", "How it can be mounted."),
            print::text_column("Reclaim Policy", "What becomes of it when its claim goes."),
            print::text_column("Status", "Whether a claim has it."),
            print::text_column("Claim", "The claim that has it."),
            print::text_column("StorageClass", "The class it belongs to."),
            print::text_column("VolumeAttributesClass", "The class of its attributes."),
            print::text_column("Reason", "Why it is in that state."),
            print::age_column(),
            print::wide_column("VolumeMode", "Whether it is mounted, or used as a block device."),
        ],
        ..base("", "v1", "PersistentVolume", "persistentvolumes", PersistentVolume)
    }
}

struct PersistentVolume;

/// Where a volume's bytes may be.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

impl Rules for PersistentVolume {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default_nonzero(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default_nonzero(spec, "volumeMode", "Filesystem");
        volume_sources::set_defaults(spec);
        let capacity = spec.get_mut("capacity").and_then(Value::as_object_mut);
        capacity.into_iter().flatten().for_each(|(_, amount)| canonicalize(amount));
    }

    fn prepare_create(&self, object: &mut Value) {
        if object.is_object() {
            object["status"] = json!({"phase": "Pending"});
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_spec(spec, false, &Path::new("spec"), &mut errors);
        if has(spec, "/local") && !has(spec, "/nodeAffinity") {
            errors.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
        if let Some(class) = spec.get("volumeAttributesClassName").filter(|c| !c.is_null()) {
            if class == "" {
                errors.required("spec.volumeAttributesClassName", "an empty string is disallowed");
            }
            if !has(spec, "/csi") {
                errors.required("spec.csi", "has to be specified when using volumeAttributesClassName");
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let source = |object: &Value| -> Map<String, Value> {
            let known =
                |(field, value): &(&String, &Value)| SOURCES.contains(&field.as_str()) && !value.is_null();
            let fields = map(object, "/spec").into_iter().flatten().filter(known);
            fields.map(|(field, value)| (field.clone(), value.clone())).collect()
        };
        let mut kept = source(new);
        let secret = "/spec/csi/controllerExpandSecretRef";
        if has(old, "/spec/csi")
            && !has(old, secret)
            && let Some(csi) = kept.get_mut("csi").and_then(Value::as_object_mut)
        {
            // It may be said once.
            csi.remove("controllerExpandSecretRef");
        }
        if kept != source(old) {
            let message = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden("spec.persistentvolumesource", message);
        }
        let of = |object: &Value, field: &str| object["spec"].get(field).cloned();
        let mode = Path::new("volumeMode");
        errors.immutable(&mode, of(new, "volumeMode").as_ref(), of(old, "volumeMode").as_ref());
        if has(old, "/spec/nodeAffinity") {
            let at = Path::new("nodeAffinity");
            errors.immutable(&at, of(new, "nodeAffinity").as_ref(), of(old, "nodeAffinity").as_ref());
        }
        let class = "/spec/volumeAttributesClassName";
        if has(old, class) && !has(new, class) {
            let message = "update from non-nil value to nil is forbidden";
            errors.forbidden("spec.volumeAttributesClassName", message);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let phase = match has(object, "/metadata/deletionTimestamp") {
            true => "Terminating",
            false => text(object, "/status/phase"),
        };
        let claim = match map(object, "/spec/claimRef") {
            Some(_) => {
                format!(
                    "{}/{}",
                    text(object, "/spec/claimRef/namespace"),
                    text(object, "/spec/claimRef/name")
                )
            }
            None => String::new(),
        };
        let capacity = object.pointer("/spec/capacity/storage").unwrap_or(&Value::Null);
        vec![
            print::name(object),
            Quantity::from_json(capacity).unwrap_or_default().to_string().into(),
            short_modes(list(object, "/spec/accessModes")).into(),
            text(object, "/spec/persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            persistent_volume_claim::class(object).into(),
            print::or_unset(text(object, "/spec/volumeAttributesClassName")),
            text(object, "/status/reason").into(),
            print::age(object, now),
            print::or_unset(text(object, "/spec/volumeMode")),
        ]
    }
}

/// `RWO,ROX`: each mode once, in the order that Kubernetes shows them.
pub(super) fn short_modes(modes: &[Value]) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(mode, _)| modes.iter().any(|m| m == mode))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

/// The ways in which a volume may be mounted.
pub(super) fn validate_modes(modes: &[Value], path: &Path, errors: &mut FieldErrors) {
    for mode in modes {
        errors.one_of(path, mode.as_str().unwrap_or_default(), &MODES);
    }
    let alone = |mode: &Value| mode == "ReadWriteOncePod";
    let other = |mode: &Value| !alone(mode) && MODES.iter().any(|known| mode == known);
    if modes.iter().any(alone) && modes.iter().any(other) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// An amount that can be read and is not negative.
pub(super) fn validate_amount(amount: &Value, path: &Path, errors: &mut FieldErrors) {
    match Quantity::from_json(amount) {
        Err(e) => errors.invalid(path, amount.clone(), e.to_string()),
        Ok(q) if q.is_negative() => {
            errors.invalid(path, amount.clone(), "must be greater than or equal to 0");
        }
        Ok(_) => {}
    }
}

/// An amount of bytes that is more than none.
pub(super) fn validate_size(amount: &Value, path: &Path, errors: &mut FieldErrors) {
    match Quantity::from_json(amount) {
        Err(e) => errors.invalid(path, amount.clone(), e.to_string()),
        Ok(q) if q.is_zero() || q.is_negative() => {
            errors.invalid(path, amount.clone(), "must be greater than zero");
        }
        Ok(_) => {}
    }
}

/// All that is wrong with the spec of a volume. One that is `inline` stands in a VolumeAttachment and describes only where
/// the bytes are.
pub(super) fn validate_spec(spec: &Value, inline: bool, path: &Path, errors: &mut FieldErrors) {
    if inline {
        for field in ["capacity", "claimRef", "nodeAffinity", "storageClassName"] {
            let set = spec.get(field).is_some_and(|v| !v.is_null() && v != "");
            if set {
                errors.forbidden(path.child(field), "may not be specified in the context of inline volumes");
            }
        }
        if !has(spec, "/csi") {
            errors.required(path.child("csi"), "has to be specified in the context of inline volumes");
        }
        if !matches!(text(spec, "/persistentVolumeReclaimPolicy"), "" | "Retain") {
            let message = "may only be Retain in the context of inline volumes";
            errors.forbidden(path.child("persistentVolumeReclaimPolicy"), message);
        }
    }
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.required(path.child("accessModes"), "");
    }
    validate_modes(modes, &path.child("accessModes"), errors);
    if !inline {
        validate_capacity(spec, &path.child("capacity"), errors);
        let policy = text(spec, "/persistentVolumeReclaimPolicy");
        if !policy.is_empty() {
            let known = ["Delete", "Recycle", "Retain"];
            errors.one_of(&path.child("persistentVolumeReclaimPolicy"), policy, &known);
        }
    }
    validate_affinity(spec, &path.child("nodeAffinity"), errors);
    validate_source(spec, path, errors);
    if text(spec, "/hostPath/path") == "/" && text(spec, "/persistentVolumeReclaimPolicy") == "Recycle" {
        let message = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(path.child("persistentVolumeReclaimPolicy"), message);
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, &format!("/{field}"));
        if !class.is_empty() && !inline {
            errors.messages(&path.child(field), class, name::dns_subdomain(class));
        }
    }
    match text(spec, "/volumeMode") {
        "" => {}
        "Filesystem" if inline => {}
        _ if inline => {
            let message = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.forbidden(path.child("volumeMode"), message);
        }
        mode => errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]),
    }
}

fn validate_capacity(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    match map(spec, "/capacity").filter(|capacity| !capacity.is_empty()) {
        None => errors.required(path, ""),
        Some(capacity) if capacity.len() > 1 || !capacity.contains_key("storage") => {
            errors.push(FieldError::not_supported(path, capacity.clone(), &["storage"]));
        }
        Some(capacity) => capacity.iter().for_each(|(name, amount)| {
            validate_size(amount, &path.key(name), errors);
        }),
    }
}

fn validate_affinity(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let Some(affinity) = spec.get("nodeAffinity").filter(|a| !a.is_null()) else { return };
    match affinity.get("required").filter(|r| !r.is_null()) {
        None => errors.required(path.child("required"), "must specify required node constraints"),
        Some(required) => {
            let at = path.child("required");
            if let Some(typed) = errors.decode::<NodeSelector>(&at, required) {
                validate_node_selector(&typed, &at, errors);
            }
        }
    }
}

fn validate_source(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let mut given = SOURCES.iter().filter(|source| has(spec, &format!("/{source}")));
    let Some(source) = given.next() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    for extra in given {
        errors.forbidden(path.child(extra), "may not specify more than 1 volume type");
    }
    let path = path.child(source);
    let value = &spec[*source];
    volume_sources::validate(source, value, &path, errors);
    let at = text(value, "/path");
    if matches!(*source, "hostPath" | "local") {
        if at.is_empty() {
            errors.required(path.child("path"), "");
        }
        if at.split('/').any(|part| part == "..") {
            errors.invalid(path.child("path"), at, "must not contain '..'");
        }
    }
    if *source == "csi" {
        let driver = text(spec, "/csi/driver");
        if !driver.is_empty() {
            super::csi_driver::validate_name(driver, &path.child("driver"), errors);
        }
        if text(spec, "/csi/volumeHandle").is_empty() {
            errors.required(path.child("volumeHandle"), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        PersistentVolume.default(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        PersistentVolume.validate(&volume(spec)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_bare_volume_is_a_filesystem_that_is_kept() {
        let object = volume(json!({}));
        assert_eq!(object["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(object["spec"]["volumeMode"], "Filesystem");
        assert_eq!(wrong(json!({})), Vec::<String>::new());
        let object = volume(json!({"hostPath": null, "rbd": {"image": "i", "monitors": ["m"]}}));
        let want = json!({"image": "i", "monitors": ["m"], "pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"});
        assert_eq!(object["spec"]["rbd"], want);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (spec, want) in [
            (json!({"capacity": {}}), "spec.capacity: Required value"),
            (
                json!({"capacity": {"cpu": "1"}}),
                "spec.capacity: Unsupported value: {\"cpu\":\"1\"}: supported values: \"storage\"",
            ),
            (
                json!({"capacity": {"storage": "-1"}}),
                "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
            ),
            (json!({"accessModes": []}), "spec.accessModes: Required value"),
            (
                json!({"persistentVolumeReclaimPolicy": "Burn"}),
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \
                 \"Recycle\", \"Retain\"",
            ),
            (json!({"hostPath": null}), "spec: Required value: must specify a volume type"),
            (
                json!({"nfs": {"server": "s", "path": "/"}}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ),
            (json!({"hostPath": null, "csi": {"driver": "d"}}), "spec.csi.volumeHandle: Required value"),
            (
                json!({"hostPath": null, "local": {"path": "/l"}}),
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (
                json!({"volumeAttributesClassName": "gold"}),
                "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
            ),
            (
                json!({"nodeAffinity": {}}),
                "spec.nodeAffinity.required: Required value: must specify required node constraints",
            ),
        ] {
            let found = wrong(spec.clone());
            assert_eq!(found.first().map(String::as_str), Some(want), "{spec}");
        }
    }

    #[test]
    fn where_the_bytes_are_may_not_change() {
        let old = volume(json!({}));
        let paths = |new: &Value| {
            PersistentVolume.validate_update(new, &old).into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(paths(&volume(json!({"capacity": {"storage": "2Gi"}}))).is_empty());
        assert_eq!(paths(&volume(json!({"hostPath": {"path": "/other"}}))), ["spec.persistentvolumesource"]);
        assert_eq!(paths(&volume(json!({"volumeMode": "Block"}))), ["volumeMode"]);
        let csi = |csi: Value| volume(json!({"hostPath": null, "csi": csi}));
        let old = csi(json!({"driver": "d", "volumeHandle": "h"}));
        let secret = json!({"namespace": "n", "name": "s"});
        let new = csi(json!({"driver": "d", "volumeHandle": "h", "controllerExpandSecretRef": secret}));
        assert!(PersistentVolume.validate_update(&new, &old).is_empty());
        assert_eq!(PersistentVolume.validate_update(&old, &new).len(), 1);
    }

    #[test]
    fn the_row_shows_whose_it_is() {
        let mut object =
            volume(json!({"claimRef": {"namespace": "n", "name": "c"}, "storageClassName": "fast"}));
        object["status"] = json!({"phase": "Bound"});
        let row = PersistentVolume.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..9],
            ["1Gi", "RWO", "Retain", "Bound", "n/c", "fast", "<unset>", ""].map(Value::from)
        );
    }
}

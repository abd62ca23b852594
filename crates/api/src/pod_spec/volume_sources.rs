//! Validation of the sources of volumes that pods and PersistentVolumes share: what is kept outside the cluster. Works on JSON,
//! since the two have different types for the same thing.

use crate::{
    FieldErrors, Path,
    object::{int, len, list, set_default, set_default_nonzero, text},
};
use serde_json::Value;

/// What the sources in `holder`, the volume or the spec of a PersistentVolume, get where they say nothing.
pub(crate) fn set_defaults(holder: &mut Value) {
    let mut fill = |source: &str, defaults: &[(&str, &str)]| {
        if let Some(source) = holder.get_mut(source) {
            defaults.iter().for_each(|(field, value)| set_default_nonzero(source, field, *value));
        }
    };
    fill("iscsi", &[("iscsiInterface", "default")]);
    fill("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]);
    fill("azureDisk", &[("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")]);
    fill("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]);
    if let Some(disk) = holder.get_mut("azureDisk") {
        set_default(disk, "readOnly", false);
    }
    if let Some(path) = holder.get_mut("hostPath") {
        set_default(path, "type", "");
    }
}

/// Fields that a source cannot do without.
fn required(source: &str) -> &'static [&'static str] {
    match source {
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "azureDisk" => &["diskName", "diskURI"],
        "azureFile" => &["secretName", "shareName"],
        "csi" => &["driver"],
        "flexVolume" => &["driver"],
        "gcePersistentDisk" => &["pdName"],
        "gitRepo" => &["repository"],
        "glusterfs" => &["endpoints", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "nfs" => &["server", "path"],
        "photonPersistentDisk" => &["pdID"],
        "quobyte" => &["volume"],
        "rbd" => &["image"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "storageos" => &["volumeName"],
        "vsphereVolume" => &["volumePath"],
        _ => &[],
    }
}

/// All that is wrong with the source of that name, which stands at `path`.
pub(crate) fn validate(source: &str, value: &Value, path: &Path, errors: &mut FieldErrors) {
    for field in required(source).iter().filter(|field| text(value, &format!("/{field}")).is_empty()) {
        errors.required(path.child(field), "");
    }
    match source {
        "awsElasticBlockStore" | "gcePersistentDisk" => {
            if let Some(number) = int(value, "/partition").filter(|n| !(0..=255).contains(n)) {
                errors.invalid(path.child("partition"), number, "must be between 0 and 255, inclusive");
            }
        }
        "nfs" => {
            let at = text(value, "/path");
            if !at.is_empty() && !at.starts_with('/') {
                errors.invalid(path.child("path"), at, "must be an absolute path");
            }
        }
        "iscsi" => {
            let iqn = text(value, "/iqn");
            if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|start| iqn.starts_with(start)) {
                let message = "must be valid format starting with iqn, eui, or naa";
                errors.invalid(path.child("iqn"), iqn, message);
            }
            validate_lun(value, path, errors);
        }
        "fc" => validate_fibre(value, path, errors),
        "rbd" | "cephfs" if len(value, "/monitors") == 0 => errors.required(path.child("monitors"), ""),
        "quobyte" => {
            let message = "must be a host:port pair or multiple pairs separated by commas";
            let registry = text(value, "/registry");
            if registry.is_empty() {
                errors.required(path.child("registry"), message);
            } else if registry.split(',').any(|pair| pair.rsplit_once(':').is_none()) {
                errors.invalid(path.child("registry"), registry, message);
            }
        }
        "flocker" => {
            let (name, uuid) = (text(value, "/datasetName"), text(value, "/datasetUUID"));
            if name.is_empty() && uuid.is_empty() {
                errors.required(path, "one of datasetName and datasetUUID is required");
            } else if !name.is_empty() && !uuid.is_empty() {
                let message = "resource";
                errors.invalid(
                    path,
                    message,
                    "datasetName and datasetUUID can not be specified simultaneously",
                );
            } else if name.contains('/') {
                errors.invalid(path.child("datasetName"), name, "must not contain '/'");
            }
        }
        "azureDisk" => {
            for (field, known) in [
                ("cachingMode", &["None", "ReadOnly", "ReadWrite"]),
                ("kind", &["Dedicated", "Managed", "Shared"]),
            ] {
                let given = text(value, &format!("/{field}"));
                if !given.is_empty() {
                    errors.one_of(&path.child(field), given, known);
                }
            }
        }
        "gitRepo" => {
            let folder = text(value, "/directory");
            if folder.starts_with('/') {
                errors.invalid(path.child("directory"), folder, "must be a relative path");
            }
            if folder.split('/').any(|part| part == "..") {
                errors.invalid(path.child("directory"), folder, "must not contain '..'");
            }
        }
        _ => {}
    }
}

fn validate_lun(value: &Value, path: &Path, errors: &mut FieldErrors) {
    if let Some(number) = int(value, "/lun").filter(|n| !(0..=255).contains(n)) {
        errors.invalid(path.child("lun"), number, "must be between 0 and 255, inclusive");
    }
}

fn validate_fibre(value: &Value, path: &Path, errors: &mut FieldErrors) {
    let targets = list(value, "/targetWWNs");
    let wide = len(value, "/wwids");
    let at = path.child("targetWWNs");
    match (targets.is_empty(), wide) {
        (true, 0) => errors.required(&at, "must specify either targetWWNs or wwids, but not both"),
        (false, 1..) => {
            let message = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at, targets.to_vec(), message);
        }
        (false, 0) if int(value, "/lun").is_none() => {
            errors.required(path.child("lun"), "lun is required if targetWWNs is specified");
        }
        (false, 0) => validate_lun(value, path, errors),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_source_cannot_do_without_is_named() {
        let wrong = |source: &str, value: Value| {
            let mut errors = FieldErrors::new();
            validate(source, &value, &Path::new("v").child(source), &mut errors);
            errors.into_vec().into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(wrong("iscsi", json!({"targetPortal": "p", "iqn": "iqn.x", "lun": 3})), none);
        assert_eq!(wrong("fc", json!({"wwids": ["a"]})), none);
        for (source, value, want) in [
            ("cinder", json!({}), "v.cinder.volumeID: Required value"),
            ("azureFile", json!({"secretName": "s"}), "v.azureFile.shareName: Required value"),
            (
                "nfs",
                json!({"server": "s", "path": "x"}),
                "v.nfs.path: Invalid value: \"x\": must be an absolute path",
            ),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": "iqn.x", "lun": 256}),
                "v.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
            ),
            (
                "fc",
                json!({"targetWWNs": ["a"]}),
                "v.fc.lun: Required value: lun is required if targetWWNs is specified",
            ),
            ("rbd", json!({"image": "i"}), "v.rbd.monitors: Required value"),
            (
                "flocker",
                json!({}),
                "v.flocker: Required value: one of datasetName and datasetUUID is required",
            ),
            (
                "azureDisk",
                json!({"diskName": "d", "diskURI": "u", "kind": "Old"}),
                "v.azureDisk.kind: Unsupported value: \"Old\": supported values: \"Dedicated\", \"Managed\", \"Shared\"",
            ),
        ] {
            assert_eq!(wrong(source, value), [want]);
        }
    }
}

//! VolumeAttachment (storage.k8s.io/v1): the wish that a volume be attached to a node, and what became of it.

use super::{base, csi_driver, persistent_volume};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{flag, has, int, map, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of VolumeAttachment.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_status: true,
        columns: vec![
            print::name_column(),
            crate::Column { format: "name".into(), ..print::text_column("Attacher", "Who attaches it.") },
            print::text_column("PV", "The volume."),
            print::text_column("Node", "The node."),
            print::bool_column("Attached", "Whether it is attached."),
            print::age_column(),
        ],
        ..base("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", VolumeAttachment)
    }
}

const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

struct VolumeAttachment;

impl Rules for VolumeAttachment {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let attacher = text(object, "/spec/attacher");
        if attacher.is_empty() {
            errors.required(path.child("attacher"), "");
        } else {
            csi_driver::validate_name(attacher, &path.child("attacher"), &mut errors);
        }
        validate_source(object, &path.child("source"), &mut errors);
        let node = text(object, "/spec/nodeName");
        errors.messages(&path.child("nodeName"), node, name::dns_subdomain(node));
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("spec"), new.get("spec"), old.get("spec"));
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("status");
        let metadata = map(new, "/status/attachmentMetadata").into_iter().flatten();
        let size: usize = metadata.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
        if size > MAX_METADATA {
            errors.push(FieldError::too_long(path.child("attachmentMetadata"), MAX_METADATA));
        }
        for field in ["attachError", "detachError"] {
            let path = path.child(field);
            if text(new, &format!("/status/{field}/message")).len() > MAX_MESSAGE {
                errors.push(FieldError::too_long(path.child("message"), MAX_MESSAGE));
            }
            if let Some(code) = int(new, &format!("/status/{field}/errorCode")).filter(|code| *code < 0) {
                let message = "must be between 0 and 2147483647, inclusive";
                errors.invalid(path.child("errorCode"), code, message);
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(object),
            text(object, "/spec/attacher").into(),
            text(object, "/spec/source/persistentVolumeName").into(),
            text(object, "/spec/nodeName").into(),
            flag(object, "/status/attached").into(),
            print::age(object, now),
        ]
    }
}

fn validate_source(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let inline = object.pointer("/spec/source/inlineVolumeSpec").filter(|s| !s.is_null());
    match (inline, has(object, "/spec/source/persistentVolumeName")) {
        (None, false) => errors.required(path, message),
        (Some(_), true) => errors.forbidden(path, message),
        (Some(spec), false) => {
            persistent_volume::validate_spec(spec, true, &path.child("inlineVolumeSpec"), errors);
        }
        (None, true) => {
            let volume = text(object, "/spec/source/persistentVolumeName");
            let path = path.child("persistentVolumeName");
            if volume.is_empty() {
                errors.required(&path, "must specify non empty persistentVolumeName");
            } else {
                errors.messages(&path, volume, name::dns_subdomain(volume));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attachment(source: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.example.com", "nodeName": "n", "source": source}})
    }

    #[test]
    fn it_names_one_volume_and_stays() {
        let good = attachment(json!({"persistentVolumeName": "v"}));
        assert!(VolumeAttachment.validate(&good).is_empty());
        let inline = json!({"inlineVolumeSpec": {"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}});
        assert!(VolumeAttachment.validate(&attachment(inline)).is_empty());
        assert_eq!(
            VolumeAttachment.validate(&attachment(json!({})))[0].to_string(),
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        );
        let other = attachment(json!({"persistentVolumeName": "w"}));
        assert_eq!(VolumeAttachment.validate_update(&other, &good)[0].path, "spec");
    }

    #[test]
    fn errors_in_the_status_must_be_short() {
        let status = json!({"status": {"attachError": {"message": "x".repeat(1025), "errorCode": -1}}});
        let paths: Vec<String> =
            VolumeAttachment.validate_status(&status, &json!({})).into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["status.attachError.message", "status.attachError.errorCode"]);
    }
}

//! Validation of the volumes of a pod.

use super::{
    env::{validate_resource_field_ref, validate_volume_field_ref},
    volume_sources,
};
use crate::{
    FieldErrors, Path, kinds::persistent_volume_claim::validate_spec as validate_claim, name,
    quantity::Quantity,
};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Volume, VolumeProjection,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// All volumes; returns their names.
pub fn validate_volumes<'a>(
    volumes: &'a [Volume],
    path: &Path,
    errors: &mut FieldErrors,
) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        errors.required_and(&path.child("name"), &volume.name, name::dns_label);
        if !volume.name.is_empty() && !names.insert(volume.name.as_str()) {
            errors.duplicate(path.child("name"), volume.name.as_str());
        }
        if let Ok(Value::Object(fields)) = serde_json::to_value(volume) {
            validate_one_source(&fields, &path, errors);
            for (source, value) in &fields {
                volume_sources::validate(source, value, &path.child(source), errors);
            }
        }
        validate_source(volume, &path, errors);
    }
    names
}

fn validate_one_source(fields: &Map<String, Value>, path: &Path, errors: &mut FieldErrors) {
    let sources: Vec<&String> = fields.keys().filter(|field| *field != "name").collect();
    if sources.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for extra in sources.into_iter().skip(1) {
        errors.forbidden(path.child(extra), "may not specify more than 1 volume type");
    }
}

fn validate_source(volume: &Volume, path: &Path, errors: &mut FieldErrors) {
    let required = |value: &str, field: &str, errors: &mut FieldErrors| {
        if value.is_empty() {
            errors.required(path.child(field), "");
        }
    };
    if let Some(empty) = &volume.empty_dir {
        let limit = empty.size_limit.as_ref().map(|q| Quantity::parse(&q.0));
        if limit.is_some_and(|q| q.is_err() || q.is_ok_and(Quantity::is_negative)) {
            let message = "SizeLimit field must be a valid resource quantity";
            errors.forbidden(path.child("emptyDir.sizeLimit"), message);
        }
        let medium = empty.medium.as_deref().unwrap_or_default();
        if !medium.starts_with("HugePages") {
            errors.one_of(&path.child("emptyDir.medium"), medium, &["", "Memory", "HugePages"]);
        }
    }
    if let Some(host) = &volume.host_path {
        validate_host_path(host, &path.child("hostPath"), errors);
    }
    if let Some(secret) = &volume.secret {
        required(secret.secret_name.as_deref().unwrap_or_default(), "secret.secretName", errors);
        validate_mode(secret.default_mode, &path.child("secret.defaultMode"), errors);
        validate_items(secret.items.as_deref(), &path.child("secret.items"), errors);
    }
    if let Some(map) = &volume.config_map {
        required(&map.name, "configMap.name", errors);
        validate_mode(map.default_mode, &path.child("configMap.defaultMode"), errors);
        validate_items(map.items.as_deref(), &path.child("configMap.items"), errors);
    }
    if let Some(downward) = &volume.downward_api {
        validate_mode(downward.default_mode, &path.child("downwardAPI.defaultMode"), errors);
        validate_downward(downward.items.as_deref(), &path.child("downwardAPI"), errors);
    }
    if let Some(projected) = &volume.projected {
        let path = path.child("projected");
        validate_mode(projected.default_mode, &path.child("defaultMode"), errors);
        for (at, source) in projected.sources.iter().flatten().enumerate() {
            validate_projection(source, &path.child("sources").index(at), errors);
        }
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        required(&claim.claim_name, "persistentVolumeClaim.claimName", errors);
    }
    if let Some(csi) = &volume.csi {
        if !csi.driver.is_empty() {
            errors.messages(&path.child("csi.driver"), &csi.driver, name::dns_subdomain(&csi.driver));
        }
        if let Some(secret) = &csi.node_publish_secret_ref {
            required(&secret.name, "csi.nodePublishSecretRef.name", errors);
        }
    }
    if let Some(ephemeral) = &volume.ephemeral {
        let at = path.child("ephemeral.volumeClaimTemplate");
        match ephemeral.volume_claim_template.as_ref().and_then(|t| serde_json::to_value(&t.spec).ok()) {
            None => errors.required(&at, ""),
            Some(spec) => validate_claim(&spec, &at.child("spec"), errors),
        }
    }
    if let Some(image) = &volume.image {
        let policy = image.pull_policy.as_deref().unwrap_or_default();
        errors.one_of(&path.child("image.pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    }
}

fn validate_host_path(host: &HostPathVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if host.path.is_empty() {
        errors.required(path.child("path"), "");
    }
    no_back_steps(&host.path, &path.child("path"), errors);
    let kind = host.type_.as_deref().unwrap_or_default();
    errors.one_of(&path.child("type"), kind, &HOST_PATH_TYPES);
}

fn no_back_steps(file: &str, path: &Path, errors: &mut FieldErrors) {
    if file.split('/').any(|part| part == "..") {
        errors.invalid(path, file, "must not contain '..'");
    }
}

/// A path below the volume.
fn validate_relative(file: &str, path: &Path, errors: &mut FieldErrors) {
    if file.is_empty() {
        errors.required(path, "");
        return;
    }
    if file.starts_with('/') {
        errors.invalid(path, file, "must be a relative path");
    }
    no_back_steps(file, path, errors);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.invalid(path, file, "must not start with '..'");
    }
}

fn validate_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut FieldErrors) {
    for (at, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        if item.key.is_empty() {
            errors.required(path.child("key"), "");
        }
        validate_relative(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

fn validate_downward(items: Option<&[DownwardAPIVolumeFile]>, path: &Path, errors: &mut FieldErrors) {
    for item in items.unwrap_or_default() {
        validate_relative(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => validate_volume_field_ref(field, &path.child("fieldRef"), errors),
            (None, Some(resource)) => {
                if resource.container_name.as_deref().unwrap_or_default().is_empty() {
                    errors.required(path.child("resourceFieldRef.containerName"), "");
                }
                validate_resource_field_ref(resource, &path.child("resourceFieldRef"), errors);
            }
            (Some(_), Some(_)) => {
                let message = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", message);
            }
            (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

fn validate_projection(source: &VolumeProjection, path: &Path, errors: &mut FieldErrors) {
    let mut sources = 0;
    if let Some(secret) = &source.secret {
        sources += 1;
        if secret.name.is_empty() {
            errors.required(path.child("secret.name"), "");
        }
        validate_items(secret.items.as_deref(), &path.child("secret.items"), errors);
    }
    if let Some(map) = &source.config_map {
        sources += 1;
        if map.name.is_empty() {
            errors.required(path.child("configMap.name"), "");
        }
        validate_items(map.items.as_deref(), &path.child("configMap.items"), errors);
    }
    if let Some(downward) = &source.downward_api {
        sources += 1;
        validate_downward(downward.items.as_deref(), &path.child("downwardAPI"), errors);
    }
    if let Some(token) = &source.service_account_token {
        sources += 1;
        let path = path.child("serviceAccountToken");
        let seconds = token.expiration_seconds.unwrap_or(3600);
        if seconds < 600 {
            let message = "may not specify a duration less than 10 minutes";
            errors.invalid(path.child("expirationSeconds"), seconds, message);
        } else if seconds > 1 << 32 {
            let message = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(path.child("expirationSeconds"), seconds, message);
        }
        validate_relative(&token.path, &path.child("path"), errors);
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        sources += 1;
        let path = path.child("clusterTrustBundle");
        let (by_name, by_signer) = (
            !bundle.name.as_deref().unwrap_or_default().is_empty(),
            !bundle.signer_name.as_deref().unwrap_or_default().is_empty(),
        );
        match (by_name, by_signer) {
            (true, true) => errors.invalid(&path, "", "only one of name and signerName may be used"),
            (false, false) => errors.required(&path, "either name or signerName must be specified"),
            _ => {}
        }
        validate_relative(&bundle.path, &path.child("path"), errors);
    }
    sources += usize::from(source.pod_certificate.is_some());
    match sources {
        0 => errors.required(path, "specify one source type"),
        1 => {}
        _ => errors.forbidden(path, "may not specify more than 1 volume type per source"),
    }
}

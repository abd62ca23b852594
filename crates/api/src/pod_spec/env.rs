//! Validation of environment variables and of the references to fields of the pod that they and volumes share.

use crate::{FieldErrors, Path, name, quantity::Quantity};
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

/// Fields that an environment variable may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file of a downward API volume may show.
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that are known and can be shown nowhere.
const OTHER_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All variables of a container.
pub fn validate_env(env: &[EnvVar], path: &Path, errors: &mut FieldErrors) {
    for (at, variable) in env.iter().enumerate() {
        let path = path.index(at);
        errors.required_and(&path.child("name"), &variable.name, name::env_name);
        if let Some(from) = &variable.value_from {
            let both = variable.value.as_deref().is_some_and(|v| !v.is_empty());
            validate_source(from, both, &path.child("valueFrom"), errors);
        }
    }
}

fn validate_source(from: &EnvVarSource, has_value: bool, path: &Path, errors: &mut FieldErrors) {
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        validate_field_ref(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        validate_resource_field_ref(resource, &path.child("resourceFieldRef"), errors);
    }
    for (key_ref, field) in [
        (from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key)), "configMapKeyRef"),
        (from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key)), "secretKeyRef"),
    ] {
        if let Some((object, key)) = key_ref {
            sources += 1;
            let path = path.child(field);
            errors.messages(&path.child("name"), object, name::dns_subdomain(object));
            errors.required_and(&path.child("key"), key, name::config_key);
        }
    }
    sources += usize::from(from.file_key_ref.is_some());
    match sources {
        0 => errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if has_value => errors.invalid(path, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

/// All sources of whole sets of variables.
pub fn validate_env_from(sources: &[EnvFromSource], path: &Path, errors: &mut FieldErrors) {
    for (at, source) in sources.iter().enumerate() {
        let (all, path) = (path, path.index(at));
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if !prefix.is_empty() {
            errors.messages(&path.child("prefix"), prefix, name::env_name(prefix));
        }
        let config_map = source.config_map_ref.as_ref().map(|r| ("configMapRef", &r.name));
        let secret = source.secret_ref.as_ref().map(|r| ("secretRef", &r.name));
        for (field, name) in [config_map, secret].into_iter().flatten() {
            errors.required_and(&path.child(field).child("name"), name, name::dns_subdomain);
        }
        match (config_map, secret) {
            // These stand at the list, as they do in Kubernetes.
            (None, None) => errors.invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => {
                errors.invalid(all, "", "may not have more than one field specified at a time");
            }
            _ => {}
        }
    }
}

/// A reference from a file of a downward API volume.
pub fn validate_volume_field_ref(field: &ObjectFieldSelector, path: &Path, errors: &mut FieldErrors) {
    validate_field_ref(field, &VOLUME_FIELDS, path, errors);
}

fn validate_field_ref(field: &ObjectFieldSelector, known: &[&str], path: &Path, errors: &mut FieldErrors) {
    if field.api_version.as_deref().unwrap_or_default().is_empty() {
        errors.required(path.child("apiVersion"), "");
        return;
    }
    let (reference, path) = (path, path.child("fieldPath"));
    let wanted = field.field_path.as_str();
    match subscript(wanted) {
        _ if wanted.is_empty() => errors.required(&path, ""),
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errors.messages(reference, &key, name::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => errors.messages(reference, key, name::qualified_name(key)),
        Some(_) => {
            let message =
                format!("error converting fieldPath: field label does not support subscript: {wanted}");
            errors.invalid(&path, wanted, message);
        }
        None if [&ENV_FIELDS[..], &VOLUME_FIELDS, &OTHER_FIELDS].concat().contains(&wanted) => {
            errors.one_of(&path, wanted, known);
        }
        None => {
            let message = format!("error converting fieldPath: field label not supported: {wanted}");
            errors.invalid(&path, wanted, message);
        }
    }
}

/// `metadata.labels['a']` is the label `a`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// A reference to requests or limits of a container.
pub fn validate_resource_field_ref(resource: &ResourceFieldSelector, path: &Path, errors: &mut FieldErrors) {
    let wanted = resource.resource.as_str();
    let huge = wanted.starts_with("limits.hugepages-") || wanted.starts_with("requests.hugepages-");
    if wanted.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !huge {
        errors.one_of(&path.child("resource"), wanted, &RESOURCES);
    }
    let divisor = resource.divisor.as_ref().map(Quantity::of).unwrap_or_default();
    const SIZES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (good, shown, kind): (&[&str], _, _) = match wanted.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"], "1m and 1".to_string(), "cpu"),
        "memory" => (&SIZES, SIZES.join(", "), "memory"),
        "ephemeral-storage" => (&SIZES, SIZES.join(", "), "local ephemeral storage"),
        _ if huge => (&SIZES, SIZES.join(", "), "hugepages"),
        _ => return,
    };
    if !divisor.is_zero() && !good.contains(&divisor.to_string().as_str()) {
        let message = format!("only divisor's values {shown} are supported with the {kind} resource");
        errors.invalid(path.child("divisor"), wanted, message);
    }
}

//! Validation of a pod spec as a whole: what is neither a container's, a volume's nor the scheduler's.

use super::{MAX_INT32, containers, resources, scheduling, security, volumes};
use crate::{FieldErrors, Path, name};
use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// All that is wrong with a pod spec, in a pod or in a template.
pub fn validate_spec(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let given = spec.volumes.as_deref().unwrap_or_default();
    let names = volumes::validate_volumes(given, &path.child("volumes"), errors);
    containers::validate_containers(spec, &names, path, errors);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    let supported = ["Always", "Never", "OnFailure"];
    errors.required_one_of(&path.child("restartPolicy"), policy, &supported);
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    errors.required_one_of(&path.child("dnsPolicy"), policy, &DNS_POLICIES);
    validate_dns_config(spec.dns_config.as_ref(), policy, &path.child("dnsConfig"), errors);
    scheduling::validate(spec, path, errors);
    security::validate_pod(spec, path, errors);
    validate_names(spec, path, errors);
    if let Some(resources) = &spec.resources {
        resources::validate_pod_resources(resources, &path.child("resources"), errors);
    }
    for (name, amount) in spec.overhead.iter().flatten() {
        resources::validate_amount(name, amount, &path.child("overhead").key(name), errors);
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=MAX_INT32).contains(s)) {
        let message = "must be between 1 and 2147483647, inclusive";
        errors.invalid(path.child("activeDeadlineSeconds"), seconds, message);
    }
    if let Some(policy) = &spec.preemption_policy {
        let supported = ["Never", "PreemptLowerPriority"];
        errors.one_of(&path.child("preemptionPolicy"), policy, &supported);
    }
    if let Some(os) = &spec.os {
        errors.required_one_of(&path.child("os.name"), &os.name, &["linux", "windows"]);
    }
    for alias in spec.host_aliases.iter().flatten() {
        let path = path.child("hostAliases");
        errors.messages(&path.child("ip"), &alias.ip, name::ip_address(&alias.ip));
        for host in alias.hostnames.iter().flatten() {
            errors.messages(&path.child("hostnames"), host, name::dns_subdomain(host));
        }
    }
}

/// What names other objects, and the pod's own host name.
fn validate_names(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    type Check = fn(&str) -> Vec<String>;
    let fields: [(&str, &Option<String>, Check); 6] = [
        ("serviceAccountName", &spec.service_account_name, name::dns_subdomain),
        ("nodeName", &spec.node_name, name::dns_subdomain),
        ("hostname", &spec.hostname, name::dns_label),
        ("subdomain", &spec.subdomain, name::dns_label),
        ("priorityClassName", &spec.priority_class_name, name::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, name::dns_subdomain),
    ];
    for (field, value, check) in fields {
        let value = value.as_deref().unwrap_or_default();
        if !value.is_empty() {
            errors.messages(&path.child(field), value, check(value));
        }
    }
}

fn validate_dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &Path, errors: &mut FieldErrors) {
    let servers = config.and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == "None" && servers.is_empty() {
        let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        match config {
            Some(_) => errors.required(path.child("nameservers"), message),
            None => errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None"),
        }
    }
    let Some(config) = config else { return };
    if servers.len() > 3 {
        let message = "must not have more than 3 nameservers";
        errors.invalid(path.child("nameservers"), servers.to_vec(), message);
    }
    for (at, server) in servers.iter().enumerate() {
        errors.messages(&path.child("nameservers").index(at), server, name::ip_address(server));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > 32 {
        let message = "must not have more than 32 search paths";
        errors.invalid(path.child("searches"), searches.to_vec(), message);
    }
    for (at, search) in searches.iter().enumerate() {
        // A trailing dot and underscores are usual in search paths.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        if !plain.is_empty() {
            errors.messages(&path.child("searches").index(at), search, name::dns_subdomain(&plain));
        }
    }
    for (at, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(path.child("options").index(at), "must not be empty");
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;

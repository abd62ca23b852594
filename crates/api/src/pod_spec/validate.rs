//! Validation of a pod spec as a whole: what is neither a container's, a volume's nor the scheduler's.

use super::{MAX_INT32, containers, resources, scheduling, security, volumes};
use crate::{FieldErrors, Path, name};
use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
/// The longest list of search paths, with the spaces between them.
const MAX_SEARCH: usize = 2048;

/// All that is wrong with a pod spec, in a pod or in a template.
pub fn validate_spec(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let given = spec.volumes.as_deref().unwrap_or_default();
    let names = volumes::validate_volumes(given, &path.child("volumes"), errors);
    containers::validate_containers(spec, &names, path, errors);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    let supported = ["Always", "OnFailure", "Never"];
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
        let supported = ["PreemptLowerPriority", "Never"];
        errors.one_of(&path.child("preemptionPolicy"), policy, &supported);
    }
    if let Some(os) = &spec.os {
        let path = path.child("os");
        if os.name.is_empty() {
            errors.required(path.child("name"), "cannot be empty");
        }
        errors.one_of(&path, &os.name, &["linux", "windows"]);
    }
    for (at, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(at);
        errors.messages(&path.child("ip"), &alias.ip, name::ip_address(&alias.ip));
        for (at, host) in alias.hostnames.iter().flatten().enumerate() {
            errors.messages(&path.child("hostnames").index(at), host, name::dns_subdomain(host));
        }
    }
}

/// What is wrong with a spec that is right for a template and not for a pod: image names with blanks around them, and tokens
/// of no account.
pub fn validate_for_pod(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        for (at, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default();
            for (index, source) in sources.iter().enumerate() {
                if source.service_account_token.is_some() {
                    let path = path.child("volumes").index(at).child("projected.sources").index(index);
                    let message = "must not be specified when serviceAccountName is not set";
                    errors.forbidden(path.child("serviceAccountToken"), message);
                }
            }
        }
    }
    let mut check = |list: &str, at: usize, image: &str| {
        if image.trim() != image {
            let path = path.child(list).index(at).child("image");
            errors.invalid(path, image, "must not have leading or trailing whitespace");
        }
    };
    for (at, container) in spec.containers.iter().enumerate() {
        check("containers", at, container.image.as_deref().unwrap_or_default());
    }
    for (at, container) in spec.init_containers.iter().flatten().enumerate() {
        check("initContainers", at, container.image.as_deref().unwrap_or_default());
    }
    for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        check("ephemeralContainers", at, container.image.as_deref().unwrap_or_default());
    }
}

/// On the network of the host a port is the same inside and outside. A template may leave the outer one open: its pods get it.
pub fn validate_host_network(spec: &PodSpec, of_pod: bool, path: &Path, errors: &mut FieldErrors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (at, container) in spec.containers.iter().enumerate() {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or_default();
            if (of_pod || host != 0) && host != port.container_port {
                let path = path.child("containers").index(at).child("ports").index(index);
                let message = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(path.child("hostPort"), host, message);
            }
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
        return match config {
            Some(_) => errors.required(path.child("nameservers"), message),
            None => errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None"),
        };
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
    if searches.join(" ").len() > MAX_SEARCH {
        let message = "must not have more than 2048 characters (including spaces) in the search list";
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

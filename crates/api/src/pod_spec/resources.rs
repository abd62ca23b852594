//! Validation of requests and limits of containers and pods.

use crate::{FieldErrors, Path, name, pod_resources::is_pod_level, quantity::Quantity};
use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity as TypedQuantity,
};
use std::collections::BTreeMap;

/// Whether Kubernetes itself knows the resource: all others need a domain in front (`example.com/gpu`).
fn is_native(name: &str) -> bool {
    !name.contains('/')
        || name.split('/').next().is_some_and(|p| p == "kubernetes.io" || p.ends_with(".kubernetes.io"))
}

/// Whether a node may promise more of it than it has.
fn is_overcommittable(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// The requests and limits of a container.
pub fn validate_container_resources(resources: &ResourceRequirements, path: &Path, errors: &mut FieldErrors) {
    validate(resources, path, errors, |name| {
        if !name.contains('/') && !is_standard(name) {
            Some("must be a standard resource for containers")
        } else {
            None
        }
    });
}

/// The name of a resource: one that Kubernetes knows (for containers, where `of_containers`), or one with a domain.
pub fn validate_resource_name(name: &str, of_containers: bool, path: &Path, errors: &mut FieldErrors) {
    errors.messages(path, name, name::qualified_name(name));
    if !name.contains('/') && !is_standard(name) && (of_containers || name != "storage") {
        let message = if of_containers {
            "must be a standard resource for containers"
        } else {
            "must be a standard resource type"
        };
        errors.invalid(path, name, message);
    }
}

/// The requests and limits of a pod as a whole.
pub fn validate_pod_resources(resources: &ResourceRequirements, path: &Path, errors: &mut FieldErrors) {
    validate(resources, path, errors, |name| {
        if is_pod_level(name) { None } else { Some("must be a standard resource for pods") }
    });
}

fn validate(
    resources: &ResourceRequirements,
    path: &Path,
    errors: &mut FieldErrors,
    wrong_name: impl Fn(&str) -> Option<&'static str>,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let empty = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    for (amounts, path) in [(limits, &limits_path), (requests, &requests_path)] {
        for (name, amount) in amounts {
            let path = path.key(name);
            errors.messages(&path, name, name::qualified_name(name));
            if let Some(message) = wrong_name(name) {
                errors.invalid(&path, name.as_str(), message);
            }
            validate_amount(name, amount, &path, errors);
        }
    }
    for (name, amount) in requests {
        let request = Quantity::of(amount);
        match limits.get(name) {
            Some(limit) => {
                let shown = &limit.0;
                let limit = Quantity::of(limit);
                if !is_overcommittable(name) && request != limit {
                    let message = format!("must be equal to {name} limit of {shown}");
                    errors.invalid(&requests_path, amount.0.as_str(), message);
                } else if request > limit {
                    let message = format!("must be less than or equal to {name} limit of {shown}");
                    errors.invalid(&requests_path, amount.0.as_str(), message);
                }
            }
            None if !is_overcommittable(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
}

/// One amount: readable, not negative, and whole where parts make no sense.
pub fn validate_amount(name: &str, amount: &TypedQuantity, path: &Path, errors: &mut FieldErrors) {
    match Quantity::parse(&amount.0) {
        Err(e) => errors.invalid(path, amount.0.as_str(), e.to_string()),
        Ok(q) if q.is_negative() => {
            errors.invalid(path, amount.0.as_str(), "must be greater than or equal to 0");
        }
        Ok(q) if !is_native(name) && !q.is_whole() => {
            errors.invalid(path, amount.0.as_str(), "must be an integer")
        }
        Ok(_) => {}
    }
}

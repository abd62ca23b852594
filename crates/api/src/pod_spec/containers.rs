//! Validation of containers: main, init and ephemeral ones.

use super::{
    env::{validate_env, validate_env_from},
    ephemeral,
    probes::{Purpose, validate_lifecycle, validate_probe},
    resources::validate_container_resources,
    security,
};
use crate::{FieldErrors, Path, name, pod_resources::is_sidecar};
use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, VolumeMount};
use std::collections::BTreeSet;

/// All containers of a pod. `volumes` are the names that mounts may use.
pub fn validate_containers(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &Path, errors: &mut FieldErrors) {
    let grace = spec.termination_grace_period_seconds;
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let main = path.child("containers");
    if spec.containers.is_empty() {
        errors.required(&main, "");
    }
    for (at, container) in spec.containers.iter().enumerate() {
        let path = main.index(at);
        validate_name(container, &mut names, &path, errors);
        validate_container(container, volumes, &path, errors);
        validate_running(container, grace, &path, errors);
        validate_host_ports(container, Some(&mut host_ports), &path, errors);
        if let Some(policy) = &container.restart_policy {
            errors.one_of(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
        }
    }
    for (at, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.child("initContainers").index(at);
        validate_name(container, &mut names, &path, errors);
        validate_container(container, volumes, &path, errors);
        // One after the other: only ports of the same init container can collide.
        validate_host_ports(container, None, &path, errors);
        validate_init(container, grace, &path, errors);
    }
    ephemeral::validate(spec, volumes, path, errors);
}

fn validate_name<'a>(
    container: &'a Container,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let path = path.child("name");
    errors.required_and(&path, &container.name, name::dns_label);
    if !container.name.is_empty() && !names.insert(&container.name) {
        errors.duplicate(&path, container.name.as_str());
    }
}

/// What an init container may not have, unless it keeps running as a sidecar.
fn validate_init(container: &Container, grace: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(policy) = &container.restart_policy {
        errors.one_of(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    if is_sidecar(container) {
        validate_running(container, grace, path, errors);
        return;
    }
    let message = "may not be set for init containers without restartPolicy=Always";
    for (field, is_set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if is_set {
            errors.forbidden(path.child(field), message);
        }
    }
}

fn validate_running(container: &Container, grace: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(lifecycle) = &container.lifecycle {
        validate_lifecycle(lifecycle, grace, &path.child("lifecycle"), errors);
    }
    for (field, probe, purpose) in [
        ("livenessProbe", &container.liveness_probe, Purpose::Liveness),
        ("readinessProbe", &container.readiness_probe, Purpose::Readiness),
        ("startupProbe", &container.startup_probe, Purpose::Startup),
    ] {
        if let Some(probe) = probe {
            validate_probe(probe, purpose, &path.child(field), errors);
        }
    }
}

pub(super) fn validate_container(
    container: &Container,
    volumes: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.required(path.child("image"), "");
    }
    let policy = container.termination_message_policy.as_deref().unwrap_or_default();
    let supported = ["File", "FallbackToLogsOnError"];
    errors.required_one_of(&path.child("terminationMessagePolicy"), policy, &supported);
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    validate_env(container.env.as_deref().unwrap_or_default(), &path.child("env"), errors);
    validate_env_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    validate_mounts(container, volumes, &path.child("volumeMounts"), errors);
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    let supported = ["Always", "IfNotPresent", "Never"];
    errors.required_one_of(&path.child("imagePullPolicy"), policy, &supported);
    if let Some(resources) = &container.resources {
        validate_container_resources(resources, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        security::validate_container(context, &path.child("securityContext"), errors);
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            let wrong = name::port_name(name);
            if wrong.is_empty() && !names.insert(name) {
                errors.duplicate(path.child("name"), name);
            }
            errors.messages(&path.child("name"), name, wrong);
        }
        let number = i64::from(port.container_port);
        if number == 0 {
            errors.required(path.child("containerPort"), "");
        } else {
            port_number(number, &path.child("containerPort"), errors);
        }
        if let Some(host) = port.host_port.filter(|p| *p != 0) {
            port_number(i64::from(host), &path.child("hostPort"), errors);
        }
        let host_ip = port.host_ip.as_deref().unwrap_or_default();
        if !host_ip.is_empty() {
            errors.messages(&path.child("hostIP"), host_ip, name::ip_address(host_ip));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
}

fn port_number(number: i64, path: &Path, errors: &mut FieldErrors) {
    for message in name::port_number(number) {
        errors.invalid(path, number, message);
    }
}

fn validate_host_ports(
    container: &Container,
    taken: Option<&mut BTreeSet<String>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut own = BTreeSet::new();
    let taken = taken.unwrap_or(&mut own);
    for (at, port) in container.ports.iter().flatten().enumerate() {
        let path = path.child("ports").index(at);
        let host = port.host_port.unwrap_or_default();
        if host != 0 {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let shown = format!("{protocol}/{}/{host}", port.host_ip.as_deref().unwrap_or_default());
            if !taken.insert(shown.clone()) {
                errors.duplicate(path.child("hostPort"), shown);
            }
        }
    }
}

fn validate_mounts(container: &Container, volumes: &BTreeSet<&str>, path: &Path, errors: &mut FieldErrors) {
    let mut places = BTreeSet::new();
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let (all, path) = (path, path.index(at));
        if mount.name.is_empty() {
            errors.required(path.child("name"), "");
        }
        if !volumes.contains(mount.name.as_str()) {
            errors.push(crate::FieldError::not_found(path.child("name"), mount.name.as_str()));
        }
        if mount.mount_path.is_empty() {
            errors.required(path.child("mountPath"), "");
        } else if !places.insert(&mount.mount_path) {
            errors.invalid(path.child("mountPath"), mount.mount_path.as_str(), "must be unique");
        }
        validate_sub_path(mount, all, &path, errors);
        let privileged = container.security_context.as_ref().is_some_and(|c| c.privileged == Some(true));
        if let Some(propagation) = &mount.mount_propagation {
            let supported = ["Bidirectional", "HostToContainer", "None"];
            errors.one_of(&all.child("mountPropagation"), propagation, &supported);
            if propagation == "Bidirectional" && !privileged {
                let message = "Bidirectional mount propagation is available only to privileged containers";
                errors.forbidden(all.child("mountPropagation"), message);
            }
        }
        if let Some(mode) = &mount.recursive_read_only {
            validate_recursive_read_only(mount, mode, &all.child("recursiveReadOnly"), errors);
        }
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, mode: &str, path: &Path, errors: &mut FieldErrors) {
    if !matches!(mode, "Enabled" | "IfPossible") {
        return errors.one_of(path, mode, &["Disabled", "Enabled", "IfPossible"]);
    }
    if mount.read_only != Some(true) {
        errors.forbidden(path, "may only be specified when readOnly is true");
    }
    if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
        errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
    }
}

/// What is wrong with paths below a volume stands at the list of mounts, `all`, as it does in Kubernetes.
fn validate_sub_path(mount: &VolumeMount, all: &Path, path: &Path, errors: &mut FieldErrors) {
    let plain = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    for (field, sub) in [("subPath", plain), ("subPathExpr", expression)] {
        let path = all.child(field);
        if sub.starts_with('/') {
            errors.invalid(&path, sub, "must be a relative path");
        }
        if sub.split('/').any(|part| part == "..") {
            errors.invalid(&path, sub, "must not contain '..'");
        }
    }
    if !plain.is_empty() && !expression.is_empty() {
        errors.invalid(
            path.child("subPathExpr"),
            expression,
            "subPathExpr and subPath are mutually exclusive",
        );
    }
}

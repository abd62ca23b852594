//! Validation of security contexts, of pods and of containers.

use super::MAX_INT32;
use crate::{FieldError, FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use serde_json::Value;

/// The longest name of an AppArmor profile.
const MAX_PROFILE: usize = 4095;

/// The security context of a whole pod, and the host's namespaces beside it.
pub fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(context) = &spec.security_context else { return };
    let path = path.child("securityContext");
    validate_ids(context, &path, errors);
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), true, message);
    }
    if let Some(policy) = &context.fs_group_change_policy {
        errors.one_of(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.one_of(&path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        errors.one_of(&path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
    let mut seen = std::collections::BTreeSet::new();
    for (at, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = path.child("sysctls").index(at).child("name");
        if sysctl.name.is_empty() {
            errors.required(&path, "");
        } else if sysctl.name.len() > 253 || !is_sysctl(&sysctl.name) {
            errors.invalid(
                &path,
                sysctl.name.as_str(),
                "must have at most 253 characters and match regex \
                ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !seen.insert(&sysctl.name) {
            errors.duplicate(&path, sysctl.name.as_str());
        }
        let (network, ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
        match sysctl_namespace(&sysctl.name) {
            "net" if network => {
                let message = "may not be specified when 'hostNetwork' is true";
                errors.invalid(&path, sysctl.name.as_str(), message);
            }
            "ipc" if ipc => {
                let message = "may not be specified when 'hostIPC' is true";
                errors.invalid(&path, sysctl.name.as_str(), message);
            }
            _ => {}
        }
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), &path, errors);
}

/// The kernel's namespace that a setting belongs to.
fn sysctl_namespace(name: &str) -> &'static str {
    let name = name.replace('/', ".");
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match () {
        () if starts(&["net."]) => "net",
        () if name == "kernel.sem" || starts(&["kernel.shm", "kernel.msg", "fs.mqueue."]) => "ipc",
        () => "",
    }
}

fn is_sysctl(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.split(['.', '/']).all(|part| {
        let bytes = part.as_bytes();
        let ends = bytes.first().is_some_and(|b| good(*b)) && bytes.last().is_some_and(|b| good(*b));
        ends && bytes.iter().all(|b| good(*b) || b"-_".contains(b))
    })
}

fn validate_ids(context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    for (field, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        validate_id(id, &path.child(field), errors);
    }
    for (at, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(Some(*group), &path.child("supplementalGroups").index(at), errors);
    }
}

/// The number of a user or group.
fn validate_id(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=MAX_INT32).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// The security context of a container.
pub fn validate_container(context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
    validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(mount) = &context.proc_mount {
        errors.one_of(&path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path, errors);
    if context.allow_privilege_escalation == Some(false) {
        let shown = || serde_json::to_value(context).unwrap_or(Value::Null);
        if context.privileged == Some(true) {
            let message = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, shown(), message);
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_ref());
        if added.into_iter().flatten().any(|c| c == "CAP_SYS_ADMIN") {
            let message =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, shown(), message);
        }
    }
}

fn validate_profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if let Some(profile) = seccomp {
        let path = path.child("seccompProfile");
        validate_profile_type("seccomp", &profile.type_, &path, errors);
        validate_seccomp_file(profile, &path.child("localhostProfile"), errors);
    }
    if let Some(profile) = app_armor {
        let path = path.child("appArmorProfile");
        validate_profile_type("appArmor", &profile.type_, &path, errors);
        validate_app_armor_name(profile, &path.child("localhostProfile"), errors);
    }
}

fn validate_profile_type(what: &str, kind: &str, path: &Path, errors: &mut FieldErrors) {
    if kind.is_empty() {
        errors.required(path.child("type"), &format!("type is required when {what}Profile is set"));
    } else {
        errors.one_of(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
}

/// The file of a profile on the node.
fn validate_seccomp_file(profile: &SeccompProfile, path: &Path, errors: &mut FieldErrors) {
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.required(path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => {
            if file.starts_with('/') {
                errors.invalid(path, file, "must be a relative path");
            }
            if file.split('/').any(|part| part == "..") {
                errors.invalid(path, file, "must not contain '..'");
            }
        }
        (_, None) => {}
        (_, Some(_)) => {
            let shown = serde_json::to_value(profile).unwrap_or(Value::Null);
            errors.invalid(path, shown, "can only be set when seccomp type is Localhost");
        }
    }
}

/// The name of a profile on the node.
fn validate_app_armor_name(profile: &AppArmorProfile, path: &Path, errors: &mut FieldErrors) {
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.invalid(path, name, "must not be padded with whitespace");
        }
        ("Localhost", None | Some("")) => {
            errors.required(path, "must be set when AppArmor type is Localhost");
        }
        ("Localhost", Some(name)) if name.len() > MAX_PROFILE => {
            errors.push(FieldError::too_long(path, MAX_PROFILE));
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(path, name, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
}

//! The status of a claim: which devices it got, who uses them, and what drivers say about them.

use super::{
    MAX_CONFIGURATIONS, bounded, claim::RequestNames, distinct, texts_of, validate_binding,
    validate_configuration, validate_driver, validate_label, validate_pool, validate_raw,
    validate_tolerations,
};
use crate::{
    FieldError, FieldErrors, Path, condition, name,
    object::{each, has, list, text},
    pod_spec::scheduling::validate_node_selector,
};
use k8s_openapi::api::core::v1::NodeSelector;
use serde_json::Value;
use std::collections::BTreeSet;

const MAX_RESERVATIONS: usize = 256;
const MAX_RESULTS: usize = 32;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE: usize = 128;
const MAX_IPS: usize = 16;
const UID_MESSAGE: &str = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with \
    lowercase hexadecimal characters";

/// What a device is known by: driver, pool and name.
fn device_id(device: &Value) -> [&str; 3] {
    ["/driver", "/pool", "/device"].map(|field| text(device, field))
}

/// The same, and which share of the device it is.
fn share_id(device: &Value) -> String {
    let [driver, pool, name] = device_id(device);
    match text(device, "/shareID") {
        "" => format!("{driver}/{pool}/{name}"),
        share => format!("{driver}/{pool}/{name}/{share}"),
    }
}

/// Fills in how the results tolerate taints. `status` is that of a claim.
pub(in crate::kinds) fn set_defaults(status: &mut Value) {
    if let Some(devices) = status.pointer_mut("/allocation/devices") {
        each(devices, "results", super::default_tolerations);
    }
}

/// Drops what drivers say about devices that the claim had and has no more.
pub(in crate::kinds) fn forget_deallocated(new: &mut Value, old: &Value) {
    let ids = |claim: &Value| -> BTreeSet<[String; 3]> {
        let results = list(claim, "/status/allocation/devices/results").iter();
        results.map(|result| device_id(result).map(String::from)).collect()
    };
    let (before, after) = (ids(old), ids(new));
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| {
        let id = device_id(device).map(String::from);
        after.contains(&id) || !before.contains(&id)
    });
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// All that is wrong with a changed status.
pub(in crate::kinds) fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    validate_reservations(new, old, &path.child("reservedFor"), errors);
    let at = path.child("devices");
    let results = list(new, "/status/allocation/devices/results").iter();
    let allocated: BTreeSet<String> = results.map(share_id).collect();
    let devices = list(new, "/status/devices");
    for (number, device) in devices.iter().enumerate() {
        validate_device(device, &allocated, &at.index(number), errors);
    }
    distinct(devices.iter().map(share_id), &at, errors);
    let at = path.child("allocation");
    let allocation = |claim: &Value| {
        let allocation = claim.pointer("/status/allocation").filter(|a| !a.is_null());
        allocation.cloned()
    };
    match (allocation(new), allocation(old)) {
        (Some(new), Some(old)) => errors.immutable(&at, Some(&new), Some(&old)),
        (Some(allocation), None) => {
            let spec = new.get("spec").unwrap_or(&Value::Null);
            validate_allocation(&allocation, &RequestNames::of(spec), &at, errors);
        }
        (None, _) => {}
    }
}

fn validate_reservations(new: &Value, old: &Value, path: &Path, errors: &mut FieldErrors) {
    let users = bounded(new, "/status/reservedFor", MAX_RESERVATIONS, path, errors);
    for (at, user) in users.iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            if text(user, &format!("/{field}")).is_empty() {
                errors.required(path.index(at).child(field), "");
            }
        }
    }
    distinct(users.iter().map(|user| text(user, "/uid").to_string()), path, errors);
    let users = list(new, "/status/reservedFor");
    if users.is_empty() {
        return;
    }
    let before = list(old, "/status/reservedFor");
    if !has(new, "/status/allocation") {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if has(new, "/metadata/deletionTimestamp") && users.iter().any(|user| !before.contains(user)) {
        let message =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, message);
    }
}

fn validate_allocation(allocation: &Value, names: &RequestNames<'_>, path: &Path, errors: &mut FieldErrors) {
    let devices = path.child("devices");
    let at = devices.child("results");
    let results = bounded(allocation, "/devices/results", MAX_RESULTS, &at, errors);
    for (number, result) in results.iter().enumerate() {
        let path = at.index(number);
        names.validate(text(result, "/request"), &path.child("request"), errors);
        validate_identity(result, &path, errors);
        validate_binding(result, &path, errors);
        validate_tolerations(result, &path, errors);
    }
    let at = devices.child("config");
    // That of the classes and that of the claim.
    let configurations = bounded(allocation, "/devices/config", 2 * MAX_CONFIGURATIONS, &at, errors);
    for (number, configuration) in configurations.iter().enumerate() {
        let path = at.index(number);
        let source = text(configuration, "/source");
        errors.required_one_of(&path.child("source"), source, &["FromClaim", "FromClass"]);
        names.validate_list(configuration, &path, errors);
        validate_configuration(configuration, &path, errors);
    }
    if let Some(selector) = allocation.get("nodeSelector").filter(|s| !s.is_null()) {
        let path = path.child("nodeSelector");
        if let Some(selector) = errors.decode::<NodeSelector>(&path, selector) {
            validate_node_selector(&selector, &path, errors);
        }
    }
}

/// Driver, pool, name and share of a device.
fn validate_identity(device: &Value, path: &Path, errors: &mut FieldErrors) {
    validate_driver(text(device, "/driver"), &path.child("driver"), errors);
    validate_pool(text(device, "/pool"), &path.child("pool"), errors);
    validate_label(text(device, "/device"), &path.child("device"), errors);
    if has(device, "/shareID") {
        let share = text(device, "/shareID");
        if !is_uid(share) {
            errors.invalid(path.child("shareID"), share, UID_MESSAGE);
        }
    }
}

/// A UUID in lower case, with its dashes.
fn is_uid(uid: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    uid.len() == 36
        && uid
            .bytes()
            .enumerate()
            .all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { hex(b) })
}

/// What a driver says about a device.
fn validate_device(device: &Value, allocated: &BTreeSet<String>, path: &Path, errors: &mut FieldErrors) {
    validate_identity(device, path, errors);
    let id = share_id(device);
    if !allocated.contains(&id) {
        errors.invalid(path, id, "must be an allocated device in the claim");
    }
    let at = path.child("conditions");
    let conditions = list(device, "/conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(&at, conditions.len(), MAX_CONDITIONS));
    }
    condition::validate(conditions, &at, errors);
    if has(device, "/data") {
        validate_raw(device.get("data"), MAX_DATA, &path.child("data"), errors);
    }
    let Some(network) = device.get("networkData").filter(|n| !n.is_null()) else { return };
    let path = path.child("networkData");
    for (field, max) in [("interfaceName", MAX_INTERFACE), ("hardwareAddress", MAX_HARDWARE)] {
        if text(network, &format!("/{field}")).len() > max {
            errors.push(FieldError::too_long(path.child(field), max));
        }
    }
    let at = path.child("ips");
    let ips = bounded(network, "/ips", MAX_IPS, &at, errors);
    for (number, ip) in texts_of(ips).enumerate() {
        errors.messages(&at.index(number), ip, name::interface_address(ip));
    }
    distinct(texts_of(ips).map(String::from), &at, errors);
}

//! One device of a ResourceSlice: its attributes, its capacity, what it takes of shared counters, and which nodes reach it.

use super::{
    FieldError, FieldErrors, Path, Value, bounded, capacity, distinct, validate_binding, validate_label,
    validate_qualified, validate_taints,
};
use crate::{
    name,
    object::{flag, has, len, map, text},
    pod_spec::scheduling::validate_node_selector,
};
use k8s_openapi::api::core::v1::NodeSelector;

const MAX_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_ATTRIBUTE: usize = 64;
/// What attributes may hold. Lists of values are alpha in Kubernetes 1.36, and off.
const VALUES: [&str; 4] = ["bool", "int", "string", "version"];
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Drops what only an alpha feature of Kubernetes 1.36 knows.
pub(in crate::kinds) fn drop_alpha(device: &mut Value) {
    let Some(device) = device.as_object_mut() else { return };
    device.remove("nodeAllocatableResourceMappings");
    let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
    for attribute in attributes.into_iter().flatten().filter_map(|(_, value)| value.as_object_mut()) {
        attribute.retain(|field, _| !LISTS.contains(&field.as_str()));
    }
}

/// All that is wrong with a device. `placed` is whether each device of the slice says for itself which nodes reach it.
pub(in crate::kinds) fn validate(device: &Value, placed: bool, path: &Path, errors: &mut FieldErrors) {
    validate_label(text(device, "/name"), &path.child("name"), errors);
    let properties = len(device, "/attributes") + len(device, "/capacity");
    if properties > MAX_ATTRIBUTES_AND_CAPACITIES {
        let message = format!(
            "the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}"
        );
        errors.invalid(path, properties, message);
    }
    let at = path.child("attributes");
    for (name, attribute) in map(device, "/attributes").into_iter().flatten() {
        validate_qualified(name, &at, errors);
        validate_attribute(attribute, &at.key(name), errors);
    }
    let at = path.child("capacity");
    let shared = flag(device, "/allowMultipleAllocations");
    for (name, amount) in map(device, "/capacity").into_iter().flatten() {
        validate_qualified(name, &at, errors);
        capacity::validate(amount, shared, &at.key(name), errors);
    }
    validate_taints(device, path, errors);
    let at = path.child("consumesCounters");
    let consumptions = bounded(device, "/consumesCounters", MAX_CONSUMPTIONS, &at, errors);
    for (number, consumption) in consumptions.iter().enumerate() {
        validate_counters(consumption, "counterSet", &at.index(number), errors);
    }
    distinct(consumptions.iter().map(|c| text(c, "/counterSet").to_string()), &at, errors);
    validate_place(device, placed, path, errors);
    validate_binding(device, path, errors);
}

fn validate_attribute(attribute: &Value, path: &Path, errors: &mut FieldErrors) {
    for field in ["string", "version"] {
        let Some(value) = attribute.get(field).and_then(Value::as_str) else { continue };
        if field == "version" && !is_semver(value) {
            let message = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(path.child(field), value, message);
        }
        if value.len() > MAX_ATTRIBUTE {
            errors.push(FieldError::too_long(path.child(field), MAX_ATTRIBUTE));
        }
    }
    match VALUES.iter().filter(|field| has(attribute, &format!("/{field}"))).count() {
        1 => {}
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        _ => errors.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}

/// `1.2.3-alpha.1+build` (semver.org, 2.0.0).
fn is_semver(version: &str) -> bool {
    let (version, build) = match version.split_once('+') {
        Some((version, build)) => (version, Some(build)),
        None => (version, None),
    };
    let (numbers, pre_release) = match version.split_once('-') {
        Some((numbers, pre_release)) => (numbers, Some(pre_release)),
        None => (version, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && pre_release.is_none_or(|p| p.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|b| b.split('.').all(word))
}

/// Counters of a set, or taken from one; `named` is the field that says of which.
fn validate_counters(owner: &Value, named: &str, path: &Path, errors: &mut FieldErrors) {
    let set = owner.get(named).and_then(Value::as_str).unwrap_or_default();
    errors.required_and(&path.child(named), set, name::dns_label);
    let at = path.child("counters");
    let Some(counters) = map(owner, "/counters").filter(|counters| !counters.is_empty()) else {
        return errors.required(&at, "");
    };
    if counters.len() > MAX_COUNTERS {
        return errors.push(FieldError::too_many(&at, counters.len(), MAX_COUNTERS));
    }
    for counter in counters.keys() {
        validate_label(counter, &at, errors);
    }
}

/// The counters that devices of the pool share.
pub(in crate::kinds) fn validate_counter_sets(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("sharedCounters");
    let sets = bounded(spec, "/sharedCounters", MAX_COUNTER_SETS, &at, errors);
    for (number, set) in sets.iter().enumerate() {
        validate_counters(set, "name", &at.index(number), errors);
    }
    distinct(sets.iter().map(|set| text(set, "/name").to_string()), &at, errors);
}

/// Checks each way in which nodes may be said to reach something, and returns those that are used.
pub(in crate::kinds) fn validate_nodes(
    owner: &Value,
    empty_name: &str,
    path: &Path,
    errors: &mut FieldErrors,
) -> Vec<&'static str> {
    let mut used = Vec::new();
    if let Some(node) = owner.get("nodeName").and_then(Value::as_str) {
        if node.is_empty() {
            errors.invalid(path.child("nodeName"), "", empty_name);
        } else {
            used.push("`nodeName`");
            errors.messages(&path.child("nodeName"), node, name::dns_subdomain(node));
        }
    }
    if let Some(selector) = owner.get("nodeSelector").filter(|selector| !selector.is_null()) {
        used.push("`nodeSelector`");
        let path = path.child("nodeSelector");
        if let Some(selector) = errors.decode::<NodeSelector>(&path, selector) {
            validate_node_selector(&selector, &path, errors);
        }
    }
    validate_true(owner, "allNodes", "`allNodes`", &mut used, path, errors);
    used
}

/// A field that is true, or is not there.
pub(in crate::kinds) fn validate_true(
    owner: &Value,
    field: &str,
    shown: &'static str,
    used: &mut Vec<&'static str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match owner.get(field).and_then(Value::as_bool) {
        Some(true) => used.push(shown),
        Some(false) => errors.invalid(path.child(field), false, "must be either unset or set to true"),
        None => {}
    }
}

fn validate_place(device: &Value, placed: bool, path: &Path, errors: &mut FieldErrors) {
    if !placed {
        if ["/nodeName", "/nodeSelector", "/allNodes"].iter().any(|field| has(device, field)) {
            let message = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is \
                set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, message);
        }
        return;
    }
    let used = validate_nodes(device, "must not be empty", path, errors);
    let message = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
        `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match used.len() {
        0 => errors.required(path, message),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", used.join(", ")), message),
    }
}

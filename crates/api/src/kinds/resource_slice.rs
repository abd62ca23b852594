//! ResourceSlice (resource.k8s.io/v1): devices that a driver offers, as a part of a pool.

use super::{
    base,
    devices::{self, device},
    texts,
};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope,
    object::{each, flag, has, int, len, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ResourceSlice.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_generation: true,
        selectable_fields: texts(&["spec.driver", "spec.nodeName"]),
        columns: vec![
            print::name_column(),
            print::text_column("Node", "The node whose devices they are, if they are of one."),
            print::text_column("Driver", "Who offers them."),
            print::text_column("Pool", "The pool that they belong to."),
            print::age_column(),
        ],
        ..base("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", ResourceSlice)
    }
}

struct ResourceSlice;

const MAX_DEVICES: usize = 128;
/// So many where any of them is tainted or takes of counters.
const MAX_DEVICES_WITH_MORE: usize = 64;

/// The ways in which nodes may be said to reach devices.
const PLACES: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

fn drop_alpha(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        each(spec, "devices", device::drop_alpha);
    }
}

fn validate_place(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let unset = "must be either unset or set to a non-empty string";
    let mut used = device::validate_nodes(spec, unset, path, errors);
    if has(spec, "/nodeSelector") && len(spec, "/nodeSelector/nodeSelectorTerms") != 1 {
        let terms = spec.pointer("/nodeSelector/nodeSelectorTerms").cloned().unwrap_or_default();
        let message = "must have exactly one node selector term";
        errors.invalid(path.child("nodeSelector.nodeSelectorTerms"), terms, message);
    }
    let (field, shown) = ("perDeviceNodeSelection", "`perDeviceNodeSelection`");
    device::validate_true(spec, field, shown, &mut used, path, errors);
    match used.len() {
        0 => errors.required(path, PLACES),
        1 => {}
        _ => {
            let message = format!("{PLACES}, but multiple fields are set");
            errors.invalid(path, format!("{{{}}}", used.join(", ")), message);
        }
    }
}

impl Rules for ResourceSlice {
    fn prepare_create(&self, object: &mut Value) {
        drop_alpha(object);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value) {
        drop_alpha(new);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        devices::validate_driver(text(spec, "/driver"), &path.child("driver"), &mut errors);
        let pool = path.child("pool");
        devices::validate_pool(text(spec, "/pool/name"), &pool.child("name"), &mut errors);
        let slices = int(spec, "/pool/resourceSliceCount").unwrap_or_default();
        if slices <= 0 {
            errors.invalid(pool.child("resourceSliceCount"), slices, "must be greater than zero");
        }
        let generation = int(spec, "/pool/generation").unwrap_or_default();
        if generation < 0 {
            let message = "must be greater than or equal to zero";
            errors.invalid(pool.child("generation"), generation, message);
        }
        validate_place(spec, &path, &mut errors);
        if has(spec, "/sharedCounters") && has(spec, "/devices") {
            errors.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
        }
        let more = |device: &Value| len(device, "/taints") + len(device, "/consumesCounters") > 0;
        let more = list(spec, "/devices").iter().any(more);
        let max = if more { MAX_DEVICES_WITH_MORE } else { MAX_DEVICES };
        let at = path.child("devices");
        let all = devices::bounded(spec, "/devices", max, &at, &mut errors);
        let placed = flag(spec, "/perDeviceNodeSelection");
        for (number, one) in all.iter().enumerate() {
            device::validate(one, placed, &at.index(number), &mut errors);
        }
        devices::distinct(all.iter().map(|one| text(one, "/name").to_string()), &at, &mut errors);
        device::validate_counter_sets(spec, &path, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for field in ["pool.name", "driver", "nodeName"] {
            let pointer = format!("/spec/{}", field.replace('.', "/"));
            let path = Path::new("spec").child(field);
            errors.immutable(&path, new.pointer(&pointer), old.pointer(&pointer));
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(object),
            text(object, "/spec/nodeName").into(),
            text(object, "/spec/driver").into(),
            text(object, "/spec/pool/name").into(),
            print::age(object, now),
        ]
    }
}

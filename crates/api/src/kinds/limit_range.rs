//! LimitRange (core/v1): bounds and defaults for what single objects of a namespace may ask for.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{child, each, has, list, map, text},
    pod_spec::resources,
    print,
    quantity::{Quantity, canonicalize},
};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The description of LimitRange.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["limits"]),
        columns: vec![print::name_column(), print::created_column()],
        ..base("", "v1", "LimitRange", "limitranges", LimitRange)
    }
}

struct LimitRange;

/// The amounts of a limit.
const AMOUNTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

impl Rules for LimitRange {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        each(spec, "limits", |limit| {
            for field in AMOUNTS {
                let amounts = limit.get_mut(field).and_then(Value::as_object_mut);
                amounts.into_iter().flatten().for_each(|(_, amount)| canonicalize(amount));
            }
            if text(limit, "/type") == "Container" {
                fill(limit, "max", "default");
                fill(limit, "default", "defaultRequest");
                fill(limit, "min", "defaultRequest");
            }
        });
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let mut types = BTreeSet::new();
        for (at, limit) in list(object, "/spec/limits").iter().enumerate() {
            let path = Path::new("spec.limits").index(at);
            let kind = text(limit, "/type");
            errors.messages(&path.child("type"), kind, name::qualified_name(kind));
            if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
                let message = "must be a standard limit type or fully qualified";
                errors.invalid(path.child("type"), kind, message);
            }
            if !types.insert(kind) {
                errors.duplicate(path.child("type"), kind);
            }
            validate_limit(limit, kind, &path, &mut errors);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::created(object)]
    }
}

/// Gives `to` the amounts of `from` that it has not.
fn fill(limit: &mut Value, from: &str, to: &str) {
    let given: Map<String, Value> = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
    if given.is_empty() {
        return;
    }
    if let Some(amounts) = child(limit, to).and_then(Value::as_object_mut) {
        for (name, amount) in given {
            amounts.entry(name).or_insert(amount);
        }
    }
}

fn validate_limit(limit: &Value, kind: &str, path: &Path, errors: &mut FieldErrors) {
    for field in AMOUNTS {
        let path = path.child(field);
        if kind == "Pod" && matches!(field, "default" | "defaultRequest") {
            if map(limit, &format!("/{field}")).is_some_and(|amounts| !amounts.is_empty()) {
                errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in map(limit, &format!("/{field}")).into_iter().flatten() {
            let path = path.key(name);
            resources::validate_resource_name(name, kind != "PersistentVolumeClaim", &path, errors);
            if Quantity::from_json(amount).is_ok_and(Quantity::is_negative) {
                errors.invalid(&path, amount.clone(), "must be greater than or equal to 0");
            }
        }
    }
    if kind == "PersistentVolumeClaim" && !has(limit, "/min/storage") && !has(limit, "/max/storage") {
        let message = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(path.child("limits"), message);
    }
    let names: BTreeSet<&String> =
        AMOUNTS.iter().filter_map(|field| map(limit, &format!("/{field}"))).flat_map(|m| m.keys()).collect();
    for name in names {
        validate_order(limit, name, path, errors);
    }
}

/// Least ≤ default request ≤ default ≤ most.
fn validate_order(limit: &Value, name: &str, path: &Path, errors: &mut FieldErrors) {
    let amount = |field: &str| Quantity::from_json(limit.get(field)?.get(name)?).ok();
    let (min, max) = (amount("min"), amount("max"));
    let (default, request) = (amount("default"), amount("defaultRequest"));
    let mut ordered =
        |low: Option<Quantity>, high: Option<Quantity>, field: &str, low_name: &str, high_name: &str| {
            let (Some(low), Some(high)) = (low, high) else { return };
            if low > high {
                let shown = amount(field).unwrap_or_default().to_string();
                let message = format!("{low_name} value {low} is greater than {high_name} value {high}");
                errors.invalid(path.child(field).key(name), shown, message);
            }
        };
    ordered(min, max, "min", "min", "max");
    ordered(min, request, "defaultRequest", "min", "default request");
    ordered(request, max, "defaultRequest", "default request", "max");
    ordered(request, default, "defaultRequest", "default request", "default limit");
    ordered(min, default, "default", "min", "default");
    ordered(default, max, "default", "default", "max");
    if let Some(ratio) = amount("maxLimitRequestRatio").filter(|ratio| *ratio < Quantity::from_units(1)) {
        let at = path.child("maxLimitRequestRatio").key(name);
        errors.invalid(at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(limit: Value) -> Vec<String> {
        let object = json!({"spec": {"limits": [limit]}});
        LimitRange.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn what_containers_get_follows_from_what_they_may_have() {
        let mut object = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": 1, "memory": "1Gi"},
            "min": {"cpu": "0.1"}, "default": {"cpu": "500m"}}]}});
        LimitRange.default(&mut object);
        assert_eq!(
            object["spec"]["limits"][0],
            json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}, "min": {"cpu": "100m"},
                "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m", "memory": "1Gi"}})
        );
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(wrong(json!({"type": "Pod", "max": {"cpu": "1"}})), Vec::<String>::new());
        for (limit, want) in [
            (
                json!({"type": "Node"}),
                "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Container", "default": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 2 is greater than max value 1",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither \
                 was provided",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
        ] {
            assert_eq!(wrong(limit.clone()), [want], "{limit}");
        }
    }
}

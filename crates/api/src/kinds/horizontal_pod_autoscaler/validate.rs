//! Validation of HorizontalPodAutoscalers.

use super::is_set;
use crate::{
    FieldErrors, Path, name,
    object::{int, list, text},
    pod_spec::resources::validate_resource_name,
    quantity::Quantity,
    selector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

/// All that is wrong with the spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    bounds(spec, path, errors);
    for (at, metric) in list(spec, "/metrics").iter().enumerate() {
        validate_metric(metric, &path.child("metrics").index(at), errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.pointer(&format!("/behavior/{direction}")).filter(|r| !r.is_null()) {
            validate_behavior(rules, &path.child("behavior").child(direction), errors);
        }
    }
}

/// What is wrong with how many there may be and of what, which every version says alike.
pub(in super::super) fn bounds(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let least = int(spec, "/minReplicas");
    let most = int(spec, "/maxReplicas").unwrap_or_default();
    if let Some(least) = least.filter(|n| *n < 1) {
        errors.invalid(path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(path.child("maxReplicas"), most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        let message = "must be greater than or equal to `minReplicas`";
        errors.invalid(path.child("maxReplicas"), most, message);
    }
    validate_reference(spec, "scaleTargetRef", path, errors);
}

fn validate_reference(object: &Value, field: &str, path: &Path, errors: &mut FieldErrors) {
    for part in ["kind", "name"] {
        let value = text(object, &format!("/{field}/{part}"));
        errors.required_and(&path.child(field).child(part), value, name::path_segment);
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut FieldErrors) {
    let kind = text(metric, "/type");
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric source type");
    }
    let Some((_, expected)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        errors.one_of(&path.child("type"), kind, &TYPES);
        return;
    };
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| is_set(metric, field)).collect();
    if let Some(first) = present.first() {
        validate_source(&metric[*first], first, &path.child(first), errors);
    }
    if !present.contains(expected) {
        let message = "must populate information for the given metric source";
        errors.required(path.child(expected), message);
    }
    for other in present.iter().filter(|field| *field != expected) {
        errors.forbidden(path.child(other), "must populate the given metric source only");
    }
}

fn validate_source(source: &Value, field: &str, path: &Path, errors: &mut FieldErrors) {
    match field {
        "resource" | "containerResource" => {
            let name = text(source, "/name");
            if name.is_empty() {
                errors.required(path.child("name"), "must specify a resource name");
            } else if field == "containerResource" {
                validate_resource_name(name, true, &path.child("name"), errors);
            }
            if field == "containerResource" {
                let container = text(source, "/container");
                if container.is_empty() {
                    errors.required(path.child("container"), "must specify a container");
                } else {
                    errors.messages(&path.child("container"), container, name::dns_label(container));
                }
            }
        }
        _ => {
            if field == "object" {
                validate_reference(source, "describedObject", path, errors);
            }
            validate_identifier(source, &path.child("metric"), errors);
        }
    }
    let target = source.get("target").unwrap_or(&Value::Null);
    let at = path.child("target");
    validate_target(target, &at, errors);
    let set = |field: &str| is_set(target, field);
    match field {
        "object" if !set("value") && !set("averageValue") => {
            errors.required(at.child("averageValue"), "must set either a target value or averageValue");
        }
        "external" if !set("value") && !set("averageValue") => {
            let message = "must set either a target value for metric or a per-pod target";
            errors.required(at.child("averageValue"), message);
        }
        "external" if set("value") && set("averageValue") => {
            let message = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(at.child("value"), message);
        }
        "pods" if !set("averageValue") => {
            errors.required(at.child("averageValue"), "must specify a positive target averageValue");
        }
        "resource" | "containerResource" => {
            let message = match (set("averageUtilization"), set("averageValue")) {
                (false, false) => "must set either a target raw value or a target utilization",
                (true, true) => "may not set both a target raw value and a target utilization",
                _ => return,
            };
            if set("averageValue") {
                errors.forbidden(at.child("averageValue"), message);
            } else {
                errors.required(at.child("averageUtilization"), message);
            }
        }
        _ => {}
    }
}

fn validate_identifier(source: &Value, path: &Path, errors: &mut FieldErrors) {
    let metric = text(source, "/metric/name");
    if metric.is_empty() {
        errors.required(path.child("name"), "must specify a metric name");
    } else {
        errors.messages(&path.child("name"), metric, name::path_segment(metric));
    }
    let at = path.child("selector");
    if let Some(selector) = source.pointer("/metric/selector").filter(|s| !s.is_null())
        && let Some(typed) = errors.decode::<LabelSelector>(&at, selector)
    {
        errors.extend(selector::validate(&typed, at.as_str()));
    }
}

fn validate_target(target: &Value, path: &Path, errors: &mut FieldErrors) {
    let kind = text(target, "/type");
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric target type");
    } else if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field).filter(|v| !v.is_null());
        let Some(amount) = amount else { continue };
        if !Quantity::from_json(amount).is_ok_and(|q| !q.is_zero() && !q.is_negative()) {
            errors.invalid(path.child(field), amount.clone(), "must be positive");
        }
    }
    if let Some(percent) = int(target, "/averageUtilization").filter(|p| *p < 1) {
        errors.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn validate_behavior(rules: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("stabilizationWindowSeconds");
    match int(rules, "/stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => {
            errors.invalid(&at, seconds, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > MAX_WINDOW => {
            errors.invalid(&at, seconds, format!("must be less than or equal to {MAX_WINDOW}"));
        }
        _ => {}
    }
    let policy = text(rules, "/selectPolicy");
    if is_set(rules, "selectPolicy") {
        errors.one_of(&path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let at = path.child("policies");
    let policies = list(rules, "/policies");
    if policies.is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = at.index(index);
        errors.one_of(&path.child("type"), text(policy, "/type"), &["Percent", "Pods"]);
        let (value, period) =
            (int(policy, "/value").unwrap_or_default(), int(policy, "/periodSeconds").unwrap_or_default());
        if value <= 0 {
            errors.invalid(path.child("value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(path.child("periodSeconds"), period, "must be greater than zero");
        } else if period > MAX_PERIOD {
            let message = format!("must be less than or equal to {MAX_PERIOD}");
            errors.invalid(path.child("periodSeconds"), period, message);
        }
    }
    if let Some(tolerance) = rules.get("tolerance").filter(|t| !t.is_null())
        && Quantity::from_json(tolerance).is_ok_and(Quantity::is_negative)
    {
        errors.invalid(path.child("tolerance"), tolerance.clone(), "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::autoscaler;
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |spec: Value| {
            let mut errors = FieldErrors::new();
            validate(&autoscaler(spec)["spec"], &Path::new("spec"), &mut errors);
            errors.into_vec().into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        let metric = |metric: Value| json!({"metrics": [metric]});
        for (spec, want) in [
            (
                json!({"minReplicas": 0}),
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                json!({"minReplicas": 6}),
                "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
            ),
            (json!({"scaleTargetRef": {"kind": "Deployment"}}), "spec.scaleTargetRef.name: Required value"),
            (
                metric(json!({"type": "Weather"})),
                "spec.metrics[0].type: Unsupported value: \"Weather\": supported values: \"ContainerResource\", \
                 \"External\", \"Object\", \"Pods\", \"Resource\"",
            ),
            (
                metric(json!({"type": "Resource"})),
                "spec.metrics[0].resource: Required value: must populate information for the given metric source",
            ),
            (
                metric(
                    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}),
                ),
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value \
                 or a target utilization",
            ),
            (
                metric(
                    json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "0"}}}),
                ),
                "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
            ),
            (
                json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}),
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                json!({"behavior": {"scaleUp": {"policies": []}}}),
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }
}

//! HorizontalPodAutoscaler (autoscaling/v1): the older view of the same autoscalers that autoscaling/v2 shows, and is stored as.
//! It knows one metric, the use of processors; all others stand in annotations, in the form of that time.

use super::{base, horizontal_pod_autoscaler as v2, texts};
use crate::{
    Conversion, FieldError, FieldErrors, Kind, Path, Rules, StoredAs,
    object::{child, int, set_default, text},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The description of HorizontalPodAutoscaler in its older version.
pub(super) fn kind() -> Kind {
    let stored = v2::kind();
    Kind {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        has_status: true,
        columns: stored.columns,
        stored_as: Some(StoredAs {
            group: "autoscaling".into(),
            plural: "horizontalpodautoscalers".into(),
            conversion: Arc::new(Autoscaler { stored: stored.rules.clone() }),
        }),
        ..base(
            "autoscaling",
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            Autoscaler { stored: stored.rules },
        )
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const TARGET: &str = "targetCPUUtilizationPercentage";
const CURRENT: &str = "currentCPUUtilizationPercentage";

struct Autoscaler {
    stored: Arc<dyn Rules>,
}

/// Where a metric's numbers stand: `target` of the spec, or `current` of the status.
#[derive(Clone, Copy)]
struct Side {
    /// The member of the newer form.
    member: &'static str,
    /// How the names of the older form begin.
    prefix: &'static str,
}

const WANTED: Side = Side { member: "target", prefix: "target" };
const FOUND: Side = Side { member: "current", prefix: "current" };

impl Side {
    /// What the newer form's numbers are called in the older one, for a source.
    fn names(self, source: &str) -> [(&'static str, String); 3] {
        let with = |name: &str| format!("{}{name}", self.prefix);
        // Where the value of the object is the main thing, the average has no prefix.
        let average = if source == "object" { "averageValue".to_string() } else { with("AverageValue") };
        [
            ("value", with("Value")),
            ("averageValue", average),
            ("averageUtilization", with("AverageUtilization")),
        ]
    }
}

/// Names of what a metric is about, in the newer and the older form.
fn subject(source: &str) -> &'static [(&'static str, &'static str)] {
    match source {
        "object" => &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
        ],
        "pods" => &[("/metric/name", "metricName"), ("/metric/selector", "selector")],
        "external" => &[("/metric/name", "metricName"), ("/metric/selector", "metricSelector")],
        _ => &[("/name", "name"), ("/container", "container")],
    }
}

fn source_of(metric: &Value) -> Option<&'static str> {
    Some(match text(metric, "/type") {
        "Object" => "object",
        "Pods" => "pods",
        "External" => "external",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return None,
    })
}

fn to_old(metric: &Value, side: Side) -> Option<Value> {
    let source = source_of(metric)?;
    let new = metric.get(source)?;
    let mut old = Map::new();
    for (pointer, name) in subject(source) {
        if let Some(value) = new.pointer(pointer) {
            old.insert((*name).into(), value.clone());
        }
    }
    let numbers = new.get(side.member)?;
    for (name, old_name) in side.names(source) {
        if let Some(value) = numbers.get(name) {
            old.insert(old_name, value.clone());
        }
    }
    Some(json!({"type": metric["type"], source: old}))
}

fn to_new(metric: &Value, side: Side) -> Option<Value> {
    let source = source_of(metric)?;
    let old = metric.get(source)?;
    let mut new = json!({});
    for (pointer, name) in subject(source) {
        let Some(value) = old.get(*name) else { continue };
        match pointer.split('/').skip(1).collect::<Vec<_>>()[..] {
            [first] => new[first] = value.clone(),
            [first, second] => new[first][second] = value.clone(),
            _ => {}
        }
    }
    let mut numbers = Map::new();
    for (name, old_name) in side.names(source) {
        if let Some(value) = old.get(&old_name) {
            numbers.insert(name.into(), value.clone());
        }
    }
    if side.member == WANTED.member {
        let kind = match () {
            () if numbers.contains_key("averageUtilization") => "Utilization",
            () if numbers.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        numbers.insert("type".into(), kind.into());
    }
    new[side.member] = numbers.into();
    Some(json!({"type": metric["type"], source: new}))
}

/// Whether a metric is the one that the older version knows.
fn is_cpu(metric: &Value, side: Side) -> bool {
    text(metric, "/type") == "Resource"
        && text(metric, "/resource/name") == "cpu"
        && int(metric, &format!("/resource/{}/averageUtilization", side.member)).is_some()
}

fn annotate(object: &mut Value, key: &str, value: &Value) {
    let annotations = child(object, "metadata").and_then(|m| child(m, "annotations"));
    if let Some(annotations) = annotations {
        annotations[key] = value.to_string().into();
    }
}

/// Takes what an annotation holds away from the object.
fn unannotate(object: &mut Value, key: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let held = annotations.remove(key)?;
    if annotations.is_empty()
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("annotations");
    }
    serde_json::from_str(held.as_str()?).ok()
}

fn take(object: &mut Value, part: &str, field: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(field)
}

impl Autoscaler {
    /// The metrics of one side go to the annotation, but for the use of processors, which has a field.
    fn hide(object: &mut Value, (part, list_name): (&str, &str), side: Side, field: &str, key: &str) {
        let Some(Value::Array(metrics)) = take(object, part, list_name) else { return };
        let mut others = Vec::new();
        let mut cpu = None;
        for metric in metrics {
            if cpu.is_none() && is_cpu(&metric, side) {
                cpu = int(&metric, &format!("/resource/{}/averageUtilization", side.member));
                if side.member == FOUND.member {
                    // What is measured besides has no field.
                    others.extend(to_old(&metric, side));
                }
            } else {
                others.extend(to_old(&metric, side));
            }
        }
        if let (Some(cpu), Some(part)) = (cpu, object.get_mut(part).filter(|p| p.is_object())) {
            part[field] = cpu.into();
        }
        if !others.is_empty() {
            annotate(object, key, &Value::Array(others));
        }
    }

    fn show(object: &mut Value, (part, list_name): (&str, &str), side: Side, field: &str, key: &str) {
        let cpu = take(object, part, field);
        let held = unannotate(object, key).unwrap_or_default();
        let mut metrics: Vec<Value> =
            held.as_array().into_iter().flatten().filter_map(|m| to_new(m, side)).collect();
        if let Some(cpu) = cpu.filter(|_| !metrics.iter().any(|m| is_cpu(m, side))) {
            let mut numbers = json!({"averageUtilization": cpu});
            if side.member == WANTED.member {
                numbers["type"] = json!("Utilization");
            }
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", side.member: numbers}}));
        }
        if !metrics.is_empty()
            && let Some(part) = child(object, part)
        {
            part[list_name] = metrics.into();
        }
    }
}

impl Conversion for Autoscaler {
    fn to_stored(&self, object: &mut Value) {
        Self::show(object, ("spec", "metrics"), WANTED, TARGET, METRICS);
        Self::show(object, ("status", "currentMetrics"), FOUND, CURRENT, CURRENT_METRICS);
        for (part, field, key) in [("spec", "behavior", BEHAVIOR), ("status", "conditions", CONDITIONS)] {
            if let Some(held) = unannotate(object, key)
                && let Some(part) = child(object, part)
            {
                part[field] = held;
            }
        }
    }

    fn show_stored(&self, object: &mut Value) {
        Self::hide(object, ("spec", "metrics"), WANTED, TARGET, METRICS);
        Self::hide(object, ("status", "currentMetrics"), FOUND, CURRENT, CURRENT_METRICS);
        for (part, field, key) in [("spec", "behavior", BEHAVIOR), ("status", "conditions", CONDITIONS)] {
            if let Some(held) = take(object, part, field) {
                annotate(object, key, &held);
            }
        }
        // The newer version leaves a current zero out; clients of this one rely on it.
        if let Some(status) = object.get_mut("status").filter(|s| s.is_object()) {
            set_default(status, "currentReplicas", 0);
            set_default(status, "desiredReplicas", 0);
        }
    }
}

impl Rules for Autoscaler {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) {
            set_default(spec, "minReplicas", 1);
        }
        let others = object.pointer("/metadata/annotations").is_some_and(|a| a.get(METRICS).is_some());
        if let Some(spec) = object.get_mut("spec").filter(|s| s.is_object() && !others) {
            set_default(spec, TARGET, 80);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        v2::validate::bounds(object.get("spec").unwrap_or(&Value::Null), &path, &mut errors);
        if let Some(percent) = int(object, &format!("/spec/{TARGET}")).filter(|p| *p < 1) {
            errors.invalid(path.child(TARGET), percent, "must be greater than 0");
        }
        if errors.is_empty() {
            // What stands in annotations is checked as what it becomes.
            let mut stored = object.clone();
            self.to_stored(&mut stored);
            self.stored.default(&mut stored);
            errors.extend(self.stored.validate(&stored));
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.stored.validate_status(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut stored = object.clone();
        self.to_stored(&mut stored);
        self.stored.cells(&stored, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Autoscaler {
        Autoscaler { stored: v2::kind().rules }
    }

    fn stored() -> Value {
        json!({
            "metadata": {"name": "h", "annotations": {"mine": "x"}},
            "spec": {"maxReplicas": 5, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "behavior": {"scaleUp": {"selectPolicy": "Min"}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "hits"},
                        "target": {"type": "Value", "value": "100"}}},
                ]},
            "status": {"currentReplicas": 2, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 40, "averageValue": "400m"}}}]},
        })
    }

    #[test]
    fn replicas_are_told_from_the_beginning() {
        let mut shown = json!({"spec": {"maxReplicas": 2}, "status": {"desiredReplicas": 0}});
        rules().show_stored(&mut shown);
        assert_eq!(shown["status"], json!({"currentReplicas": 0, "desiredReplicas": 0}));
    }

    #[test]
    fn both_views_show_the_same_autoscaler() {
        let mut shown = stored();
        rules().show_stored(&mut shown);
        assert_eq!((&shown["spec"][TARGET], &shown["status"][CURRENT]), (&json!(60), &json!(40)));
        assert!(shown["spec"].get("metrics").is_none() && shown["spec"].get("behavior").is_none());
        let metrics: Value = serde_json::from_str(text(
            &shown,
            "/metadata/annotations/autoscaling.alpha.kubernetes.io~1metrics",
        ))
        .unwrap();
        assert_eq!(
            metrics[0],
            json!({"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}})
        );
        assert_eq!(metrics[2]["object"]["target"]["kind"], "Ingress");
        rules().to_stored(&mut shown);
        assert_eq!(shown, stored());
    }

    #[test]
    fn an_old_autoscaler_becomes_one_with_a_metric() {
        let mut object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5, TARGET: 70, "scaleTargetRef": {"kind": "D", "name": "w"}}});
        assert!(rules().validate(&object).is_empty());
        rules().to_stored(&mut object);
        let target = json!({"type": "Utilization", "averageUtilization": 70});
        assert_eq!(
            object["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
        );
    }
}

//! HorizontalPodAutoscaler (autoscaling/v2): so many pods as the load wants.

use super::{base, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{has, int, len, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

mod row;
pub(super) mod validate;

/// The description of HorizontalPodAutoscaler.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Reference", "What it scales."),
            print::text_column("Targets", "How the metrics stand, and how they should."),
            print::text_column("MinPods", "The fewest pods."),
            print::text_column("MaxPods", "The most pods."),
            print::text_column("Replicas", "How many pods there are."),
            print::age_column(),
        ],
        ..base(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            HorizontalPodAutoscaler,
        )
    }
}

struct HorizontalPodAutoscaler;

impl Rules for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "minReplicas", 1);
        if len(spec, "/metrics") == 0 {
            spec["metrics"] = json!([{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
            }}]);
        }
        let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) else { return };
        let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        for (direction, policies) in [("scaleUp", json!([four, all])), ("scaleDown", json!([all]))] {
            set_default(behavior, direction, json!({}));
            let rules = &mut behavior[direction];
            set_default(rules, "selectPolicy", "Max");
            set_default(rules, "policies", policies);
        }
        set_default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate::validate(spec, &Path::new("spec"), &mut errors);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        workload::validate_status_numbers(new, &["currentReplicas", "desiredReplicas"], &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let reference = format!(
            "{}/{}",
            text(object, "/spec/scaleTargetRef/kind"),
            text(object, "/spec/scaleTargetRef/name")
        );
        let least = int(object, "/spec/minReplicas").map_or_else(|| "<unset>".into(), |n| n.to_string());
        vec![
            print::name(object),
            reference.into(),
            row::targets(object).into(),
            least.into(),
            print::number(object, "/spec/maxReplicas"),
            print::number(object, "/status/currentReplicas"),
            print::age(object, now),
        ]
    }
}

/// Whether a part of an object is there.
fn is_set(value: &Value, field: &str) -> bool {
    has(value, &format!("/{field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn autoscaler(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        HorizontalPodAutoscaler.default(&mut object);
        object
    }

    #[test]
    fn a_bare_autoscaler_keeps_processors_busy_by_four_fifths() {
        let object = autoscaler(json!({"behavior": {"scaleUp": {"selectPolicy": "Min"}}}));
        let spec = &object["spec"];
        assert_eq!(spec["minReplicas"], 1);
        assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(spec["behavior"]["scaleUp"]["selectPolicy"], "Min");
        assert_eq!(spec["behavior"]["scaleUp"]["policies"][0]["value"], 4);
        assert_eq!(
            spec["behavior"]["scaleDown"]["policies"],
            json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])
        );
        assert!(HorizontalPodAutoscaler.validate(&object).is_empty());
    }

    #[test]
    fn the_row_shows_where_the_metrics_stand() {
        let mut object = autoscaler(json!({"minReplicas": 2}));
        let row = HorizontalPodAutoscaler.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], ["Deployment/web", "cpu: <unknown>/80%", "2"].map(Value::from));
        assert_eq!(row[4], 5);
        object["status"] = json!({"currentReplicas": 3, "currentMetrics": [{"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 40}}}]});
        let row = HorizontalPodAutoscaler.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&row[2], &row[5]), (&json!("cpu: 40%/80%"), &json!(3)));
    }
}

//! PodDisruptionBudget (policy/v1): how many pods of an application may be taken away on purpose at once.

use super::{base, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{has, map, text},
    print, selector,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

/// The description of PodDisruptionBudget.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["pdb"]),
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Min Available", "How many pods must stay."),
            print::text_column("Max Unavailable", "How many pods may be away."),
            print::int_column("Allowed Disruptions", "How many more may be evicted now."),
            print::age_column(),
        ],
        ..base("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", PodDisruptionBudget)
    }
}

struct PodDisruptionBudget;

impl Rules for PodDisruptionBudget {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if has(spec, "/minAvailable") && has(spec, "/maxUnavailable") {
            let message = "minAvailable and maxUnavailable cannot be both set";
            errors.invalid(&path, spec.clone(), message);
        }
        for field in ["minAvailable", "maxUnavailable"] {
            let share = spec.get(field).unwrap_or(&Value::Null);
            workload::validate_share(share, &path.child(field), &mut errors);
            workload::validate_at_most_all(share, &path.child(field), &mut errors);
        }
        if let Some(given) = spec.get("selector").filter(|s| !s.is_null()) {
            let path = path.child("selector");
            if let Some(typed) = errors.decode::<LabelSelector>(&path, given) {
                errors.extend(selector::validate(&typed, path.as_str()));
            }
        }
        let policy = text(spec, "/unhealthyPodEvictionPolicy");
        if !policy.is_empty() {
            let known = ["AlwaysAllow", "IfHealthyBudget"];
            errors.one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &known);
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let numbers = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        workload::validate_status_numbers(new, &numbers, &mut errors);
        let path = Path::new("status.disruptedPods");
        for (pod, when) in map(new, "/status/disruptedPods").into_iter().flatten() {
            if when.as_str().is_none_or(|t| t.parse::<Timestamp>().is_err()) {
                errors.invalid(path.key(pod), when.clone(), "must be a time");
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let share = |pointer| match object.pointer(pointer) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(Value::Number(number)) => number.to_string().into(),
            _ => Value::from("N/A"),
        };
        vec![
            print::name(object),
            share("/spec/minAvailable"),
            share("/spec/maxUnavailable"),
            print::number(object, "/status/disruptionsAllowed"),
            print::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |spec: Value| {
            let errors = PodDisruptionBudget.validate(&json!({"spec": spec}));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(wrong(json!({"minAvailable": "50%", "selector": {}})), Vec::<String>::new());
        for (spec, want) in [
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be \
                 both set",
            ),
            (
                json!({"minAvailable": "101%"}),
                "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                json!({"maxUnavailable": -1}),
                "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \
                 \"IfHealthyBudget\"",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn the_row_shows_the_budget() {
        let object = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}});
        let row = PodDisruptionBudget.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..4], [json!("b"), json!("2"), json!("N/A"), json!(1)]);
    }
}

//! DaemonSet (apps/v1): one pod on each node that fits.

use super::{base, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    int_or_string::{Amount, Rounding},
    object::{set_default, set_default_nonzero, text},
    pod_spec::template,
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The description of DaemonSet.
pub(super) fn kind() -> Kind {
    let mut columns = vec![
        print::name_column(),
        print::int_column("Desired", "How many nodes should run the pod."),
        print::int_column("Current", "How many of them run it."),
        print::int_column("Ready", "On how many it is ready."),
        print::int_column("Up-to-date", "How many pods have the newest template."),
        print::int_column("Available", "On how many it has been ready for long enough."),
        print::text_column("Node Selector", "Labels of the nodes that should run it."),
        print::age_column(),
    ];
    columns.extend(print::template_columns());
    Kind {
        short_names: texts(&["ds"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        columns,
        ..base("apps", "v1", "DaemonSet", "daemonsets", DaemonSet)
    }
}

struct DaemonSet;

impl Rules for DaemonSet {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        set_default_nonzero(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 0);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        workload::validate_not_negative(object, &["minReadySeconds", "revisionHistoryLimit"], &mut errors);
        template::validate_with_selector(object, "daemonset", &mut errors);
        workload::validate_no_deadline(object, "DaemonSet", &mut errors);
        validate_strategy(object, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        workload::validate_selector_unchanged(new, old)
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let numbers = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        workload::validate_status_numbers(new, &numbers, &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![
            print::name(object),
            print::number(object, "/status/desiredNumberScheduled"),
            print::number(object, "/status/currentNumberScheduled"),
            print::number(object, "/status/numberReady"),
            print::number(object, "/status/updatedNumberScheduled"),
            print::number(object, "/status/numberAvailable"),
            print::labels(object, "/spec/template/spec/nodeSelector"),
            print::age(object, now),
        ];
        cells.extend(print::template_cells(object));
        cells
    }
}

fn validate_strategy(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.updateStrategy");
    match text(object, "/spec/updateStrategy/type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            let rolling = &object["spec"]["updateStrategy"]["rollingUpdate"];
            for field in ["maxUnavailable", "maxSurge"] {
                workload::validate_share(&rolling[field], &path.child(field), errors);
                workload::validate_at_most_all(&rolling[field], &path.child(field), errors);
            }
            let some = |v: &Value| Amount::from_json(v).is_some_and(|a| a.resolve(100, Rounding::Up) > 0);
            match (some(&rolling["maxUnavailable"]), some(&rolling["maxSurge"])) {
                (true, true) => {
                    let message = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(path.child("maxSurge"), rolling["maxSurge"].clone(), message);
                }
                (false, false) => {
                    errors.required(path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
                }
                _ => {}
            }
        }
        _ => {
            let given = object["spec"]["updateStrategy"].clone();
            errors.push(FieldError::not_supported(path, given, &["RollingUpdate", "OnDelete"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(strategy: Value) -> Vec<String> {
        let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        DaemonSet.default(&mut object);
        DaemonSet.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn an_unknown_strategy_is_shown_whole() {
        assert_eq!(
            wrong(json!({"type": "Slow"})),
            [
                "spec.updateStrategy: Unsupported value: {\"type\":\"Slow\"}: supported values: \"RollingUpdate\", \
              \"OnDelete\""
            ]
        );
    }

    #[test]
    fn either_surge_or_unavailable_moves_an_update() {
        assert_eq!(wrong(json!({})), Vec::<String>::new());
        assert_eq!(
            wrong(json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}})),
            Vec::<String>::new()
        );
        assert_eq!(
            wrong(json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}})),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
              non-zero"
            ]
        );
        assert_eq!(
            wrong(json!({"rollingUpdate": {"maxUnavailable": 0}})),
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"
            ]
        );
    }
}

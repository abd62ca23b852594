//! Deployment (apps/v1): ReplicaSets rolled from one template to the next.

use super::{base, replicas_scale, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    int_or_string::{Amount, Rounding},
    object::{has, int, set_default, set_default_nonzero, text},
    pod_spec::template,
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The description of Deployment.
pub(super) fn kind() -> Kind {
    let mut columns = vec![
        print::name_column(),
        print::text_column("Ready", "How many pods are ready, of how many desired."),
        print::text_column("Up-to-date", "How many pods have the newest template."),
        print::text_column("Available", "How many pods have been ready for long enough."),
        print::age_column(),
    ];
    columns.extend(print::template_columns());
    Kind {
        short_names: texts(&["deploy"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        scale: Some(replicas_scale()),
        columns,
        ..base("apps", "v1", "Deployment", "deployments", Deployment)
    }
}

struct Deployment;

impl Rules for Deployment {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        set_default(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        set_default_nonzero(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxSurge", "25%");
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let spec = Path::new("spec");
        let numbers = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        workload::validate_not_negative(object, &numbers, &mut errors);
        let deadline = int(object, "/spec/progressDeadlineSeconds");
        let ready = int(object, "/spec/minReadySeconds").unwrap_or_default();
        if let Some(deadline) = deadline.filter(|d| *d <= ready) {
            let message = "must be greater than minReadySeconds";
            errors.invalid(spec.child("progressDeadlineSeconds"), deadline, message);
        }
        template::validate_with_selector(object, "deployment", &mut errors);
        workload::validate_no_deadline(object, "ReplicaSet", &mut errors);
        validate_strategy(object, &spec.child("strategy"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        workload::validate_selector_unchanged(new, old)
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let numbers =
            ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        workload::validate_status_numbers(new, &numbers, &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ready = int(object, "/status/readyReplicas").unwrap_or_default();
        let desired = int(object, "/spec/replicas").unwrap_or_default();
        let mut cells = vec![
            print::name(object),
            format!("{ready}/{desired}").into(),
            print::number(object, "/status/updatedReplicas"),
            print::number(object, "/status/availableReplicas"),
            print::age(object, now),
        ];
        cells.extend(print::template_cells(object));
        cells
    }
}

fn validate_strategy(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let rolling = path.child("rollingUpdate");
    match text(object, "/spec/strategy/type") {
        "Recreate" => {
            if has(object, "/spec/strategy/rollingUpdate") {
                let message = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&rolling, message);
            }
        }
        "RollingUpdate" => {
            let surge = object.pointer("/spec/strategy/rollingUpdate/maxSurge").unwrap_or(&Value::Null);
            let unavailable =
                object.pointer("/spec/strategy/rollingUpdate/maxUnavailable").unwrap_or(&Value::Null);
            workload::validate_share(surge, &rolling.child("maxSurge"), errors);
            workload::validate_share(unavailable, &rolling.child("maxUnavailable"), errors);
            let none = |v: &Value| Amount::from_json(v).is_some_and(|a| a.resolve(100, Rounding::Up) == 0);
            if none(surge) && none(unavailable) {
                let message = "may not be 0 when `maxSurge` is 0";
                errors.invalid(rolling.child("maxUnavailable"), unavailable.clone(), message);
            }
            workload::validate_at_most_all(unavailable, &rolling.child("maxUnavailable"), errors);
        }
        _ => {
            let given = object["spec"]["strategy"].clone();
            errors.push(FieldError::not_supported(path, given, &["Recreate", "RollingUpdate"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        Deployment.default(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        Deployment.validate(&deployment(spec)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_bare_deployment_rolls_a_quarter_at_a_time() {
        let object = deployment(json!({}));
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(
            (&object["spec"]["replicas"], &object["spec"]["revisionHistoryLimit"]),
            (&json!(1), &json!(10))
        );
        assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(wrong(json!({})), Vec::<String>::new());
        assert_eq!(wrong(json!({"strategy": {"type": "Recreate"}})), Vec::<String>::new());
    }

    #[test]
    fn wrong_fields_are_named() {
        for (spec, want) in [
            (json!({"replicas": -1}), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"minReadySeconds": 600}),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"strategy": {"type": "Slow"}}),
                "spec.strategy: Unsupported value: {\"type\":\"Slow\"}: supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": "many"}}}),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"many\": a valid percent string must be a numeric \
                 string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ),
            (
                json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "x"}]}}}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn the_selector_may_not_change() {
        let (old, mut new) = (deployment(json!({})), deployment(json!({})));
        assert!(Deployment.validate_update(&new, &old).is_empty());
        new["spec"]["selector"]["matchLabels"]["c"] = json!("d");
        let errors = Deployment.validate_update(&new, &old);
        assert!(errors[0].to_string().starts_with("spec.selector: Invalid value:"));
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }
}

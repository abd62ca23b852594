//! ReplicationController (core/v1): what ReplicaSets were before they had selectors with expressions.

use super::{base, replicas_scale, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{child, int, len, map, set_default, strings},
    pod_spec::template,
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ReplicationController.
pub(super) fn kind() -> Kind {
    let mut columns = vec![
        print::name_column(),
        print::int_column("Desired", "How many pods there should be."),
        print::int_column("Current", "How many pods there are."),
        print::int_column("Ready", "How many of them are ready."),
        print::age_column(),
    ];
    columns.extend(print::template_columns());
    Kind {
        short_names: texts(&["rc"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        scale: Some(replicas_scale()),
        columns,
        selectable_fields: texts(&["status.replicas"]),
        ..base("", "v1", "ReplicationController", "replicationcontrollers", ReplicationController)
    }
}

struct ReplicationController;

impl Rules for ReplicationController {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        let labels = object.pointer("/spec/template/metadata/labels").cloned();
        if let Some(labels) = labels.filter(|_| len(object, "/spec/template/metadata/labels") > 0) {
            if len(object, "/spec/selector") == 0
                && let Some(spec) = object.get_mut("spec").filter(|s| s.is_object())
            {
                spec["selector"] = labels.clone();
            }
            if len(object, "/metadata/labels") == 0
                && let Some(metadata) = child(object, "metadata")
            {
                metadata["labels"] = labels;
            }
        }
        if let Some(spec) = object.get_mut("spec") {
            set_default(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        workload::validate_not_negative(object, &["minReadySeconds"], &mut errors);
        let selector = strings(object, "/spec/selector");
        if selector.is_empty() {
            errors.required(path.child("selector"), "");
        }
        errors.not_negative(&path.child("replicas"), int(object, "/spec/replicas"));
        let at = path.child("template");
        match object.pointer("/spec/template").filter(|t| !t.is_null()) {
            None => errors.required(&at, ""),
            Some(template) => {
                let labels = strings(template, "/metadata/labels");
                if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
                    let shown = map(template, "/metadata/labels").map_or(Value::Null, |l| l.clone().into());
                    let message = "`selector` does not match template `labels`";
                    errors.invalid(at.child("metadata.labels"), shown, message);
                }
                template::validate(template, &["Always"], &at, &mut errors);
                workload::validate_no_deadline(object, "ReplicationController", &mut errors);
            }
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::validate_status_numbers(new, &["replicas"], &mut errors);
        workload::validate_status_numbers(new, &parts, &mut errors);
        let count = |field: &str| new["status"][field].as_i64().unwrap_or_default();
        let path = Path::new("status");
        for field in parts {
            if count(field) > count("replicas") {
                errors.invalid(path.child(field), count(field), "cannot be greater than status.replicas");
            }
        }
        if count("availableReplicas") > count("readyReplicas") {
            let message = "cannot be greater than readyReplicas";
            errors.invalid(path.child("availableReplicas"), count("availableReplicas"), message);
        }
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "status.replicas" => print::number(object, "/status/replicas").to_string(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let [containers, images, _] = print::template_cells(object);
        vec![
            print::name(object),
            print::number(object, "/spec/replicas"),
            print::number(object, "/status/replicas"),
            print::number(object, "/status/readyReplicas"),
            print::age(object, now),
            containers,
            images,
            print::labels(object, "/spec/selector"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn controller(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "r"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        ReplicationController.default(&mut object);
        object
    }

    #[test]
    fn labels_and_selector_come_from_the_template() {
        let object = controller(json!({}));
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(object["spec"]["replicas"], 1);
        assert!(ReplicationController.validate(&object).is_empty());
    }

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |spec: Value| {
            let errors = ReplicationController.validate(&controller(spec));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            wrong(json!({"replicas": -2})),
            ["spec.replicas: Invalid value: -2: must be greater than or equal to 0"]
        );
        assert_eq!(
            wrong(json!({"selector": {"a": "c"}})),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            wrong(json!({"template": null})),
            ["spec.selector: Required value", "spec.template: Required value"]
        );
    }
}

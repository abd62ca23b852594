//! ReplicaSet (apps/v1): so many pods of one template.

use super::{base, replicas_scale, texts, workload};
use crate::{FieldError, FieldErrors, Kind, Rules, object::set_default, pod_spec::template, print};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ReplicaSet.
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
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        scale: Some(replicas_scale()),
        columns,
        selectable_fields: texts(&["status.replicas"]),
        ..base("apps", "v1", "ReplicaSet", "replicasets", ReplicaSet)
    }
}

struct ReplicaSet;

impl Rules for ReplicaSet {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        if let Some(spec) = object.get_mut("spec") {
            set_default(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        workload::validate_not_negative(object, &["replicas", "minReadySeconds"], &mut errors);
        template::validate_with_selector(object, "deployment", &mut errors);
        workload::validate_no_deadline(object, "ReplicaSet", &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        workload::validate_selector_unchanged(new, old)
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let numbers = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::validate_status_numbers(new, &numbers, &mut errors);
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "status.replicas" => print::number(object, "/status/replicas").to_string(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![
            print::name(object),
            print::number(object, "/spec/replicas"),
            print::number(object, "/status/replicas"),
            print::number(object, "/status/readyReplicas"),
            print::age(object, now),
        ];
        cells.extend(print::template_cells(object));
        cells
    }
}

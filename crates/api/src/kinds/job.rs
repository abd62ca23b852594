//! Job (batch/v1): pods that run until so many of them have succeeded.

use super::{base, texts, workload};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, duration,
    object::{child, condition, each, flag, has, int, len, set_default, set_default_nonzero, text, time},
    pod_spec::template,
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

mod policies;
mod validate;

/// The description of Job.
pub(super) fn kind() -> Kind {
    let mut columns = vec![
        print::name_column(),
        print::text_column("Status", "How it stands."),
        print::text_column("Completions", "How many pods have succeeded, of how many wanted."),
        print::text_column("Duration", "How long it has run."),
        print::age_column(),
    ];
    columns.extend(print::template_columns());
    Kind {
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        columns,
        selectable_fields: texts(&["status.successful"]),
        ..base("batch", "v1", "Job", "jobs", Job)
    }
}

/// Labels of a Job's pods with its uid: the old name, and the one that is selected by.
const CONTROLLER_UID: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// Labels of a Job's pods with its name.
const JOB_NAME: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

struct Job;

impl Rules for Job {
    fn default(&self, object: &mut Value) {
        template::set_defaults(object);
        let labels = object.pointer("/spec/template/metadata/labels").cloned();
        if let Some(labels) = labels.filter(|_| len(object, "/spec/template/metadata/labels") > 0)
            && len(object, "/metadata/labels") == 0
            && let Some(metadata) = child(object, "metadata")
        {
            metadata["labels"] = labels;
        }
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        if !has(spec, "/completions") && !has(spec, "/parallelism") {
            set_default(spec, "completions", 1);
        }
        set_default(spec, "parallelism", 1);
        let per_index = has(spec, "/backoffLimitPerIndex");
        set_default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        set_default_nonzero(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        set_default(spec, "manualSelector", false);
        let replacement = if has(spec, "/podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        set_default_nonzero(spec, "podReplacementPolicy", replacement);
        if let Some(policy) = spec.get_mut("podFailurePolicy") {
            default_failure_policy(policy);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        if generates_selector(object) {
            generate_selector(object);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::validate(object, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::validate_update(new, old, &mut errors);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        workload::validate_status_numbers(
            new,
            &["active", "succeeded", "failed", "ready", "terminating"],
            &mut errors,
        );
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "status.successful" => print::number(object, "/status/succeeded").to_string(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![
            print::name(object),
            status(object).into(),
            completions(object).into(),
            ran_for(object, now).into(),
            print::age(object, now),
        ];
        cells.extend(print::template_cells(object));
        cells
    }
}

/// All that is wrong with a template of Jobs, whose selectors the server makes.
pub(super) fn validate_template(template: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("spec");
    validate::validate_spec(template.get("spec").unwrap_or(&Value::Null), &path, errors);
    if let Some(selector) = template.pointer("/spec/selector").filter(|s| !s.is_null()) {
        errors.invalid(path.child("selector"), selector.clone(), "`selector` will be auto-generated");
    }
    if flag(template, "/spec/manualSelector") {
        errors.push(FieldError::not_supported(path.child("manualSelector"), true, &["nil", "false"]));
    }
}

/// A condition of a pod that a rule looks for is one that holds.
pub(super) fn default_failure_policy(policy: &mut Value) {
    each(policy, "rules", |rule| {
        each(rule, "onPodConditions", |pattern| set_default_nonzero(pattern, "status", "True"));
    });
}

fn status(object: &Value) -> &'static str {
    let is = |kind| condition(object, kind) == "True";
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if has(object, "/metadata/deletionTimestamp") => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// `2/5`; `0/1 of 3` for a work queue.
fn completions(object: &Value) -> String {
    let succeeded = int(object, "/status/succeeded").unwrap_or_default();
    match (int(object, "/spec/completions"), int(object, "/spec/parallelism").unwrap_or_default()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn ran_for(object: &Value, now: Timestamp) -> String {
    match time(object, "/status/startTime") {
        Some(start) => duration::since(Some(start), time(object, "/status/completionTime").unwrap_or(now)),
        None => String::new(),
    }
}

fn generates_selector(object: &Value) -> bool {
    !flag(object, "/spec/manualSelector")
}

/// Labels the template with name and uid, and selects by the uid: no two Jobs ever share a pod. What the client
/// has set stays, for validation to refuse where it is wrong.
fn generate_selector(object: &mut Value) {
    let uid = text(object, "/metadata/uid").to_string();
    let name = text(object, "/metadata/name").to_string();
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    let labels = child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"));
    if let Some(labels) = labels {
        for key in JOB_NAME {
            set_default(labels, key, name.clone());
        }
        for key in CONTROLLER_UID {
            set_default(labels, key, uid.clone());
        }
    }
    if let Some(selected) = child(spec, "selector").and_then(|s| child(s, "matchLabels")) {
        set_default(selected, CONTROLLER_UID[1], json!(uid));
    }
}

#[cfg(test)]
#[path = "job/tests.rs"]
mod tests;

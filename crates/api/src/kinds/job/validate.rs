//! Validation of Jobs.

use crate::{
    FieldErrors, Path,
    object::{has, int, len, list, map, text},
    pod_spec::template,
    selector::{self, Selector},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::{CONTROLLER_UID, JOB_NAME, generates_selector};

const NUMBERS: [&str; 7] = [
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "ttlSecondsAfterFinished",
];
/// The most pods at once of a Job that counts its completions.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;

/// All that is wrong with the spec.
pub(super) fn validate(job: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    for field in NUMBERS {
        errors.not_negative(&path.child(field), job["spec"][field].as_i64());
    }
    validate_completion(job, &path, errors);
    validate_selector(job, &path, errors);
    let at = path.child("template");
    let policy = text(job, "/spec/template/spec/restartPolicy");
    let allowed = ["OnFailure", "Never"];
    if policy == "Always" {
        // What a template says by default: the person has most likely not said anything.
        let message = "valid values: \"OnFailure\", \"Never\"";
        template::validate(&job["spec"]["template"], &["Always"], &at, errors);
        errors.required(at.child("spec.restartPolicy"), message);
    } else {
        template::validate(&job["spec"]["template"], &allowed, &at, errors);
    }
    validate_policies(job, &path, errors);
}

fn validate_completion(job: &Value, path: &Path, errors: &mut FieldErrors) {
    let mode = text(job, "/spec/completionMode");
    if !mode.is_empty() {
        errors.one_of(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    }
    let indexed = mode == "Indexed";
    if indexed {
        if int(job, "/spec/completions").is_none() {
            errors.required(path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(many) = int(job, "/spec/parallelism").filter(|p| *p > MAX_INDEXED_PARALLELISM) {
            let message = format!(
                "must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed"
            );
            errors.invalid(path.child("parallelism"), many, message);
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = job["spec"][field].as_i64() {
                let message = "requires indexed completion mode";
                errors.invalid(path.child(field), value, message);
            }
        }
    }
}

fn validate_selector(job: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("selector");
    let Some(given) = job.pointer("/spec/selector").filter(|s| !s.is_null()) else {
        errors.required(&at, "");
        return;
    };
    let Some(typed) = errors.decode::<LabelSelector>(&at, given) else { return };
    let wrong = selector::validate(&typed, at.as_str());
    let labels = map(job, "/spec/template/metadata/labels");
    if wrong.is_empty() && !Selector::of(Some(&typed)).is_ok_and(|s| s.matches_json(labels)) {
        let shown = labels.map_or(Value::Null, |l| l.clone().into());
        let message = "`selector` does not match template `labels`";
        errors.invalid(path.child("template.metadata.labels"), shown, message);
    }
    errors.extend(wrong);
    if generates_selector(job) {
        validate_generated(job, path, errors);
    }
}

/// What a client sent must not contradict what the server makes.
fn validate_generated(job: &Value, path: &Path, errors: &mut FieldErrors) {
    let uid = text(job, "/metadata/uid");
    let name = text(job, "/metadata/name");
    let labels = path.child("template.metadata.labels");
    let label = |key: &str| map(job, "/spec/template/metadata/labels")?.get(key)?.as_str();
    for (keys, want) in [(CONTROLLER_UID, uid), (JOB_NAME, name)] {
        for key in keys {
            if label(key) != Some(want) {
                let message = format!("must be '{want}'");
                errors.invalid(labels.key(key), label(key).unwrap_or_default(), message);
            }
        }
    }
    let selected = map(job, "/spec/selector/matchLabels").and_then(|l| l.get(CONTROLLER_UID[1])?.as_str());
    if selected != Some(uid) {
        let shown = job["spec"]["selector"].clone();
        errors.invalid(path.child("selector"), shown, "`selector` not auto-generated");
    }
}

fn validate_policies(job: &Value, path: &Path, errors: &mut FieldErrors) {
    let replacement = text(job, "/spec/podReplacementPolicy");
    let at = path.child("podReplacementPolicy");
    let has_failure_policy = has(job, "/spec/podFailurePolicy");
    if !replacement.is_empty() {
        if has_failure_policy {
            errors.one_of(&at, replacement, &["Failed"]);
        } else {
            errors.one_of(&at, replacement, &["Failed", "TerminatingOrFailed"]);
        }
    }
    if has_failure_policy {
        let at = path.child("podFailurePolicy");
        if text(job, "/spec/template/spec/restartPolicy") != "Never" {
            let shown = text(job, "/spec/template/spec/restartPolicy");
            let message = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(path.child("template.spec.restartPolicy"), shown, message);
        }
        let rules = list(job, "/spec/podFailurePolicy/rules");
        if rules.len() > 20 {
            errors.push(crate::FieldError::too_many(at.child("rules"), rules.len(), 20));
        }
        for (index, rule) in rules.iter().enumerate() {
            validate_failure_rule(rule, &at.child("rules").index(index), errors);
        }
    }
}

fn validate_failure_rule(rule: &Value, path: &Path, errors: &mut FieldErrors) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    errors.required_one_of(&path.child("action"), text(rule, "/action"), &actions);
    let by_code = has(rule, "/onExitCodes");
    let by_condition = len(rule, "/onPodConditions") > 0;
    match (by_code, by_condition) {
        (true, true) => {
            let message = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid(path, Value::Null, message);
        }
        (false, false) => {
            let message = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid(path, Value::Null, message);
        }
        _ => {}
    }
    if by_code {
        let path = path.child("onExitCodes");
        let operator = text(rule, "/onExitCodes/operator");
        errors.required_one_of(&path.child("operator"), operator, &["In", "NotIn"]);
        let codes = list(rule, "/onExitCodes/values");
        if codes.is_empty() {
            errors.invalid(path.child("values"), json!(codes), "at least one value is required");
        }
        if operator == "In" && codes.contains(&json!(0)) {
            errors.invalid(path.child("values"), 0, "must not be 0 for the In operator");
        }
    }
}

/// All that is wrong with a change: what its pods are, and which are its own, is fixed.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let of = |object: &Value, field: &str| object["spec"].get(field).cloned();
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "successPolicy",
        "managedBy",
    ] {
        errors.immutable(&path.child(field), of(new, field).as_ref(), of(old, field).as_ref());
    }
    if of(new, "completions") != of(old, "completions") {
        // An indexed Job may grow or shrink with its parallelism.
        let elastic = text(old, "/spec/completionMode") == "Indexed"
            && of(new, "completions").is_some()
            && of(new, "completions") == of(new, "parallelism");
        let at = path.child("completions");
        if !elastic {
            errors.immutable(&at, of(new, "completions").as_ref(), of(old, "completions").as_ref());
        }
    }
    let mut template = new["spec"]["template"].clone();
    if may_still_be_placed(old) {
        // Not started yet: whoever queues Jobs may say where its pods go.
        let old = &old["spec"]["template"];
        for field in ["annotations", "labels"] {
            keep(&mut template, old, "/metadata", field);
        }
        for field in ["affinity", "nodeSelector", "tolerations", "schedulingGates"] {
            keep(&mut template, old, "/spec", field);
        }
    }
    if template != old["spec"]["template"] {
        errors.invalid(path.child("template"), new["spec"]["template"].clone(), "field is immutable");
    }
}

fn keep(new: &mut Value, old: &Value, parent: &str, field: &str) {
    if let (Some(new), Some(old)) = (new.pointer_mut(parent), old.pointer(parent)) {
        crate::object::carry_over(new, old, field);
    }
}

fn may_still_be_placed(job: &Value) -> bool {
    crate::object::flag(job, "/spec/suspend") && !has(job, "/status/startTime")
}

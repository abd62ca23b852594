//! Validation of Jobs.

use crate::{
    FieldError, FieldErrors, Path, name,
    object::{has, int, map, text},
    pod_spec::template,
    selector::{self, Selector},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::{CONTROLLER_UID, JOB_NAME, generates_selector, policies};

const NUMBERS: [&str; 7] = [
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "ttlSecondsAfterFinished",
];
/// The most pods at once, and the most failures, of a Job that counts its completions.
const MANY: i64 = 100_000;
/// The same of a Job with more than [`MANY`] completions that counts failures of each.
const FEWER: i64 = 10_000;
/// The longest name of who else cares for a Job.
const MAX_MANAGER: usize = 63;

/// All that is wrong with the spec.
pub(super) fn validate(job: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    validate_spec(&job["spec"], &path, errors);
    validate_selector(job, &path, errors);
    validate_pod_names(job, errors);
}

/// What is wrong with a spec wherever it stands, in a Job or in a template of Jobs.
pub(super) fn validate_spec(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    for field in NUMBERS {
        errors.not_negative(&path.child(field), spec[field].as_i64());
    }
    if has(spec, "/maxFailedIndexes") && !has(spec, "/backoffLimitPerIndex") {
        errors.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        validate_manager(manager, &path.child("managedBy"), errors);
    }
    validate_completion(spec, path, errors);
    policies::validate(spec, path, errors);
    let at = path.child("template");
    let policy = text(spec, "/template/spec/restartPolicy");
    let allowed = ["OnFailure", "Never"];
    if policy == "Always" {
        // What a template says by default: the person has most likely not said anything.
        let message = "valid values: \"OnFailure\", \"Never\"";
        template::validate(&spec["template"], &["Always"], &at, errors);
        errors.required(at.child("spec.restartPolicy"), message);
    } else {
        template::validate(&spec["template"], &allowed, &at, errors);
        if policy == "OnFailure" && has(spec, "/podFailurePolicy") {
            let message = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(at.child("spec.restartPolicy"), policy, message);
        }
    }
}

fn validate_manager(manager: &str, path: &Path, errors: &mut FieldErrors) {
    name::domain_prefixed_path(manager, path, errors);
    if manager.len() > MAX_MANAGER {
        errors.push(FieldError::too_long(path, MAX_MANAGER));
    }
}

fn validate_completion(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let mode = text(spec, "/completionMode");
    if !mode.is_empty() {
        errors.one_of(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        validate_indexed(spec, path, errors);
    } else if matches!(mode, "" | "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec[field].as_i64() {
                let message = "requires indexed completion mode";
                errors.invalid(path.child(field), value, message);
            }
        }
    }
}

fn validate_indexed(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let number = |field: &str| spec[field].as_i64();
    let completions = number("completions");
    if completions.is_none() {
        errors.required(path.child("completions"), "when completion mode is Indexed");
    }
    let mut at_most = |field: &str, most: i64, condition: &str| {
        if let Some(many) = number(field).filter(|many| *many > most) {
            errors.invalid(
                path.child(field),
                many,
                format!("must be less than or equal to {most}{condition}"),
            );
        }
    };
    at_most("parallelism", MANY, " when completion mode is Indexed");
    at_most("maxFailedIndexes", MANY, "");
    let many = completions.is_some_and(|c| c > MANY) && has(spec, "/backoffLimitPerIndex");
    if many {
        let condition = format!(" when completions are above {MANY} and used with backoff limit per index");
        at_most("parallelism", FEWER, &condition);
        at_most("maxFailedIndexes", FEWER, &condition);
        if number("maxFailedIndexes").is_none() {
            let message = format!("must be specified when completions is above {MANY}");
            errors.required(path.child("maxFailedIndexes"), &message);
        }
    }
    if let (Some(completions), Some(failed)) = (completions, number("maxFailedIndexes"))
        && failed > completions
    {
        errors.invalid(path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
}

/// The pods of an indexed Job have its name and their index for a host name.
fn validate_pod_names(job: &Value, errors: &mut FieldErrors) {
    let completions = int(job, "/spec/completions").unwrap_or_default();
    if text(job, "/spec/completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let name = text(job, "/metadata/name");
    let longest = format!("{name}-{}", completions - 1);
    // An object that exists is never refused for its name.
    if !has(job, "/metadata/resourceVersion") && !name::dns_label(&longest).is_empty() {
        let message = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.invalid("metadata.name", name, message);
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
        let indexed = text(old, "/spec/completionMode") == "Indexed";
        match of(new, "completions") {
            _ if elastic => {}
            Some(count) if indexed => {
                errors.invalid(&at, count, "can only be modified in tandem with spec.parallelism");
            }
            count => errors.immutable(&at, count.as_ref(), of(old, "completions").as_ref()),
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

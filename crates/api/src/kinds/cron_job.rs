//! CronJob (batch/v1): Jobs made by the clock.

use super::{base, job, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, cron, duration,
    object::{has, int, len, set_default, set_default_nonzero, text, time},
    pod_spec::defaults,
    print,
};
use jiff::{Timestamp, tz::TimeZoneDatabase};
use serde_json::Value;

/// The description of CronJob.
pub(super) fn kind() -> Kind {
    let mut columns = vec![
        print::name_column(),
        print::text_column("Schedule", "When a Job is made, in cron's form."),
        print::text_column("Timezone", "The time zone of the schedule."),
        print::bool_column("Suspend", "Whether it makes no Jobs for now."),
        print::int_column("Active", "How many of its Jobs run."),
        print::text_column("Last Schedule", "How long ago a Job was last made."),
        print::age_column(),
    ];
    columns.extend(print::template_columns());
    Kind {
        short_names: texts(&["cj"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        columns,
        ..base("batch", "v1", "CronJob", "cronjobs", CronJob)
    }
}

/// The names of its Jobs end in a dash and ten digits, and may have 63 characters.
const MAX_NAME: usize = 52;

struct CronJob;

impl Rules for CronJob {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
            defaults::set_template_defaults(spec);
        }
        if let Some(policy) = object.pointer_mut("/spec/jobTemplate/spec/podFailurePolicy") {
            job::default_failure_policy(policy);
        }
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default_nonzero(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        validate_schedule(object, &path, &mut errors);
        let deadline = int(object, "/spec/startingDeadlineSeconds");
        errors.not_negative(&path.child("startingDeadlineSeconds"), deadline);
        validate_time_zone(object, &path.child("timeZone"), &mut errors);
        let policy = text(object, "/spec/concurrencyPolicy");
        errors.required_one_of(&path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
        let template = object.pointer("/spec/jobTemplate").unwrap_or(&Value::Null);
        job::validate_template(template, &path.child("jobTemplate"), &mut errors);
        for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            errors.not_negative(&path.child(field), int(object, &format!("/spec/{field}")));
        }
        let name = text(object, "/metadata/name");
        // An object that exists is never refused for its name.
        if name.len() > MAX_NAME && !has(object, "/metadata/resourceVersion") {
            errors.invalid("metadata.name", name, format!("must be no more than {MAX_NAME} characters"));
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let suspend = match object.pointer("/spec/suspend").and_then(Value::as_bool) {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let last = match time(object, "/status/lastScheduleTime") {
            Some(at) => duration::since(Some(at), now),
            None => print::NONE.into(),
        };
        let template = object.pointer("/spec/jobTemplate").unwrap_or(&Value::Null);
        let mut cells = vec![
            print::name(object),
            text(object, "/spec/schedule").into(),
            print::or_none(text(object, "/spec/timeZone")),
            suspend.into(),
            len(object, "/status/active").into(),
            last.into(),
            print::age(object, now),
        ];
        cells.extend(print::template_cells(template));
        cells
    }
}

fn validate_schedule(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let schedule = text(object, "/spec/schedule");
    let at = path.child("schedule");
    if schedule.is_empty() {
        errors.required(&at, "");
        return;
    }
    if let Err(e) = cron::check(schedule) {
        errors.invalid(&at, schedule, e.to_string());
    }
    if schedule.contains("TZ") {
        let message = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&at, schedule, message);
    }
}

/// A name of the IANA time zone database, of which a copy is compiled in.
fn validate_time_zone(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let Some(name) = object.pointer("/spec/timeZone").and_then(Value::as_str) else { return };
    if name.is_empty() {
        errors.invalid(path, name, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        let message = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, name, message);
    } else if !TimeZoneDatabase::bundled().get(name).is_ok_and(|tz| tz.iana_name() == Some(name)) {
        errors.invalid(path, name, format!("unknown time zone {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cron_job(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec":
            {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        CronJob.default(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        CronJob.validate(&cron_job(spec)).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_bare_cron_job_lets_jobs_run_beside_each_other_and_keeps_a_few() {
        let object = cron_job(json!({}));
        let spec = &object["spec"];
        assert_eq!((&spec["concurrencyPolicy"], &spec["suspend"]), (&json!("Allow"), &json!(false)));
        assert_eq!(
            (&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]),
            (&json!(3), &json!(1))
        );
        assert_eq!(wrong(json!({})), Vec::<String>::new());
        assert_eq!(wrong(json!({"timeZone": "Europe/Berlin"})), Vec::<String>::new());
        assert_eq!(wrong(json!({"timeZone": "UTC"})), Vec::<String>::new());
    }

    #[test]
    fn wrong_fields_are_named() {
        for (spec, want) in [
            (json!({"schedule": ""}), "spec.schedule: Required value"),
            (
                json!({"schedule": "error"}),
                "spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1: [error]",
            ),
            (
                json!({"schedule": "TZ=UTC * * * * *"}),
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone \
                 field instead",
            ),
            (
                json!({"timeZone": "Amerika/New York"}),
                "spec.timeZone: Invalid value: \"Amerika/New York\": unknown time zone Amerika/New York",
            ),
            (
                json!({"timeZone": ""}),
                "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
            ),
            (
                json!({"timeZone": "Local"}),
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in \
                 https://www.iana.org/time-zones",
            ),
            (
                json!({"concurrencyPolicy": "Maybe"}),
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                json!({"startingDeadlineSeconds": -1}),
                "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"jobTemplate": {"spec": {"manualSelector": true, "template": {"spec": {"restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "x"}]}}}}}),
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
            ),
            (
                json!({"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}}}),
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn names_leave_room_for_those_of_the_jobs() {
        let mut object = cron_job(json!({}));
        object["metadata"]["name"] = "c".repeat(53).into();
        let errors = CronJob.validate(&object);
        assert!(errors[0].to_string().ends_with("must be no more than 52 characters"));
    }

    #[test]
    fn the_row_shows_when_it_ran() {
        let mut object = cron_job(json!({"timeZone": "UTC"}));
        object["status"] = json!({"active": [{}], "lastScheduleTime": "2026-01-01T00:00:00Z"});
        let row = CronJob.cells(&object, "2026-01-01T00:01:30Z".parse().unwrap());
        assert_eq!(row[1..6], [json!("*/5 * * * *"), json!("UTC"), json!("False"), json!(1), json!("90s")]);
        assert_eq!(row[7..], [json!("c"), json!("x"), json!("<none>")]);
    }
}

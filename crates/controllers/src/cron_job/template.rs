//! The Job that a CronJob makes for a time of its schedule. Pure.

use crate::ownership;
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{ResourceExt, api::ObjectMeta};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The Job for a time: named after its minute, and told of it in the clocks of the schedule.
pub(super) fn job_for(owner: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = owner.spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let offset = if local.offset().is_zero() { "Z".into() } else { local.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED.into(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", owner.name_any(), at.as_second() / 60)),
            namespace: owner.namespace(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![ownership::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The time that a Job was made for, if a CronJob's controller made it.
pub(super) fn scheduled_for(owner: &CronJob, job: &Job) -> Option<Timestamp> {
    let at: Timestamp = job.annotations().get(SCHEDULED)?.parse().ok()?;
    let name = format!("{}-{}", owner.name_any(), at.as_second() / 60);
    (job.metadata.name.as_deref() == Some(&name)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_says_the_minute_and_the_annotation_the_time_on_the_wall() {
        let owner = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"schedule": "", "jobTemplate": {
            "metadata": {"labels": {"a": "b"}}}}});
        let owner: CronJob = serde_json::from_value(owner).unwrap();
        let at = "2026-07-01T10:30:00Z".parse().unwrap();
        let job = job_for(&owner, at, &TimeZone::get("Europe/Berlin").unwrap());
        assert_eq!(job.name_any(), "c-29715030");
        assert_eq!(job.annotations()[SCHEDULED], "2026-07-01T12:30:00+02:00");
        assert_eq!(job_for(&owner, at, &TimeZone::UTC).annotations()[SCHEDULED], "2026-07-01T10:30:00Z");
        assert_eq!(job.labels()["a"], "b");
        assert_eq!(scheduled_for(&owner, &job), Some(at));
    }
}

//! When a CronJob has to make a Job: which time of its schedule is the last that has come and was not served, and when the next
//! one comes. Pure; the time is handed in.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::CronJob;
use orlop_api::cron::Schedule;

/// With more missed times than these, something was wrong for long.
const MANY: i64 = 100;
/// Looked at a moment after the time has come, so that it surely has.
const MOMENT: SignedDuration = SignedDuration::from_millis(100);

/// What a schedule says of the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recent {
    /// From when times count.
    since: Timestamp,
    /// The last one that has come.
    last: Option<Timestamp>,
    /// Roughly how many have come.
    missed: i64,
}

/// A Job that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The time of the schedule that it serves.
    pub at: Timestamp,
    /// Whether very many times went by before.
    pub too_many_missed: bool,
}

/// The schedule of a CronJob does not fire at distinct times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time difference between two schedules is less than 1 second")]
pub(super) struct Irregular;

/// The schedule and the clocks that it goes by.
pub(super) struct Calendar {
    pub schedule: Schedule,
    pub zone: TimeZone,
}

impl Calendar {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    fn recent(&self, job: &CronJob, now: Timestamp, with_deadline: bool) -> Result<Recent, Irregular> {
        let status = job.status.as_ref();
        let last = status.and_then(|s| s.last_schedule_time.as_ref());
        let born = job.metadata.creation_timestamp.as_ref();
        let mut since = last.or(born).map_or(now, |t| t.0);
        let deadline = job.spec.starting_deadline_seconds;
        if let Some(deadline) = deadline.filter(|_| with_deadline)
            && let Ok(earliest) = now.checked_sub(SignedDuration::from_secs(deadline))
        {
            since = since.max(earliest);
        }
        let none = Recent { since, last: None, missed: 0 };
        let Some(first) = self.next(since).filter(|t| *t <= now) else { return Ok(none) };
        let Some(second) = self.next(first).filter(|t| *t <= now) else {
            return Ok(Recent { last: Some(first), missed: 1, ..none });
        };
        let apart = second.duration_since(first).as_secs();
        if apart < 1 {
            return Err(Irregular);
        }
        // A rough count: stepping through all would take for ever where the clock was wrong.
        let missed = now.duration_since(first).as_secs() / apart + 1;
        let mut skip = (missed - 2).max(0).saturating_mul(apart);
        loop {
            let near = first.checked_add(SignedDuration::from_secs(skip)).map_or(first, |t| t.min(now));
            let mut last = None;
            while let Some(next) = self.next(last.unwrap_or(near)).filter(|t| *t <= now) {
                last = Some(next);
            }
            if let Some(last) = last {
                return Ok(Recent { last: Some(last), missed, ..none });
            }
            // Times that are not evenly apart: too much was skipped.
            skip /= 2;
        }
    }

    /// The last time that has come since the last Job.
    pub(super) fn due(&self, job: &CronJob, now: Timestamp) -> Result<Option<Due>, Irregular> {
        let recent = self.recent(job, now, true)?;
        Ok(recent.last.map(|at| Due { at, too_many_missed: recent.missed > MANY }))
    }

    /// How long until the next time comes.
    pub(super) fn wait(&self, job: &CronJob, now: Timestamp) -> Option<SignedDuration> {
        let from = match self.recent(job, now, false) {
            Ok(Recent { last: Some(last), .. }) => last,
            Ok(Recent { since, .. }) => since,
            Err(Irregular) => now,
        };
        let next = self.next(from)?;
        Some((next.duration_since(now) + MOMENT).max(SignedDuration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::cron;
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn job(last: Option<&str>, spec: Value) -> CronJob {
        let mut whole = json!({"schedule": "", "jobTemplate": {}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": whole, "status": {"lastScheduleTime": last},
        }))
        .unwrap()
    }

    fn calendar(schedule: &str) -> Calendar {
        Calendar { schedule: cron::parse(schedule).unwrap(), zone: TimeZone::UTC }
    }

    #[test]
    fn the_last_time_that_came_is_served_and_those_before_it_are_not() {
        let hourly = calendar("0 * * * *");
        for (last, now, want) in [
            (None, "2026-01-01T00:59:59Z", None),
            (None, "2026-01-01T01:00:00Z", Some("2026-01-01T01:00:00Z")),
            (Some("2026-01-01T01:00:00Z"), "2026-01-01T01:30:00Z", None),
            (Some("2026-01-01T01:00:00Z"), "2026-01-01T02:00:00Z", Some("2026-01-01T02:00:00Z")),
            (Some("2026-01-01T01:00:00Z"), "2026-01-01T09:30:00Z", Some("2026-01-01T09:00:00Z")),
        ] {
            let due = hourly.due(&job(last, json!({})), at(now)).unwrap();
            assert_eq!(due.map(|d| d.at), want.map(at), "{last:?} {now}");
            assert!(due.is_none_or(|d| !d.too_many_missed));
        }
    }

    #[test]
    fn more_than_a_hundred_missed_times_are_told_of() {
        let minutely = calendar("* * * * *");
        let due = |now| minutely.due(&job(None, json!({})), at(now)).unwrap().unwrap();
        assert!(!due("2026-01-01T01:40:00Z").too_many_missed);
        let many = due("2026-03-01T12:00:30Z");
        assert_eq!(many, Due { at: at("2026-03-01T12:00:00Z"), too_many_missed: true });
        let limited = job(None, json!({"startingDeadlineSeconds": 200}));
        let due = minutely.due(&limited, at("2026-03-01T12:00:30Z")).unwrap().unwrap();
        assert!(!due.too_many_missed, "the deadline limits how far it looks back");
    }

    #[test]
    fn uneven_schedules_are_followed_too() {
        let weekdays = calendar("0 9 * * 1-5");
        let due = weekdays.due(&job(None, json!({})), at("2026-01-12T08:00:00Z")).unwrap();
        assert_eq!(due.unwrap().at, at("2026-01-09T09:00:00Z"), "Friday's");
    }

    #[test]
    fn it_waits_until_the_next_time_has_surely_come() {
        let hourly = calendar("0 * * * *");
        let wait = |last, now| hourly.wait(&job(last, json!({})), at(now)).map(|w| w.as_millis());
        assert_eq!(wait(None, "2026-01-01T00:30:00Z"), Some(1_800_100));
        assert_eq!(wait(Some("2026-01-01T01:00:00Z"), "2026-01-01T01:00:05Z"), Some(3_595_100));
        assert_eq!(calendar("0 0 30 2 *").wait(&job(None, json!({})), at("2026-01-01T00:00:00Z")), None);
    }
}

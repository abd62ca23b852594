//! What a Job needs now: whether it has succeeded or failed, how many pods it should have, what its conditions say. Pure functions
//! of the Job and its pods.

use super::{Indexes, policy};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use orlop_client::EventType;
use std::sync::Arc;

const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const LAST_BACKOFF: SignedDuration = SignedDuration::from_secs(600);

pub(super) fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
}

pub(super) fn is_finished(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub succeeded: bool,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    fn new(succeeded: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { succeeded, reason: reason.into(), message: message.into() }
    }

    /// The failure that a failure policy asks for.
    pub(super) fn of_policy(message: String) -> Self {
        Self::new(false, "PodFailurePolicy", message)
    }

    /// What was decided before: it stays so.
    pub(super) fn decided(job: &Job) -> Option<Self> {
        let said = |type_| condition(job, type_);
        let (succeeded, said) = match (said("SuccessCriteriaMet"), said("FailureTarget")) {
            (Some(condition), _) => (true, condition),
            (None, Some(condition)) => (false, condition),
            (None, None) => return None,
        };
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        Some(Self { succeeded, reason: text(&said.reason), message: text(&said.message) })
    }
}

/// Whether the Job has succeeded or failed for good.
pub(super) fn verdict(
    spec: &JobSpec,
    status: &JobStatus,
    active: &[Arc<Pod>],
    now: Timestamp,
) -> Option<Verdict> {
    let (succeeded, failed) = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts_in_place =
        spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let restarts: i32 = active
        .iter()
        .filter(|_| restarts_in_place)
        .flat_map(|p| p.status.iter())
        .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()))
        .map(|c| c.restart_count)
        .sum();
    if failed > limit || (restarts > 0 && restarts >= limit) {
        let message = "Job has reached the specified backoff limit";
        return Some(Verdict::new(false, "BackoffLimitExceeded", message));
    }
    if let (Some(deadline), Some(start)) = (spec.active_deadline_seconds, &status.start_time)
        && !spec.suspend.unwrap_or(false)
        && now.duration_since(start.0) >= SignedDuration::from_secs(deadline)
    {
        let message = "Job was active longer than specified deadline";
        return Some(Verdict::new(false, "DeadlineExceeded", message));
    }
    if let Some(verdict) = verdict_by_indexes(spec, status) {
        return Some(verdict);
    }
    let done = match spec.completions {
        Some(completions) => succeeded >= completions,
        // A work queue: one success ends it, when the others have ended too.
        None => succeeded > 0 && active.is_empty(),
    };
    done.then(|| Verdict::new(true, "CompletionsReached", "Reached expected number of succeeded pods"))
}

/// What follows from which indexes have succeeded and failed.
fn verdict_by_indexes(spec: &JobSpec, status: &JobStatus) -> Option<Verdict> {
    let indexes = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default());
    let (completed, failed) = (indexes(&status.completed_indexes), indexes(&status.failed_indexes));
    let all = spec.completions.and_then(|c| usize::try_from(c).ok());
    if spec.backoff_limit_per_index.is_some() {
        let most = spec.max_failed_indexes.and_then(|m| usize::try_from(m).ok());
        if most.is_some_and(|most| failed.len() > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::new(false, "MaxFailedIndexesExceeded", message));
        }
        if failed.len() > 0 && all.is_some_and(|all| completed.len() + failed.len() >= all) {
            return Some(Verdict::new(false, "FailedIndexes", "Job has failed indexes"));
        }
    }
    policy::success(spec, &completed).map(|why| Verdict::new(true, "SuccessPolicy", why))
}

/// How many pods should be active, and how long to wait where failures ask for a pause.
pub(super) fn wanted(
    spec: &JobSpec,
    status: &JobStatus,
    active: usize,
    mine: &[Arc<Pod>],
    now: Timestamp,
) -> (usize, Option<SignedDuration>) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let succeeded = usize::try_from(status.succeeded.unwrap_or(0)).unwrap_or(0);
    let wanted = match spec.completions {
        None if succeeded > 0 => active,
        None => parallelism,
        Some(completions) => {
            let failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default()).len();
            let left = usize::try_from(completions).unwrap_or(0).saturating_sub(succeeded + failed);
            parallelism.min(left)
        }
    };
    // Replacements wait until the pods they replace have stopped, where that was asked for.
    let stopping = mine.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count();
    let wanted = if spec.pod_replacement_policy.as_deref() == Some("Failed") {
        wanted.saturating_sub(stopping)
    } else {
        wanted
    };
    // Where each index has its own limit, it has its own pauses too.
    if wanted <= active || spec.backoff_limit_per_index.is_some() {
        return (wanted, None);
    }
    // Failures in a row count: a success sets them back.
    let ends = |phase: &str| {
        let ended = mine.iter().filter(move |p| pods::phase(p) == phase);
        ended.filter_map(|p| finished_at(p)).collect::<Vec<_>>()
    };
    let last_success = ends("Succeeded").into_iter().max();
    let failures: Vec<_> =
        ends("Failed").into_iter().filter(|t| last_success.is_none_or(|s| *t > s)).collect();
    if let Some(last) = failures.iter().max().copied() {
        let left = backoff(failures.len()) - now.duration_since(last);
        if left > SignedDuration::ZERO {
            return (active, Some(left));
        }
    }
    (wanted, None)
}

/// How long to wait after so many failures in a row.
pub(super) fn backoff(failures: usize) -> SignedDuration {
    (FIRST_BACKOFF * (1 << failures.saturating_sub(1).min(6))).min(LAST_BACKOFF)
}

/// When the last container of a pod ended; of one that never had any, when it was last said to be unready.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let ends = statuses.iter().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let unready = || pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    ends.max_by_key(|t| t.0).or_else(unready).map(|t| t.0)
}

/// Sets the conditions that follow. The final one comes only when no pod runs any more.
/// Returns the Events that tell of it.
pub(super) fn conclude(
    job: &Job,
    status: &mut JobStatus,
    verdict: Option<Verdict>,
    quiet: bool,
    now: Timestamp,
) -> Vec<(EventType, &'static str, String)> {
    let mut events = Vec::new();
    let suspended = job.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false);
    let conditions = status.conditions.get_or_insert_default();
    let mut set = |type_: &str, value: bool, reason: &str, message: &str| {
        let value = if value { "True" } else { "False" };
        if conditions.iter().any(|c| c.type_ == type_ && c.status == value) {
            return false;
        }
        conditions.retain(|c| c.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
        true
    };
    match verdict {
        Some(Verdict { succeeded: true, reason, message }) => {
            set("SuccessCriteriaMet", true, &reason, &message);
            if quiet && set("Complete", true, &reason, &message) {
                status.completion_time = Some(Time(now));
                events.push((EventType::Normal, "Completed", "Job completed".into()));
            }
        }
        Some(Verdict { reason, message, .. }) => {
            set("FailureTarget", true, &reason, &message);
            if quiet && set("Failed", true, &reason, &message) {
                let known = [
                    "DeadlineExceeded",
                    "PodFailurePolicy",
                    "MaxFailedIndexesExceeded",
                    "FailedIndexes",
                    "BackoffLimitExceeded",
                ];
                let reason = known.into_iter().find(|k| *k == reason).unwrap_or("BackoffLimitExceeded");
                events.push((EventType::Warning, reason, message));
            }
        }
        None if suspended => {
            if set("Suspended", true, "JobSuspended", "Job suspended") {
                events.push((EventType::Normal, "Suspended", "Job suspended".into()));
            }
            status.start_time = None;
        }
        None => {
            let was = conditions_say_suspended(job);
            if was && set("Suspended", false, "JobResumed", "Job resumed") {
                status.start_time = Some(Time(now));
                events.push((EventType::Normal, "Resumed", "Job resumed".into()));
            }
        }
    }
    status.conditions = status.conditions.take().filter(|c| !c.is_empty());
    events
}

fn conditions_say_suspended(job: &Job) -> bool {
    condition(job, "Suspended").is_some()
}

//! CronJob: Jobs made by the clock (Kubernetes documentation, "CronJob"). A Job's name comes from the minute that it serves, so
//! that no time is ever served twice. A schedule without a time zone goes by UTC.

mod due;
mod template;

use crate::{Cluster, Error, ownership};
use due::Calendar;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use orlop_api::cron;
use orlop_client::{EventType, Key, Queue, api_message, api_reason, found, run_workers};
use std::sync::Arc;

const WORKERS: usize = 5;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    // Jobs of nobody are nobody's: none is adopted.
    ownership::follow(&queue, &cluster.cron_jobs, &cluster.jobs, |_, _| false);
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        run_workers("cronjob", queue.clone(), WORKERS, reconcile).await;
    })
}

/// The condition with which a Job ended.
fn ending(job: &Job) -> Option<&str> {
    let mut conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ended = conditions.find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    ended.map(|c| c.type_.as_str())
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(owner) = cluster.cron_jobs.get(&key.namespace, &key.name) else { return Ok(()) };
    let now = cluster.now();
    let jobs = cluster.jobs.owned_by(&owner.uid().unwrap_or_default());
    let mut turn = Turn { cluster, owner: &owner, status: owner.status.clone().unwrap_or_default() };
    turn.follow(&jobs);
    let outcome = match owner.metadata.deletion_timestamp {
        Some(_) => Ok(None),
        None => turn.schedule(now).await,
    };
    turn.tidy(&jobs).await;
    let mut status = turn.status;
    status.active = status.active.filter(|a| !a.is_empty());
    if owner.status.clone().unwrap_or_default() != status {
        let mut changed = (*owner).clone();
        changed.status = Some(status);
        cluster.write_status(&cluster.cron_jobs, &changed).await?;
    }
    if let Some(wait) = outcome? {
        queue.add_after(key, wait.unsigned_abs());
    }
    Ok(())
}

/// One look at a CronJob.
struct Turn<'a> {
    cluster: &'a Cluster,
    owner: &'a CronJob,
    status: CronJobStatus,
}

impl Turn<'_> {
    fn tell(&self, event_type: EventType, reason: &'static str, message: String) {
        self.cluster.recorder.event(self.owner, event_type, reason, message);
    }

    fn is_active(&self, job: &Job) -> bool {
        self.status.active.iter().flatten().any(|a| a.uid == job.metadata.uid)
    }

    /// A Job that serves a time.
    fn note(&mut self, job: &Job, at: Timestamp) {
        if ending(job).is_none() {
            self.status.active.get_or_insert_default().push(ObjectReference {
                kind: Some("Job".into()),
                api_version: Some("batch/v1".into()),
                name: job.metadata.name.clone(),
                namespace: job.metadata.namespace.clone(),
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
                ..ObjectReference::default()
            });
        }
        if self.status.last_schedule_time.as_ref().is_none_or(|last| at > last.0) {
            self.status.last_schedule_time = Some(Time(at));
        }
    }

    fn retire(&mut self, uid: Option<String>) {
        self.status.active.get_or_insert_default().retain(|a| a.uid != uid);
    }

    /// Brings the list of those that run, and the last success, up to date.
    fn follow(&mut self, jobs: &[Arc<Job>]) {
        for job in jobs {
            let (name, active) = (job.name_any(), self.is_active(job));
            let Some(ending) = ending(job) else {
                if let Some(at) = template::scheduled_for(self.owner, job).filter(|_| !active) {
                    // Made before the status could be written.
                    self.note(job, at);
                } else if !active {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.tell(EventType::Warning, "UnexpectedJob", message);
                }
                continue;
            };
            if active {
                self.retire(job.uid());
                let message = format!("Saw completed job: {name}, condition: {ending}");
                self.tell(EventType::Normal, "SawCompletedJob", message);
            }
            let end = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if let Some(end) = end.filter(|_| ending == "Complete")
                && self.status.last_successful_time.as_ref().is_none_or(|last| end.0 > last.0)
            {
                self.status.last_successful_time = Some(end);
            }
        }
        for gone in self.status.active.clone().unwrap_or_default() {
            if !jobs.iter().any(|j| j.metadata.uid == gone.uid) {
                let name = gone.name.unwrap_or_default();
                self.tell(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
                self.retire(gone.uid);
            }
        }
    }

    /// Makes the Job that is due, if one is; says when to look again.
    async fn schedule(&mut self, now: Timestamp) -> Result<Option<SignedDuration>, Error> {
        let spec = &self.owner.spec;
        let name = spec.time_zone.as_deref().unwrap_or("UTC");
        let zone = match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                self.tell(EventType::Warning, "UnknownTimeZone", message);
                return Ok(None);
            }
        };
        if spec.suspend.unwrap_or(false) {
            return Ok(None);
        }
        let calendar = match cron::parse(&spec.schedule) {
            Ok(schedule) => Calendar { schedule, zone },
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.tell(EventType::Warning, "UnparseableSchedule", message);
                return Ok(None);
            }
        };
        let seen = CronJob { status: Some(self.status.clone()), ..self.owner.clone() };
        let wait = calendar.wait(&seen, now);
        let due = match calendar.due(&seen, now) {
            Ok(Some(due)) => due,
            Ok(None) => return Ok(wait),
            Err(error) => {
                let message = format!("invalid schedule: {} : {error}", spec.schedule);
                self.tell(EventType::Warning, "InvalidSchedule", message);
                return Ok(None);
            }
        };
        if due.too_many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(EventType::Warning, "TooManyMissedTimes", message.into());
        }
        let late = |limit: i64| now.duration_since(due.at) > SignedDuration::from_secs(limit);
        if spec.starting_deadline_seconds.is_some_and(late) {
            let when = due.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {when}");
            self.tell(EventType::Warning, "MissSchedule", message);
            return Ok(wait);
        }
        let job = template::job_for(self.owner, due.at, &calendar.zone);
        let running = self.status.active.clone().unwrap_or_default();
        let served = self.status.last_schedule_time.as_ref().is_some_and(|t| t.0 == due.at);
        if served || running.iter().any(|a| a.name == job.metadata.name) {
            return Ok(wait);
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.tell(EventType::Normal, "JobAlreadyActive", message.into());
                return Ok(wait);
            }
            Some("Replace") => {
                for old in running {
                    let name = old.name.unwrap_or_default();
                    let job = self.cluster.jobs.get(&self.owner.namespace().unwrap_or_default(), &name);
                    if let Some(job) = job {
                        self.delete(&job).await?;
                    }
                    self.retire(old.uid);
                }
            }
            _ => {}
        }
        self.create(job, due.at).await?;
        Ok(calendar.wait(&CronJob { status: Some(self.status.clone()), ..self.owner.clone() }, now))
    }

    async fn create(&mut self, job: Job, at: Timestamp) -> Result<(), Error> {
        let api = self.cluster.api::<Job>(&self.owner.namespace().unwrap_or_default());
        let made = match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                let message = format!("Created job {}", made.name_any());
                self.tell(EventType::Normal, "SuccessfulCreate", message);
                made
            }
            // Made before the status could be written; one of somebody else's is left alone.
            Err(error) if api_reason(&error) == Some("AlreadyExists") => {
                let there = found(api.get(&job.name_any()).await).map_err(Error::at("reading a Job"))?;
                let mine = |j: &Job| ownership::controller_of(j).map(|o| o.uid.clone()) == self.owner.uid();
                match there.filter(mine) {
                    Some(job) if !self.is_active(&job) => job,
                    _ => return Ok(()),
                }
            }
            Err(error) => {
                let message = format!("Error creating job: {}", api_message(&error));
                self.tell(EventType::Warning, "FailedCreate", message);
                return Err(Error::at("creating a Job")(error));
            }
        };
        self.note(&made, at);
        self.cluster.jobs.observe(made);
        Ok(())
    }

    async fn delete(&self, job: &Arc<Job>) -> Result<(), Error> {
        let name = job.name_any();
        let preconditions = Some(Preconditions { uid: job.uid(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        let api = self.cluster.api::<Job>(&job.namespace().unwrap_or_default());
        match found(api.delete(&name, &params).await) {
            Ok(_) => {
                self.tell(EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) => {
                let message = format!("Deleted job: {}", api_message(&error));
                self.tell(EventType::Warning, "FailedDelete", message);
                Err(Error::at("deleting a Job")(error))
            }
        }
    }

    /// Deletes the oldest of the Jobs that ended, beyond what is kept. What fails is tried at the next turn.
    async fn tidy(&mut self, jobs: &[Arc<Job>]) {
        let spec = &self.owner.spec;
        let kept =
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
        for (kind, limit) in kept {
            let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
            let mut ended: Vec<_> = jobs.iter().filter(|j| ending(j) == Some(kind)).collect();
            ended.retain(|j| j.metadata.deletion_timestamp.is_none());
            ended.sort_by_key(|j| {
                (j.status.as_ref().and_then(|s| Some(s.start_time.as_ref()?.0)), j.name_any())
            });
            for job in &ended[..ended.len().saturating_sub(limit)] {
                if self.delete(job).await.is_ok() {
                    self.retire(job.uid());
                }
            }
        }
    }
}

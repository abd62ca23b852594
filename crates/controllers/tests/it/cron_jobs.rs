use crate::cluster::{Cluster, template};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

fn cron(act: &str, spec: Value) -> Value {
    let mut pod = template("tick", act);
    pod["spec"]["restartPolicy"] = "Never".into();
    // When the clock jumps, nodes count as silent.
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let mut whole = json!({
        "schedule": "* * * * *",
        "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"backoffLimit": 0, "template": pod}},
    });
    whole.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    json!({"metadata": {"name": "tick"}, "spec": whole})
}

/// Lets a minute go by, and the controller look at it: its own alarm goes by real time.
async fn a_minute_later(c: &Cluster) {
    c.advance(60);
    let now = jiff::Timestamp::now().to_string();
    c.patch::<CronJob>("tick", json!({"metadata": {"annotations": {"looked-at": now}}})).await;
}

async fn jobs(c: &Cluster) -> Vec<Job> {
    let mut jobs = c.api::<Job>().list(&ListParams::default()).await.expect("a list").items;
    jobs.retain(|j| j.metadata.deletion_timestamp.is_none());
    jobs.sort_by_key(ResourceExt::name_any);
    jobs
}

async fn until_jobs(c: &Cluster, count: usize) -> Vec<Job> {
    c.until(&format!("{count} jobs"), async || Some(jobs(c).await).filter(|j| j.len() == count)).await
}

fn active(job: &CronJob) -> usize {
    job.status.as_ref().and_then(|s| s.active.as_ref()).map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_minute_makes_a_job_named_after_it() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({}))).await;
    c.settle().await;
    assert!(jobs(&c).await.is_empty(), "its first minute has not come");
    a_minute_later(&c).await;
    let first = until_jobs(&c, 1).await.remove(0);
    let owner = c.until_it("tick", "to have one", |j: &CronJob| active(j) == 1).await;
    let at = owner.status.and_then(|s| s.last_schedule_time).expect("a time").0;
    assert_eq!(first.name_any(), format!("tick-{}", at.as_second() / 60));
    assert_eq!(first.labels()["app"], "tick");
    assert_eq!(
        first.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    );
    c.until_event("SuccessfulCreate", &format!("Created job {}", first.name_any())).await;
    a_minute_later(&c).await;
    until_jobs(&c, 2).await;
    c.until_it("tick", "to have two beside each other", |j: &CronJob| active(j) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_minute_is_served_twice_though_the_controllers_are_killed() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({}))).await;
    a_minute_later(&c).await;
    until_jobs(&c, 1).await;
    for _ in 0..3 {
        c.kill("controllers").await;
        c.start_controllers();
    }
    c.until_it("tick", "to know of its job", |j: &CronJob| active(j) == 1).await;
    c.settle().await;
    assert_eq!(jobs(&c).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_keeps_the_next_from_starting_where_that_is_forbidden() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({"concurrencyPolicy": "Forbid"}))).await;
    a_minute_later(&c).await;
    let first = until_jobs(&c, 1).await.remove(0).name_any();
    a_minute_later(&c).await;
    c.until_event("JobAlreadyActive", "prior execution is running and concurrency policy is Forbid").await;
    assert_eq!(jobs(&c).await.len(), 1);
    c.delete::<Job>(&first, &kube::api::DeleteParams::background()).await;
    c.until("another job", async || jobs(&c).await.into_iter().find(|j| j.name_any() != first)).await;
    c.until_event("MissingJob", &format!("Active job went missing: {first}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_replaced_where_that_is_asked_for() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({"concurrencyPolicy": "Replace"}))).await;
    a_minute_later(&c).await;
    let first = until_jobs(&c, 1).await.remove(0);
    a_minute_later(&c).await;
    c.until_gone::<Job>(&first.name_any()).await;
    until_jobs(&c, 1).await;
    c.until_event("SuccessfulDelete", &format!("Deleted job {}", first.name_any())).await;
    c.until_it("tick", "to have one", |j: &CronJob| active(j) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_one_makes_none_and_a_late_one_neither() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({"suspend": true, "startingDeadlineSeconds": 10}))).await;
    for _ in 0..2 {
        a_minute_later(&c).await;
    }
    c.settle().await;
    assert!(jobs(&c).await.is_empty());
    let made = c.api::<CronJob>().get("tick").await.expect("it is there");
    assert_eq!((active(&made), made.status.and_then(|s| s.last_schedule_time)), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_for_long_is_told_of_and_done_once() {
    let c = Cluster::start(1).await;
    c.create::<CronJob>(cron("", json!({}))).await;
    c.advance(3600 * 3);
    a_minute_later(&c).await;
    until_jobs(&c, 1).await;
    c.until_event("TooManyMissedTimes", "too many missed start times").await;
    c.settle().await;
    assert_eq!(jobs(&c).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_jobs_that_ended_are_kept() {
    let c = Cluster::start(1).await;
    let limits = json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0});
    c.create::<CronJob>(cron("succeed", limits)).await;
    let mut last = None;
    for _ in 0..4 {
        a_minute_later(&c).await;
        let done = c
            .until_it("tick", "to have had a success", |j: &CronJob| {
                let status = j.status.clone().unwrap_or_default();
                active(j) == 0 && status.last_schedule_time.is_some() && status.last_schedule_time != last
            })
            .await;
        let status = done.status.unwrap_or_default();
        assert!(status.last_successful_time.is_some());
        last = status.last_schedule_time;
    }
    until_jobs(&c, 2).await;
    c.until_event("SawCompletedJob", "condition: Complete").await;
    c.patch::<CronJob>("tick", json!({"spec": {"successfulJobsHistoryLimit": 0}})).await;
    until_jobs(&c, 0).await;
}

use crate::cluster::{Cluster, template};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt, api::DeleteParams};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn job(name: &str, act: &str, spec: Value) -> Value {
    let mut template = template(name, act);
    template["spec"]["restartPolicy"] = "Never".into();
    let mut job =
        json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"template": template}});
    for (key, value) in spec.as_object().expect("fields") {
        job["spec"][key] = value.clone();
    }
    job
}

fn has(job: &Job, type_: &str) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let c = conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?;
    Some(c.reason.clone().unwrap_or_default())
}

fn counts(job: &Job) -> (i32, i32, i32) {
    let s = job.status.clone().unwrap_or_default();
    (s.active.unwrap_or(0), s.succeeded.unwrap_or(0), s.failed.unwrap_or(0))
}

fn complete(job: &Job) -> bool {
    has(job, "Complete").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_as_many_pods_to_success_as_it_asks_for() {
    let c = Cluster::start(2).await;
    c.create::<Job>(job("sum", "succeed", json!({"completions": 7, "parallelism": 3}))).await;
    let done = c.until_it("sum", "to be complete", complete).await;
    assert_eq!(counts(&done), (0, 7, 0));
    let status = done.status.expect("a status");
    assert!(status.completion_time.is_some() && status.uncounted_terminated_pods.is_none());
    let pods = c.of_app::<Pod>("sum").await;
    assert_eq!(pods.len(), 7);
    assert!(pods.iter().all(|p| p.finalizers().is_empty()), "nothing holds them any more");
    c.until_event("Completed", "Job completed").await;
    c.until_event("SuccessfulCreate", "Created pod: sum-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexed_job_runs_each_index_once() {
    let c = Cluster::start(2).await;
    let spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed"});
    c.create::<Job>(job("sum", "succeed", spec)).await;
    let done = c.until_it("sum", "to be complete", complete).await;
    assert_eq!(done.status.expect("a status").completed_indexes.as_deref(), Some("0-4"));
    let pods = c.of_app::<Pod>("sum").await;
    let index = |p: &Pod| p.annotations()["batch.kubernetes.io/job-completion-index"].clone();
    let all: BTreeSet<_> = pods.iter().map(index).collect();
    assert_eq!((pods.len(), all.len()), (5, 5));
    let pod = pods.iter().find(|p| index(p) == "3").expect("index 3");
    assert!(pod.name_any().starts_with("sum-3-"));
    assert_eq!(pod.spec.as_ref().and_then(|s| s.hostname.as_deref()), Some("sum-3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_pods_fail_too_often_fails() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job("bad", "fail", json!({"backoffLimit": 1}))).await;
    c.until_it("bad", "to have failed once", |j| counts(j).2 == 1).await;
    c.settle().await;
    assert_eq!(c.of_app::<Pod>("bad").await.len(), 1, "the next one waits");
    c.advance(11);
    c.patch::<Job>("bad", json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    let failed = c.until_it("bad", "to have failed", |j| has(j, "Failed").is_some()).await;
    assert_eq!(has(&failed, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(counts(&failed), (0, 0, 2));
    let conditions = failed.status.and_then(|s| s.conditions).unwrap_or_default();
    let order: Vec<_> = conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(order, ["FailureTarget", "Failed"]);
    c.until_event("BackoffLimitExceeded", "Job has reached the specified backoff limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_is_stopped() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job(
        "slow",
        "",
        json!({"activeDeadlineSeconds": 30, "parallelism": 2, "completions": 2}),
    ))
    .await;
    c.until_it("slow", "to run", |j| counts(j).0 == 2).await;
    c.advance(31);
    c.patch::<Job>("slow", json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    let failed = c.until_it("slow", "to have failed", |j| has(j, "Failed").is_some()).await;
    assert_eq!(has(&failed, "Failed").as_deref(), Some("DeadlineExceeded"));
    assert_eq!(counts(&failed), (0, 0, 2));
    c.until("its pods to be gone", async || c.of_app::<Pod>("slow").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_has_no_pods_and_its_stopped_pods_count_as_neither() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job("nap", "", json!({"parallelism": 3, "completions": 3, "backoffLimit": 1}))).await;
    for _ in 0..3 {
        c.until_it("nap", "to run", |j| counts(j).0 == 3 && has(j, "Suspended").is_none()).await;
        c.patch::<Job>("nap", json!({"spec": {"suspend": true}})).await;
        let asleep =
            c.until_it("nap", "to sleep", |j| counts(j).0 == 0 && has(j, "Suspended").is_some()).await;
        assert_eq!(asleep.status.expect("a status").start_time, None);
        c.until("its pods to be gone", async || c.of_app::<Pod>("nap").await.is_empty().then_some(())).await;
        c.patch::<Job>("nap", json!({"spec": {"suspend": false}})).await;
    }
    c.until_it("nap", "to run", |j| counts(j) == (3, 0, 0)).await;
    c.patch::<Job>("nap", json!({"spec": {"parallelism": 1}})).await;
    c.until_it("nap", "to run one", |j| counts(j) == (1, 0, 0)).await;
    c.until_event("Suspended", "Job suspended").await;
    c.until_event("Resumed", "Job resumed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_somebody_takes_away_is_replaced_and_counts_as_a_failure() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job("sum", "", json!({}))).await;
    c.until_it("sum", "to run", |j| counts(j).0 == 1).await;
    let name = c.pods("sum").await[0].name_any();
    c.delete::<Pod>(&name, &DeleteParams::default()).await;
    c.until_gone::<Pod>(&name).await;
    c.until_it("sum", "to run again", |j| counts(j) == (1, 0, 1)).await;
    let successor = c.pods("sum").await[0].name_any();
    c.patch::<Pod>(&successor, json!({"metadata": {"annotations": {"act": "succeed"}}})).await;
    let done = c.until_it("sum", "to be complete", complete).await;
    assert_eq!(counts(&done), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_goes_after_its_time_and_its_pods_with_it() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job("sum", "succeed", json!({"ttlSecondsAfterFinished": 100}))).await;
    c.until_it("sum", "to be complete", complete).await;
    c.settle().await;
    c.advance(101);
    c.patch::<Job>("sum", json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    c.until_gone::<Job>("sum").await;
    c.until("its pods to be gone", async || c.of_app::<Pod>("sum").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_job_that_is_gone_are_not_held_even_if_it_has_a_successor() {
    let c = Cluster::start(1).await;
    c.create::<Job>(job("sum", "", json!({}))).await;
    c.until_it("sum", "to run", |j| counts(j).0 == 1).await;
    let name = c.pods("sum").await[0].name_any();
    c.kill("controllers").await;
    c.delete::<Job>("sum", &DeleteParams::background()).await;
    c.create::<Job>(job("sum", "", json!({}))).await;
    c.start_controllers();
    c.until_gone::<Pod>(&name).await;
    c.until_it("sum", "to run", |j| counts(j) == (1, 0, 0)).await;
}

/// Makes all pods that run do something; waits until so many run.
async fn all_act(c: &Cluster, app: &str, count: usize, act: impl Fn(&str) -> &'static str) {
    let runs = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let pods = c
        .until(&format!("{count} pods of {app}"), async || {
            let mut pods = c.pods(app).await;
            pods.retain(runs);
            (pods.len() == count).then_some(pods)
        })
        .await;
    for pod in pods {
        let index = pod.annotations().get("batch.kubernetes.io/job-completion-index").cloned();
        let act = act(&index.unwrap_or_default());
        c.patch::<Pod>(&pod.name_any(), json!({"metadata": {"annotations": {"act": act}}})).await;
    }
}

/// Lets pauses after failures pass.
async fn later(c: &Cluster, job: &str) {
    c.advance(30);
    let now = jiff::Timestamp::now().to_string();
    c.patch::<Job>(job, json!({"metadata": {"annotations": {"touched": now}}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_index_may_fail_so_often_and_the_others_go_on() {
    let c = Cluster::start(1).await;
    let spec =
        json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    c.create::<Job>(job("odd", "", spec)).await;
    all_act(&c, "odd", 4, |i| if matches!(i, "0" | "2") { "fail" } else { "succeed" }).await;
    c.until_it("odd", "to have two done", |j| counts(j).1 == 2).await;
    let again = c.until_it("odd", "to wait", |j| counts(j) == (0, 2, 0)).await;
    assert!(again.status.expect("a status").failed_indexes.unwrap_or_default().is_empty());
    later(&c, "odd").await;
    let second =
        c.until("the second tries", async || Some(c.pods("odd").await).filter(|p| p.len() == 6)).await;
    let tried = |p: &&Pod| p.annotations()["batch.kubernetes.io/job-index-failure-count"] == "1";
    assert_eq!(second.iter().filter(tried).count(), 2);
    all_act(&c, "odd", 2, |_| "fail").await;
    let failed = c.until_it("odd", "to have failed", |j| has(j, "Failed").is_some()).await;
    assert_eq!(has(&failed, "Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(counts(&failed), (0, 2, 4));
    let status = failed.status.expect("a status");
    assert_eq!(
        (status.completed_indexes.as_deref(), status.failed_indexes.as_deref()),
        (Some("1,3"), Some("0,2"))
    );
    c.until_event("FailedIndexes", "Job has failed indexes").await;
    assert!(c.of_app::<Pod>("odd").await.iter().all(|p| p.finalizers().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_indexes_grows_and_shrinks() {
    let c = Cluster::start(1).await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    c.create::<Job>(job("elastic", "", spec)).await;
    all_act(&c, "elastic", 3, |i| if i == "2" { "succeed" } else { "" }).await;
    c.until_it("elastic", "to have one done", |j| counts(j) == (2, 1, 0)).await;
    c.patch::<Job>("elastic", json!({"spec": {"completions": 1, "parallelism": 1}})).await;
    let small = c.until_it("elastic", "to be small", |j| counts(j) == (1, 0, 0)).await;
    assert_eq!(small.status.expect("a status").completed_indexes, None, "that index is none of it any more");
    c.patch::<Job>("elastic", json!({"spec": {"completions": 2, "parallelism": 2}})).await;
    all_act(&c, "elastic", 2, |_| "succeed").await;
    let done = c.until_it("elastic", "to be complete", complete).await;
    assert_eq!(done.status.expect("a status").completed_indexes.as_deref(), Some("0,1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failed_indexes_end_the_job() {
    let c = Cluster::start(1).await;
    let spec = json!({"completions": 10, "parallelism": 10, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 3});
    c.create::<Job>(job("odd", "", spec)).await;
    all_act(&c, "odd", 10, |i| if i.parse::<i32>().is_ok_and(|i| i % 2 == 0) { "fail" } else { "" }).await;
    let failed = c.until_it("odd", "to have failed", |j| has(j, "Failed").is_some()).await;
    assert_eq!(has(&failed, "Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
    assert_eq!(counts(&failed).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_policy_ends_the_job_its_index_or_nothing() {
    let c = Cluster::start(1).await;
    let exit = |action: &str, code: i32| {
        json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
            {"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]}})
    };
    let mut ends = exit("FailJob", 1);
    ends["backoffLimit"] = 100.into();
    ends["parallelism"] = 2.into();
    ends["completions"] = 2.into();
    c.create::<Job>(job("ends", "", ends)).await;
    let first = c.until("a pod", async || c.pods("ends").await.pop()).await.name_any();
    c.patch::<Pod>(&first, json!({"metadata": {"annotations": {"act": "fail"}}})).await;
    let failed = c.until_it("ends", "to have failed", |j| has(j, "Failed").is_some()).await;
    assert_eq!(has(&failed, "FailureTarget").as_deref(), Some("PodFailurePolicy"));
    let conditions = failed.status.and_then(|s| s.conditions).expect("conditions");
    let want = format!(
        "Container main for pod default/{first} failed with exit code 1 matching FailJob rule at index 0"
    );
    assert!(conditions.iter().all(|c| c.message.as_deref() == Some(&want)), "{conditions:?}");

    c.create::<Job>(job("none", "", exit("Ignore", 1))).await;
    all_act(&c, "none", 1, |_| "fail").await;
    c.until("the failed one to be let go", async || {
        let pods = c.of_app::<Pod>("none").await;
        pods.iter().any(|p| p.finalizers().is_empty()).then_some(())
    })
    .await;
    later(&c, "none").await;
    all_act(&c, "none", 1, |_| "succeed").await;
    let done = c.until_it("none", "to be complete", complete).await;
    assert_eq!(counts(&done), (0, 1, 0), "what is ignored counts nowhere");

    let mut index = exit("FailIndex", 1);
    index["backoffLimit"] = Value::Null;
    for (field, value) in
        [("completions", json!(2)), ("parallelism", json!(2)), ("completionMode", json!("Indexed"))]
    {
        index[field] = value;
    }
    index["backoffLimitPerIndex"] = 1.into();
    c.create::<Job>(job("index", "", index)).await;
    all_act(&c, "index", 2, |i| if i == "0" { "fail" } else { "succeed" }).await;
    let failed = c.until_it("index", "to have failed", |j| has(j, "Failed").is_some()).await;
    let status = failed.status.expect("a status");
    assert_eq!((status.failed, status.succeeded), (Some(1), Some(1)), "it was not tried again");
    assert_eq!(status.failed_indexes.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_went_with_its_node_is_replaced_and_can_be_forgiven() {
    let c = Cluster::start(2).await;
    let spec = json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    c.create::<Job>(job("sum", "", spec)).await;
    c.until_it("sum", "to run", |j| counts(j).0 == 1).await;
    let first = c.until("its pod to have a node", async || {
        let pod = c.pods("sum").await.pop()?;
        Some((pod.name_any(), pod.spec?.node_name?))
    });
    let (name, node) = first.await;
    // Nobody speaks for the node any more.
    c.patch::<Pod>(&name, json!({"metadata": {"annotations": {"act": "wait"}}})).await;
    let nodes = c.everywhere::<k8s_openapi::api::core::v1::Node>();
    nodes.delete(&node, &DeleteParams::default()).await.expect("the node is deleted");
    // Until then it might come back (`nodes.rs`).
    c.settle().await;
    c.advance(41);
    c.until_gone::<Pod>(&name).await;
    later(&c, "sum").await;
    all_act(&c, "sum", 1, |_| "succeed").await;
    let done = c.until_it("sum", "to be complete", complete).await;
    assert_eq!(counts(&done), (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_policy_ends_the_job_before_all_indexes_are_done() {
    let c = Cluster::start(1).await;
    let spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0,3-4", "succeededCount": 2}]}});
    c.create::<Job>(job("some", "", spec)).await;
    all_act(&c, "some", 5, |i| if matches!(i, "0" | "4") { "succeed" } else { "" }).await;
    let done = c.until_it("some", "to be complete", complete).await;
    assert_eq!(has(&done, "SuccessCriteriaMet").as_deref(), Some("SuccessPolicy"));
    assert_eq!(has(&done, "Complete").as_deref(), Some("SuccessPolicy"));
    assert_eq!(counts(&done), (0, 2, 0), "what was left over did not fail");
    let status = done.status.expect("a status");
    assert_eq!(status.completed_indexes.as_deref(), Some("0,4"));
    let messages = status.conditions.expect("conditions");
    assert!(messages.iter().all(|c| c.message.as_deref() == Some("Matched rules at index 0")));
}

/// Whatever is killed when, every pod that ended is counted once.
async fn count_under_fire(seed: u64, indexed: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let c = Cluster::start(2).await;
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    let spec = json!({"completions": 40, "parallelism": 8, "completionMode": mode, "backoffLimit": 1000});
    c.create::<Job>(job("sum", "succeed", spec)).await;
    for _ in 0..25 {
        tokio::time::sleep(std::time::Duration::from_millis(random.random_range(0..25))).await;
        c.kill("controllers").await;
        c.start_controllers();
    }
    let done = c.until_it("sum", "to be complete", complete).await;
    let pods = c.of_app::<Pod>("sum").await;
    let succeeded = pods
        .iter()
        .filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded"))
        .count() as i32;
    let (active, counted, failed) = counts(&done);
    assert_eq!((active, failed), (0, 0), "seed {seed}");
    if indexed {
        assert_eq!(counted, 40, "seed {seed}");
        assert_eq!(done.status.expect("a status").completed_indexes.as_deref(), Some("0-39"));
    } else {
        assert_eq!(counted, succeeded, "seed {seed}");
        assert!(counted >= 40, "seed {seed}");
    }
    assert!(pods.iter().all(|p| p.finalizers().is_empty()), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pod_counts_once_whenever_the_controllers_are_killed() {
    for seed in 0..3 {
        count_under_fire(seed, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_index_counts_once_whenever_the_controllers_are_killed() {
    for seed in 10..12 {
        count_under_fire(seed, true).await;
    }
}

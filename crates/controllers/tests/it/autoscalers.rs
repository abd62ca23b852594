use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
};
use serde_json::{Value, json};

fn autoscaler(kind: &str, name: &str, spec: Value) -> Value {
    let mut whole =
        json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": name}, "maxReplicas": 5});
    whole.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    json!({"metadata": {"name": "scaler"}, "spec": whole})
}

fn deployment(replicas: i32) -> Value {
    json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "")}})
}

/// Status and reason of a condition.
fn condition(scaler: &HorizontalPodAutoscaler, type_: &str) -> Option<(String, String, String)> {
    let conditions = scaler.status.as_ref()?.conditions.as_ref()?;
    let c = conditions.iter().find(|c| c.type_ == type_)?;
    Some((c.status.clone(), c.reason.clone()?, c.message.clone()?))
}

async fn until_condition(c: &Cluster, type_: &str, status: &str, reason: &str) -> String {
    let test = |h: &HorizontalPodAutoscaler| {
        condition(h, type_).is_some_and(|(s, r, _)| (s.as_str(), r.as_str()) == (status, reason))
    };
    let scaler = c.until_it("scaler", &format!("to say {type_} {status}: {reason}"), test).await;
    condition(&scaler, type_).expect("it was there").2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_out_of_bounds_is_brought_back_without_any_metric() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(9)).await;
    c.create::<HorizontalPodAutoscaler>(autoscaler("Deployment", "web", json!({"minReplicas": 3}))).await;
    let replicas = |n: i32| move |d: &Deployment| d.spec.as_ref().and_then(|s| s.replicas) == Some(n);
    c.until_it("web", "to be at the most", replicas(5)).await;
    until_condition(&c, "AbleToScale", "True", "SucceededRescale").await;
    c.until_event(
        "SuccessfulRescale",
        "New size: 5; reason: Current number of replicas above Spec.MaxReplicas",
    )
    .await;
    let scaler = c.api::<HorizontalPodAutoscaler>().get("scaler").await.expect("it is there");
    let status = scaler.status.expect("a status");
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(9), 5));
    assert!(status.last_scale_time.is_some());
    c.patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"minReplicas": 6, "maxReplicas": 8}})).await;
    c.until_it("web", "to be at the least", replicas(6)).await;
    c.until_event(
        "SuccessfulRescale",
        "New size: 6; reason: Current number of replicas below Spec.MinReplicas",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_nothing_is_changed() {
    let c = Cluster::start(1).await;
    c.create::<HorizontalPodAutoscaler>(autoscaler("StatefulSet", "web", json!({}))).await;
    let why = until_condition(&c, "AbleToScale", "False", "FailedGetScale").await;
    let want = "the HPA controller was unable to get the target's current scale: statefulsets.apps \"web\" not found";
    assert_eq!(why, want);
    c.until_event("FailedGetScale", "statefulsets.apps \"web\" not found").await;

    let mut set = deployment(2);
    set["spec"]["serviceName"] = "web".into();
    c.create::<StatefulSet>(set).await;
    // A change of what is wanted is looked at, at once.
    c.patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"maxReplicas": 6}})).await;
    let why = until_condition(&c, "ScalingActive", "False", "FailedGetResourceMetric").await;
    assert!(why.starts_with("the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: "), "{why}");
    c.until_event(
        "FailedComputeMetricsReplicas",
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value",
    )
    .await;

    let metrics = json!([{"type": "Pods", "pods": {"metric": {"name": "hits"},
        "target": {"type": "AverageValue", "averageValue": "10"}}}]);
    c.patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"metrics": metrics}})).await;
    let why = until_condition(&c, "ScalingActive", "False", "FailedGetPodsMetric").await;
    assert!(why.ends_with("no custom metrics API (custom.metrics.k8s.io) registered"), "{why}");
    let metrics = json!([{"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "10"}}}]);
    c.patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"metrics": metrics}})).await;
    until_condition(&c, "ScalingActive", "False", "FailedGetExternalMetric").await;
    let why = "failed to get queue external metric value: failed to get external metric queue: unable to get external metric \
               default/queue/nil: unable to fetch metrics from external metrics API: the server could not find the requested \
               resource (get queue.external.metrics.k8s.io)";
    c.until_event("FailedComputeMetricsReplicas", why).await;
    let target = json!({"scaleTargetRef": {"apiVersion": "apps/v2", "kind": "Herd", "name": "web"}});
    c.patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": target})).await;
    c.until_event("FailedGetScale", "no matches for kind \"Herd\" in group \"apps\"").await;
    let set = c.api::<StatefulSet>().get("web").await.expect("it is there");
    assert_eq!(set.spec.and_then(|s| s.replicas), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_put_to_rest_stays_so() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(0)).await;
    c.create::<HorizontalPodAutoscaler>(autoscaler("Deployment", "web", json!({}))).await;
    until_condition(&c, "ScalingActive", "False", "ScalingDisabled").await;
    assert!(c.pods("web").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_autoscalers_of_the_same_pods_change_nothing() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(2)).await;
    c.until("pods", async || (c.pods("web").await.len() == 2).then_some(())).await;
    let mut other = autoscaler("Deployment", "web", json!({}));
    other["metadata"]["name"] = "other".into();
    c.create::<HorizontalPodAutoscaler>(other).await;
    c.until_it("other", "to have looked", |h| condition(h, "ScalingActive").is_some()).await;
    c.create::<HorizontalPodAutoscaler>(autoscaler("Deployment", "web", json!({}))).await;
    let why = until_condition(&c, "ScalingActive", "False", "AmbiguousSelector").await;
    let want = "pods by selector app=web are controlled by multiple HPAs: [default/other default/scaler]";
    assert_eq!(why, want);
}

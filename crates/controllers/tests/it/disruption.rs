use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::Pod,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{EvictParams, Patch, PatchParams},
};
use serde_json::{Value, json};

fn deployment(replicas: i32, act: &str) -> Value {
    json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", act)}})
}

fn budget(mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    json!({"metadata": {"name": "b"}, "spec": spec})
}

/// Expected, healthy, desired, allowed.
fn numbers(budget: &PodDisruptionBudget) -> [i32; 4] {
    let s = budget.status.clone().unwrap_or_default();
    [s.expected_pods, s.current_healthy, s.desired_healthy, s.disruptions_allowed].map(|n| n.unwrap_or(-1))
}

async fn until(c: &Cluster, want: [i32; 4]) -> PodDisruptionBudget {
    let known = move |b: &PodDisruptionBudget| {
        let observed = b.status.as_ref().and_then(|s| s.observed_generation);
        observed == b.metadata.generation && numbers(b) == want
    };
    c.until_it("b", &format!("to say {want:?}"), known).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_says_how_many_pods_may_be_evicted() {
    let c = Cluster::start(1).await;
    c.create::<PodDisruptionBudget>(budget(json!({"minAvailable": 2}))).await;
    until(&c, [0, 0, 2, 0]).await;
    c.until_event("NoPods", "No matching pods found").await;
    c.create::<Deployment>(deployment(3, "")).await;
    let allowed = until(&c, [3, 3, 2, 1]).await;
    let condition = allowed.status.and_then(|s| s.conditions).expect("conditions").remove(0);
    assert_eq!(
        (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()),
        ("DisruptionAllowed", "True", "SufficientPods")
    );
    for (spec, want) in [
        (json!({"minAvailable": "50%", "maxUnavailable": null}), [3, 3, 2, 1]),
        (json!({"minAvailable": null, "maxUnavailable": "34%"}), [3, 3, 1, 2]),
        (json!({"minAvailable": null, "maxUnavailable": 0}), [3, 3, 3, 0]),
    ] {
        c.patch::<PodDisruptionBudget>("b", json!({"spec": spec})).await;
        until(&c, want).await;
    }
    c.patch::<Deployment>("web", json!({"spec": {"replicas": 5}})).await;
    until(&c, [5, 5, 5, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_are_charged_and_then_forgotten_or_given_back() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(3, "")).await;
    c.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 1}))).await;
    until(&c, [3, 3, 2, 1]).await;
    let pods = c.pods("web").await;
    c.api::<Pod>().evict(&pods[0].name_any(), &EvictParams::default()).await.expect("it is evicted");
    // Its successor makes the number full again, and the budget forgets it.
    let again = until(&c, [3, 3, 2, 1]).await;
    c.until_gone::<Pod>(&pods[0].name_any()).await;
    assert!(again.status.expect("a status").disrupted_pods.unwrap_or_default().is_empty());

    // What is noted and does not go counts again after two minutes.
    let name = c.pods("web").await[0].name_any();
    c.api::<PodDisruptionBudget>()
        .patch_status(
            "b",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"disruptedPods": {&name: jiff::Timestamp::now().to_string()}}})),
        )
        .await
        .expect("it is noted");
    until(&c, [3, 2, 2, 0]).await;
    c.advance(130);
    c.patch::<PodDisruptionBudget>("b", json!({"metadata": {"annotations": {"look": "again"}}})).await;
    let back = until(&c, [3, 3, 2, 1]).await;
    assert!(back.status.expect("a status").disrupted_pods.unwrap_or_default().is_empty());
    c.until_event("NotDeleted", "Pod was expected by PDB default/b to be deleted but it wasn't").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_not_ready_leave_nothing_to_evict() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(2, "unready")).await;
    c.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 1}))).await;
    until(&c, [2, 0, 1, 0]).await;
    let name = c.pods("web").await[0].name_any();
    // One that is pending serves nobody and may always go.
    let running = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    c.until_it::<Pod>(&name, "to run", running).await;
    let refused =
        c.api::<Pod>().evict(&name, &EvictParams::default()).await.expect_err("not below the budget");
    assert!(matches!(refused, kube::Error::Api(s) if s.code == 429));
    c.patch::<PodDisruptionBudget>("b", json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})).await;
    c.api::<Pod>().evict(&name, &EvictParams::default()).await.expect("one that serves nobody may go");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_several_owners_add_up_and_pods_of_none_are_told_of() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(2, "")).await;
    let mut set = deployment(3, "");
    set["spec"]["serviceName"] = "web".into();
    set["spec"]["selector"] = json!({"matchLabels": {"app": "web", "of": "set"}});
    set["spec"]["template"]["metadata"]["labels"]["of"] = "set".into();
    c.create::<StatefulSet>(set).await;
    c.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 2}))).await;
    until(&c, [5, 5, 3, 2]).await;
    let mut bare = template("other", "");
    bare["metadata"]["name"] = "bare".into();
    bare["metadata"]["labels"]["app"] = "bare".into();
    c.create::<Pod>(bare).await;
    c.patch::<PodDisruptionBudget>("b", json!({"spec": {"selector": {"matchLabels": {"app": "bare"}}}}))
        .await;
    until(&c, [0, 1, 0, 0]).await;
    c.until_event("UnmanagedPods", "(selector: app=bare) were found to be unmanaged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_size_makes_the_budget_fail() {
    let c = Cluster::start(1).await;
    let mut pod = template("web", "");
    pod["spec"]["restartPolicy"] = "Never".into();
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": pod}});
    c.create::<k8s_openapi::api::batch::v1::Job>(job).await;
    c.create::<PodDisruptionBudget>(budget(json!({"maxUnavailable": 1}))).await;
    let why = "jobs.batch does not implement the scale subresource";
    let failed = |b: &PodDisruptionBudget| {
        let conditions = b.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        conditions.iter().any(|c| c.reason == "SyncFailed" && c.message == why)
    };
    c.until_it("b", "to say why", failed).await;
    c.until_event("CalculateExpectedPodCountFailed", why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_not_evicted_after_all_is_no_target_any_more() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment(1, "")).await;
    let pod = c.until("a pod", async || c.pods("web").await.pop()).await.name_any();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    c.advance(121);
    let target = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastTransitionTime": now}]}});
    c.api::<Pod>()
        .patch_status(&pod, &PatchParams::default(), &Patch::Strategic(target))
        .await
        .expect("it is a target");
    c.until_it(&pod, "to be none", |p: &Pod| {
        let conditions = p.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "False")
    })
    .await;
}

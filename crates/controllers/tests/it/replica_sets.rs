use crate::cluster::{Cluster, template};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{ResourceExt, api::DeleteParams, runtime::WatchStreamExt};
use serde_json::{Value, json};

fn set(name: &str, replicas: i32, act: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, act),
        },
    })
}

fn available(count: i32) -> impl Fn(&ReplicaSet) -> bool {
    move |s| {
        let status = s.status.clone().unwrap_or_default();
        status.replicas == count
            && status.available_replicas.unwrap_or(0) == count
            && status.observed_generation == s.metadata.generation
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_has_as_many_pods_as_it_asks_for_and_never_makes_one_too_many() {
    let c = Cluster::start(3).await;
    // Every pod that was ever made is seen by a watch.
    let made = std::sync::Arc::new(parking_lot::Mutex::new(std::collections::HashSet::new()));
    let (seen, pods) = (made.clone(), c.api::<Pod>());
    let watch = tokio::spawn(async move {
        use futures::StreamExt;
        let config = kube::runtime::watcher::Config::default();
        let mut events = std::pin::pin!(kube::runtime::watcher(pods, config).applied_objects());
        while let Some(Ok(pod)) = events.next().await {
            seen.lock().insert(pod.uid());
        }
    });
    c.create::<ReplicaSet>(set("web", 20, "")).await;
    c.until_it("web", "to have 20", available(20)).await;
    for replicas in [50, 50, 50] {
        c.patch::<ReplicaSet>("web", json!({"spec": {"replicas": replicas}})).await;
    }
    c.until_it("web", "to have 50", available(50)).await;
    c.settle().await;
    assert_eq!(c.pods("web").await.len(), 50);
    assert_eq!(made.lock().len(), 50, "no pod too many was ever made");
    c.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 3}})).await;
    c.until_it("web", "to have 3", available(3)).await;
    c.until("the others to be gone", async || (c.of_app::<Pod>("web").await.len() == 3).then_some(())).await;
    // Under churn: each pod that is taken is replaced, by exactly one.
    for _ in 0..5 {
        let victim = c.pods("web").await.pop().expect("a pod").name_any();
        c.delete::<Pod>(&victim, &DeleteParams::default()).await;
        c.until_gone::<Pod>(&victim).await;
    }
    c.until_it("web", "to have 3 again", available(3)).await;
    c.settle().await;
    assert_eq!((c.pods("web").await.len(), made.lock().len()), (3, 55));
    c.until_event("SuccessfulCreate", "Created pod: web-").await;
    c.until_event("SuccessfulDelete", "Deleted pod: web-").await;
    watch.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_match_are_adopted_and_those_that_do_not_any_more_are_released() {
    let c = Cluster::start(1).await;
    c.create::<Pod>(json!({"metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": template("web", "")["spec"]}))
        .await;
    c.until_it("orphan", "to run", |p: &Pod| {
        p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
    })
    .await;
    let web: ReplicaSet = c.create(set("web", 2, "")).await;
    c.until_it("web", "to have 2", available(2)).await;
    let orphan: Pod = c.api().get("orphan").await.expect("it lives");
    assert_eq!(orphan.owner_references()[0].uid, web.uid().expect("a uid"));
    assert_eq!(orphan.owner_references()[0].controller, Some(true));

    c.patch::<Pod>("orphan", json!({"metadata": {"labels": {"app": "mine"}}})).await;
    c.until_it("orphan", "to be let go", |p: &Pod| p.owner_references().is_empty()).await;
    c.until("a successor", async || (c.pods("web").await.len() == 2).then_some(())).await;
    c.until_it("web", "to have 2 again", available(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_set_with_orphan_lets_its_pods_live_and_another_set_takes_them() {
    let c = Cluster::start(1).await;
    c.create::<ReplicaSet>(set("web", 3, "")).await;
    c.until_it("web", "to have 3", available(3)).await;
    let before: Vec<_> = c.pods("web").await.iter().map(|p| p.name_any()).collect();
    c.delete::<ReplicaSet>("web", &DeleteParams::orphan()).await;
    c.until_gone::<ReplicaSet>("web").await;
    c.settle().await;
    let after = c.pods("web").await;
    assert_eq!(after.iter().map(|p| p.name_any()).collect::<Vec<_>>(), before);
    assert!(after.iter().all(|p| p.owner_references().is_empty()), "nobody owns them");
    c.create::<ReplicaSet>(set("web", 3, "")).await;
    c.until_it("web", "to have taken all 3", available(3)).await;
    assert_eq!(c.pods("web").await.iter().map(|p| p.name_any()).collect::<Vec<_>>(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_whose_pods_are_refused_says_why() {
    let c = Cluster::start(1).await;
    let mut refused = set("web", 2, "");
    refused["spec"]["template"]["spec"]["serviceAccountName"] = "nobody".into();
    c.create::<ReplicaSet>(refused).await;
    let failed = c
        .until_it("web", "to say that it fails", |s: &ReplicaSet| {
            s.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "ReplicaFailure")
        })
        .await;
    let condition = &failed.status.expect("a status").conditions.expect("conditions")[0];
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    let says = condition.message.clone().unwrap_or_default();
    assert!(says.starts_with("pods \"web-") && says.contains("nobody"), "{says}");
    c.until_event("FailedCreate", "Error creating: pods \"web-").await;

    c.create::<k8s_openapi::api::core::v1::ServiceAccount>(json!({"metadata": {"name": "nobody"}})).await;
    let healed = c.until_it("web", "to have 2", available(2)).await;
    assert_eq!(healed.status.expect("a status").conditions, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_counts_for_nothing_goes_first() {
    let c = Cluster::start(2).await;
    c.create::<ReplicaSet>(set("web", 3, "")).await;
    c.until_it("web", "to have 3", available(3)).await;
    let pods = c.pods("web").await;
    let (unready, cheap) = (pods[1].name_any(), pods[2].name_any());
    let cost = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
    c.patch::<Pod>(&cheap, cost).await;
    c.patch::<Pod>(&unready, json!({"metadata": {"annotations": {"act": "unready"}}})).await;
    c.until_it("web", "to have one unready", |s: &ReplicaSet| {
        s.status.as_ref().and_then(|s| s.ready_replicas) == Some(2)
    })
    .await;
    c.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 2}})).await;
    c.until_gone::<Pod>(&unready).await;
    c.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 1}})).await;
    c.until_gone::<Pod>(&cheap).await;
    c.settle().await;
    assert_eq!(c.pods("web").await[0].name_any(), pods[0].name_any());
}

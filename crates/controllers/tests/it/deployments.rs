use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(name: &str, replicas: i32, strategy: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, ""),
            "strategy": strategy,
        },
    })
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn image(name: &str) -> Value {
    let mut containers = template("", "")["spec"]["containers"].clone();
    containers[0]["image"] = name.into();
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

fn acts(act: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"act": act}}}}})
}

fn complete(replicas: i32) -> impl Fn(&Deployment) -> bool {
    move |d| {
        let s = d.status.clone().unwrap_or_default();
        s.observed_generation == d.metadata.generation
            && [s.replicas, s.updated_replicas, s.available_replicas]
                .iter()
                .all(|n| n.unwrap_or(0) == replicas)
    }
}

fn condition(d: &Deployment, type_: &str) -> (String, String) {
    let all = d.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let c = all.into_iter().find(|c| c.type_ == type_);
    c.map(|c| (c.status, c.reason.unwrap_or_default())).unwrap_or_default()
}

fn revision(o: &impl ResourceExt) -> String {
    o.annotations().get(REVISION).cloned().unwrap_or_default()
}

/// Sizes of the sets of an app, by image.
async fn sizes(c: &Cluster, app: &str) -> Vec<(String, i32)> {
    let mut sizes: Vec<_> = c
        .of_app::<ReplicaSet>(app)
        .await
        .iter()
        .map(|s| {
            let spec = s.spec.clone().unwrap_or_default();
            let image = spec.template.unwrap_or_default().spec.expect("a spec").containers[0].image.clone();
            (image.unwrap_or_default(), spec.replicas.unwrap_or_default())
        })
        .collect();
    sizes.sort();
    sizes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_keeps_its_bounds_at_every_moment_and_can_be_undone() {
    let c = Cluster::start(3).await;
    c.create::<Deployment>(deployment("web", 10, rolling(2, 1))).await;
    let first = c.until_it("web", "to be complete", complete(10)).await;
    assert_eq!(revision(&first), "1");
    assert_eq!(condition(&first, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&first, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    c.until_event("ScalingReplicaSet", "Scaled up replica set web-").await;

    // One look at all pods is one moment.
    let over = Arc::new(AtomicBool::new(false));
    let (pods, stop) = (c.api::<Pod>(), over.clone());
    let observer = tokio::spawn(async move {
        let (mut most, mut fewest) = (0, usize::MAX);
        while !stop.load(Ordering::Relaxed) {
            let all =
                pods.list(&kube::api::ListParams::default().labels("app=web")).await.expect("pods").items;
            let alive: Vec<_> = all.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
            let ready = alive.iter().filter(|p| {
                let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
                conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
            });
            fewest = fewest.min(ready.count());
            most = most.max(alive.len());
            tokio::task::yield_now().await;
        }
        (most, fewest)
    });
    c.patch::<Deployment>("web", image("image:2")).await;
    let second = c.until_it("web", "to have rolled", |d| complete(10)(d) && revision(d) == "2").await;
    over.store(true, Ordering::Relaxed);
    let (most, fewest) = observer.await.expect("it observed");
    assert!(most <= 12, "{most} pods at once");
    assert!(fewest >= 9, "only {fewest} ready");
    assert_eq!(condition(&second, "Progressing").1, "NewReplicaSetAvailable");
    assert_eq!(sizes(&c, "web").await, [("image:1".into(), 0), ("image:2".into(), 10)]);

    // As `kubectl rollout undo`: the old template returns, and the set that has it becomes the newest revision.
    c.patch::<Deployment>("web", image("image:1")).await;
    c.until_it("web", "to be back", |d| complete(10)(d) && revision(d) == "3").await;
    assert_eq!(sizes(&c, "web").await, [("image:1".into(), 10), ("image:2".into(), 0)]);
    let sets = c.of_app::<ReplicaSet>("web").await;
    let back = sets.iter().find(|s| revision(*s) == "3").expect("revision 3");
    assert_eq!(
        back.annotations().get("deployment.kubernetes.io/revision-history").map(String::as_str),
        Some("1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_never_runs_two_versions_at_once() {
    let c = Cluster::start(1).await;
    let mut web = deployment("web", 3, json!({"type": "Recreate"}));
    web["spec"]["template"]["metadata"]["annotations"]["act"] = "linger".into();
    c.create::<Deployment>(web).await;
    c.until_it("web", "to be complete", complete(3)).await;
    let old: Vec<_> = c.pods("web").await;
    let mut change = image("image:2");
    change["spec"]["template"]["metadata"] = acts("")["spec"]["template"]["metadata"].clone();
    c.patch::<Deployment>("web", change).await;
    c.until("the old ones to be told", async || c.pods("web").await.is_empty().then_some(())).await;
    c.settle().await;
    assert!(c.pods("web").await.is_empty(), "old pods are still there");
    for pod in &old {
        c.delete::<Pod>(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
    }
    c.until_it("web", "to be complete again", |d| complete(3)(d) && revision(d) == "2").await;
    assert_eq!(sizes(&c, "web").await, [("image:1".into(), 0), ("image:2".into(), 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_deployment_scales_but_does_not_roll_until_resumed() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment("web", 2, rolling(1, 0))).await;
    c.until_it("web", "to be complete", complete(2)).await;
    c.patch::<Deployment>("web", json!({"spec": {"paused": true}})).await;
    c.until_it("web", "to be paused", |d| condition(d, "Progressing").1 == "DeploymentPaused").await;
    c.patch::<Deployment>("web", image("image:2")).await;
    c.patch::<Deployment>("web", json!({"spec": {"replicas": 4}})).await;
    c.until("it to have 4", async || (sizes(&c, "web").await == [("image:1".to_string(), 4)]).then_some(()))
        .await;
    c.settle().await;
    assert_eq!(sizes(&c, "web").await, [("image:1".into(), 4)]);
    c.patch::<Deployment>("web", json!({"spec": {"paused": false}})).await;
    c.until_it("web", "to be complete", |d| complete(4)(d) && revision(d) == "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resizing_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let c = Cluster::start(2).await;
    c.create::<Deployment>(deployment("web", 10, rolling(3, 2))).await;
    c.until_it("web", "to be complete", complete(10)).await;
    // The documentation's example: the new version never becomes ready.
    let mut change = image("image:2");
    change["spec"]["template"]["metadata"] = acts("unready")["spec"]["template"]["metadata"].clone();
    c.patch::<Deployment>("web", change).await;
    let stuck = [("image:1".to_string(), 8), ("image:2".to_string(), 5)];
    c.until("it to be stuck at 8 and 5", async || (sizes(&c, "web").await == stuck).then_some(())).await;
    c.patch::<Deployment>("web", json!({"spec": {"replicas": 15}})).await;
    let shared = [("image:1".to_string(), 11), ("image:2".to_string(), 7)];
    c.until("it to be 11 and 7", async || (sizes(&c, "web").await == shared).then_some(())).await;
    c.settle().await;
    assert_eq!(sizes(&c, "web").await, shared);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_stands_still_is_said_to_have_failed() {
    let c = Cluster::start(1).await;
    let mut web = deployment("web", 1, rolling(1, 0));
    web["spec"]["progressDeadlineSeconds"] = 60.into();
    c.create::<Deployment>(web).await;
    c.until_it("web", "to be complete", complete(1)).await;
    c.patch::<Deployment>("web", acts("unready")).await;
    c.until_it("web", "to have its new pod", |d: &Deployment| {
        d.status.as_ref().is_some_and(|s| s.replicas == Some(2) && s.unavailable_replicas == Some(1))
    })
    .await;
    c.advance(61);
    // Whatever wakes the controller.
    c.patch::<Deployment>("web", json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    let failed = c
        .until_it("web", "to have failed", |d| condition(d, "Progressing").1 == "ProgressDeadlineExceeded")
        .await;
    assert_eq!(condition(&failed, "Progressing").0, "False");
    assert_eq!(condition(&failed, "Available").0, "True", "the old pod serves on");
    c.patch::<Deployment>("web", acts("")).await;
    let healed = c.until_it("web", "to be complete", complete(1)).await;
    assert_eq!(condition(&healed, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_old_versions_are_kept() {
    let c = Cluster::start(1).await;
    let mut web = deployment("web", 1, rolling(1, 0));
    web["spec"]["revisionHistoryLimit"] = 1.into();
    c.create::<Deployment>(web).await;
    c.until_it("web", "to be complete", complete(1)).await;
    for i in 2..=4 {
        c.patch::<Deployment>("web", image(&format!("image:{i}"))).await;
        c.until_it("web", "to have rolled", |d| complete(1)(d) && revision(d) == i.to_string()).await;
    }
    let kept = [("image:3".to_string(), 0), ("image:4".to_string(), 1)];
    c.until("the oldest to be gone", async || (sizes(&c, "web").await == kept).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_stands_in_the_way_by_its_name_is_avoided() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment("web", 1, rolling(1, 0))).await;
    let first = c.until_it("web", "to be complete", complete(1)).await;
    let name = c.of_app::<ReplicaSet>("web").await[0].name_any();
    c.delete::<Deployment>("web", &DeleteParams::foreground()).await;
    c.until_gone::<ReplicaSet>(&name).await;
    c.until_gone::<Deployment>("web").await;
    // Somebody else takes the name that the hash gives.
    c.create::<ReplicaSet>(json!({
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": template("other", "")},
    }))
    .await;
    c.create::<Deployment>(deployment("web", 1, rolling(1, 0))).await;
    let second = c.until_it("web", "to be complete", complete(1)).await;
    assert_ne!(first.uid(), second.uid());
    assert_eq!(second.status.and_then(|s| s.collision_count), Some(1));
    let sets = c.of_app::<ReplicaSet>("web").await;
    assert!(sets.len() == 1 && sets[0].name_any() != name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_takes_up_sets_that_fit_and_two_that_overlap_do_not_fight() {
    let c = Cluster::start(1).await;
    c.create::<Deployment>(deployment("web", 2, rolling(1, 0))).await;
    c.until_it("web", "to be complete", complete(2)).await;
    let pods: Vec<_> = c.pods("web").await.iter().map(|p| p.name_any()).collect();
    c.delete::<Deployment>("web", &DeleteParams::orphan()).await;
    c.until_gone::<Deployment>("web").await;
    let again: Deployment = c.create(deployment("web", 2, rolling(1, 0))).await;
    c.until_it("web", "to be complete", complete(2)).await;
    let sets = c.of_app::<ReplicaSet>("web").await;
    assert_eq!(sets.len(), 1, "the set was taken up");
    assert_eq!(sets[0].owner_references()[0].uid, again.uid().expect("a uid"));
    assert_eq!(c.pods("web").await.iter().map(|p| p.name_any()).collect::<Vec<_>>(), pods);

    let mut twin = deployment("twin", 3, rolling(1, 0));
    for at in ["/spec/selector/matchLabels/app", "/spec/template/metadata/labels/app"] {
        *twin.pointer_mut(at).expect("it is there") = "web".into();
    }
    c.create::<Deployment>(twin).await;
    c.until_it("twin", "to be complete", complete(3)).await;
    c.settle().await;
    assert!(complete(2)(&c.api().get("web").await.expect("it is there")));
    assert_eq!(c.pods("web").await.len(), 5);
}

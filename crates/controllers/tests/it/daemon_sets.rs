use crate::cluster::{Cluster, template};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Node, Pod},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn set(strategy: Value) -> Value {
    json!({
        "metadata": {"name": "log", "labels": {"app": "log"}},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "template": template("log", ""),
            "updateStrategy": strategy,
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

fn complete(nodes: i32) -> impl Fn(&DaemonSet) -> bool {
    move |d| {
        let s = d.status.clone().unwrap_or_default();
        s.observed_generation == d.metadata.generation
            && (s.desired_number_scheduled, s.number_ready, s.number_misscheduled) == (nodes, nodes, 0)
            && s.updated_number_scheduled == Some(nodes)
            && s.number_available.unwrap_or(0) == nodes
    }
}

/// Images by node.
async fn images(c: &Cluster) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in c.pods("log").await {
        let spec = pod.spec.expect("a spec");
        let image = spec.containers[0].image.clone().unwrap_or_default();
        all.entry(spec.node_name.unwrap_or_default()).or_default().push(image);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_that_fits_has_one_pod_as_nodes_come_and_go() {
    let c = Cluster::start(2).await;
    c.create::<DaemonSet>(set(rolling(0, 1))).await;
    c.until_it("log", "to be everywhere", complete(2)).await;
    c.patch_node("n0", json!({"spec": {"unschedulable": true}})).await;
    c.add_node("n2", json!({})).await;
    c.until_it("log", "to be on the new node, and still on the cordoned one", complete(3)).await;
    c.everywhere::<Node>().delete("n2", &DeleteParams::default()).await.expect("it is deleted");
    c.until_it("log", "to be on two", complete(2)).await;
    // Its pod goes with the quarantine of gone nodes (`nodes.rs`), or by somebody's hand.
    for pod in c.pods("log").await {
        if pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some("n2") {
            c.delete::<Pod>(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
    }
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "gpu", "effect": effect}]}});
    c.patch_node("n1", taint("NoExecute")).await;
    c.until_it("log", "to have left the tainted node", complete(1)).await;
    c.patch_node("n1", json!({"spec": {"taints": []}})).await;
    c.until_it("log", "to be back", complete(2)).await;
    c.patch::<DaemonSet>("log", json!({"spec": {"template": {"spec": {"nodeSelector": {"role": "logs"}}}}}))
        .await;
    c.until_it("log", "to be nowhere", complete(0)).await;
    c.patch_node("n1", json!({"metadata": {"labels": {"role": "logs"}}})).await;
    c.until_it("log", "to be where it is wanted", complete(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_rolls_over_the_nodes_and_can_be_undone() {
    let c = Cluster::start(4).await;
    c.create::<DaemonSet>(set(rolling(0, 1))).await;
    c.until_it("log", "to be everywhere", complete(4)).await;
    c.patch::<DaemonSet>("log", image("image:2")).await;
    c.until("the update to be over", async || {
        let ready = c
            .pods("log")
            .await
            .iter()
            .filter(|p| {
                let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
                conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
            })
            .count();
        assert!(ready >= 3, "only {ready} ready");
        images(&c).await.values().all(|i| *i == ["image:2"]).then_some(())
    })
    .await;
    c.until_it("log", "to be everywhere", complete(4)).await;
    let mut history = c.of_app::<ControllerRevision>("log").await;
    history.sort_by_key(|r| r.revision);
    assert_eq!(history.iter().map(|r| r.revision).collect::<Vec<_>>(), [1, 2]);
    // As `kubectl rollout undo`: the data of the older revision is a strategic merge patch.
    let patch = Patch::Strategic(history[0].data.clone().expect("data").0);
    c.api::<DaemonSet>().patch("log", &Default::default(), &patch).await.expect("it is undone");
    c.until("the old image", async || images(&c).await.values().all(|i| *i == ["image:1"]).then_some(()))
        .await;
    c.until_it("log", "to be everywhere", complete(4)).await;
    let mut revisions: Vec<_> =
        c.of_app::<ControllerRevision>("log").await.iter().map(|r| r.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3], "the old one became the newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_surge_no_node_is_without_a_pod() {
    let c = Cluster::start(3).await;
    c.create::<DaemonSet>(set(rolling(1, 0))).await;
    c.until_it("log", "to be everywhere", complete(3)).await;
    c.patch::<DaemonSet>("log", image("image:2")).await;
    c.until("the update to be over", async || {
        let pods = c.pods("log").await;
        let ready = |p: &&Pod| {
            let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        assert!(pods.len() <= 4, "{} pods", pods.len());
        assert!(pods.iter().filter(ready).count() >= 3);
        images(&c).await.values().all(|i| *i == ["image:2"]).then_some(())
    })
    .await;
    c.until_it("log", "to be everywhere", complete(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_delete_only_pods_that_somebody_deletes_are_replaced() {
    let c = Cluster::start(2).await;
    c.create::<DaemonSet>(set(json!({"type": "OnDelete"}))).await;
    c.until_it("log", "to be everywhere", complete(2)).await;
    c.patch::<DaemonSet>("log", image("image:2")).await;
    c.until_it("log", "to have noticed", |d: &DaemonSet| {
        d.status.as_ref().and_then(|s| s.observed_generation) == d.metadata.generation
    })
    .await;
    c.settle().await;
    assert!(images(&c).await.values().all(|i| *i == ["image:1"]));
    let victim = c.pods("log").await.remove(0);
    c.delete::<Pod>(&victim.name_any(), &DeleteParams::default()).await;
    let node = victim.spec.and_then(|s| s.node_name).unwrap_or_default();
    c.until("its successor", async || {
        let images = images(&c).await;
        (images.get(&node).is_some_and(|i| *i == ["image:2"])).then_some(())
    })
    .await;
    assert_eq!(images(&c).await.values().filter(|i| **i == ["image:1"]).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_pod_that_fails_is_replaced_but_not_in_a_hurry() {
    let c = Cluster::start(1).await;
    let mut bad = set(rolling(0, 1));
    bad["spec"]["template"]["metadata"]["annotations"]["act"] = "fail".into();
    c.create::<DaemonSet>(bad).await;
    c.until_event("FailedDaemonPod", "on node n0, will try to kill it").await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let created = c
        .api::<k8s_openapi::api::core::v1::Event>()
        .list(&Default::default())
        .await
        .expect("events")
        .items
        .iter()
        .filter(|e| e.reason.as_deref() == Some("SuccessfulCreate"))
        .count();
    assert!((2..=4).contains(&created), "{created} pods in this time");
}

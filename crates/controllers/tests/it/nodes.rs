use crate::cluster::{Cluster, template};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

async fn pod(c: &Cluster, name: &str, spec: Value) -> Pod {
    let mut pod = template("web", "");
    pod["metadata"]["name"] = name.into();
    for (key, value) in spec.as_object().expect("fields") {
        pod["spec"][key] = value.clone();
    }
    c.create::<Pod>(pod).await;
    c.until_it(name, "to run", |p: &Pod| {
        p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
    })
    .await
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    taints.into_iter().map(|t| format!("{}:{}", t.key, t.effect)).collect()
}

async fn until_node(c: &Cluster, name: &str, what: &str, test: impl Fn(&Node) -> bool) -> Node {
    let nodes = c.everywhere::<Node>();
    c.until(what, async || Some(nodes.get(name).await.expect("the node")).filter(|n| test(n))).await
}

/// Whatever wakes the controller.
async fn touch(c: &Cluster, name: &str, value: &str) {
    c.patch_node(name, json!({"metadata": {"annotations": {"touched": value}}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_marked_and_its_pods_leave_when_their_time_is_over() {
    let c = Cluster::start(1).await;
    let forever =
        json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"});
    pod(&c, "stays", json!({"tolerations": [forever]})).await;
    pod(&c, "goes", json!({})).await;
    c.settle().await;
    c.advance(41);
    touch(&c, "n0", "1").await;
    let node = until_node(&c, "n0", "the node to be unknown", |n| taints(n).len() == 2).await;
    let conditions = node.status.clone().and_then(|s| s.conditions).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == "Ready").expect("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    assert_eq!(
        taints(&node),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    c.until_event("NodeNotReady", "Node n0 status is now: NodeNotReady").await;
    c.settle().await;
    assert_eq!(c.pods("web").await.len(), 2, "they have 300 seconds");
    c.advance(301);
    touch(&c, "n0", "2").await;
    c.until_gone::<Pod>("goes").await;
    c.until_event("TaintManagerEviction", "Marking for deletion Pod default/goes").await;
    assert_eq!(c.pods("web").await[0].name_any(), "stays");

    // It speaks again.
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": "2100-01-01T00:00:00Z"}]}});
    let patch = kube::api::Patch::Strategic(ready);
    c.everywhere::<Node>().patch_status("n0", &Default::default(), &patch).await.expect("it is ready");
    until_node(&c, "n0", "the taints to be gone", |n| taints(n).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_that_somebody_puts_on_evicts_after_the_time_that_is_tolerated() {
    let c = Cluster::start(1).await;
    let some =
        json!({"key": "repair", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 100});
    pod(&c, "later", json!({"tolerations": [some]})).await;
    pod(&c, "now", json!({})).await;
    c.patch_node("n0", json!({"spec": {"taints": [{"key": "repair", "effect": "NoExecute"}]}})).await;
    c.until_gone::<Pod>("now").await;
    c.settle().await;
    assert_eq!(c.pods("web").await.len(), 1);
    c.advance(101);
    touch(&c, "n0", "1").await;
    c.until_gone::<Pod>("later").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_is_tainted_and_pods_of_a_node_that_is_gone_are_removed() {
    let c = Cluster::start(1).await;
    pod(&c, "left", json!({})).await;
    c.patch_node("n0", json!({"spec": {"unschedulable": true}})).await;
    let cordoned = |n: &Node| taints(n) == ["node.kubernetes.io/unschedulable:NoSchedule"];
    until_node(&c, "n0", "the taint", cordoned).await;
    c.patch_node("n0", json!({"spec": {"unschedulable": false}})).await;
    until_node(&c, "n0", "no taint", |n| taints(n).is_empty()).await;
    c.patch::<Pod>("left", json!({"metadata": {"annotations": {"act": "linger"}}})).await;
    let delete =
        async || c.everywhere::<Node>().delete("n0", &DeleteParams::default()).await.expect("it is deleted");
    delete().await;
    c.settle().await;
    c.add_node("n0", json!({})).await;
    c.advance(41);
    c.settle().await;
    let left = c.api::<Pod>().get("left").await.expect("its node came back in time");
    assert_eq!(left.metadata.deletion_timestamp, None);
    delete().await;
    c.settle().await;
    c.api::<Pod>().get("left").await.expect("its node may still come back");
    c.advance(41);
    c.until_gone::<Pod>("left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_nobody_ends_are_removed_from_a_node_out_of_service() {
    let c = Cluster::start(1).await;
    pod(&c, "left", json!({})).await;
    c.patch::<Pod>(
        "left",
        json!({"metadata": {"annotations": {"act": "linger"}, "finalizers": ["e2e.test/held"]}}),
    )
    .await;
    c.delete::<Pod>("left", &DeleteParams::default()).await;
    let off =
        json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}});
    c.patch_node("n0", off).await;
    c.settle().await;
    let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    let waits = c.api::<Pod>().get("left").await.expect("it is there");
    assert_eq!(phase(&waits), "Running", "the node is ready: it may still end the pod");
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Off"}]}});
    let patch = kube::api::Patch::Strategic(unready);
    c.everywhere::<Node>().patch_status("n0", &Default::default(), &patch).await.expect("it is not ready");
    c.until_it("left", "to have failed", |p: &Pod| {
        phase(p) == "Failed" && p.metadata.deletion_grace_period_seconds == Some(0)
    })
    .await;
    c.patch::<Pod>("left", json!({"metadata": {"finalizers": null}})).await;
    c.until_gone::<Pod>("left").await;
}

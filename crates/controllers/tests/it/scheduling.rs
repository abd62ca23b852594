use crate::cluster::{Cluster, object, template};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Node, Pod},
    scheduling::v1::PriorityClass,
};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn pod(c: &Cluster, name: &str, spec: Value) {
    let mut pod = template("single", "");
    pod["metadata"]["name"] = name.into();
    for (key, value) in spec.as_object().expect("fields") {
        pod["spec"][key] = value.clone();
    }
    c.create::<Pod>(pod).await;
}

async fn placed(c: &Cluster, name: &str) -> String {
    let is_bound = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let pod = c.until_it(name, "to be bound", is_bound).await;
    pod.spec.and_then(|s| s.node_name).unwrap_or_default()
}

async fn refused(c: &Cluster, name: &str) -> String {
    let said = c
        .until_it(name, "to be refused", |p: &Pod| {
            let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.type_ == "PodScheduled" && c.status == "False")
        })
        .await;
    let conditions = said.status.and_then(|s| s.conditions).unwrap_or_default();
    let condition = conditions.into_iter().find(|c| c.type_ == "PodScheduled").expect("the condition");
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    condition.message.unwrap_or_default()
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "main", "image": "image:1", "resources": {"requests": {"cpu": cpu}}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_so_and_goes_when_there_is_room() {
    let c = Cluster::start(0).await;
    pod(&c, "early", json!({})).await;
    assert_eq!(refused(&c, "early").await, "no nodes available to schedule pods");
    c.add_node("n0", json!({})).await;
    assert_eq!(placed(&c, "early").await, "n0");
    c.until_event("Scheduled", "Successfully assigned default/early to n0").await;
    pod(&c, "big", asks("16")).await;
    placed(&c, "big").await;
    pod(&c, "second", asks("1")).await;
    let why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
               victims found for incoming pod.";
    assert_eq!(refused(&c, "second").await, why);
    c.until_event("FailedScheduling", why).await;
    c.delete::<Pod>("big", &DeleteParams::default()).await;
    assert_eq!(placed(&c, "second").await, "n0");
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_affinity_taints_and_host_ports_are_heeded() {
    let c = Cluster::start(1).await;
    c.add_node("ssd", json!({"disk": "ssd"})).await;
    pod(&c, "selects", json!({"nodeSelector": {"disk": "ssd"}})).await;
    assert_eq!(placed(&c, "selects").await, "ssd");
    let on = |term: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}})
    };
    let field = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n0"]}]});
    pod(&c, "by-name", on(field)).await;
    assert_eq!(placed(&c, "by-name").await, "n0");
    let not = json!({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]});
    pod(&c, "not-ssd", on(not)).await;
    assert_eq!(placed(&c, "not-ssd").await, "n0");

    c.patch_node(
        "ssd",
        json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
    )
    .await;
    let port = json!({"containers": [{"name": "main", "image": "image:1",
        "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
    pod(&c, "port", port.clone()).await;
    assert_eq!(placed(&c, "port").await, "n0");
    pod(&c, "same-port", port).await;
    assert_eq!(
        refused(&c, "same-port").await,
        "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) had \
         untolerated taint(s). preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
    c.patch_node("ssd", json!({"spec": {"taints": []}})).await;
    assert_eq!(placed(&c, "same-port").await, "ssd");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_important_pod_gets_the_place_that_is_left() {
    let c = Cluster::start(1).await;
    let patient = json!({"metadata": {"name": "patient"}, "value": 1000, "preemptionPolicy": "Never"});
    let classes = c.everywhere::<PriorityClass>();
    classes.create(&PostParams::default(), &object(patient)).await.expect("a class is made");
    pod(&c, "big", asks("16")).await;
    placed(&c, "big").await;
    for name in ["low", "high"] {
        let mut spec = asks("16");
        if name == "high" {
            spec["priorityClassName"] = "patient".into();
        }
        pod(&c, name, spec).await;
        refused(&c, name).await;
    }
    // Both have paused long enough: now only their priority tells.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    c.delete::<Pod>("big", &DeleteParams::default()).await;
    placed(&c, "high").await;
    c.settle().await;
    let low: Pod = c.api().get("low").await.expect("it waits");
    assert_eq!(low.spec.and_then(|s| s.node_name), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_are_spread_evenly() {
    let c = Cluster::start(10).await;
    let set = json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 500, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "")},
    });
    c.create::<ReplicaSet>(set).await;
    c.until_it("web", "to have 500", |s: &ReplicaSet| {
        s.status.as_ref().and_then(|s| s.available_replicas) == Some(500)
    })
    .await;
    let mut on: BTreeMap<String, usize> = BTreeMap::new();
    for pod in c.pods("web").await {
        *on.entry(pod.spec.and_then(|s| s.node_name).unwrap_or_default()).or_default() += 1;
    }
    assert_eq!(on.len(), 10);
    assert!(on.values().all(|n| (48..=52).contains(n)), "{on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_at_once_bind_each_pod_once() {
    let c = Cluster::start(3).await;
    let clock: orlop_client::Clock = std::sync::Arc::new(jiff::Timestamp::now);
    let rival = tokio::spawn(orlop_scheduler::run(c.client.clone(), clock));
    let set = json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 60, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "")},
    });
    c.create::<ReplicaSet>(set).await;
    c.until_it("web", "to have 60", |s: &ReplicaSet| {
        s.status.as_ref().and_then(|s| s.available_replicas) == Some(60)
    })
    .await;
    // Both still count right: what is left is used to the last, and no more.
    for i in 0..3 {
        let cpu = json!({"status": {"allocatable": {"cpu": "2", "memory": "64Gi", "pods": "110"}}});
        let patch = kube::api::Patch::Merge(cpu);
        let nodes = c.everywhere::<Node>();
        nodes.patch_status(&format!("n{i}"), &Default::default(), &patch).await.expect("it is changed");
    }
    c.settle().await;
    for i in 0..3 {
        pod(&c, &format!("big{i}"), asks("2")).await;
        placed(&c, &format!("big{i}")).await;
    }
    pod(&c, "more", asks("2")).await;
    assert!(refused(&c, "more").await.starts_with("0/3 nodes are available: 3 Insufficient cpu."));
    let mut nodes: Vec<_> = Vec::new();
    for i in 0..3 {
        nodes.push(placed(&c, &format!("big{i}")).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["n0", "n1", "n2"]);
    assert_eq!(c.pods("web").await.len(), 60);
    rival.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_higher_priority_takes_the_place_of_the_least_important() {
    let c = Cluster::start(2).await;
    let classes = c.everywhere::<PriorityClass>();
    for (name, value) in [("middle", 100), ("high", 1000)] {
        let class = json!({"metadata": {"name": name}, "value": value});
        classes.create(&PostParams::default(), &object(class)).await.expect("a class is made");
    }
    for (name, class) in [("low", ""), ("middle", "middle")] {
        let mut spec = asks("16");
        spec["priorityClassName"] = class.into();
        pod(&c, name, spec).await;
        placed(&c, name).await;
    }
    let node = placed(&c, "low").await;
    let mut spec = asks("10");
    spec["priorityClassName"] = "high".into();
    pod(&c, "high", spec).await;
    c.until_event("Preempted", &format!("on node {node}")).await;
    assert_eq!(placed(&c, "high").await, node);
    let middle: Pod = c.api().get("middle").await.expect("it stays");
    assert_eq!(middle.metadata.deletion_timestamp, None);
}

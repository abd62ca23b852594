use super::{
    Times,
    cluster::Cluster,
    new_nodes::NewNodes,
    outcome::{Outcome, UNDONE},
    report,
    run::{Plan, simulate},
    timeline::What,
};
use crate::manifest::parse;
use orlop_scheduler::config::Configuration;
use serde_json::{Value, json};
use std::time::Duration;

/// What is done to a cluster, and how long it is looked at.
#[derive(Default)]
struct Wish {
    drain: Vec<String>,
    new_nodes: Vec<NewNodes>,
    longest: Option<u64>,
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}, "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn deployment(name: &str, replicas: i64, cpu: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "image:1", "resources": {"requests": {"cpu": cpu}}}]}}}})
}

fn plan(objects: Vec<Value>, wanted: Vec<Value>, wish: Wish) -> Plan {
    let second = Duration::from_secs(1);
    let longest = Duration::from_secs(wish.longest.unwrap_or(3600));
    Plan {
        cluster: Cluster::of(objects).unwrap(),
        wanted,
        namespace: "default".into(),
        configuration: Configuration::default(),
        new_nodes: wish.new_nodes,
        drain: wish.drain,
        seed: 1,
        times: Times { longest, start: 2 * second, ready: second, stop: second, run: 10 * second },
    }
}

fn run(objects: Vec<Value>, wanted: Vec<Value>, wish: Wish) -> Outcome {
    simulate(plan(objects, wanted, wish)).unwrap()
}

/// The cluster that a simulation leads to, as a cluster to begin with.
fn led_to(objects: Vec<Value>, wanted: Vec<Value>) -> Vec<Value> {
    let (outcome, left) = super::run::simulate_and_keep(plan(objects, wanted, Wish::default())).unwrap();
    assert_eq!(outcome.code(), 0, "{}", report::text(&outcome));
    left
}

fn said(outcome: &Outcome, who: &str) -> Vec<String> {
    let of = outcome.events.iter().filter(|e| e.who == who);
    of.filter_map(|e| match &e.what {
        What::Itself(what) => Some(what.clone()),
        What::Pod { .. } => None,
    })
    .collect()
}

fn workloads() -> Vec<Value> {
    let text = r#"
{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "data"}, "spec": {"replicas": 2,
 "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}},
 "spec": {"containers": [{"name": "c", "image": "db:1"}]}}}}
{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "data"}, "spec": {
 "selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent"}},
 "spec": {"containers": [{"name": "c", "image": "agent:1"}]}}}}
{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": "data"}, "spec": {"template": {
 "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "once:1"}]}}}}
{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "db", "namespace": "data"}, "spec": {
 "minAvailable": 2, "selector": {"matchLabels": {"app": "db"}}}}
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "data"}, "spec": {"selector": {"app": "db"},
 "ports": [{"port": 80}]}}
"#;
    let mut all = parse(text).unwrap();
    all.push(deployment("web", 3, "500m"));
    all
}

fn data() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "data"}})
}

fn settled() -> Vec<Value> {
    led_to(vec![node("a", "4"), node("b", "4"), data()], workloads())
}

#[test]
fn a_deployment_is_made_its_pods_land_and_it_is_rolled_out() {
    let outcome =
        run(vec![node("a", "4"), node("b", "4")], vec![deployment("web", 3, "500m")], Wish::default());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), 0, "{text}");
    assert_eq!(said(&outcome, "Deployment default/web"), ["made", "rolled out"], "{text}");
    let placed = &outcome.placed["Deployment default/web"];
    assert_eq!(placed.values().sum::<usize>(), 3);
    assert_eq!(placed.len(), 2, "they are spread: {text}");
    assert!(outcome.last().unwrap() < Duration::from_secs(10), "{text}");
}

#[test]
fn nothing_happens_to_a_cluster_that_is_left_alone() {
    let before = settled();
    let outcome = run(before, Vec::new(), Wish::default());
    assert_eq!(report::text(&outcome), "Nothing happens.\n");
    assert_eq!(outcome.code(), 0);
}

#[test]
fn what_is_too_much_stays_without_a_node_until_nodes_are_added() {
    let nodes = vec![node("a", "1")];
    let outcome = run(nodes.clone(), vec![deployment("web", 3, "800m")], Wish::default());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), UNDONE, "{text}");
    let waiting = &outcome.waiting[0];
    assert_eq!((waiting.who.as_str(), waiting.pods.len()), ("Deployment default/web", 2), "{text}");
    assert!(waiting.why.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{text}");
    assert_eq!(waiting.nearest.as_ref().unwrap().1, ["ask for 600m less cpu, or free that much on a"]);
    let add: NewNodes = "2x1cpu,1Gi".parse().unwrap();
    let outcome =
        run(nodes, vec![deployment("web", 3, "800m")], Wish { new_nodes: vec![add], ..Wish::default() });
    assert_eq!(outcome.code(), 0, "{}", report::text(&outcome));
    let on: Vec<&String> = outcome.placed["Deployment default/web"].keys().collect();
    assert_eq!(on, ["a", "new-1", "new-2"]);
}

#[test]
fn a_drain_heeds_budgets_and_says_which_one_is_in_the_way() {
    let before = settled();
    let args = || Wish { drain: vec!["a".into()], ..Wish::default() };
    let outcome = run(before.clone(), Vec::new(), args());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), UNDONE, "{text}");
    let drain = &outcome.drains[0];
    assert!(drain.done.is_none() && drain.evicted > 0, "{text}");
    let (pod, why) = drain.refused.first_key_value().unwrap();
    assert!(pod.starts_with("data/db-"), "{text}");
    assert_eq!(
        why,
        "Cannot evict pod as it would violate the pod's disruption budget. The disruption budget db needs 2 healthy pods and \
         has 2 currently"
    );
    // With the budget out of the way, everything goes to the other node.
    let mut budget = before.iter().find(|o| o["kind"] == "PodDisruptionBudget").unwrap().clone();
    budget["spec"]["minAvailable"] = json!(1);
    budget["metadata"] = json!({"name": "db", "namespace": "data"});
    let outcome = run(before, vec![budget], args());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), 0, "{text}");
    assert!(outcome.drains[0].done.is_some() && outcome.drains[0].lost.is_empty(), "{text}");
    let left = outcome.nodes.iter().find(|n| n.name == "a").unwrap();
    assert_eq!(left.after.pods, 1, "the DaemonSet's stays: {text}");
}

#[test]
fn a_change_rolls_and_what_is_left_out_goes() {
    let mut first = deployment("web", 2, "100m");
    first["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
    let mut before = led_to(vec![node("a", "4"), node("b", "4")], vec![first.clone()]);
    for object in before.iter_mut().filter(|o| o["kind"] == "Deployment") {
        // As kubectl leaves and shows it: without managed fields, with what it applied.
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
            first.to_string().into();
    }
    let outcome = run(before, vec![deployment("web", 2, "100m")], Wish::default());
    let text = report::text(&outcome);
    assert_eq!(
        said(&outcome, "Deployment default/web"),
        ["changed its pods' template", "rolled out"],
        "{text}"
    );
    assert!(outcome.placed["Deployment default/web"].contains_key("b"), "free to go anywhere: {text}");
}

#[test]
fn a_short_look_is_no_sign_of_unrest_and_cron_jobs_stand_still() {
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "often", "namespace": "default"}, "spec": {
        "schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "image:1"}]}}}}}});
    let args = || Wish { longest: Some(5), ..Wish::default() };
    let outcome = run(vec![node("a", "4")], vec![cron], Wish::default());
    assert_eq!(report::text(&outcome).lines().last(), Some("All is settled after 0s."));
    let outcome = run(vec![node("a", "4")], Vec::new(), args());
    assert_eq!(report::text(&outcome), "Nothing happens.\n");
    let outcome = run(vec![node("a", "4")], vec![deployment("web", 1, "1")], args());
    assert_eq!(outcome.code(), UNDONE, "after five seconds nobody knows that it is over");
}

#[test]
fn what_the_server_refuses_is_told_in_its_words() {
    let mut wrong = deployment("web", 1, "100m");
    wrong["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    let outcome = run(vec![node("a", "4")], vec![wrong], Wish::default());
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.refused[0].contains("`selector` does not match template `labels`"),
        "{:?}",
        outcome.refused
    );
}

#[test]
fn a_quota_that_is_used_up_is_the_reason() {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": "default"},
        "spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}});
    let outcome = run(vec![node("a", "4"), quota], vec![deployment("web", 2, "100m")], Wish::default());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), UNDONE, "{text}");
    assert!(outcome.undone[0].why.contains("exceeded quota: few"), "{text}");
}

#[test]
fn a_seed_leads_to_the_same_again() {
    let once = || {
        let outcome = run(
            vec![node("a", "4"), node("b", "4"), node("c", "4")],
            vec![deployment("web", 4, "100m")],
            Wish::default(),
        );
        report::text(&outcome)
    };
    assert_eq!(once(), once());
}

#[test]
fn volumes_that_others_make_are_made() {
    let text = r#"
{"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "csi"}, "provisioner": "csi.example.com",
 "volumeBindingMode": "WaitForFirstConsumer"}
{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
 "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers":
 [{"name": "c", "image": "db:1"}]}}, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes":
 ["ReadWriteOnce"], "storageClassName": "csi", "resources": {"requests": {"storage": "1Gi"}}}}]}}
"#;
    let outcome = run(vec![node("a", "4")], parse(text).unwrap(), Wish::default());
    let text = report::text(&outcome);
    assert_eq!(outcome.code(), 0, "{text}");
    assert!(
        said(&outcome, "PersistentVolumeClaim default/data-db-1")[1].starts_with("bound to pvc-"),
        "{text}"
    );
}

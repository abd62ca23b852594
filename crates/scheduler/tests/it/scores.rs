use crate::objects::{asks, cluster, decide, merge, node, place, pod};
use k8s_openapi::api::core::v1::Node;
use orlop_scheduler::{config::Configuration, decision::Vetoes, plugin::Plugin, snapshot::Snapshot};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

fn zone(name: &str) -> Value {
    json!({"metadata": {"labels": {"zone": name, "topology.kubernetes.io/zone": name}}})
}

fn with_strategy(name: &str, nodes: &[Arc<Node>]) -> Snapshot {
    let mut configuration = Configuration::default();
    configuration.use_strategy(name).unwrap();
    let mut snapshot = Snapshot::new(configuration.profiles, 1);
    nodes.iter().for_each(|n| snapshot.set_node(n));
    snapshot
}

fn score(c: &mut Snapshot, pod: &Arc<k8s_openapi::api::core::v1::Pod>, node: &str, plugin: Plugin) -> i64 {
    let (all, _) = c.explain(pod, 0, Vetoes::default());
    let candidate = all.into_iter().find(|c| c.node == node).unwrap();
    candidate.parts.into_iter().find(|(p, _)| *p == plugin).unwrap().1
}

#[test]
fn the_emptier_node_is_chosen_until_it_is_as_full() {
    let mut c = cluster(&[node("a", json!({"status": {"allocatable": {"cpu": "2"}}})), node("b", json!({}))]);
    let mut counts = BTreeMap::new();
    for i in 0..6 {
        let to = place(&mut c, &asks(&format!("p{i}"), "500m")).unwrap();
        *counts.entry(to).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a".to_string(), 2), ("b".to_string(), 4)]));
}

#[test]
fn resources_score_as_kube_scheduler_documents() {
    let mut c = cluster(&[node("a", json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi"}}}))]);
    c.place("a", &pod("there", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}})));
    let asks = pod(
        "p",
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]}}),
    );
    // Least allocated: (50 + 25) / 2 = 37; balanced: 1 - |0.5 - 0.75| / 2 = 87.
    assert_eq!(score(&mut c, &asks, "a", Plugin::NodeResourcesFit), 37 + 87);
    // A pod that asks for nothing is taken to use 100m and 200Mi, and has nothing to balance.
    let nothing = pod("q", json!({}));
    assert_eq!(score(&mut c, &nothing, "a", Plugin::NodeResourcesFit), (72 + (3072 - 200) * 100 / 4096) / 2);
}

#[test]
fn most_allocated_packs() {
    let nodes = ["a", "b", "c"].map(|n| node(n, json!({})));
    let mut c = with_strategy("MostAllocated", &nodes);
    let first = place(&mut c, &asks("p0", "1")).unwrap();
    for i in 1..4 {
        assert_eq!(place(&mut c, &asks(&format!("p{i}"), "1")).unwrap(), first);
    }
    assert_ne!(place(&mut c, &asks("p4", "1")).unwrap(), first, "it is full");
}

#[test]
fn round_robin_is_exact() {
    let names = ["a", "b", "c", "d", "e"];
    let mut c = with_strategy(
        "RoundRobin",
        &names.map(|n| node(n, json!({"status": {"allocatable": {"pods": "1000"}}}))),
    );
    c.place("a", &asks("busy", "3"));
    let mut order = Vec::new();
    for i in 0..20 {
        order.push(place(&mut c, &asks(&format!("p{i}"), "10m")).unwrap());
    }
    assert_eq!(order, names.repeat(4), "whatever is on them");
    c.set_node(&node("c", json!({"spec": {"unschedulable": true}})));
    let rest: Vec<_> = (0..8).map(|i| place(&mut c, &asks(&format!("q{i}"), "10m")).unwrap()).collect();
    assert_eq!(rest, ["a", "b", "d", "e"].repeat(2));
}

#[test]
fn preferences_decide_among_equals() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let mut c = cluster(&[node("a", tainted), node("b", json!({}))]);
    assert_eq!(decide(&mut c, &pod("p", json!({}))).unwrap(), "b");
    let likes = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}},
         {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]}}}});
    let likes = pod("q", likes);
    let mut c = cluster(&[node("a", zone("x")), node("b", zone("y")), node("c", json!({}))]);
    assert_eq!(
        ["a", "b", "c"].map(|n| score(&mut c, &likes, n, Plugin::NodeAffinity)),
        [2 * 100, 2 * (5 * 100 / 15), 0]
    );
}

#[test]
fn preferred_pod_affinity_works_both_ways() {
    let prefers = |kind: &str, weight: i64| {
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight,
            "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}}]}}}})
    };
    let mut c = cluster(&[node("a", zone("x")), node("b", zone("x")), node("c", zone("y"))]);
    c.place("a", &pod("there", json!({})));
    let near = pod("near", prefers("podAffinity", 10));
    let apart = pod("apart", prefers("podAntiAffinity", 10));
    let of = |c: &mut Snapshot, p| ["a", "b", "c"].map(|n| score(c, p, n, Plugin::InterPodAffinity));
    assert_eq!(of(&mut c, &near), [200, 200, 0]);
    assert_eq!(of(&mut c, &apart), [0, 0, 200]);
    let plain = pod("plain", json!({}));
    assert_eq!(of(&mut c, &plain), [0, 0, 0]);
    c.place("c", &near);
    assert_eq!(of(&mut c, &plain), [0, 0, 200], "who is there likes it near");
    let mut required = prefers("podAffinity", 1);
    required["spec"]["affinity"]["podAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]});
    c.place("a", &pod("needs-db", required));
    let db = pod("db", json!({"metadata": {"labels": {"app": "db"}}}));
    assert_eq!(of(&mut c, &db), [200, 200, 0], "who is there cannot do without it");
}

#[test]
fn soft_spread_prefers_the_emptier_domain() {
    let constraint = |key: &str| {
        json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}}})
    };
    let even = pod("even", json!({"spec": {"topologySpreadConstraints": [constraint("zone")]}}));
    let mut c =
        cluster(&[node("a", zone("x")), node("b", zone("x")), node("c", zone("y")), node("d", json!({}))]);
    for (at, node) in ["a", "a", "b", "c"].into_iter().enumerate() {
        c.place(node, &pod(&format!("p{at}"), json!({})));
    }
    // ln(2 + 2) = 1.386 a pod: 4, 4, 1 → 100 * (4 + 1 - s) / 4; a node without the label is no better than the worst.
    assert_eq!(
        ["a", "b", "c", "d"].map(|n| score(&mut c, &even, n, Plugin::PodTopologySpread)),
        [50, 50, 200, 0]
    );
}

#[test]
fn pods_of_a_service_are_spread_over_nodes_and_zones_by_default() {
    let nodes: Vec<_> = (0..6)
        .map(|i| {
            node(
                &format!("n{i}"),
                merge(
                    zone(["x", "y"][i % 2]),
                    json!({"status": {"allocatable": {"cpu": "100", "memory": "100Gi", "pods": "100"}}}),
                ),
            )
        })
        .collect();
    let mut c = cluster(&nodes);
    c.workloads.set_service("default", "web", Some([("app".to_string(), "web".to_string())].into()));
    // Without the default, the emptier nodes would get all.
    for node in ["n0", "n1"] {
        c.place(node, &pod(&format!("busy-{node}"), json!({"metadata": {"labels": {"app": "busy"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "10", "memory": "10Gi"}}}]}})));
    }
    let mut on: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..12 {
        *on.entry(place(&mut c, &asks(&format!("p{i}"), "100m")).unwrap()).or_default() += 1;
    }
    assert!(on.len() == 6 && on.values().all(|n| *n == 2), "{on:?}");
}

#[test]
fn an_image_that_is_there_already_draws() {
    let image = |name: &str| json!({"status": {"images": [{"names": [name], "sizeBytes": 800 << 20}]}});
    let mut c = cluster(&[node("a", image("app:latest")), node("b", image("other:1"))]);
    let wants = pod("p", json!({"spec": {"containers": [{"name": "c", "image": "app"}]}}));
    let (all, _) = c.explain(&wants, 0, Vetoes::default());
    // Half of the nodes have it: (400 - 23) / (1000 - 23).
    assert_eq!(all[0].score - all[1].score, 38);
    assert_eq!(all[0].node, "a");
    c.set_node(&node("b", image("app:latest")));
    let (all, _) = c.explain(&wants, 0, Vetoes::default());
    assert_eq!(all[0].score, all[1].score);
}

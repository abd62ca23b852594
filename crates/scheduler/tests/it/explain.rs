use crate::objects::{asks, cluster, merge, node, pod};
use orlop_scheduler::decision::Vetoes;
use serde_json::json;

#[test]
fn a_pod_that_fits_nowhere_is_told_the_smallest_change_that_would_help() {
    let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let mut c = cluster(&[
        node("a", json!({})),
        node("b", taint),
        node("c", json!({"spec": {"unschedulable": true}})),
    ]);
    c.place("a", &asks("there", "3500m"));
    c.place("b", &asks("also", "3500m"));
    c.place("c", &asks("too", "3500m"));
    let explained = c.explanation(&asks("p", "1"), 0, Vetoes::default());
    assert!(explained.candidates.is_empty());
    let change = "ask for 500m less cpu, or free that much on a".to_string();
    assert_eq!(explained.nearest, Some(("a".to_string(), vec![change])));
    let picky = asks("q", "100m");
    let picky = pod(
        "q",
        merge(serde_json::to_value(&*picky).unwrap(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}})),
    );
    let (on, changes) = c.explanation(&picky, 0, Vetoes::default()).nearest.unwrap();
    assert_eq!((on.as_str(), changes), ("a", vec!["label a with disk=ssd".to_string()]));
}

#[test]
fn a_pod_that_is_placed_is_told_the_nodes_that_it_had_to_choose_from() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.place("b", &asks("there", "2"));
    c.place("a", &asks("p", "1"));
    let explained = c.explanation(&asks("p", "1"), 0, Vetoes::default());
    let names: Vec<_> = explained.candidates.iter().map(|c| c.node.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(explained.candidates[0].score > explained.candidates[1].score && explained.nearest.is_none());
    assert!(c.placed("p").is_some(), "it stays where it is");
}

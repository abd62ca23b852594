use crate::objects::{cluster, merge, node, pod};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use orlop_scheduler::{
    decision::{Decision, Vetoes},
    preemption::{Budget, Victims},
    snapshot::Snapshot,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn asks(name: &str, priority: i32, cpu: &str, more: Value) -> Arc<Pod> {
    let spec = json!({"spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    pod(name, merge(spec, more))
}

fn started(name: &str, priority: i32, cpu: &str, at: &str) -> Arc<Pod> {
    asks(name, priority, cpu, json!({"status": {"startTime": at}}))
}

fn preempt(c: &mut Snapshot, pod: &Arc<Pod>, budgets: &[Budget]) -> Result<Victims, String> {
    c.preempt(pod, 0, Vetoes::default(), budgets)
}

/// The node, and who leaves it.
fn chosen(found: Result<Victims, String>) -> (String, Vec<String>) {
    let victims = found.unwrap();
    let mut names: Vec<String> = victims.pods.iter().map(|p| p.name_any()).collect();
    names.sort();
    (victims.node, names)
}

fn who(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn no_more_pods_leave_than_need_to_and_the_least_important_first() {
    let mut c = cluster(&[node("a", json!({}))]);
    for (name, priority, cpu) in [("low", 1, "1"), ("lower", 0, "1"), ("middle", 5, "1"), ("equal", 9, "1")] {
        c.place("a", &asks(name, priority, cpu, json!({})));
    }
    let high = |cpu| asks("high", 9, cpu, json!({}));
    assert_eq!(chosen(preempt(&mut c, &high("1"), &[])), ("a".into(), who(&["lower"])));
    assert_eq!(chosen(preempt(&mut c, &high("2"), &[])), ("a".into(), who(&["low", "lower"])));
    assert_eq!(preempt(&mut c, &high("4"), &[]).unwrap_err(), "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(
        preempt(&mut c, &high("5"), &[]).unwrap_err(),
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(
        preempt(&mut c, &asks("lowest", -5, "1", json!({})), &[]).unwrap_err(),
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let patient = asks("patient", 9, "1", json!({"spec": {"preemptionPolicy": "Never"}}));
    assert_eq!(preempt(&mut c, &patient, &[]).unwrap_err(), "not eligible due to preemptionPolicy=Never.");
}

#[test]
fn the_node_that_loses_least_is_chosen() {
    let high = asks("high", 100, "4", json!({}));
    let place = |pods: &[(&str, Arc<Pod>)]| {
        let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
        pods.iter().for_each(|(node, pod)| c.place(node, pod));
        chosen(preempt(&mut c, &high, &[])).0
    };
    let p = |name: &str, priority, cpu: &str| asks(name, priority, cpu, json!({}));
    // The lowest of the highest priorities.
    assert_eq!(place(&[("a", p("1", 5, "3")), ("b", p("2", 4, "2")), ("b", p("3", 4, "2"))]), "b");
    // Then the lowest sum, and so the fewest.
    assert_eq!(place(&[("a", p("1", 5, "3")), ("b", p("2", 5, "2")), ("b", p("3", 1, "2"))]), "a");
    // Then those that started last.
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    assert_eq!(place(&[("a", started("1", 5, "3", early)), ("b", started("2", 5, "3", late))]), "b");
}

#[test]
fn budgets_are_respected_where_that_is_possible() {
    let budget = |allowed: i32| {
        let budget = json!({"metadata": {"namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "kept"}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        Budget::of(&serde_json::from_value(budget).unwrap()).unwrap()
    };
    let kept = |name, priority| asks(name, priority, "4", json!({"metadata": {"labels": {"app": "kept"}}}));
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.place("a", &kept("kept", 0));
    c.place("b", &asks("free", 5, "4", json!({})));
    let high = asks("high", 9, "4", json!({}));
    assert_eq!(chosen(preempt(&mut c, &high, &[budget(0)])), ("b".into(), who(&["free"])));
    assert_eq!(chosen(preempt(&mut c, &high, &[budget(1)])), ("a".into(), who(&["kept"])));
    c.remove_pod("free");
    c.place("b", &kept("also", 5));
    let found = preempt(&mut c, &high, &[budget(0)]).unwrap();
    assert_eq!((found.node.as_str(), found.violations), ("a", 1), "where it is not, priority is what counts");
}

#[test]
fn pods_that_are_near_leave_too_where_they_are_in_the_way() {
    let anti = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}});
    let mut c = cluster(&[node("a", json!({}))]);
    c.place("a", &asks("big", 0, "2", json!({"metadata": {"labels": {"app": "db"}}})));
    c.place("a", &asks("web", 5, "100m", json!({})));
    assert_eq!(
        chosen(preempt(&mut c, &asks("high", 9, "1", anti.clone()), &[])),
        ("a".into(), who(&["web"]))
    );
    c.place("a", &asks("alone", 1, "100m", anti));
    assert_eq!(
        chosen(preempt(&mut c, &asks("high", 9, "1", json!({})), &[])),
        ("a".into(), who(&["alone"])),
        "its wish to be alone goes with it"
    );
}

#[test]
fn spread_is_kept_by_preemption_as_kubernetes_own_test_wants() {
    let zone =
        |n: &str| json!({"metadata": {"labels": {"zone": n}}, "status": {"allocatable": {"cpu": "10"}}});
    let mut c = cluster(&[node("a", zone("a")), node("b", zone("b"))]);
    c.place("a", &asks("high", 100, "9", json!({})));
    for name in ["low1", "low2", "low3"] {
        c.place("b", &asks(name, 0, "3", json!({})));
    }
    let constraint = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let (node, victims) = chosen(preempt(&mut c, &asks("medium", 10, "3", constraint), &[]));
    assert_eq!((node.as_str(), victims.len()), ("b", 2), "one would be enough for processor alone");
}

#[test]
fn who_waits_for_others_to_leave_finds_the_place_kept() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.place("a", &asks("stays", 100, "4", json!({})));
    let first = asks("first", 9, "3", json!({}));
    c.nominate(&first, Some("b"));
    let decide = |c: &mut Snapshot, pod: &Arc<Pod>| match c.decide(pod, 0, Vetoes::default()) {
        Decision::Node { name, .. } => Ok(name),
        Decision::Unschedulable(d) => Err(d.to_string()),
    };
    assert_eq!(
        decide(&mut c, &asks("second", 9, "2", json!({}))).unwrap_err(),
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    assert_eq!(decide(&mut c, &asks("small", 9, "1", json!({}))).unwrap(), "b");
    assert_eq!(decide(&mut c, &asks("higher", 10, "2", json!({}))).unwrap(), "b", "it goes first");
    assert_eq!(decide(&mut c, &first).unwrap(), "b");
    c.nominate(&first, None);
    assert_eq!(decide(&mut c, &asks("second", 9, "2", json!({}))).unwrap(), "b");
}

#[test]
fn who_waits_for_one_to_end_sends_no_other_away() {
    let mut c = cluster(&[node("a", json!({}))]);
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions":
        [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}});
    c.place("a", &asks("leaving", 0, "2", leaving));
    c.place("a", &asks("other", 0, "2", json!({})));
    let waiting = asks("high", 9, "2", json!({"status": {"nominatedNodeName": "a"}}));
    assert_eq!(
        preempt(&mut c, &waiting, &[]).unwrap_err(),
        "not eligible due to a terminating pod on the nominated node."
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn preemption_is_enough_and_no_more(
        pods in proptest::collection::vec((0usize..3, 0i32..6, 1u32..5), 1..25),
        wants in 1u32..9,
    ) {
        let mut c = cluster(&["a", "b", "c"].map(|n| node(n, json!({"status": {"allocatable": {"pods": "100"}}}))));
        let mut left = [8u32; 3];
        for (at, (node, priority, size)) in pods.into_iter().enumerate() {
            if left[node] >= size {
                left[node] -= size;
                c.place(["a", "b", "c"][node], &asks(&format!("p{at}"), priority, &format!("{}m", size * 500), json!({})));
            }
        }
        let high = asks("high", 5, &format!("{}m", wants * 500), json!({}));
        let fits = |c: &mut Snapshot| matches!(c.decide(&high, 0, Vetoes::default()), Decision::Node { .. });
        prop_assume!(!fits(&mut c));
        let Ok(victims) = preempt(&mut c, &high, &[]) else {
            // No node would do even without all that may leave.
            for id in 0..3 {
                let below: Vec<_> = c.residents(id).filter(|p| p.priority() < 5).map(|p| p.pod.clone()).collect();
                below.iter().for_each(|p| { c.remove_pod(&p.uid().unwrap()); });
            }
            prop_assert!(!fits(&mut c));
            return Ok(());
        };
        prop_assert!(victims.pods.iter().all(|p| p.spec.as_ref().unwrap().priority < Some(5)));
        for pod in &victims.pods {
            c.remove_pod(&pod.uid().unwrap());
        }
        prop_assert!(fits(&mut c));
        for pod in &victims.pods {
            c.place(&victims.node, pod);
            prop_assert!(!fits(&mut c), "{} could have stayed", pod.name_any());
            c.remove_pod(&pod.uid().unwrap());
        }
    }
}

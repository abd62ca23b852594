//! Random histories of a cluster: at every step the quick answer is the plain one, and no constraint is broken by following it.

use crate::{
    objects::{decide, fits, merge, node, pod},
    reference::Reference,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use orlop_scheduler::{decision::Vetoes, profile::Profile, snapshot::Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    /// A node comes or changes: which, its kind, its zone.
    Node(u8, u8, u8),
    NodeGoes(u8),
    /// A pod is to be placed: its kind and its application.
    Pod(u8, u8),
    PodGoes(u8),
    PodIsDeleted(u8),
    Namespace(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..8, 0u8..5, 0u8..4).prop_map(|(n, kind, zone)| Step::Node(n, kind, zone)),
        1 => (0u8..8).prop_map(Step::NodeGoes),
        12 => (0u8..14, 0u8..3).prop_map(|(kind, app)| Step::Pod(kind, app)),
        2 => any::<u8>().prop_map(Step::PodGoes),
        1 => any::<u8>().prop_map(Step::PodIsDeleted),
        1 => any::<bool>().prop_map(Step::Namespace),
    ];
    proptest::collection::vec(step, 1..60)
}

fn a_node(n: u8, kind: u8, zone: u8) -> Arc<Node> {
    let mut more = match kind {
        0 => json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        1 => json!({"status": {"allocatable": {"cpu": "2", "pods": "3"}}}),
        2 => json!({"spec": {"unschedulable": true}}),
        _ => json!({"metadata": {"labels": {"disk": "ssd"}}}),
    };
    if zone > 0 {
        more = merge(more, json!({"metadata": {"labels": {"zone": format!("z{zone}")}}}));
    }
    node(&format!("n{n}"), more)
}

fn a_pod(name: &str, kind: u8, app: u8) -> Arc<Pod> {
    let app = format!("app{app}");
    let selector = json!({"matchLabels": {"app": app}});
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": selector});
    let anywhere = |key: &str, more: Value| merge(term(key), more);
    let affinity = |kind: &str, terms: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}});
    let spread = |key: &str, more: Value| {
        merge(
            json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}),
            more,
        )
    };
    let host = "kubernetes.io/hostname";
    let spec = match kind {
        0 => json!({"nodeSelector": {"disk": "ssd"}}),
        1 => json!({"tolerations": [{"operator": "Exists"}]}),
        2 => affinity("podAntiAffinity", json!([term("zone")])),
        3 => affinity("podAntiAffinity", json!([term(host)])),
        4 => affinity("podAffinity", json!([term("zone")])),
        5 => affinity(
            "podAffinity",
            json!([term("zone"), {"topologyKey": host, "labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]),
        ),
        6 => {
            json!({"topologySpreadConstraints": [spread("zone", json!({"maxSkew": 2})), spread(host, json!({}))]})
        }
        7 => {
            json!({"topologySpreadConstraints": [spread("zone", json!({"nodeAffinityPolicy": "Ignore"}))], "nodeSelector": {"disk": "ssd"}})
        }
        8 => {
            json!({"topologySpreadConstraints": [spread("zone", json!({"nodeTaintsPolicy": "Honor", "minDomains": 3}))]})
        }
        9 => affinity(
            "podAntiAffinity",
            json!([anywhere(host, json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}))]),
        ),
        10 => affinity("podAffinity", json!([anywhere("zone", json!({"namespaceSelector": {}}))])),
        11 => json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        12 => {
            json!({"topologySpreadConstraints": [spread("zone", json!({}))], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1", "n2", "n3"]}]}]}}}})
        }
        _ => json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}),
    };
    let namespace = if kind.is_multiple_of(2) { "default" } else { "other" };
    pod(name, json!({"metadata": {"namespace": namespace, "labels": {"app": app}}, "spec": spec}))
}

/// The quick and the plain one, side by side.
struct Both {
    quick: Snapshot,
    plain: Reference,
}

impl Both {
    fn new() -> Self {
        let plain = Reference { nodes: Vec::new(), pods: Vec::new(), namespaces: Default::default() };
        Self { quick: Snapshot::new(vec![Profile::default()], 7), plain }
    }

    fn take(&mut self, at: usize, step: &Step) {
        match step {
            Step::Node(n, kind, zone) => {
                let node = a_node(*n, *kind, *zone);
                self.quick.set_node(&node);
                self.plain.nodes.retain(|old| old.name_any() != node.name_any());
                self.plain.nodes.push(node);
            }
            Step::NodeGoes(n) => {
                let name = format!("n{n}");
                self.quick.remove_node(&name);
                self.plain.nodes.retain(|old| old.name_any() != name);
            }
            Step::Pod(kind, app) => self.place(&a_pod(&format!("p{at}"), *kind, *app)),
            Step::PodGoes(which) => {
                if !self.plain.pods.is_empty() {
                    let (pod, _) = self.plain.pods.swap_remove(*which as usize % self.plain.pods.len());
                    assert!(self.quick.remove_pod(&pod.uid().unwrap()));
                }
            }
            Step::PodIsDeleted(which) => {
                if !self.plain.pods.is_empty() {
                    let at = *which as usize % self.plain.pods.len();
                    let (pod, node) = &mut self.plain.pods[at];
                    let mut dying = (**pod).clone();
                    dying.metadata.deletion_timestamp =
                        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
                    *pod = Arc::new(dying);
                    self.quick.place(node, pod);
                }
            }
            Step::Namespace(ours) => {
                let team = if *ours { "x" } else { "y" };
                let namespace = json!({"metadata": {"name": "other", "labels": {"team": team}}});
                let namespace = serde_json::from_value(namespace).unwrap();
                self.quick.set_namespace("other", Some(&namespace));
                self.plain.namespaces.insert("other".into(), namespace.metadata.labels.unwrap());
            }
        }
    }

    fn place(&mut self, pod: &Arc<Pod>) {
        let want = self.plain.fits(pod);
        assert_eq!(fits(&mut self.quick, pod), want, "{}", pod.name_any());
        match decide(&mut self.quick, pod) {
            Ok(node) => {
                assert!(want.contains(&node));
                self.quick.place(&node, pod);
                self.plain.pods.push((pod.clone(), node));
            }
            Err(_) => assert!(want.is_empty()),
        }
    }

    /// The same cluster, made in one go.
    fn anew(&self) -> Snapshot {
        let mut quick = Snapshot::new(vec![Profile::default()], 7);
        for (name, labels) in &self.plain.namespaces {
            let namespace = json!({"metadata": {"name": name, "labels": labels}});
            quick.set_namespace(name, Some(&serde_json::from_value(namespace).unwrap()));
        }
        self.plain.nodes.iter().for_each(|n| quick.set_node(n));
        self.plain.pods.iter().for_each(|(pod, node)| quick.place(node, pod));
        quick
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_quick_filters_do_what_the_plain_ones_do(steps in steps()) {
        let mut both = Both::new();
        for (at, step) in steps.iter().enumerate() {
            both.take(at, step);
        }
        // How the cluster came to be does not matter: neither to who fits nor to the scores.
        let mut anew = both.anew();
        for kind in 0..14 {
            let pod = a_pod("last", kind, kind % 3);
            prop_assert_eq!(
                both.quick.explain(&pod, 0, Vetoes::default()),
                anew.explain(&pod, 0, Vetoes::default())
            );
        }
    }

    #[test]
    fn decisions_are_repeated_by_the_same_seed(steps in steps()) {
        let run = || {
            let mut both = Both::new();
            steps.iter().enumerate().for_each(|(at, step)| both.take(at, step));
            both.plain.pods.into_iter().map(|(p, node)| (p.name_any(), node)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

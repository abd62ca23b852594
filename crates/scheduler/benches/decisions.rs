//! Decisions a second, one thread, nothing but the core: `cargo bench -p orlop-scheduler --bench decisions`. Every decision is
//! followed by the placement that it leads to, as in the loop; a pod's own work (reading its spec) is in the figure.
#![allow(missing_docs, clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Pod};
use orlop_scheduler::{
    decision::{Decision, Vetoes},
    profile::Profile,
    snapshot::Snapshot,
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ZONES: usize = 5;

fn node(i: usize) -> Arc<Node> {
    let name = format!("node-{i:05}");
    let node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", i % ZONES)}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "500Gi"}},
    });
    Arc::new(serde_json::from_value(node).unwrap())
}

/// A pod of an application: of one Service, with requests, and whatever else its kind has.
fn pod(app: usize, i: usize, more: &Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("app-{app}-{i}"), "namespace": "default", "uid": format!("{app}-{i}"),
            "labels": {"app": format!("app-{app}"), "pod-template-hash": "5d89c"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn cluster(nodes: usize, placed: usize) -> Snapshot {
    let mut snapshot = Snapshot::new(vec![Profile::default()], 1);
    (0..nodes).for_each(|i| snapshot.set_node(&node(i)));
    for app in 0..100 {
        let selector = [("app".to_string(), format!("app-{app}"))].into();
        snapshot.workloads.set_service("default", &format!("app-{app}"), Some(selector));
    }
    // Unevenly, as clusters are: some nodes have many.
    for i in 0..placed {
        let spread = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let to = (spread as usize * (1 + i % 3)) % nodes;
        snapshot.place(&format!("node-{to:05}"), &pod(50 + i % 50, i, &json!({})));
    }
    snapshot
}

/// Places pods of some applications in turn; answers how long each took, the first of each application apart.
fn run(
    snapshot: &mut Snapshot,
    apps: usize,
    count: usize,
    kind: &dyn Fn(usize) -> Value,
) -> (Duration, Duration) {
    let kinds: Vec<Value> = (0..apps).map(kind).collect();
    let pods: Vec<Arc<Pod>> =
        (0..count + apps).map(|i| pod(i % apps, 1_000_000 + i, &kinds[i % apps])).collect();
    let mut place = |pod: &Arc<Pod>| match snapshot.decide(pod, 0, Vetoes::default()) {
        Decision::Node { name, .. } => snapshot.place(&name, pod),
        Decision::Unschedulable(why) => panic!("{why}"),
    };
    let begin = Instant::now();
    pods[..apps].iter().for_each(&mut place);
    let first = begin.elapsed() / apps as u32;
    let begin = Instant::now();
    pods[apps..].iter().for_each(&mut place);
    (first, begin.elapsed() / count as u32)
}

fn selector(app: usize) -> Value {
    json!({"matchLabels": {"app": format!("app-{app}")}})
}

fn plain(_: usize) -> Value {
    json!({})
}

fn apart(app: usize) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname", "labelSelector": selector(app)}]}}})
}

fn spread(app: usize) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector(app)}]})
}

fn near(app: usize) -> Value {
    json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 10, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": selector(app)}}]}}})
}

fn main() {
    let kinds: [(&str, &dyn Fn(usize) -> Value); 4] = [
        ("resources and default spread", &plain),
        ("required anti-affinity", &apart),
        ("hard topology spread", &spread),
        ("preferred affinity", &near),
    ];
    println!(
        "{:<32}{:>8}{:>10}{:>6}{:>14}{:>14}",
        "pods", "nodes", "placed", "apps", "decisions/s", "first, µs"
    );
    for (nodes, placed) in [(5_000, 10_000), (5_000, 50_000), (5_000, 150_000), (50_000, 150_000)] {
        for (name, kind) in kinds {
            for apps in [1, 10] {
                let mut snapshot = cluster(nodes, placed);
                let (first, each) = run(&mut snapshot, apps, 4_000, kind);
                let rate = 1.0 / each.as_secs_f64();
                println!(
                    "{name:<32}{nodes:>8}{placed:>10}{apps:>6}{rate:>14.0}{:>14.0}",
                    first.as_secs_f64() * 1e6
                );
            }
        }
    }
}

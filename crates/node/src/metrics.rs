//! What the node's `/metrics` shows: how many pods and containers there are, how long each kind of work takes, how long pods take to
//! start. The names are the kubelet's where it has some. It measures and decides nothing.

use crate::PodHandle;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    container_state: &'static str,
}

/// The agent's measurements.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    operations: Family<Operation, Histogram, fn() -> Histogram>,
    errors: Family<Operation, Counter>,
    starts: Histogram,
    pods: Gauge,
    containers: Family<State, Gauge>,
}

/// Half a millisecond to a little over two minutes.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 19))
}

impl Metrics {
    pub fn new(node: &str) -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            operations: Family::new_with_constructor(buckets),
            errors: Family::default(),
            starts: buckets(),
            pods: Gauge::default(),
            containers: Family::default(),
        };
        let name = Family::<Vec<(String, String)>, Gauge>::default();
        name.get_or_create(&vec![("node".into(), node.into())]).set(1);
        let mut registry = metrics.registry.lock();
        registry.register("kubelet_node_name", "The node's name", name);
        registry.register("kubelet_running_pods", "Pods with a running sandbox", metrics.pods.clone());
        registry.register("kubelet_running_containers", "Containers by state", metrics.containers.clone());
        registry.register(
            "kubelet_runtime_operations_duration_seconds",
            "Time that work on pods takes, by what it is",
            metrics.operations.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Work on pods that failed, by what it is",
            metrics.errors.clone(),
        );
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "Time from seeing a pod to all of its containers running",
            metrics.starts.clone(),
        );
        drop(registry);
        metrics
    }

    /// Lets somebody else show what he counts.
    pub fn show(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// Counts a piece of work.
    pub fn observe(&self, operation: &'static str, took: Duration, failed: bool) {
        let label = Operation { operation_type: operation };
        self.operations.get_or_create(&label).observe(took.as_secs_f64());
        if failed {
            self.errors.get_or_create(&label).inc();
        }
    }

    /// All containers of a new pod run.
    pub fn pod_started(&self, took: Duration) {
        self.starts.observe(took.as_secs_f64());
    }

    /// The text of `/metrics` (Prometheus text format).
    pub fn text(&self, pods: &[PodHandle]) -> String {
        let all = || pods.iter().flat_map(|p| p.containers.values().flatten());
        self.pods.set(pods.iter().filter(|p| p.sandbox_id.is_some()).count() as i64);
        for (state, running) in [("running", true), ("exited", false)] {
            let count = all().filter(|c| c.running == running).count();
            self.containers.get_or_create(&State { container_state: state }).set(count as i64);
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_by_what_it_is_and_whether_it_failed() {
        let metrics = Metrics::new("a");
        metrics.observe("start_container", Duration::from_millis(3), false);
        metrics.observe("start_container", Duration::from_millis(5), true);
        metrics.pod_started(Duration::from_millis(40));
        let text = metrics.text(&[]);
        for line in [
            "kubelet_node_name{node=\"a\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"start_container\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"} 1",
            "kubelet_pod_start_duration_seconds_sum 0.04",
            "kubelet_running_pods 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
    }
}

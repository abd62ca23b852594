//! `/metrics/resource`: what the node, its pods and their containers have used, in the kubelet's form (KEP-2371), for metrics-server
//! and Prometheus.

use super::{
    response::{Body, answer},
    server::Context,
    stats::{ContainerReading, memory_of_node, processor_time, readings},
};
use http::{Response, StatusCode};
use jiff::Timestamp;
use std::fmt::Write;

/// One pod's figures.
struct PodReading {
    namespace: String,
    name: String,
    containers: Vec<ContainerReading>,
}

/// Asks the runtime for every running container.
pub async fn serve(context: &Context) -> Response<Body> {
    let mut pods = Vec::new();
    for pod in context.pods.pods() {
        let containers = readings(context, &pod).await;
        let meta = &pod.pod.metadata;
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        pods.push(PodReading { namespace: name(&meta.namespace), name: name(&meta.name), containers });
    }
    let working_set = memory_of_node().map(|(total, _, available)| total.saturating_sub(available));
    let node = (Timestamp::now().as_millisecond(), processor_time(), working_set);
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text(&pods, node))
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64, i64)]) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value, at) in samples {
        let _ = writeln!(out, "{name}{labels} {value} {at}");
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The text, of pods and of the node: when it was read (milliseconds), its processor time and its working set.
fn text(pods: &[PodReading], (at, cpu, memory): (i64, Option<u64>, Option<u64>)) -> String {
    let mut out = String::new();
    let all = || pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    let of_containers = |value: &dyn Fn(&ContainerReading) -> Option<f64>| -> Vec<(String, f64, i64)> {
        all()
            .filter_map(|(pod, c)| {
                let (namespace, name, container) = (&pod.namespace, &pod.name, &c.name);
                let labels =
                    format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\"}}");
                Some((labels, value(c)?, c.stats.at / 1_000_000))
            })
            .collect()
    };
    let of_pods = |value: &dyn Fn(&ContainerReading) -> f64| -> Vec<(String, f64, i64)> {
        pods.iter()
            .filter_map(|pod| {
                let at = pod.containers.iter().map(|c| c.stats.at).max()?;
                let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name);
                Some((labels, pod.containers.iter().map(value).sum(), at / 1_000_000))
            })
            .collect()
    };
    let cpu_of = |c: &ContainerReading| seconds(c.stats.cpu_usage_ns);
    let memory_of = |c: &ContainerReading| c.stats.memory_working_set as f64;
    let of_node =
        |value: Option<f64>| value.map(|value| (String::new(), value, at)).into_iter().collect::<Vec<_>>();
    let cpu_help = "Cumulative cpu time consumed in core-seconds";
    let memory_help = "Current working set in bytes";
    family(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        cpu_help,
        &of_containers(&|c| Some(cpu_of(c))),
    );
    family(
        &mut out,
        "container_memory_working_set_bytes",
        "gauge",
        memory_help,
        &of_containers(&|c| Some(memory_of(c))),
    );
    family(
        &mut out,
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        &of_containers(&|c| c.started.map(|t| t.as_second() as f64)),
    );
    family(&mut out, "node_cpu_usage_seconds_total", "counter", cpu_help, &of_node(cpu.map(seconds)));
    family(
        &mut out,
        "node_memory_working_set_bytes",
        "gauge",
        memory_help,
        &of_node(memory.map(|m| m as f64)),
    );
    family(&mut out, "pod_cpu_usage_seconds_total", "counter", cpu_help, &of_pods(&cpu_of));
    family(&mut out, "pod_memory_working_set_bytes", "gauge", memory_help, &of_pods(&memory_of));
    let _ = writeln!(
        out,
        "# HELP resource_scrape_error 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_runtime::Stats;

    #[test]
    fn what_is_used_reads_as_the_kubelet_says_it() {
        let container = |name: &str, cpu_usage_ns| ContainerReading {
            id: name.into(),
            name: name.into(),
            started: Timestamp::from_second(7).ok(),
            stats: Stats { at: 9_000_000_000, cpu_usage_ns, memory_working_set: 4096, ..Stats::default() },
        };
        let pod = PodReading {
            namespace: "n".into(),
            name: "p".into(),
            containers: vec![container("a", 1_500_000_000), container("b", 500_000_000)],
        };
        let text = text(&[pod], (9_000, Some(10_000_000_000), Some(1 << 20)));
        for line in [
            r#"container_cpu_usage_seconds_total{container="a",namespace="n",pod="p"} 1.5 9000"#,
            r#"container_start_time_seconds{container="a",namespace="n",pod="p"} 7 9000"#,
            "node_cpu_usage_seconds_total 10 9000",
            "node_memory_working_set_bytes 1048576 9000",
            r#"pod_cpu_usage_seconds_total{namespace="n",pod="p"} 2 9000"#,
            r#"pod_memory_working_set_bytes{namespace="n",pod="p"} 8192 9000"#,
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
    }
}

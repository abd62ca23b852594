//! `/stats/summary`: what the node, its pods and their containers use, in the kubelet's form (k8s.io/kubelet
//! `stats/v1alpha1`), for `kubectl top` and the like.

use super::{
    response::{Body, answer},
    server::Context,
};
use crate::PodHandle;
use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use orlop_runtime::Stats;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Readings of processor time, from which rates are made when the next ones come.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    at: i64,
    used: u64,
    /// Of the time before; kept while readings come too close together to say anything.
    rate: Option<u64>,
}

/// Nanoseconds; a rate over less is mostly noise.
const SHORTEST: i64 = 500_000_000;

impl Rates {
    /// Takes a reading in; billionths of a processor used since the one before, if there was one.
    fn take(&self, container: &str, at: i64, used: u64) -> Option<u64> {
        let mut readings = self.0.lock();
        let Some(before) = readings.get(container).copied() else {
            readings.insert(container.into(), Reading { at, used, rate: None });
            return None;
        };
        let passed = at.saturating_sub(before.at);
        if passed < SHORTEST {
            return before.rate;
        }
        let rate =
            u128::from(used.saturating_sub(before.used)) * 1_000_000_000 / passed.unsigned_abs() as u128;
        let rate = u64::try_from(rate).ok();
        readings.insert(container.into(), Reading { at, used, rate });
        rate
    }

    fn keep_only(&self, containers: &[String]) {
        self.0.lock().retain(|id, _| id == NODE || containers.contains(id));
    }
}

/// The node's own place among the readings; no container is called so.
const NODE: &str = "/";

/// Asks the runtime for every running container.
pub async fn summary(context: &Context) -> Response<Body> {
    let mut pods = Vec::new();
    let mut seen = Vec::new();
    for pod in context.pods.pods() {
        let used = readings(context, &pod).await;
        pods.push(pod_stats(context, &pod, &used));
        seen.extend(used.into_iter().map(|reading| reading.id));
    }
    context.rates.keep_only(&seen);
    let body = json!({ "node": node_stats(context), "pods": pods });
    answer(StatusCode::OK, "application/json", body.to_string())
}

/// What a running container has used so far.
pub(super) struct ContainerReading {
    pub id: String,
    pub name: String,
    pub started: Option<Timestamp>,
    pub stats: Stats,
}

/// Asks the runtime for the running containers of a pod.
pub(super) async fn readings(context: &Context, pod: &PodHandle) -> Vec<ContainerReading> {
    let mut readings = Vec::new();
    for (name, tries) in &pod.containers {
        let Some(running) = tries.last().filter(|t| t.running) else { continue };
        let Ok(stats) = context.pods.runtime().container_stats(&running.id).await else { continue };
        let (id, started) = (running.id.clone(), started(&pod.pod, name));
        readings.push(ContainerReading { id, name: name.clone(), started, stats });
    }
    readings
}

/// When a container began to run.
fn started(pod: &Pod, container: &str) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == container)?;
    found.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(|time| time.0)
}

fn pod_stats(context: &Context, pod: &PodHandle, used: &[ContainerReading]) -> Value {
    let mut containers = Vec::new();
    let mut total = Total::default();
    for ContainerReading { id, name, started, stats } in used {
        let rate = context.rates.take(id, stats.at, stats.cpu_usage_ns);
        total.add(stats, rate);
        containers.push(json!({
            "name": name,
            "startTime": started.map(|t| format!("{t:.0}")),
            "cpu": cpu(stats.at, stats.cpu_usage_ns, rate),
            "memory": memory(stats.at, stats.memory_usage, stats.memory_working_set),
        }));
    }
    let meta = &pod.pod.metadata;
    let mut stats = json!({
        "podRef": { "name": meta.name, "namespace": meta.namespace, "uid": meta.uid },
        "startTime": pod.pod.status.as_ref().and_then(|s| s.start_time.clone()),
        "containers": containers,
    });
    if let Some(at) = total.at {
        stats["cpu"] = cpu(at, total.cpu, total.rate);
        stats["memory"] = memory(at, total.usage, total.working_set);
        stats["process_stats"] = json!({ "process_count": total.pids });
    }
    stats
}

#[derive(Default)]
struct Total {
    at: Option<i64>,
    cpu: u64,
    rate: Option<u64>,
    usage: u64,
    working_set: u64,
    pids: u64,
}

impl Total {
    fn add(&mut self, stats: &Stats, rate: Option<u64>) {
        self.at = self.at.max(Some(stats.at));
        self.cpu += stats.cpu_usage_ns;
        self.rate = self.rate.map_or(rate, |r| Some(r + rate.unwrap_or_default()));
        self.usage += stats.memory_usage;
        self.working_set += stats.memory_working_set;
        self.pids += stats.pids;
    }
}

fn time(at: i64) -> Option<String> {
    // Two readings make a rate, so fractions of a second matter.
    Timestamp::from_nanosecond(i128::from(at)).ok().map(|t| format!("{t:.6}"))
}

fn cpu(at: i64, used: u64, rate: Option<u64>) -> Value {
    let mut cpu = json!({ "time": time(at), "usageCoreNanoSeconds": used });
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    cpu
}

fn memory(at: i64, usage: u64, working_set: u64) -> Value {
    json!({ "time": time(at), "usageBytes": usage, "workingSetBytes": working_set })
}

fn node_stats(context: &Context) -> Value {
    let mut node = json!({ "nodeName": context.pods.node_name() });
    let at = Timestamp::now().as_nanosecond() as i64;
    if let Some(used) = processor_time() {
        node["cpu"] = cpu(at, used, context.rates.take(NODE, at, used));
    }
    if let Some((total, free, available)) = memory_of_node() {
        node["memory"] = memory(at, total.saturating_sub(free), total.saturating_sub(available));
        node["memory"]["availableBytes"] = available.into();
    }
    node
}

/// Nanoseconds of all processors in use so far.
pub(super) fn processor_time() -> Option<u64> {
    std::fs::read_to_string("/proc/stat").ok().and_then(|text| node_cpu(&text))
}

/// Total, free and available bytes of the machine.
pub(super) fn memory_of_node() -> Option<(u64, u64, u64)> {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| node_memory(&text))
}

/// Nanoseconds of all processors in use, from `/proc/stat`: user, nice, system, irq, softirq and steal, which are counted in
/// hundredths of a second.
fn node_cpu(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    Some(busy * 10_000_000)
}

/// Total, free and available bytes, from `/proc/meminfo`.
fn node_memory(meminfo: &str) -> Option<(u64, u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some((field("MemTotal")?, field("MemFree")?, field("MemAvailable")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_with_time_between() {
        let rates = Rates::default();
        assert_eq!(rates.take("c", 1_000_000_000, 100), None);
        assert_eq!(rates.take("c", 1_000_000_001, 200), None, "too soon");
        assert_eq!(rates.take("c", 3_000_000_000, 500_000_100), Some(250_000_000));
        assert_eq!(rates.take("c", 3_000_000_009, 600_000_000), Some(250_000_000), "the one before");
        rates.keep_only(&[]);
        assert_eq!(rates.take("c", 9_000_000_000, 0), None);
    }

    #[test]
    fn the_node_s_use_is_read_from_proc() {
        assert_eq!(node_cpu("cpu  1 2 3 100 50 4 5 6 0 0\ncpu0 9 9 9 9\n"), Some(21 * 10_000_000));
        let meminfo = "MemTotal:  4 kB\nMemFree: 1 kB\nMemAvailable:    2 kB\n";
        assert_eq!(node_memory(meminfo), Some((4096, 1024, 2048)));
    }
}

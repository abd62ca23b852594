//! From what nodes report (the kubelet's `/stats/summary`) to what is used now: two readings of a counter make a rate. Pure.

use jiff::Timestamp;
use orlop_api::{
    object::{list, text},
    quantity::Quantity,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One look at counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    /// When, in nanoseconds since the epoch.
    at: i64,
    /// Processor time so far, in nanoseconds.
    cpu: u64,
    /// Memory that cannot be reclaimed, in bytes.
    memory: u64,
    /// When counting began, where that is known.
    since: Option<i64>,
}

/// What a node reported at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    node: Option<Reading>,
    /// By namespace and name.
    pods: BTreeMap<(String, String), Pod>,
}

#[derive(Clone, Debug, Default)]
struct Pod {
    uid: String,
    containers: BTreeMap<String, Reading>,
}

/// What is used, measured over a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    /// Billionths of a processor.
    cpu: u64,
    memory: u64,
    at: i64,
    window: i64,
}

fn nanoseconds(value: &Value, pointer: &str) -> Option<i64> {
    let time: Timestamp = text(value, pointer).parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

fn reading(of: &Value) -> Option<Reading> {
    Some(Reading {
        at: nanoseconds(of, "/cpu/time")?,
        cpu: of.pointer("/cpu/usageCoreNanoSeconds")?.as_u64()?,
        memory: of.pointer("/memory/workingSetBytes")?.as_u64()?,
        since: nanoseconds(of, "/startTime"),
    })
}

impl Report {
    /// Reads a summary. What cannot be read in it is left out.
    pub(super) fn read(summary: &Value) -> Self {
        let mut report = Self { node: summary.get("node").and_then(reading), ..Self::default() };
        for pod in list(summary, "/pods") {
            let reference = |field| text(pod, &format!("/podRef/{field}")).to_string();
            let containers = list(pod, "/containers")
                .iter()
                .filter_map(|c| Some((text(c, "/name").to_string(), reading(c)?)))
                .collect();
            report.pods.insert(
                (reference("namespace"), reference("name")),
                Pod { uid: reference("uid"), containers },
            );
        }
        report
    }

    fn container(&self, pod: &(String, String), uid: &str, name: &str) -> Option<&Reading> {
        self.pods.get(pod).filter(|p| p.uid == uid)?.containers.get(name)
    }
}

/// The rate between two readings; of what was not there before, since it began.
fn rate(before: Option<&Reading>, now: &Reading) -> Option<Usage> {
    let usage = |cpu: u64, window: i64| {
        let rate = u128::from(cpu) * 1_000_000_000 / u128::from(u64::try_from(window).ok()?);
        Some(Usage { cpu: u64::try_from(rate).ok()?, memory: now.memory, at: now.at, window })
    };
    match before.filter(|before| before.at < now.at && before.cpu <= now.cpu) {
        Some(before) => usage(now.cpu - before.cpu, now.at - before.at),
        None => {
            let since = now.since.filter(|since| *since < now.at)?;
            usage(now.cpu, now.at - since)
        }
    }
}

/// Two reports of a node, from which rates are made.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub before: Report,
    pub now: Report,
}

/// The `metadata` of a metrics object: of what it is about only what identifies it.
fn metadata(of: &Value, now: Timestamp) -> Value {
    let mut metadata = Map::new();
    for key in ["name", "namespace", "labels"] {
        metadata
            .extend(of.pointer(&format!("/metadata/{key}")).map(|value| (key.to_string(), value.clone())));
    }
    let now = crate::registry::metadata::format_time(now);
    metadata.insert("creationTimestamp".into(), now.into());
    metadata.into()
}

fn amounts(usage: &Usage) -> Value {
    let memory = Quantity::from_bytes(i64::try_from(usage.memory).unwrap_or(i64::MAX));
    json!({"cpu": format!("{}n", usage.cpu), "memory": memory.to_string()})
}

/// A duration as Go writes it, to the millisecond: `15.02s`, `1m0s`, `2h0m0.5s`.
fn duration(nanoseconds: i64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let seconds = if fraction.is_empty() {
        format!("{}s", rest / 1000)
    } else {
        format!("{}.{fraction}s", rest / 1000)
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn object(kind: &str, metadata: Value, measured: (i64, i64)) -> Value {
    let (at, window) = measured;
    let at = Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default();
    json!({
        "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": crate::registry::metadata::format_time(at), "window": duration(window),
    })
}

impl Pair {
    /// NodeMetrics of a node.
    pub(super) fn node(&self, node: &Value, now: Timestamp) -> Option<Value> {
        let usage = rate(self.before.node.as_ref(), self.now.node.as_ref()?)?;
        let mut metrics = object("NodeMetrics", metadata(node, now), (usage.at, usage.window));
        metrics["usage"] = amounts(&usage);
        Some(metrics)
    }

    /// PodMetrics of a pod, when all of its containers have been measured.
    pub(super) fn pod(&self, pod: &Value, now: Timestamp) -> Option<Value> {
        let key = (text(pod, "/metadata/namespace").to_string(), text(pod, "/metadata/name").to_string());
        let uid = text(pod, "/metadata/uid");
        let found = self.now.pods.get(&key).filter(|p| p.uid == uid && !p.containers.is_empty())?;
        let mut measured: Option<(i64, i64)> = None;
        let mut containers = Vec::new();
        for (name, reading) in &found.containers {
            let usage = rate(self.before.container(&key, uid, name), reading)?;
            let (at, window) = measured.get_or_insert((usage.at, usage.window));
            (*at, *window) = ((*at).min(usage.at), (*window).min(usage.window));
            containers.push(json!({"name": name, "usage": amounts(&usage)}));
        }
        let mut metrics = object("PodMetrics", metadata(pod, now), measured?);
        metrics["containers"] = containers.into();
        Some(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(second: i64, cpu: u64) -> Value {
        let time = Timestamp::from_second(second).unwrap().to_string();
        let used = |cpu: u64| json!({"time": time, "usageCoreNanoSeconds": cpu});
        json!({
            "node": {"nodeName": "n", "cpu": used(cpu * 10), "memory": {"workingSetBytes": 1 << 30}},
            "pods": [{
                "podRef": {"namespace": "d", "name": "p", "uid": "1"},
                "containers": [
                    {"name": "a", "cpu": used(cpu), "memory": {"workingSetBytes": 4096}},
                    {"name": "b", "startTime": "1970-01-01T00:00:10Z", "cpu": used(cpu), "memory": {"workingSetBytes": 8192}},
                ],
            }],
        })
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "d", "uid": uid, "labels": {"a": "b"}, "annotations": {"x": "y"}}})
    }

    #[test]
    fn two_reports_make_a_rate() {
        let pair = Pair {
            before: Report::read(&summary(100, 1_000_000_000)),
            now: Report::read(&summary(104, 3_000_000_000)),
        };
        let now = Timestamp::from_second(105).unwrap();
        let found = pair.pod(&pod("1"), now).unwrap();
        assert_eq!(
            found["containers"][0],
            json!({"name": "a", "usage": {"cpu": "500000000n", "memory": "4Ki"}})
        );
        assert_eq!((&found["window"], &found["timestamp"]), (&json!("4s"), &json!("1970-01-01T00:01:44Z")));
        assert_eq!(
            found["metadata"],
            json!({"name": "p", "namespace": "d", "labels": {"a": "b"}, "creationTimestamp": "1970-01-01T00:01:45Z"})
        );
        let node = pair.node(&json!({"metadata": {"name": "n"}}), now).unwrap();
        assert_eq!(node["usage"], json!({"cpu": "5000000000n", "memory": "1Gi"}));
        assert_eq!(pair.pod(&pod("another"), now), None);
    }

    #[test]
    fn what_began_since_is_measured_from_its_beginning_and_what_has_none_is_left_out() {
        let now = Report::read(&summary(20, 5_000_000_000));
        let pair = Pair { before: Report::default(), now: now.clone() };
        assert_eq!(pair.pod(&pod("1"), Timestamp::UNIX_EPOCH), None, "container a has no beginning");
        let key = ("d".to_string(), "p".to_string());
        let began = rate(None, now.container(&key, "1", "b").unwrap()).unwrap();
        assert_eq!((began.cpu, began.window), (500_000_000, 10_000_000_000));
        // A counter that went back is one of something new.
        let later = Reading { cpu: u64::MAX, ..*now.container(&key, "1", "a").unwrap() };
        assert_eq!(rate(Some(&later), now.container(&key, "1", "a").unwrap()), None);
    }

    #[test]
    fn durations_read_as_in_go() {
        for (milliseconds, text) in
            [(20, "20ms"), (1_000, "1s"), (15_020, "15.02s"), (60_000, "1m0s"), (7_200_500, "2h0m0.5s")]
        {
            assert_eq!(duration(milliseconds * 1_000_000), text);
        }
    }
}

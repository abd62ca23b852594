//! What the proof knows of objects: the few fields that its rules are about, read off what is stored. Pure.

use jiff::Timestamp;
use orlop_api::{
    object::{int, list, text},
    quantity::Quantity,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What of every object matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Kind and uid of its controller.
    pub controller: Option<(String, String)>,
    /// Somebody has deleted it.
    pub deleting: bool,
}

impl Meta {
    pub(crate) fn of(object: &Value) -> Self {
        let owners = list(object, "/metadata/ownerReferences");
        let controller = owners.iter().find(|o| o["controller"] == true);
        Self {
            namespace: text(object, "/metadata/namespace").into(),
            name: text(object, "/metadata/name").into(),
            uid: text(object, "/metadata/uid").into(),
            controller: controller.map(|o| (text(o, "/kind").into(), text(o, "/uid").into())),
            deleting: !text(object, "/metadata/deletionTimestamp").is_empty(),
        }
    }

    pub(crate) fn is_of(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|(_, owner)| owner == uid)
    }
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Its metadata.
    pub meta: Meta,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is bound to; empty where it is not.
    pub node: String,
    /// `status.phase`.
    pub phase: String,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// `status.podIP`.
    pub address: String,
    /// Thousandths of processors that it asks for,
    pub cpu: i64,
    /// and bytes of memory.
    pub memory: i64,
    /// Its index in its Job, if it has one.
    pub index: Option<i64>,
    /// `spec.priority`.
    pub priority: i64,
    /// It preempts nobody: `preemptionPolicy: Never`.
    pub patient: bool,
    /// The claims that it uses.
    pub claims: Vec<String>,
    /// Why somebody ends it who is not its owner: the reason of its condition `DisruptionTarget`.
    pub disrupted: String,
}

fn amount(text: &str, thousandths: bool) -> i64 {
    let Ok(quantity) = Quantity::parse(text) else { return 0 };
    if thousandths { quantity.milli_value() } else { quantity.value() }
}

fn amount_of(value: Option<&Value>, thousandths: bool) -> i64 {
    amount(value.and_then(Value::as_str).unwrap_or_default(), thousandths)
}

pub(crate) fn labels(value: Option<&Value>) -> BTreeMap<String, String> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
}

impl PodFacts {
    pub(crate) fn of(pod: &Value) -> Self {
        let requests = |name: &str, thousandths| {
            let containers = list(pod, "/spec/containers").iter();
            containers.map(|c| amount_of(c["resources"]["requests"].get(name), thousandths)).sum()
        };
        let conditions = list(pod, "/status/conditions");
        let disrupted = conditions.iter().find(|c| c["type"] == "DisruptionTarget" && c["status"] == "True");
        let claims = list(pod, "/spec/volumes").iter().map(|v| text(v, "/persistentVolumeClaim/claimName"));
        let index = text(pod, "/metadata/annotations/batch.kubernetes.io~1job-completion-index");
        Self {
            meta: Meta::of(pod),
            labels: labels(pod.pointer("/metadata/labels")),
            node: text(pod, "/spec/nodeName").into(),
            phase: text(pod, "/status/phase").into(),
            ready: conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
            address: text(pod, "/status/podIP").into(),
            cpu: requests("cpu", true),
            memory: requests("memory", false),
            index: index.parse().ok(),
            priority: int(pod, "/spec/priority").unwrap_or(0),
            patient: text(pod, "/spec/preemptionPolicy") == "Never",
            claims: claims.filter(|c| !c.is_empty()).map(str::to_string).collect(),
            disrupted: disrupted.map(|c| text(c, "/reason").into()).unwrap_or_default(),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Counts for its owner: it has neither ended nor was it told to.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_finished() && !self.meta.deleting
    }

    /// Nobody has given it a node yet.
    pub(crate) fn waits(&self) -> bool {
        self.is_active() && self.node.is_empty()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.ready && self.is_active()
    }

    pub(crate) fn has(&self, selector: &BTreeMap<String, String>) -> bool {
        !selector.is_empty() && selector.iter().all(|(k, v)| self.labels.get(k) == Some(v))
    }
}

/// What a node has: thousandths of processors, bytes of memory, pods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Thousandths of processors.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// How many pods.
    pub pods: i64,
}

impl NodeFacts {
    pub(crate) fn of(node: &Value) -> Option<Self> {
        let has = node.pointer("/status/allocatable")?;
        let of = |name: &str, thousandths| amount_of(has.get(name), thousandths);
        Some(Self { cpu: of("cpu", true), memory: of("memory", false), pods: of("pods", false) })
    }
}

/// How many pods a Deployment may have in one generation of its specification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// `metadata.generation`.
    pub generation: i64,
    /// At most: replicas and surge.
    pub most: i64,
    /// Available at least: replicas without those that may be unavailable.
    pub least: i64,
    /// Whether old pods all go before new ones come.
    pub recreates: bool,
}

/// A number, or a percentage of `of`.
fn resolve(value: Option<&Value>, of: i64, up: bool, usual: i64) -> i64 {
    match value {
        Some(Value::Number(n)) => n.as_i64().unwrap_or(usual),
        Some(Value::String(s)) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            (percent * of + if up { 99 } else { 0 }) / 100
        }
        _ => usual,
    }
}

impl Allowed {
    pub(crate) fn of(deployment: &Value) -> Self {
        let replicas = int(deployment, "/spec/replicas").unwrap_or(1);
        let rolling = deployment.pointer("/spec/strategy/rollingUpdate");
        let surge = resolve(rolling.and_then(|r| r.get("maxSurge")), replicas, true, 0);
        let mut unavailable = resolve(rolling.and_then(|r| r.get("maxUnavailable")), replicas, false, 0);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            generation: int(deployment, "/metadata/generation").unwrap_or(0),
            most: replicas + surge,
            least: (replicas - unavailable).max(0),
            recreates: text(deployment, "/spec/strategy/type") == "Recreate",
        }
    }
}

/// A number that changed over time; what it was lately matters to those whose caches lag behind.
#[derive(Clone, Debug, Default)]
pub struct Lately(Vec<(Timestamp, i64)>);

impl Lately {
    pub(crate) fn push(&mut self, at: Timestamp, value: i64) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((at, value));
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.last().map_or(0, |(_, value)| *value)
    }

    /// The lowest value since `from`, the one that held then included.
    pub(crate) fn least_since(&self, from: Timestamp) -> i64 {
        self.since(from).min().unwrap_or(0)
    }

    /// The highest value since `from`, the one that held then included.
    pub(crate) fn most_since(&self, from: Timestamp) -> i64 {
        self.since(from).max().unwrap_or(0)
    }

    fn since(&self, from: Timestamp) -> impl Iterator<Item = i64> {
        let held = self.0.iter().rposition(|(at, _)| *at <= from).unwrap_or(0);
        self.0.get(held..).unwrap_or_default().iter().map(|(_, value)| *value)
    }
}

/// The numbers that an index list of a Job stands for: `0-2,5`.
pub(crate) fn indexes(text: &str) -> Vec<i64> {
    let parts = text.split(',').filter(|p| !p.is_empty());
    parts
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse().unwrap_or(0)..=last.parse().unwrap_or(-1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_deployment_may_do_follows_from_its_strategy() {
        let allowed = |rolling: Value| {
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let a = Allowed::of(&json!({"spec": {"replicas": 10, "strategy": strategy}}));
            (a.most, a.least)
        };
        assert_eq!(allowed(json!({"maxSurge": "25%", "maxUnavailable": "25%"})), (13, 8));
        assert_eq!(allowed(json!({"maxSurge": 0, "maxUnavailable": 0})), (10, 9));
        assert_eq!(allowed(json!({"maxSurge": 2, "maxUnavailable": 0})), (12, 10));
    }

    #[test]
    fn lists_of_indexes_are_read() {
        assert_eq!(indexes("0-2,5"), [0, 1, 2, 5]);
        assert!(indexes("").is_empty());
    }

    #[test]
    fn what_held_at_the_beginning_of_a_time_counts_in_it() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let mut lately = Lately::default();
        [(10, 5), (20, 2), (30, 3)].into_iter().for_each(|(s, v)| lately.push(at(s), v));
        assert_eq!(lately.most_since(at(15)), 5);
        assert_eq!(lately.most_since(at(20)), 3);
        assert_eq!(lately.now(), 3);
    }
}

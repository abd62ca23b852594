//! Keeps the node itself alive: looks at what is short, says so in the node's conditions, frees what nobody uses, and at last ends
//! pods, one at a time (Kubernetes documentation, "Node-pressure Eviction"). Thresholds and ranking are decided elsewhere.

mod rank;
mod thresholds;
mod usage;

pub use thresholds::{DEFAULT_HARD, EvictionConfig, Limit, Signal, Threshold, parse, parse_soft};

use crate::{
    agent::Shared,
    capacity::{Pressure, observe},
    image_gc,
    pod::PodExt,
    worker::{Evicted, Message},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use orlop_api::qos::QosClass;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use thresholds::Observations;
pub(crate) use thresholds::Supply;

/// How long an evicted pod is waited for before another one is looked at.
const CLEANUP: Duration = Duration::from_secs(30);

/// What was seen of each signal, and since when and until when.
#[derive(Default)]
struct Memory {
    since: BTreeMap<usize, Timestamp>,
    last: BTreeMap<Signal, Timestamp>,
}

/// How the node is. Shared with those who tell of it and those who take pods.
pub(crate) struct State {
    memory: Mutex<Memory>,
    pressure: tokio::sync::watch::Sender<Pressure>,
}

impl Default for State {
    fn default() -> Self {
        Self { memory: Mutex::default(), pressure: tokio::sync::watch::Sender::new(Pressure::default()) }
    }
}

impl State {
    /// What is short now, or was a while ago.
    pub fn pressure(&self) -> Pressure {
        *self.pressure.borrow()
    }

    /// Tells of changes.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<Pressure> {
        self.pressure.subscribe()
    }

    /// Takes in what was seen; gives the thresholds that pods must go for, by their place in the configuration.
    fn take(&self, config: &EvictionConfig, seen: &Observations, now: Timestamp) -> Vec<usize> {
        let mut memory = self.memory.lock();
        let passed: Vec<usize> =
            (0..config.thresholds.len()).filter(|i| config.thresholds[*i].is_passed(seen)).collect();
        memory.since.retain(|i, _| passed.contains(i));
        for i in &passed {
            memory.since.entry(*i).or_insert(now);
            memory.last.insert(config.thresholds[*i].signal, now);
        }
        memory.last.retain(|_, at| {
            crate::back_off::elapsed(*at, now) < config.transition.max(Duration::from_nanos(1))
        });
        let short = |signals: &[Signal]| signals.iter().any(|s| memory.last.contains_key(s));
        let pressure = Pressure {
            memory: short(&[Signal::MemoryAvailable]),
            disk: short(&[
                Signal::NodefsAvailable,
                Signal::NodefsInodesFree,
                Signal::ImagefsAvailable,
                Signal::ImagefsInodesFree,
            ]),
            pids: short(&[Signal::PidAvailable]),
        };
        self.pressure.send_if_modified(|old| std::mem::replace(old, pressure) != pressure);
        let due = |i: &usize| {
            let since = memory.since.get(i).map_or(Duration::ZERO, |at| crate::back_off::elapsed(*at, now));
            config.thresholds[*i].grace.is_none_or(|grace| since >= grace)
        };
        let mut due: Vec<usize> = passed.into_iter().filter(due).collect();
        // Memory first: its lack kills at random.
        due.sort_by_key(|i| (config.thresholds[*i].signal, config.thresholds[*i].grace.is_some()));
        due
    }
}

/// Looks once, so that the node tells the truth from its first report on.
pub(crate) fn look(shared: &Shared) -> Vec<usize> {
    let seen = observe(&shared.config);
    shared.eviction.take(&shared.config.eviction, &seen, shared.now())
}

/// Runs until dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.config.eviction.interval).await;
        let due = look(&shared);
        if !due.is_empty() {
            relieve(&shared, &due).await;
        }
        evict_overfull(&shared).await;
    }
}

/// Frees what nobody uses; ends a pod if that was not enough.
async fn relieve(shared: &Arc<Shared>, due: &[usize]) {
    let config = &shared.config.eviction;
    let Some(first) = due.first().map(|i| &config.thresholds[*i]) else { return };
    let resource = first.signal.resource();
    tracing::warn!(resource, "the node is short of something");
    shared.events.node_warning("EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
    let on_disk = !matches!(first.signal, Signal::MemoryAvailable | Signal::PidAvailable);
    if on_disk {
        image_gc::remove_unused(shared, u64::MAX).await;
        if !first.is_passed(&observe(&shared.config)) {
            return;
        }
    }
    let Some(supply) = observe(&shared.config).get(&first.signal).copied() else { return };
    let used = usage::of_pods(shared, first.signal).await;
    let ranked = rank::rank(used, resource);
    let Some(victim) = ranked.first() else {
        tracing::warn!(resource, "no pod can be ended");
        return;
    };
    let message = rank::message(victim, resource, first.amount(supply.capacity), supply.available);
    let grace = if first.grace.is_some() { config.max_pod_grace } else { 0 };
    evict(shared, &victim.pod, message, grace).await;
}

/// Ends a pod and waits for it, for a while.
async fn evict(shared: &Shared, pod: &Pod, message: String, grace: u64) {
    let uid = pod.uid().to_string();
    shared.events.of_pod(pod).warning(None, "Evicted", message.clone());
    tracing::warn!(pod = pod.name(), namespace = pod.namespace(), message, "evicting a pod");
    let told = shared.outboxes.read().get(&uid).is_some_and(|outbox| {
        let evicted = Evicted { message, grace: Duration::from_secs(grace) };
        outbox.send(Message::Evict(Box::new(evicted))).is_ok()
    });
    let begun = tokio::time::Instant::now();
    while told && shared.runs(&uid) && begun.elapsed() < CLEANUP {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends pods that keep more on the node's disk than they said they would.
async fn evict_overfull(shared: &Arc<Shared>) {
    for pod in shared.others("") {
        if rank::is_critical(&pod) || pod.deleting() || !usage::is_bounded(&pod) {
            continue;
        }
        let config = shared.config.clone();
        let looked = pod.clone();
        let why = tokio::task::spawn_blocking(move || usage::overfull(&config, &looked)).await;
        if let Ok(Some(message)) = why {
            evict(shared, &pod, message, 0).await;
        }
    }
}

/// Why a new pod is not taken while the node is short of something.
pub(crate) fn refusal(pod: &Pod, pressure: Pressure) -> Option<String> {
    if pressure == Pressure::default() || rank::is_critical(pod) {
        return None;
    }
    let mut conditions = Vec::new();
    if pressure.memory {
        conditions.push("MemoryPressure");
    }
    if pressure.disk {
        conditions.push("DiskPressure");
    }
    if pressure.pids {
        conditions.push("PIDPressure");
    }
    if conditions == ["MemoryPressure"] {
        let tolerates = pod.spec_ref().tolerations.iter().flatten().any(|t| {
            let key = t.key.as_deref().unwrap_or_default();
            (key.is_empty() && t.operator.as_deref() == Some("Exists"))
                || key == "node.kubernetes.io/memory-pressure"
        });
        if tolerates || QosClass::of(pod.spec_ref()) != QosClass::BestEffort {
            return None;
        }
    }
    Some(format!("The node had condition: [{}]. ", conditions.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_soft_threshold_waits_and_pressure_is_told_of_for_a_while_longer() {
        let config = EvictionConfig {
            thresholds: [
                parse("memory.available<10").expect("hard"),
                parse_soft("memory.available<20", "memory.available=30s").expect("soft"),
            ]
            .concat(),
            transition: Duration::from_secs(60),
            ..EvictionConfig::default()
        };
        let state = State::default();
        let look = |available, second| {
            let seen = Observations::from([(Signal::MemoryAvailable, Supply { available, capacity: 100 })]);
            (state.take(&config, &seen, at(second)), state.pressure().memory)
        };
        assert_eq!(look(50, 0), (vec![], false));
        assert_eq!(look(15, 10), (vec![], true), "the node says so before anybody has to go");
        assert_eq!(look(15, 39), (vec![], true));
        assert_eq!(look(15, 40), (vec![1], true));
        assert_eq!(look(5, 41), (vec![0, 1], true), "the hard one comes first");
        assert_eq!(look(50, 42), (vec![], true));
        assert_eq!(look(50, 100), (vec![], true));
        assert_eq!(look(50, 101), (vec![], false));
    }

    #[test]
    fn under_pressure_new_pods_are_turned_away_but_for_those_that_are_needed() {
        let pod = |spec: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
        };
        let best_effort = pod(json!({"containers": [{"name": "c"}]}));
        let burstable = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}));
        let critical = pod(json!({"containers": [{"name": "c"}], "priority": 2_000_000_000}));
        let memory = Pressure { memory: true, ..Pressure::default() };
        let disk = Pressure { disk: true, ..Pressure::default() };
        assert_eq!(
            refusal(&best_effort, memory).as_deref(),
            Some("The node had condition: [MemoryPressure]. ")
        );
        assert_eq!(refusal(&burstable, memory), None);
        assert_eq!(refusal(&burstable, disk).as_deref(), Some("The node had condition: [DiskPressure]. "));
        assert_eq!((refusal(&critical, disk), refusal(&best_effort, Pressure::default())), (None, None));
    }
}

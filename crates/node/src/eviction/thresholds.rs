//! When the node is short of something: thresholds in the kubelet's form (`memory.available<100Mi,nodefs.available<10%`), and
//! which of them are passed (Kubernetes documentation, "Node-pressure Eviction"). Pure.

use orlop_api::quantity::Quantity;
use std::{collections::BTreeMap, time::Duration};

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory that processes could still get.
    MemoryAvailable,
    /// Free space of the file system that holds volumes and logs.
    NodefsAvailable,
    /// Its free inodes.
    NodefsInodesFree,
    /// Free space of the file system that holds images.
    ImagefsAvailable,
    /// Its free inodes.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

use Signal::{
    ImagefsAvailable, ImagefsInodesFree, MemoryAvailable, NodefsAvailable, NodefsInodesFree, PidAvailable,
};

impl Signal {
    const ALL: [(Self, &'static str); 6] = [
        (MemoryAvailable, "memory.available"),
        (NodefsAvailable, "nodefs.available"),
        (NodefsInodesFree, "nodefs.inodesFree"),
        (ImagefsAvailable, "imagefs.available"),
        (ImagefsInodesFree, "imagefs.inodesFree"),
        (PidAvailable, "pid.available"),
    ];

    /// What pods use of it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            MemoryAvailable => "memory",
            NodefsAvailable | ImagefsAvailable => "ephemeral-storage",
            NodefsInodesFree | ImagefsInodesFree => "inodes",
            PidAvailable => "pids",
        }
    }
}

/// From where on there is too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// An amount.
    Amount(u64),
    /// A part (0 to 1) of what there is.
    Part(f64),
}

/// One threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// How much must be left.
    pub limit: Limit,
    /// How long it may be passed before pods are evicted; `None` for not at all.
    pub grace: Option<Duration>,
}

/// When and how pods are evicted.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionConfig {
    /// All thresholds, hard and soft.
    pub thresholds: Vec<Threshold>,
    /// How long the node says that it is under pressure after it was for the last time.
    pub transition: Duration,
    /// Most seconds that a pod evicted for a soft threshold gets to end.
    pub max_pod_grace: u64,
    /// How often it is looked.
    pub interval: Duration,
}

/// The kubelet's defaults on Linux.
pub const DEFAULT_HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

impl Default for EvictionConfig {
    fn default() -> Self {
        Self {
            thresholds: parse(DEFAULT_HARD).unwrap_or_default(),
            transition: Duration::from_secs(300),
            max_pod_grace: 0,
            interval: Duration::from_secs(10),
        }
    }
}

/// Reads thresholds without grace. The empty text is none.
///
/// # Errors
/// Says which part cannot be read.
pub fn parse(text: &str) -> Result<Vec<Threshold>, String> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    let mut all: Vec<Threshold> = Vec::new();
    for part in parts {
        let wrong = |why: &str| format!("eviction threshold {part:?}: {why}");
        let (name, limit) =
            part.split_once('<').ok_or_else(|| wrong("it looks like memory.available<100Mi"))?;
        let signal = Signal::ALL.iter().find(|(_, n)| *n == name.trim()).map(|(s, _)| *s);
        let signal = signal.ok_or_else(|| wrong("there is no such signal"))?;
        let limit = read_limit(limit.trim()).ok_or_else(|| wrong("an amount, or a part like 10%"))?;
        if all.iter().any(|t| t.signal == signal) {
            return Err(wrong("it is given twice"));
        }
        all.push(Threshold { signal, limit, grace: None });
    }
    Ok(all)
}

fn read_limit(text: &str) -> Option<Limit> {
    if let Some(percent) = text.strip_suffix('%') {
        let part = percent.parse::<f64>().ok()? / 100.0;
        return (0.0..=1.0).contains(&part).then_some(Limit::Part(part));
    }
    let amount = u64::try_from(Quantity::parse(text).ok()?.value()).ok()?;
    Some(Limit::Amount(amount))
}

/// Reads soft thresholds with how long each may be passed (`memory.available=1m30s`).
///
/// # Errors
/// Says which part cannot be read, or which threshold has no grace period.
pub fn parse_soft(text: &str, graces: &str) -> Result<Vec<Threshold>, String> {
    let mut periods = BTreeMap::new();
    for part in graces.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let wrong = || format!("eviction grace period {part:?}: it looks like memory.available=1m30s");
        let (name, period) = part.split_once('=').ok_or_else(wrong)?;
        let period: jiff::SignedDuration = period.trim().parse().map_err(|_| wrong())?;
        periods.insert(name.trim().to_string(), Duration::try_from(period).map_err(|_| wrong())?);
    }
    let mut all = parse(text)?;
    for threshold in &mut all {
        let name = Signal::ALL.iter().find(|(s, _)| *s == threshold.signal).map_or("", |(_, name)| name);
        let grace = periods.get(name).copied();
        threshold.grace = Some(grace.ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {name}")
        })?);
    }
    Ok(all)
}

/// What there is of something, and how much of that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Supply {
    pub available: u64,
    pub capacity: u64,
}

/// What is left of everything, so far as that is known.
pub(crate) type Observations = BTreeMap<Signal, Supply>;

impl Threshold {
    /// How much must be left, in the signal's unit.
    pub(crate) fn amount(&self, capacity: u64) -> u64 {
        match self.limit {
            Limit::Amount(amount) => amount,
            Limit::Part(part) => (capacity as f64 * part) as u64,
        }
    }

    /// Whether less is left than must be.
    pub(crate) fn is_passed(&self, seen: &Observations) -> bool {
        seen.get(&self.signal).is_some_and(|s| s.available < self.amount(s.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_kubelet_writes_them() {
        let all = parse(DEFAULT_HARD).expect("the defaults");
        assert_eq!(all.len(), 5);
        assert_eq!((all[0].signal, all[0].limit), (MemoryAvailable, Limit::Amount(100 << 20)));
        assert_eq!((all[1].signal, all[1].limit), (NodefsAvailable, Limit::Part(0.1)));
        assert_eq!(parse(""), Ok(Vec::new()));
        for text in [
            "memory.available>1Mi",
            "memory<1Mi",
            "nodefs.available<101%",
            "nodefs.available<-1Mi",
            "memory.available<1,memory.available<2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let soft = parse_soft("memory.available<1Gi", "memory.available=1m30s").expect("soft");
        assert_eq!(soft[0].grace, Some(Duration::from_secs(90)));
        assert!(parse_soft("memory.available<1Gi", "").is_err());
    }

    #[test]
    fn a_threshold_is_passed_when_less_is_left() {
        let seen = |available| Observations::from([(NodefsAvailable, Supply { available, capacity: 1000 })]);
        let [threshold] = &parse("nodefs.available<10%").expect("one")[..] else { panic!("one") };
        assert!(!threshold.is_passed(&seen(100)) && threshold.is_passed(&seen(99)));
        assert!(!threshold.is_passed(&Observations::new()), "what is not known is not short");
    }
}

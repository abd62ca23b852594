//! What this machine has, and how much of it is in short supply: read from the kernel, judged by thresholds.

use crate::{
    NodeConfig,
    eviction::{Signal, Supply},
};
use orlop_api::quantity::Quantity;
use std::{collections::BTreeMap, fs, path::Path};

/// What the node has and what of it pods may have.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    /// Bytes of memory.
    pub memory: u64,
    /// All of it, by resource name.
    pub total: BTreeMap<String, Quantity>,
    /// What is left for pods.
    pub allocatable: BTreeMap<String, Quantity>,
}

impl Capacity {
    /// Reads what the machine has.
    pub fn read(config: &NodeConfig) -> Self {
        let memory = memory_info().map_or(0, |m| m.total);
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let disk = space(&config.root_dir).map_or(0, |(total, _)| total);
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let total: BTreeMap<String, Quantity> = [
            ("cpu", Quantity::from_units(i64::try_from(cpus).unwrap_or(1))),
            ("memory", kibibytes(memory)),
            ("ephemeral-storage", kibibytes(disk)),
            ("pods", Quantity::from_units(config.max_pods.into())),
        ]
        .map(|(name, amount)| (name.to_string(), amount))
        .into();
        let mut allocatable = total.clone();
        let mut keep = |name: &str, amount: Quantity| {
            if let Some(left) = allocatable.get_mut(name) {
                *left -= amount;
            }
        };
        keep("cpu", Quantity::from_milli(signed(config.reserved_cpu_millis)));
        keep("memory", Quantity::from_bytes(signed(config.reserved_memory)));
        Self { memory, total, allocatable }
    }
}

/// Bytes in the kernel's unit, as a kubelet reports them.
fn kibibytes(bytes: u64) -> Quantity {
    Quantity::from_bytes(i64::try_from(bytes >> 10 << 10).unwrap_or(i64::MAX))
}

/// Size and free space of the file system under a path, in bytes.
pub(crate) fn space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Bytes of memory.
struct Memory {
    total: u64,
    available: u64,
}

fn memory_info() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some(Memory { total: field(&text, "MemTotal:")?, available: field(&text, "MemAvailable:")? })
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|k| k << 10)
}

/// What is in short supply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// Looks at the machine now: what is left of everything that can run short.
pub(crate) fn observe(config: &NodeConfig) -> BTreeMap<Signal, Supply> {
    let mut seen = BTreeMap::new();
    let mut put = |signal, supply: Option<(u64, u64)>| {
        if let Some((capacity, available)) = supply {
            seen.insert(signal, Supply { available, capacity });
        }
    };
    put(Signal::MemoryAvailable, memory_info().map(|m| (m.total, m.available)));
    put(Signal::NodefsAvailable, space(&config.root_dir));
    put(Signal::NodefsInodesFree, inodes(&config.root_dir));
    put(Signal::ImagefsAvailable, space(&config.images_dir));
    put(Signal::ImagefsInodesFree, inodes(&config.images_dir));
    put(Signal::PidAvailable, pids().map(|(used, most)| (most, most.saturating_sub(used))));
    seen
}

/// Number of inodes of the file system under a path, and how many are free. Some file systems do not count them.
fn inodes(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    (stat.f_files > 0).then_some((stat.f_files, stat.f_favail))
}

/// Processes and threads that there are, and how many there can be.
fn pids() -> Option<(u64, u64)> {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let used = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((used, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        let mut config = NodeConfig::new("n", std::env::temp_dir(), [127, 0, 0, 1].into());
        config.reserved_cpu_millis = 100;
        let capacity = Capacity::read(&config);
        for (name, amount) in &capacity.total {
            assert!(!amount.is_zero(), "{name}");
        }
        let cpu = |of: &BTreeMap<String, Quantity>| of.get("cpu").map_or(0, |q| q.milli_value());
        assert_eq!(cpu(&capacity.total) - cpu(&capacity.allocatable), 100);
        assert_eq!(field("MemTotal:  16 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(16 << 10));
    }
}

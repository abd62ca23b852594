//! What there is to know of this machine before Orlop runs on it. Changes nothing.

use crate::{Error, layout::Layout, lock};
use rustix::process::{Resource, getrlimit};
use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

/// Kernel modules that are needed, by the names that `modprobe` knows.
pub(super) const MODULES: [&str; 6] = ["overlay", "veth", "nf_tables", "nft_chain_nat", "bridge", "vxlan"];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) is_root: bool,
    /// `6.18.0-…`.
    pub(super) kernel: String,
    pub(super) host_name: String,
    /// Of [`MODULES`], those that are neither in the kernel nor to be loaded.
    pub(super) missing_modules: Vec<String>,
    /// Controllers of the unified hierarchy, or the hierarchies of the old one.
    pub(super) cgroups: BTreeSet<String>,
    /// Whether there is only the unified hierarchy.
    pub(super) is_unified: bool,
    /// Ports that somebody has.
    pub(super) taken_ports: Vec<u16>,
    /// Whether an Orlop runs in the data folder already: then the ports are its own.
    pub(super) is_running: bool,
    /// Most open files, as far as a process may go.
    pub(super) open_files: u64,
    /// Most inotify instances of a user.
    pub(super) inotify_instances: u64,
    /// Seconds since the epoch.
    pub(super) time: i64,
    /// What sets the clock, if something does.
    pub(super) clock_keeper: Option<String>,
    /// Free bytes and all bytes where the data folder is to be.
    pub(super) disk: (u64, u64),
    /// The kind of that file system (statfs(2)).
    pub(super) file_system: u64,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Whether filters of system calls can be used.
    pub(super) has_seccomp: bool,
    pub(super) has_default_route: bool,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn number(path: &str) -> u64 {
    read(path).parse().unwrap_or(0)
}

/// Looks at everything.
pub(super) fn gather(data_dir: &Path, ports: &[u16]) -> Result<Facts, Error> {
    let kernel = read("/proc/sys/kernel/osrelease");
    let there = data_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let disk =
        rustix::fs::statvfs(there).map_err(|e| Error::at("looking at the disk")(std::io::Error::from(e)))?;
    let kind =
        rustix::fs::statfs(there).map_err(|e| Error::at("looking at the disk")(std::io::Error::from(e)))?;
    let is_running = match Layout::find(data_dir)? {
        Some(layout) => lock::holder(&layout.lock())?.is_some(),
        None => false,
    };
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let old = || read("/proc/cgroups").lines().skip(1).filter_map(old_controller).collect();
    let is_unified = !unified.is_empty();
    Ok(Facts {
        is_root: rustix::process::geteuid().is_root(),
        host_name: read("/proc/sys/kernel/hostname"),
        missing_modules: missing_modules(&kernel),
        cgroups: if is_unified { unified.split_whitespace().map(String::from).collect() } else { old() },
        is_unified,
        taken_ports: ports.iter().copied().filter(|port| is_taken(*port)).collect(),
        is_running,
        open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        time: jiff::Timestamp::now().as_second(),
        clock_keeper: clock_keeper(),
        disk: (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize),
        file_system: u64::try_from(kind.f_type).unwrap_or(0),
        memory: memory(),
        has_seccomp: !read("/proc/sys/kernel/seccomp/actions_avail").is_empty(),
        has_default_route: has_default_route(),
        kernel,
    })
}

/// The name in a line of /proc/cgroups, if it is on.
fn old_controller(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    (words.nth(2)? == "1").then(|| name.to_string())
}

/// A module is there if it is loaded, part of the kernel, or a file that can be loaded.
fn missing_modules(kernel: &str) -> Vec<String> {
    let folder = format!("/lib/modules/{kernel}");
    let known = ["modules.builtin", "modules.dep"].map(|list| read(&format!("{folder}/{list}"))).join("\n");
    let loaded = read("/proc/modules");
    let file_systems = read("/proc/filesystems");
    let is_there = |name: &str| {
        Path::new("/sys/module").join(name).exists()
            || loaded.lines().any(|line| line.split(' ').next() == Some(name))
            || file_systems.lines().any(|line| line.split_whitespace().last() == Some(name))
            || known.lines().filter_map(module_of).any(|module| module.replace('-', "_") == name)
    };
    // Without a list nobody knows what is built in: a kernel without modules is taken for one that has all.
    if known.trim().is_empty() {
        return Vec::new();
    }
    MODULES.iter().filter(|name| !is_there(name)).map(ToString::to_string).collect()
}

/// `kernel/net/bridge/bridge.ko.xz: …` is `bridge`.
fn module_of(line: &str) -> Option<&str> {
    let path = line.split(':').next()?;
    path.rsplit('/').next()?.split(".ko").next()
}

fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// The program that keeps the clock right, by its name among the processes.
fn clock_keeper() -> Option<String> {
    const KEEPERS: [&str; 6] = ["chronyd", "ntpd", "systemd-timesyn", "ntpd-rs", "openntpd", "ptp4l"];
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let names = processes.map(|process| fs::read_to_string(process.path().join("comm")).unwrap_or_default());
    names.map(|name| name.trim().to_string()).find(|name| KEEPERS.contains(&name.as_str()))
}

fn memory() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn has_default_route() -> bool {
    let four = read("/proc/net/route");
    let six = read("/proc/net/ipv6_route");
    four.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"))
        || six.lines().any(|line| {
            line.starts_with(&"0".repeat(32))
                && line.split_whitespace().nth(1) == Some("00")
                && !line.ends_with(" lo")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        assert_eq!(module_of("kernel/net/bridge/bridge.ko.xz: kernel/net/llc/llc.ko.xz"), Some("bridge"));
        assert_eq!(module_of("kernel/fs/overlayfs/overlay.ko"), Some("overlay"));
        assert_eq!(old_controller("memory\t9\t5\t1"), Some("memory".into()));
        assert_eq!(old_controller("memory\t0\t5\t0"), None);
    }

    #[test]
    fn a_port_that_somebody_has_is_seen() {
        let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = held.local_addr().expect("an address").port();
        let facts = gather(Path::new("/nonexistent/data"), &[port]).expect("gathered");
        assert_eq!(facts.taken_ports, [port]);
        assert!(!facts.kernel.is_empty() && facts.memory > 0 && facts.disk.1 > 0 && !facts.is_running);
    }
}

//! Control groups, v1 (one hierarchy a controller) and v2 (one for all): folders, limits, counters, killing, removal.
//! What the machine lacks (a controller, a file) is left out with a warning, never an error. Paths are relative to the top
//! of the hierarchies.
//!
//! libcontainer moves a container's first process in here, but the limits are ours: its managers fail where a controller
//! that a limit asks for is missing.

use crate::{Resources, Stats};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The file that lists, and takes, processes.
const PROCS: &str = "cgroup.procs";

/// The cgroup hierarchies of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Mount point of the unified hierarchy, if it has the controllers.
    unified: Option<PathBuf>,
    /// Mount points of v1 controllers.
    controllers: BTreeMap<String, PathBuf>,
    /// Mount points of hierarchies without controllers: `name=systemd`, and the unified one beside v1.
    others: Vec<PathBuf>,
}

/// One value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// v1's name of the controller.
    pub controller: &'static str,
    /// The file.
    pub file: String,
    /// What goes in.
    pub value: String,
    /// Whether to do without it, silently, where the file is missing.
    pub optional: bool,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::from_mountinfo(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// Reads the text of `/proc/self/mountinfo`.
    pub fn from_mountinfo(text: &str) -> Self {
        const V1: [&str; 12] = [
            "blkio",
            "cpu",
            "cpuacct",
            "cpuset",
            "devices",
            "freezer",
            "hugetlb",
            "memory",
            "net_cls",
            "net_prio",
            "perf_event",
            "pids",
        ];
        let mut found = Self::default();
        let mut unified = None;
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) => unified = unified.or(Some(point)),
                (Some("cgroup"), Some(options)) => {
                    let mut any = false;
                    for name in options.split(',').filter(|o| V1.contains(o)) {
                        any = true;
                        found.controllers.entry(name.to_string()).or_insert_with(|| point.clone());
                    }
                    if !any && !found.others.contains(&point) {
                        found.others.push(point);
                    }
                }
                _ => {}
            }
        }
        if found.controllers.is_empty() {
            found.unified = unified;
        } else {
            found.others.extend(unified);
        }
        found
    }

    /// The file that takes processes into the group that this process is in.
    pub fn own_procs(&self) -> Option<PathBuf> {
        self.procs_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?).filter(|file| file.exists())
    }

    /// The same, from the text of `/proc/PID/cgroup` (cgroups(7)).
    fn procs_of(&self, text: &str) -> Option<PathBuf> {
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let mount = match controllers {
                "" => self.unified.as_ref(),
                some => some.split(',').find_map(|name| self.controllers.get(name)),
            };
            Some(below(mount?, Path::new(path)).join(PROCS))
        })
    }

    /// Whether all controllers are in the unified hierarchy (v2).
    pub fn is_unified(&self) -> bool {
        self.unified.is_some()
    }

    /// A group's folder in the unified hierarchy.
    pub fn unified_folder(&self, path: &Path) -> Option<PathBuf> {
        self.unified.as_ref().map(|mount| below(mount, path))
    }

    /// Makes a group, and what is above it, in every hierarchy that has controllers.
    pub fn create(&self, path: &Path) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(mount) = &self.unified {
            note(&mut warnings, create_unified(mount, path), || format!("making cgroup {}", path.display()));
        }
        for mount in self.mounts_v1() {
            let made = create_v1(mount, path);
            note(&mut warnings, made, || format!("making cgroup {}", below(mount, path).display()));
        }
        warnings
    }

    /// Makes a group in every hierarchy, also those without controllers, and moves a process there.
    pub fn adopt_process(&self, path: &Path, pid: u32) -> Vec<String> {
        let mut warnings = self.create(path);
        for mount in &self.others {
            let folder = below(mount, path);
            let made = std::fs::create_dir_all(&folder);
            note(&mut warnings, made, || format!("making cgroup {}", folder.display()));
        }
        for folder in self.folders(path).chain(self.others.iter().map(|m| below(m, path))) {
            let moved = write(&folder.join(PROCS), &pid.to_string());
            note(&mut warnings, moved, || format!("moving the process into {}", folder.display()));
        }
        warnings
    }

    /// Moves a process into a group that is there.
    pub fn add_process(&self, path: &Path, pid: u32) -> io::Result<()> {
        let mut joined = false;
        for folder in self.folders(path) {
            match write(&folder.join(PROCS), &pid.to_string()) {
                Ok(()) => joined = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if joined || self.folders(path).next().is_none() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the container's cgroup is gone"))
    }

    /// Sets limits. With `update`, a limit that is not given is lifted.
    pub fn apply(&self, path: &Path, resources: &Resources, update: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let settings =
            if self.is_unified() { settings_v2(resources, update) } else { settings_v1(resources, update) };
        let mut failed = Vec::new();
        // The memory limits of v1 must be lowered in one order and raised in the other: what fails is tried again.
        for setting in settings {
            if let Err(e) = self.write_setting(path, &setting) {
                failed.push((setting, e));
            }
        }
        for (setting, first) in failed {
            let gone = first.kind() == io::ErrorKind::NotFound;
            if (setting.optional && gone) || self.write_setting(path, &setting).is_ok() {
                continue;
            }
            warnings.push(if gone {
                format!("no {} on this machine: the limit {} is not enforced", setting.file, setting.value)
            } else {
                format!("setting {} to {}: {first}", setting.file, setting.value)
            });
        }
        warnings
    }

    fn write_setting(&self, path: &Path, setting: &Setting) -> io::Result<()> {
        let folder = self.folder_of(setting.controller, path).ok_or(io::ErrorKind::NotFound)?;
        write(&folder.join(&setting.file), &setting.value)
    }

    /// Forbids all devices but those that the rules (`c 1:3 rwm`) allow.
    pub fn restrict_devices(&self, path: &Path, rules: &[String]) -> Vec<String> {
        if let Some(folder) = self.unified_folder(path) {
            let mut warnings = Vec::new();
            note(&mut warnings, crate::device_filter::restrict(&folder, rules), || {
                "device access is not restricted".into()
            });
            return warnings;
        }
        let Some(folder) = self.controllers.get("devices").map(|m| below(m, path)) else {
            return vec!["no devices controller on this machine: device access is not restricted".into()];
        };
        let mut warnings = Vec::new();
        note(&mut warnings, write(&folder.join("devices.deny"), "a"), || "denying devices".into());
        for rule in rules {
            let allowed = write(&folder.join("devices.allow"), rule);
            note(&mut warnings, allowed, || format!("allowing device {rule}"));
        }
        warnings
    }

    /// Reads a group's counters. What cannot be read is 0.
    pub fn stats(&self, path: &Path, now: i64) -> Stats {
        let number = |controller: &str, file: &str| {
            let folder = self.folder_of(controller, path)?;
            std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()
        };
        let field = |controller: &str, file: &str, key: &str| {
            let folder = self.folder_of(controller, path)?;
            keyed(&std::fs::read_to_string(folder.join(file)).ok()?, key)
        };
        let (cpu, usage, inactive) = if self.is_unified() {
            (
                field("cpu", "cpu.stat", "usage_usec").map(|us| us * 1000),
                number("memory", "memory.current"),
                field("memory", "memory.stat", "inactive_file"),
            )
        } else {
            (
                number("cpuacct", "cpuacct.usage"),
                number("memory", "memory.usage_in_bytes"),
                field("memory", "memory.stat", "total_inactive_file"),
            )
        };
        let usage = usage.unwrap_or(0);
        Stats {
            at: now,
            cpu_usage_ns: cpu.unwrap_or(0),
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(inactive.unwrap_or(0)),
            pids: number("pids", "pids.current").unwrap_or_else(|| self.processes(path).len() as u64),
        }
    }

    /// How many processes of a group the kernel has killed for lack of memory.
    pub fn oom_kills(&self, path: &Path) -> u64 {
        let file = if self.is_unified() { "memory.events" } else { "memory.oom_control" };
        self.folder_of("memory", path)
            .and_then(|folder| std::fs::read_to_string(folder.join(file)).ok())
            .and_then(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// The processes of a group and of those below it.
    pub fn processes(&self, path: &Path) -> Vec<i32> {
        let Some(folder) = self.folders(path).find(|folder| folder.exists()) else { return Vec::new() };
        let mut pids = Vec::new();
        visit(&folder, &mut |folder| {
            let text = std::fs::read_to_string(folder.join(PROCS)).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
        pids
    }

    /// Sends SIGKILL to all processes of a group and of those below it. Returns how many there were, zombies included;
    /// processes that fork meanwhile may escape one round.
    pub fn kill(&self, path: &Path) -> usize {
        let pids = self.processes(path);
        if pids.is_empty() {
            return 0;
        }
        let at_once = self.unified_folder(path).is_some_and(|f| write(&f.join("cgroup.kill"), "1").is_ok());
        if !at_once {
            for pid in &pids {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(*pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        pids.len()
    }

    /// Removes a group and those below it. `Ok(false)`: processes are still dying in it, try again soon.
    pub fn remove(&self, path: &Path) -> io::Result<bool> {
        let mut gone = true;
        for folder in self.folders(path).chain(self.others.iter().map(|m| below(m, path))) {
            let mut folders = Vec::new();
            visit(&folder, &mut |folder| folders.push(folder.to_path_buf()));
            for folder in folders.iter().rev() {
                match std::fs::remove_dir(folder) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => gone = false,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(gone)
    }

    /// Removes the groups above `path`, up to but without `top`, that have become empty.
    pub fn prune_parents(&self, path: &Path, top: &Path) {
        let mut above = path.parent();
        while let Some(group) = above.filter(|group| group.starts_with(top) && *group != top) {
            for folder in self.folders(group) {
                let _ = std::fs::remove_dir(folder);
            }
            above = group.parent();
        }
    }

    /// Where those of v1's controllers are mounted by which programs find out what they may use. Each once.
    pub fn telling_mounts(&self) -> Vec<PathBuf> {
        let telling = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
        let mut mounts: Vec<PathBuf> =
            telling.iter().filter_map(|name| self.controllers.get(*name).cloned()).collect();
        mounts.sort();
        mounts.dedup();
        mounts
    }

    fn mounts_v1(&self) -> impl Iterator<Item = &PathBuf> {
        // Controllers that are mounted together share a folder: once is enough.
        let mut seen: Vec<&PathBuf> = Vec::new();
        for mount in self.controllers.values() {
            if !seen.contains(&mount) {
                seen.push(mount);
            }
        }
        seen.into_iter()
    }

    fn folders(&self, path: &Path) -> impl Iterator<Item = PathBuf> {
        self.unified.iter().chain(self.mounts_v1()).map(move |mount| below(mount, path))
    }

    fn folder_of(&self, controller: &str, path: &Path) -> Option<PathBuf> {
        self.unified.as_ref().or_else(|| self.controllers.get(controller)).map(|mount| below(mount, path))
    }
}

/// The settings of v1 that express limits.
pub fn settings_v1(resources: &Resources, update: bool) -> Vec<Setting> {
    let mut out = Settings::default();
    if resources.cpu_shares > 0 {
        out.add("cpu", "cpu.shares", resources.cpu_shares.clamp(2, 262_144));
    }
    if resources.cpu_period > 0 {
        out.add("cpu", "cpu.cfs_period_us", resources.cpu_period);
    }
    if resources.cpu_quota > 0 {
        out.add("cpu", "cpu.cfs_quota_us", resources.cpu_quota);
    } else if update {
        out.add("cpu", "cpu.cfs_quota_us", -1);
    }
    if resources.memory_limit > 0 {
        out.add("memory", "memory.limit_in_bytes", resources.memory_limit);
        out.add_optional("memory", "memory.memsw.limit_in_bytes", resources.memory_limit);
    } else if update {
        out.add_optional("memory", "memory.memsw.limit_in_bytes", -1);
        out.add("memory", "memory.limit_in_bytes", -1);
    }
    out.pids(resources, update);
    out.cpuset(resources);
    for (size, bytes) in &resources.hugepage_limits {
        out.add("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), bytes);
    }
    out.0
}

/// The settings of v2 that express limits.
pub fn settings_v2(resources: &Resources, update: bool) -> Vec<Setting> {
    let mut out = Settings::default();
    if resources.cpu_shares > 0 {
        out.add("cpu", "cpu.weight", weight(resources.cpu_shares));
    }
    let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
    if resources.cpu_quota > 0 {
        out.add("cpu", "cpu.max", format!("{} {period}", resources.cpu_quota));
    } else if update {
        out.add("cpu", "cpu.max", format!("max {period}"));
    }
    if resources.memory_limit > 0 {
        out.add("memory", "memory.max", resources.memory_limit);
        out.add_optional("memory", "memory.swap.max", 0);
    } else if update {
        out.add("memory", "memory.max", "max");
        out.add_optional("memory", "memory.swap.max", "max");
    }
    out.pids(resources, update);
    out.cpuset(resources);
    for (size, bytes) in &resources.hugepage_limits {
        out.add("hugetlb", format!("hugetlb.{size}.max"), bytes);
    }
    out.0
}

/// v2's `cpu.weight` (1 to 10,000) for v1's `cpu.shares` (2 to 262,144), as the Kubernetes enhancement 2254 has it.
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[derive(Default)]
struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, controller: &'static str, file: impl Into<String>, value: impl ToString) {
        let setting = Setting { controller, file: file.into(), value: value.to_string(), optional: false };
        self.0.push(setting);
    }

    fn add_optional(&mut self, controller: &'static str, file: &str, value: impl ToString) {
        let setting = Setting { controller, file: file.into(), value: value.to_string(), optional: true };
        self.0.push(setting);
    }

    fn pids(&mut self, resources: &Resources, update: bool) {
        if resources.pids_limit > 0 {
            self.add("pids", "pids.max", resources.pids_limit);
        } else if update {
            self.add_optional("pids", "pids.max", "max");
        }
    }

    fn cpuset(&mut self, resources: &Resources) {
        if !resources.cpuset_cpus.is_empty() {
            self.add("cpuset", "cpuset.cpus", &resources.cpuset_cpus);
        }
    }
}

fn note(warnings: &mut Vec<String>, outcome: io::Result<()>, what: impl FnOnce() -> String) {
    if let Err(e) = outcome {
        warnings.push(format!("{}: {e}", what()));
    }
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// cgroup files take one write; they must not be created or truncated.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Calls `each` for a folder and those below it, from the top down.
fn visit(folder: &Path, each: &mut impl FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    each(folder);
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), each);
        }
    }
}

/// The folders from a hierarchy's top (excluded) down to `path`.
fn levels<'a>(mount: &'a Path, path: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let mut folder = mount.to_path_buf();
    path.components().filter_map(move |part| match part {
        std::path::Component::Normal(name) => {
            folder.push(name);
            Some(folder.clone())
        }
        _ => None,
    })
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Somebody may prune a parent between two of our steps: then once more from the top.
fn persistently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..5 {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    attempt()
}

fn create_v1(mount: &Path, path: &Path) -> io::Result<()> {
    persistently(|| {
        for folder in levels(mount, path) {
            make_folder(&folder)?;
            // A new cpuset is empty, and no process may enter an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let ours = folder.join(file);
                if std::fs::read_to_string(&ours).is_ok_and(|text| text.trim().is_empty())
                    && let Some(above) = folder.parent()
                    && let Ok(value) = std::fs::read_to_string(above.join(file))
                {
                    write(&ours, value.trim())?;
                }
            }
        }
        Ok(())
    })
}

fn create_unified(mount: &Path, path: &Path) -> io::Result<()> {
    persistently(|| {
        let mut above = mount.to_path_buf();
        for folder in levels(mount, path) {
            let controllers = std::fs::read_to_string(above.join("cgroup.controllers")).unwrap_or_default();
            let enabled = std::fs::read_to_string(above.join("cgroup.subtree_control")).unwrap_or_default();
            for controller in controllers.split_whitespace() {
                // One at a time: a controller that cannot be enabled must not keep the others out.
                if !enabled.split_whitespace().any(|name| name == controller) {
                    let _ = write(&above.join("cgroup.subtree_control"), &format!("+{controller}"));
                }
            }
            make_folder(&folder)?;
            above = folder;
        }
        Ok(())
    })
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;

//! What the facts of a machine mean for Orlop. Pure.

use super::facts::Facts;
use std::fmt;

/// The oldest kernel: openat2, close_range, cgroup.kill and nftables' maps of concatenations are there.
const OLDEST: (u32, u32) = (5, 14);
const GIB: u64 = 1 << 30;
/// File systems that cannot be under overlays: overlayfs itself, NFS.
const UNFIT: [(u64, &str); 2] = [(0x794c_7630, "overlayfs"), (0x6969, "NFS")];
/// A clock that is before this is not set: 2026-01-01.
const NOT_BEFORE: i64 = 1_767_225_600;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    Good,
    /// It works, but not well or not for long.
    Doubtful,
    /// Orlop does not run like that.
    Bad,
}

/// What is said of a thing.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) grade: Grade,
    /// What was looked at and how it is.
    what: String,
    /// What to do; empty where nothing is.
    mend: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.grade {
            Grade::Good => "ok  ",
            Grade::Doubtful => "look",
            Grade::Bad => "FAIL",
        };
        write!(f, "{mark}  {}", self.what)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "\n      mend: {}", self.mend) }
    }
}

/// Good if `is_good`, else of this grade and to be mended like that.
fn verdict(is_good: bool, otherwise: Grade, what: impl Into<String>, mend: impl Into<String>) -> Verdict {
    match is_good {
        true => Verdict { grade: Grade::Good, what: what.into(), mend: String::new() },
        false => Verdict { grade: otherwise, what: what.into(), mend: mend.into() },
    }
}

/// Judges everything.
pub(super) fn judge(facts: &Facts) -> Vec<Verdict> {
    use Grade::{Bad, Doubtful};
    let mut all = vec![
        verdict(
            facts.is_root,
            Bad,
            "user: root is needed to make namespaces, links and cgroups",
            "run it with sudo, or as a systemd service",
        ),
        verdict(
            version(&facts.kernel) >= OLDEST,
            Bad,
            format!("kernel: {}", facts.kernel),
            format!("install a kernel of version {}.{} or newer and restart the machine", OLDEST.0, OLDEST.1),
        ),
        verdict(
            is_name(&facts.host_name),
            Bad,
            format!("host name: {:?}", facts.host_name),
            "a node's name has small letters, digits, - and . only: `hostnamectl set-hostname NAME`, or --node-name",
        ),
        modules(facts),
        cgroups(facts),
        verdict(
            facts.has_seccomp,
            Bad,
            "system-call filters (seccomp)",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    ];
    all.push(ports(facts));
    all.push(verdict(
        facts.has_default_route,
        Doubtful,
        "network: default route",
        "none was found, so the node's address cannot be told: give --node-ip, or `ip route add default via GATEWAY`",
    ));
    all.push(verdict(
        facts.open_files >= 65_536,
        if facts.open_files < 4096 { Bad } else { Doubtful },
        format!("limit: {} open files", facts.open_files),
        "`ulimit -n 1048576`, or LimitNOFILE=1048576 in the unit (`orlop systemd-unit` has it)",
    ));
    all.push(verdict(
        facts.inotify_instances >= 512,
        Doubtful,
        format!("limit: {} inotify instances a user", facts.inotify_instances),
        "containers use them up: `sysctl -w fs.inotify.max_user_instances=8192`, and in /etc/sysctl.d to stay",
    ));
    all.extend(clock(facts));
    all.extend(disk(facts));
    all.push(verdict(
        facts.memory >= GIB / 2,
        Doubtful,
        format!("memory: {} MiB", facts.memory >> 20),
        "512 MiB are the least for a server with a few pods",
    ));
    all
}

fn version(kernel: &str) -> (u32, u32) {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inside) && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_part)
}

fn modules(facts: &Facts) -> Verdict {
    let missing = facts.missing_modules.join(" ");
    verdict(
        missing.is_empty(),
        Grade::Bad,
        format!(
            "kernel modules: {}",
            if missing.is_empty() { "all there".into() } else { format!("{missing} missing") }
        ),
        format!(
            "`modprobe -a {missing}`; where that finds none, install the modules of this kernel (linux-modules-extra, kernel-modules)"
        ),
    )
}

fn cgroups(facts: &Facts) -> Verdict {
    let needed = ["cpu", "memory", "pids"];
    let missing: Vec<&str> = needed.into_iter().filter(|name| !facts.cgroups.contains(*name)).collect();
    let kind = if facts.is_unified { "cgroup v2" } else { "cgroup v1" };
    if missing.is_empty() && !facts.is_unified {
        return Verdict {
            grade: Grade::Doubtful,
            what: format!("{kind}: the old hierarchies"),
            mend: "it works; v2 limits better: start the kernel with systemd.unified_cgroup_hierarchy=1"
                .into(),
        };
    }
    verdict(
        missing.is_empty(),
        Grade::Bad,
        format!(
            "{kind}: {}",
            if missing.is_empty() {
                "cpu, memory, pids".into()
            } else {
                format!("no {}", missing.join(", "))
            }
        ),
        "start the kernel with cgroup_enable=memory and without cgroup_disable, and mount cgroup2 on /sys/fs/cgroup",
    )
}

fn ports(facts: &Facts) -> Verdict {
    let taken: Vec<String> = facts.taken_ports.iter().map(ToString::to_string).collect();
    let what = match (taken.is_empty(), facts.is_running) {
        (true, _) => "ports: free".to_string(),
        (false, true) => format!("ports: {} are those of the Orlop that runs", taken.join(", ")),
        (false, false) => format!("ports: {} taken by another program", taken.join(", ")),
    };
    verdict(
        taken.is_empty() || facts.is_running,
        Grade::Bad,
        what,
        "`ss -ltnp` says by which: end it, or choose others with --https-port and --kubelet-port",
    )
}

fn clock(facts: &Facts) -> Vec<Verdict> {
    let is_set = verdict(
        facts.time >= NOT_BEFORE,
        Grade::Bad,
        "clock: set",
        "it is years behind, no certificate would be valid: set it with `date -s` and keep it right with chrony",
    );
    let keeper = match &facts.clock_keeper {
        Some(keeper) => verdict(true, Grade::Good, format!("clock: kept right by {keeper}"), ""),
        None => verdict(
            false,
            Grade::Doubtful,
            "clock: nothing was found that keeps it right",
            "several machines must agree on the time: install chrony, or `timedatectl set-ntp true`",
        ),
    };
    vec![is_set, keeper]
}

fn disk(facts: &Facts) -> Vec<Verdict> {
    let (free, all) = facts.disk;
    let part = (free * 100).checked_div(all).unwrap_or(0);
    let unfit = UNFIT.iter().find(|(kind, _)| *kind == facts.file_system);
    vec![
        verdict(
            free >= 2 * GIB && part >= 15,
            if free < GIB / 2 { Grade::Bad } else { Grade::Doubtful },
            format!("disk: {:.1} GiB free ({part}%)", free as f64 / GIB as f64),
            "make room, or put --data-dir elsewhere: images are removed above 85% and pods evicted above 90% of use",
        ),
        verdict(
            unfit.is_none(),
            Grade::Bad,
            format!("file system: {}", unfit.map_or("fit for images", |(_, name)| name)),
            "images cannot be mounted from there: put --data-dir on ext4, xfs, btrfs or tmpfs",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            is_root: true,
            kernel: "6.18.0-1-amd64".into(),
            host_name: "rack-4.example".into(),
            cgroups: ["cpu", "memory", "pids"].map(String::from).into(),
            is_unified: true,
            open_files: 1 << 20,
            inotify_instances: 8192,
            time: NOT_BEFORE,
            clock_keeper: Some("chronyd".into()),
            disk: (50 * GIB, 100 * GIB),
            file_system: 0xef53,
            memory: 4 * GIB,
            has_seccomp: true,
            has_default_route: true,
            ..Facts::default()
        }
    }

    /// The one line that is not good, if all others are.
    fn only(change: impl FnOnce(&mut Facts)) -> Verdict {
        let mut facts = good();
        change(&mut facts);
        let mut wrong: Vec<Verdict> = judge(&facts).into_iter().filter(|v| v.grade != Grade::Good).collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        wrong.remove(0)
    }

    #[test]
    fn a_good_machine_is_good_and_each_fault_is_one_line_that_says_how_to_mend_it() {
        assert!(judge(&good()).iter().all(|v| v.grade == Grade::Good), "{:?}", judge(&good()));
        let cases: Vec<(Grade, &str, Verdict)> = vec![
            (Grade::Bad, "sudo", only(|f| f.is_root = false)),
            (Grade::Bad, "5.14 or newer", only(|f| f.kernel = "5.10.0".into())),
            (Grade::Bad, "hostnamectl", only(|f| f.host_name = "Rack_4".into())),
            (Grade::Bad, "modprobe -a vxlan", only(|f| f.missing_modules = vec!["vxlan".into()])),
            (Grade::Bad, "cgroup_enable", only(|f| f.cgroups.retain(|name| name != "memory"))),
            (Grade::Doubtful, "unified_cgroup_hierarchy", only(|f| f.is_unified = false)),
            (Grade::Bad, "--https-port", only(|f| f.taken_ports = vec![6443])),
            (Grade::Doubtful, "--node-ip", only(|f| f.has_default_route = false)),
            (Grade::Doubtful, "LimitNOFILE", only(|f| f.open_files = 8192)),
            (Grade::Bad, "LimitNOFILE", only(|f| f.open_files = 1024)),
            (Grade::Doubtful, "max_user_instances", only(|f| f.inotify_instances = 128)),
            (Grade::Bad, "date -s", only(|f| f.time = 0)),
            (Grade::Doubtful, "chrony", only(|f| f.clock_keeper = None)),
            (Grade::Doubtful, "--data-dir", only(|f| f.disk = (GIB, 100 * GIB))),
            (Grade::Bad, "--data-dir", only(|f| f.disk = (0, GIB))),
            (Grade::Bad, "ext4", only(|f| f.file_system = 0x6969)),
            (Grade::Doubtful, "512 MiB", only(|f| f.memory = 1 << 20)),
            (Grade::Bad, "SECCOMP", only(|f| f.has_seccomp = false)),
        ];
        for (grade, mend, verdict) in cases {
            assert_eq!(verdict.grade, grade, "{verdict}");
            assert!(verdict.to_string().contains(mend), "{mend} in {verdict}");
        }
        let mut running = good();
        (running.taken_ports, running.is_running) = (vec![6443], true);
        assert!(judge(&running).iter().all(|v| v.grade == Grade::Good));
    }
}

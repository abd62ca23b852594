//! From what the agent asks for to the OCI runtime spec that libcontainer takes. A pure function of its inputs, except
//! that devices are looked at on the host. What only the root file system can tell (users by name) is filled in by the
//! shim just before the start.

use crate::{
    ContainerSpec, Error, Mount, Propagation, Seccomp, Security, image::ImageConfig, seccomp::default_profile,
};
use serde_json::{Value, json};
use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What a process finds its programs by, unless the image or the pod says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All capabilities, in the order of their numbers (capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it asks otherwise: containerd's set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Where a container finds its own cgroup.
const CGROUPS: &str = "/sys/fs/cgroup";

const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Devices that every container may use, as cgroup rules: making nodes; null, zero, full, random, urandom, tty, console,
/// terminals.
const DEFAULT_DEVICE_RULES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// What of the sandbox and the machine a container's spec depends on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// For the variable `HOSTNAME`.
    pub hostname: Option<String>,
    /// The pinned process namespace to join; `None` for an own one.
    pub pid_namespace: Option<PathBuf>,
    /// The host's process namespace.
    pub host_pid: bool,
    /// Bound to `/dev/shm`.
    pub shm: PathBuf,
    /// cgroup, relative to the top of the hierarchies, beginning with `/`.
    pub cgroup: PathBuf,
    /// Whether the machine has cgroup v2.
    pub unified_cgroups: bool,
    /// Without it: where v1's controllers are mounted, each once.
    pub cgroup_mounts: Vec<PathBuf>,
    /// Capabilities that this process may pass on: the bits of `CapBnd`.
    pub bounding_set: u64,
}

/// The spec, and which devices the container's cgroup allows (`None`: all).
pub struct Translated {
    /// `config.json`.
    pub spec: Value,
    /// Rules of the devices controller.
    pub devices: Option<Vec<String>>,
}

/// Translates.
pub fn translate(
    spec: &ContainerSpec,
    image: &ImageConfig,
    around: &Surroundings,
) -> Result<Translated, Error> {
    let args = arguments(spec, image)?;
    let capabilities = capabilities(&spec.security, around.bounding_set)?;
    let (nodes, rules) = devices(spec)?;
    let mut namespaces = vec![json!({ "type": "mount" })];
    match &around.pid_namespace {
        Some(path) => namespaces.push(json!({ "type": "pid", "path": path })),
        None if around.host_pid => {}
        None => namespaces.push(json!({ "type": "pid" })),
    }
    if around.unified_cgroups && !spec.security.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    let mounts = mounts(spec, around);
    let unmasked = spec.security.privileged || spec.security.unmasked_proc;
    let mut linux = json!({
        "cgroupsPath": around.cgroup,
        "namespaces": namespaces,
        "devices": nodes,
        "maskedPaths": if unmasked { &[][..] } else { &MASKED_PATHS },
        "readonlyPaths": read_only_paths(spec, around),
        "rootfsPropagation": if bidirectional(spec) { "shared" } else { "slave" },
    });
    if let Some(profile) = seccomp(&spec.security, &capabilities)? {
        linux["seccomp"] = profile;
    }
    let capability_names: Vec<String> = capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    let mut process = json!({
        "terminal": spec.tty,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": environment(spec, image, around),
        "cwd": working_dir(spec, image),
        "capabilities": {
            "bounding": capability_names,
            "effective": capability_names,
            "permitted": capability_names,
        },
    });
    if spec.security.no_new_privileges {
        // libcontainer takes `false` for "load the filter late", which then needs a privilege already dropped: it is
        // `true` or absent.
        process["noNewPrivileges"] = json!(true);
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs", "readonly": spec.security.read_only_rootfs },
        "mounts": mounts,
        "process": process,
        "linux": linux,
    });
    Ok(Translated { spec, devices: rules })
}

fn read_only_paths(spec: &ContainerSpec, around: &Surroundings) -> Vec<&'static str> {
    if spec.security.privileged {
        return Vec::new();
    }
    let proc: &[&str] = if spec.security.unmasked_proc { &[] } else { &READ_ONLY_PATHS };
    // With v1 it is a folder of mounts, each read-only already.
    let cgroups = (!around.unified_cgroups).then_some(CGROUPS);
    proc.iter().copied().chain(cgroups).collect()
}

/// Whether mounts made in the container are to be seen on the host.
pub fn bidirectional(spec: &ContainerSpec) -> bool {
    spec.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional)
}

/// Kubernetes' rule: a command replaces the image's entrypoint and cmd, arguments alone replace its cmd.
fn arguments(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let (entrypoint, cmd) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => (&spec.command, &spec.args),
        (true, false) => (&image.entrypoint, &spec.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(Error::Start("no command specified: neither the container nor its image has one".into()));
    }
    Ok(all)
}

fn working_dir(spec: &ContainerSpec, image: &ImageConfig) -> String {
    let asked = spec.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = asked.unwrap_or(&image.working_dir);
    if dir.starts_with('/') { dir.to_string() } else { format!("/{dir}") }
}

fn environment(spec: &ContainerSpec, image: &ImageConfig, around: &Surroundings) -> Vec<String> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    let mut set = |name, value| match all.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name, value)),
    };
    set("PATH", DEFAULT_PATH);
    if spec.tty {
        set("TERM", "xterm");
    }
    if let Some(hostname) = &around.hostname {
        set("HOSTNAME", hostname);
    }
    for (name, value) in image.env.iter().chain(&spec.env) {
        set(name, value);
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The capabilities, without `CAP_`, in the order of their numbers; those that this machine does not let us have are
/// left out.
pub fn capabilities(security: &Security, bounding_set: u64) -> Result<Vec<String>, Error> {
    let known = |name: &str| -> Result<String, Error> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match short {
            "ALL" => Ok(short.to_string()),
            _ if CAPABILITIES.contains(&short) => Ok(short.to_string()),
            _ => Err(Error::Start(format!("unknown capability {name:?}"))),
        }
    };
    let add = security.capabilities_add.iter().map(|n| known(n)).collect::<Result<Vec<_>, _>>()?;
    let drop = security.capabilities_drop.iter().map(|n| known(n)).collect::<Result<Vec<_>, _>>()?;
    let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let wanted = |name: &str| {
        if security.privileged || named(&add, name) {
            return true;
        }
        if named(&drop, name) {
            return false;
        }
        named(&add, "ALL") || (DEFAULT_CAPABILITIES.contains(&name) && !named(&drop, "ALL"))
    };
    let ours = |number: usize| bounding_set >> number & 1 == 1;
    Ok(CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, name)| wanted(name) && ours(*number))
        .map(|(_, name)| name.to_string())
        .collect())
}

fn seccomp(security: &Security, capabilities: &[String]) -> Result<Option<Value>, Error> {
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        Seccomp::RuntimeDefault => Ok(Some(default_profile(capabilities))),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Localhost(path) => {
            let step =
                |e: std::io::Error| Error::io(format!("reading seccomp profile {}", path.display()), e);
            let text = std::fs::read(path).map_err(step)?;
            serde_json::from_slice(&text).map(Some).map_err(|e| step(e.into()))
        }
    }
}

fn mounts(spec: &ContainerSpec, around: &Surroundings) -> Vec<Value> {
    let access = if spec.security.privileged { "rw" } else { "ro" };
    let mount = |path: &str, kind: &str, source: &str, options: &[&str]| {
        (
            PathBuf::from(path),
            json!({ "destination": path, "type": kind, "source": source, "options": options }),
        )
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if around.unified_cgroups {
        all.push(mount(CGROUPS, "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
    } else {
        // libcontainer's own mounts of v1 are writable: a container could lift its limits.
        all.push(mount(CGROUPS, "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]));
        for point in &around.cgroup_mounts {
            let own = point.join(around.cgroup.strip_prefix("/").unwrap_or(&around.cgroup));
            let path = Path::new(CGROUPS).join(point.file_name().unwrap_or_default());
            let options = ["rbind", "nosuid", "noexec", "nodev", access];
            all.push(mount(&path.to_string_lossy(), "bind", &own.to_string_lossy(), &options));
        }
    }
    let shm = around.shm.to_string_lossy();
    all.push(mount("/dev/shm", "bind", &shm, &["rbind", "nosuid", "noexec", "nodev", "rprivate"]));
    let mut asked: Vec<&Mount> = spec.mounts.iter().collect();
    // A mount below another one must come after it. The order of equals is kept.
    asked.sort_by_key(|m| m.container_path.components().count());
    for m in asked {
        let propagation = match m.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = if m.read_only { "ro" } else { "rw" };
        all.retain(|(path, _)| *path != m.container_path);
        all.push((
            m.container_path.clone(),
            json!({
                "destination": m.container_path,
                "type": "bind",
                "source": m.host_path,
                "options": ["rbind", propagation, access],
            }),
        ));
    }
    all.into_iter().map(|(_, value)| value).collect()
}

/// Device nodes to make, and the cgroup's rules.
fn devices(spec: &ContainerSpec) -> Result<(Vec<Value>, Option<Vec<String>>), Error> {
    if spec.security.privileged {
        let mut nodes = Vec::new();
        host_devices(Path::new("/dev"), &mut nodes);
        return Ok((nodes, None));
    }
    let mut rules: Vec<String> = DEFAULT_DEVICE_RULES.map(String::from).to_vec();
    let mut nodes = Vec::new();
    for device in &spec.devices {
        let step = |e| Error::io(format!("looking at device {}", device.host_path.display()), e);
        let metadata = std::fs::metadata(&device.host_path).map_err(step)?;
        let Some((node, kind, numbers)) = node(&device.container_path, &metadata) else {
            return Err(Error::Start(format!("{} is not a device", device.host_path.display())));
        };
        nodes.push(node);
        rules.push(format!("{kind} {numbers} {}", device.permissions));
    }
    Ok((nodes, Some(rules)))
}

fn node(path: &Path, metadata: &std::fs::Metadata) -> Option<(Value, char, String)> {
    let kind = match metadata.file_type() {
        t if t.is_char_device() => 'c',
        t if t.is_block_device() => 'b',
        _ => return None,
    };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let value = json!({
        "path": path,
        "type": kind.to_string(),
        "major": major,
        "minor": minor,
        "fileMode": metadata.mode() & 0o777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    });
    Some((value, kind, format!("{major}:{minor}")))
}

/// The host's devices, for a privileged container; not those that are the container's own.
fn host_devices(folder: &Path, nodes: &mut Vec<Value>) {
    const OWN: [&str; 13] = [
        "pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty",
        "core",
    ];
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if folder == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            host_devices(&path, nodes);
        } else if let Some((value, ..)) = node(&path, &metadata) {
            nodes.push(value);
        }
    }
}

#[cfg(test)]
#[path = "oci_spec_tests.rs"]
mod tests;

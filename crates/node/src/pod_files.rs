//! The files that every container of a pod gets from its node: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` and the
//! termination message. Which pods get which is decided here; the resolver's content in `resolv_conf`.

use crate::{
    Error, NodeConfig,
    pod::PodExt,
    resolv_conf::{self, ResolvConf},
    volumes::pod_folder,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Most bytes of a termination message, and how much of a log stands in for it.
const MESSAGE_BYTES: u64 = 4096;
const LOG_BYTES: u64 = 2048;
const LOG_LINES: usize = 80;

/// The pod's host name and its fully qualified one, if it has a subdomain.
pub(crate) fn host_names(pod: &Pod, domain: &str) -> (String, Option<String>) {
    let spec = pod.spec_ref();
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.into(), None);
    }
    let given = spec.hostname.as_deref().filter(|n| !n.is_empty());
    // The kernel takes at most 63 characters.
    let name: String = given.unwrap_or(pod.name()).chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']).to_string();
    let full = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|sub| format!("{name}.{sub}.{}.svc.{domain}", pod.namespace()));
    (name, full)
}

/// What `hostname` says in the pod.
pub(crate) fn inner_host_name(pod: &Pod, domain: &str) -> String {
    match host_names(pod, domain) {
        (_, Some(full)) if pod.spec_ref().set_hostname_as_fqdn == Some(true) => full,
        (name, _) => name,
    }
}

/// The content of `/etc/hosts`.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], domain: &str, host: &str) -> String {
    let mut out = String::new();
    if pod.host_network() {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host);
        if !host.ends_with('\n') {
            out.push('\n');
        }
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (name, full) = host_names(pod, domain);
        for ip in ips {
            match &full {
                Some(full) => out.push_str(&format!("{ip}\t{full}\t{name}\n")),
                None => out.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases = pod.spec_ref().host_aliases.iter().flatten();
    for (i, alias) in aliases.enumerate() {
        if i == 0 {
            out.push_str("\n# Entries added by HostAliases.\n");
        }
        let names: Vec<&str> = alias.hostnames.iter().flatten().map(String::as_str).collect();
        out.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    out
}

/// Where a try of a container leaves its termination message.
fn message_file(root: &Path, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    pod_folder(root, pod.uid()).join("containers").join(container).join(attempt.to_string())
}

/// Where containers of a pod write their logs.
pub(crate) fn log_folder(root: &Path, pod: &Pod) -> PathBuf {
    root.join("logs/pods").join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// The log of a try of a container, below the pod's log folder.
pub(crate) fn log_file(container: &str, attempt: u32) -> PathBuf {
    Path::new(container).join(format!("{attempt}.log"))
}

/// The files of a container: path in it to path on the host.
#[derive(Clone, Debug)]
pub(crate) struct ContainerFiles {
    pub mounts: Vec<(PathBuf, PathBuf)>,
    /// Where the termination message will stand on the host.
    pub message: PathBuf,
}

/// Writes the files of a try of a container. Blocks on the disk.
pub(crate) fn write(
    config: &NodeConfig,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    ips: &[IpAddr],
) -> Result<ContainerFiles, Error> {
    let folder = pod_folder(&config.root_dir, pod.uid());
    fs::create_dir_all(&folder).map_err(|e| Error::path("making", &folder, e))?;
    let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let host = ResolvConf::parse(&fs::read_to_string(&config.resolv_conf).unwrap_or_default());
    let mut mounts = vec![
        put(&folder, "etc-hosts", "/etc/hosts", &hosts(pod, ips, &config.cluster_domain, &own))?,
        put(&folder, "resolv.conf", "/etc/resolv.conf", &resolv_conf::of_pod(pod, config, &host).text())?,
    ];
    if !pod.host_network() {
        let name = inner_host_name(pod, &config.cluster_domain) + "\n";
        mounts.push(put(&folder, "hostname", "/etc/hostname", &name)?);
    }
    let message = message_file(&config.root_dir, pod, &container.name, attempt);
    let parent = message.parent().unwrap_or(&message);
    fs::create_dir_all(parent).map_err(|e| Error::path("making", parent, e))?;
    fs::write(&message, "").map_err(|e| Error::path("writing", &message, e))?;
    // The container may run as anybody.
    open_to_all(&message)?;
    let inside = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    mounts.push((PathBuf::from(inside.unwrap_or("/dev/termination-log")), message.clone()));
    Ok(ContainerFiles { mounts, message })
}

fn open_to_all(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .map_err(|e| Error::path("changing the mode of", path, e))
}

/// Writes in place (containers that run see the file through a bind mount), and only what differs.
fn put(folder: &Path, name: &str, inside: &str, content: &str) -> Result<(PathBuf, PathBuf), Error> {
    let path = folder.join(name);
    if !fs::read_to_string(&path).is_ok_and(|old| old == content) {
        fs::write(&path, content).map_err(|e| Error::path("writing", &path, e))?;
    }
    Ok((PathBuf::from(inside), path))
}

/// What a container that has ended left as its message. `log` stands in if the policy says so and it failed.
pub(crate) fn termination_message(file: Option<&Path>, log: Option<&Path>) -> String {
    let mut message = String::new();
    if let Some(file) = file.and_then(|f| fs::File::open(f).ok()) {
        let mut bytes = Vec::new();
        if file.take(MESSAGE_BYTES).read_to_end(&mut bytes).is_ok() {
            message = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    if message.is_empty()
        && let Some(log) = log
    {
        return log_tail(log);
    }
    message
}

/// The last lines of a log in CRI format, without its own prefixes.
fn log_tail(path: &Path) -> String {
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |m| m.len());
    // Each line carries a prefix; read enough for the text alone to fill the limit.
    let from = length.saturating_sub(LOG_BYTES * 4);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (tag, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        out.push_str(content);
        if tag.starts_with('F') {
            out.push('\n');
        }
    }
    let limit = LOG_BYTES as usize;
    if out.len() > limit {
        let cut = (out.len() - limit..out.len()).find(|i| out.is_char_boundary(*i)).unwrap_or(out.len());
        out.drain(..cut);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let pod = json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "u"}, "spec": spec});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_pod_knows_itself_by_name() {
        for (spec, names, inner) in [
            (json!({"containers": []}), ("web-0", None), "web-0"),
            (json!({"containers": [], "hostname": "h"}), ("h", None), "h"),
            (
                json!({"containers": [], "hostname": "h", "subdomain": "db"}),
                ("h", Some("h.db.shop.svc.c.l")),
                "h",
            ),
            (
                json!({"containers": [], "subdomain": "db", "setHostnameAsFQDN": true}),
                ("web-0", Some("web-0.db.shop.svc.c.l")),
                "web-0.db.shop.svc.c.l",
            ),
        ] {
            let pod = pod(spec);
            assert_eq!(host_names(&pod, "c.l"), (names.0.into(), names.1.map(String::from)));
            assert_eq!(inner_host_name(&pod, "c.l"), inner);
        }
    }

    #[test]
    fn hosts_hold_the_pod_its_aliases_and_nothing_of_the_node_unless_shared() {
        let ip = ["10.1.0.7".parse().expect("an address")];
        let aliased = pod(json!({"containers": [], "subdomain": "db",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&aliased, &ip, "c.l", "5.6.7.8 node\n");
        assert!(text.contains("\n10.1.0.7\tweb-0.db.shop.svc.c.l\tweb-0\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
        assert!(!text.contains("5.6.7.8"));
        let shared = hosts(&pod(json!({"containers": [], "hostNetwork": true})), &ip, "c.l", "5.6.7.8 node");
        assert!(shared.ends_with("5.6.7.8 node\n"), "{shared}");
    }

    #[test]
    fn the_message_is_the_file_or_else_the_end_of_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, log) = (folder.path().join("m"), folder.path().join("0.log"));
        let mut lines: String =
            (0..100).map(|i| format!("2026-01-01T00:00:00.000000000Z stdout F line {i}\n")).collect();
        lines.push_str("2026-01-01T00:00:00.000000000Z stderr P no ");
        lines.push_str("\n2026-01-01T00:00:00.000000000Z stderr F end\n");
        fs::write(&log, lines).expect("written");
        fs::write(&file, "").expect("written");
        assert_eq!(termination_message(Some(&file), None), "");
        let tail = termination_message(Some(&file), Some(&log));
        assert!(tail.ends_with("line 99\nno end\n"), "{tail}");
        assert!(tail.starts_with("line 22\n"), "{tail}");
        fs::write(&file, "x".repeat(5000)).expect("written");
        assert_eq!(termination_message(Some(&file), Some(&log)).len(), 4096);
    }
}

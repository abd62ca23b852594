//! The checks of the Pod Security Standards (Kubernetes documentation, "Pod Security Standards"), with the words in which
//! Kubernetes reports them. Pure: a pod's JSON in, violations out.

use orlop_api::object::{flag, list, map, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// How strict a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: reason.into(), detail: detail.into() }
    }
}

/// What a check looks at.
struct Subject<'a> {
    meta: &'a Value,
    spec: &'a Value,
    /// The minor version of the policy.
    minor: u32,
}

type Check = fn(&Subject<'_>) -> Option<Violation>;

/// Rules of `baseline`, in the order of their Kubernetes identifiers, and the minor version since which a stricter rule of
/// `restricted` stands in for each.
const BASELINE: &[(Option<u32>, Check)] = &[
    (None, app_armor),
    (Some(22), capabilities_baseline),
    (None, host_namespaces),
    (Some(0), host_path_volumes),
    (None, host_ports),
    (None, host_probes),
    (None, privileged),
    (None, proc_mount),
    (None, se_linux),
    (Some(19), seccomp_baseline),
    (None, sysctls),
    (None, windows_host_process),
];

/// Rules that `restricted` adds: the first minor version that has each, and the rule.
const RESTRICTED: &[(u32, Check)] = &[
    (8, allow_privilege_escalation),
    (22, capabilities_restricted),
    (0, restricted_volumes),
    (0, run_as_non_root),
    (23, run_as_user),
    (19, seccomp_restricted),
];

/// All that a pod breaks of a level, as it was in the given minor version.
pub(super) fn check(level: Level, minor: u32, meta: &Value, spec: &Value) -> Vec<Violation> {
    let subject = Subject { meta, spec, minor };
    let mut violations = Vec::new();
    if level == Level::Privileged {
        return violations;
    }
    for (replaced, check) in BASELINE {
        let replaced = level == Level::Restricted && replaced.is_some_and(|since| minor >= since);
        if !replaced {
            violations.extend(check(&subject));
        }
    }
    if level == Level::Restricted {
        for (since, check) in RESTRICTED {
            if minor >= *since {
                violations.extend(check(&subject));
            }
        }
    }
    violations
}

impl<'a> Subject<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(|p| list(self.spec, p))
    }

    /// The names of the containers that `is_bad`.
    fn bad(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| is_bad(c)).map(|c| text(c, "/name")).collect()
    }

    fn is_windows(&self) -> bool {
        self.minor >= 25 && text(self.spec, "/os/name") == "windows"
    }

    /// Whether root in the pod is nobody on the node.
    fn has_own_users(&self) -> bool {
        self.minor >= 35 && self.spec.get("hostUsers").is_some_and(|h| h == false)
    }

    /// What the pod and its containers say at a pointer below `securityContext`, where it `is_bad`: who says it, and the bad
    /// values.
    fn setters(&self, pointer: &str, is_bad: impl Fn(&Value) -> bool) -> (Vec<String>, Vec<&'a Value>) {
        let at = format!("/securityContext{pointer}");
        let (mut setters, mut values) = (Vec::new(), Vec::new());
        if let Some(value) = self.spec.pointer(&at).filter(|v| !v.is_null() && is_bad(v)) {
            setters.push("pod".to_string());
            values.push(value);
        }
        let mut names = Vec::new();
        for container in self.containers() {
            if let Some(value) = container.pointer(&at).filter(|v| !v.is_null() && is_bad(v)) {
                names.push(text(container, "/name"));
                values.push(value);
            }
        }
        if !names.is_empty() {
            setters.push(containers(&names));
        }
        (setters, values)
    }
}

fn plural(one: &'static str, many: &'static str, n: usize) -> &'static str {
    if n == 1 { one } else { many }
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// The texts among the values, each once, sorted.
fn texts<'a>(values: &[&'a Value]) -> BTreeSet<&'a str> {
    values.iter().filter_map(|v| v.as_str()).collect()
}

fn app_armor(pod: &Subject<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: BTreeSet<String> = map(pod.meta, "/annotations")
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k, v.as_str()?)))
        .filter(|(k, v)| k.starts_with(PREFIX) && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let (setters, values) = pod.setters("/appArmorProfile/type", |v| {
        !matches!(v.as_str(), Some("" | "RuntimeDefault" | "Localhost"))
    });
    let mut details = Vec::new();
    if !setters.is_empty() {
        let values = quoted(texts(&values));
        details.push(format!("{} must not set AppArmor profile type to {values}", setters.join(" and ")));
    }
    let bad = annotations.len() + texts(&values).len();
    details.extend(annotations);
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", bad);
    (bad > 0).then(|| Violation::new(reason, details.join(", ")))
}

fn added_capabilities<'a>(pod: &Subject<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let (mut names, mut added) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let bad: Vec<&str> = list(container, "/securityContext/capabilities/add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|c| !allowed.contains(c))
            .collect();
        if !bad.is_empty() {
            names.push(text(container, "/name"));
            added.extend(bad);
        }
    }
    (names, added)
}

fn capabilities_baseline(pod: &Subject<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (names, added) = added_capabilities(pod, ALLOWED);
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(added)
        );
        Violation::new("non-default capabilities", detail)
    })
}

fn host_namespaces(pod: &Subject<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| flag(pod.spec, &format!("/{f}")))
        .map(|f| format!("{f}=true"))
        .collect();
    (!used.is_empty()).then(|| Violation::new("host namespaces", used.join(", ")))
}

fn host_path_volumes(pod: &Subject<'_>) -> Option<Violation> {
    let names: Vec<&str> = list(pod.spec, "/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some_and(|h| !h.is_null()))
        .map(|v| text(v, "/name"))
        .collect();
    (!names.is_empty()).then(|| {
        let noun = plural("volume", "volumes", names.len());
        Violation::new("hostPath volumes", format!("{noun} {}", quoted(names)))
    })
}

fn host_ports(pod: &Subject<'_>) -> Option<Violation> {
    let host_port = |p: &Value| p.get("hostPort").and_then(Value::as_i64).filter(|p| *p != 0);
    let names = pod.bad(|c| list(c, "/ports").iter().any(|p| host_port(p).is_some()));
    let ports: BTreeSet<String> = pod
        .containers()
        .flat_map(|c| list(c, "/ports"))
        .filter_map(host_port)
        .map(|p| p.to_string())
        .collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        );
        Violation::new("hostPort", detail)
    })
}

fn host_probes(pod: &Subject<'_>) -> Option<Violation> {
    if pod.minor < 34 {
        return None;
    }
    let hosts_of = |c: &'_ Value| -> Vec<String> {
        let mut hosts = Vec::new();
        for place in
            ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"]
        {
            for action in ["httpGet", "tcpSocket"] {
                let host = text(c, &format!("/{place}/{action}/host"));
                if !host.is_empty() {
                    hosts.push(host.to_string());
                }
            }
        }
        hosts
    };
    let names = pod.bad(|c| !hosts_of(c).is_empty());
    let hosts: BTreeSet<String> = pod.containers().flat_map(hosts_of).collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} probe or lifecycle {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("host", "hosts", hosts.len()),
            quoted(hosts.iter().map(String::as_str))
        );
        Violation::new("probe or lifecycle host", detail)
    })
}

fn privileged(pod: &Subject<'_>) -> Option<Violation> {
    let names = pod.bad(|c| flag(c, "/securityContext/privileged"));
    (!names.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        Violation::new("privileged", detail)
    })
}

fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let is_bad = |v: &Value| v.as_str().is_some_and(|v| v != "Default");
    let names = pod.bad(|c| c.pointer("/securityContext/procMount").is_some_and(is_bad));
    let (_, values) = pod.setters("/procMount", is_bad);
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted(texts(&values))
        );
        Violation::new("procMount", detail)
    })
}

fn se_linux(pod: &Subject<'_>) -> Option<Violation> {
    let mut types = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.minor >= 31 {
        types.push("container_engine_t");
    }
    let bad_type = |o: &Value| !types.contains(&text(o, "/type"));
    let (setters, values) = pod.setters("/seLinuxOptions", |o| {
        bad_type(o) || !text(o, "/user").is_empty() || !text(o, "/role").is_empty()
    });
    (!setters.is_empty()).then(|| {
        let bad: BTreeSet<&str> = values.iter().filter(|o| bad_type(o)).map(|o| text(o, "/type")).collect();
        let mut data = Vec::new();
        if !bad.is_empty() {
            data.push(format!("{} {}", plural("type", "types", bad.len()), quoted(bad)));
        }
        for field in ["user", "role"] {
            if values.iter().any(|o| !text(o, &format!("/{field}")).is_empty()) {
                data.push(format!("{field} may not be set"));
            }
        }
        let detail = format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters.join(" and "),
            data.join("; ")
        );
        Violation::new("seLinuxOptions", detail)
    })
}

fn is_bad_seccomp(v: &Value) -> bool {
    !matches!(v.as_str(), Some("RuntimeDefault" | "Localhost"))
}

fn explicit_seccomp(pod: &Subject<'_>) -> Option<Violation> {
    let (setters, values) = pod.setters("/seccompProfile/type", is_bad_seccomp);
    (!setters.is_empty()).then(|| {
        let detail = format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(texts(&values))
        );
        Violation::new("seccompProfile", detail)
    })
}

fn seccomp_baseline(pod: &Subject<'_>) -> Option<Violation> {
    if pod.minor >= 19 {
        return explicit_seccomp(pod);
    }
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let allowed = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let keys = pod.containers().map(|c| format!("{CONTAINER}{}", text(c, "/name")));
    let forbidden: BTreeSet<String> = std::iter::once(POD.to_string())
        .chain(keys)
        .filter_map(|key| {
            let value = pod.meta.get("annotations")?.get(&key)?.as_str()?;
            (!allowed(value)).then(|| format!("{key}={value:?}"))
        })
        .collect();
    (!forbidden.is_empty()).then(|| {
        let noun = plural("annotation", "annotations", forbidden.len());
        let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
        Violation::new("seccompProfile", format!("forbidden {noun} {list}"))
    })
}

/// Sysctls that a node keeps apart for each pod, and the minor version since which they are allowed.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Subject<'_>) -> Option<Violation> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(n, since)| *n == name && pod.minor >= *since);
    let bad: Vec<&str> = list(pod.spec, "/securityContext/sysctls")
        .iter()
        .map(|s| text(s, "/name"))
        .filter(|name| !allowed(name))
        .collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

fn windows_host_process(pod: &Subject<'_>) -> Option<Violation> {
    let (setters, _) = pod.setters("/windowsOptions/hostProcess", |v| v == true);
    (!setters.is_empty()).then(|| {
        let detail =
            format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
        Violation::new("hostProcess", detail)
    })
}

fn allow_privilege_escalation(pod: &Subject<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let names =
        pod.bad(|c| c.pointer("/securityContext/allowPrivilegeEscalation").is_none_or(|v| *v != false));
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

fn capabilities_restricted(pod: &Subject<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let keeps = pod.bad(|c| !list(c, "/securityContext/capabilities/drop").iter().any(|d| d == "ALL"));
    let (names, added) = added_capabilities(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !names.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(added)
        ));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

fn restricted_volumes(pod: &Subject<'_>) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "/volumes") {
        let sources: Vec<&str> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, source)| *key != "name" && !source.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        if !sources.iter().any(|s| ALLOWED.contains(s)) {
            names.push(text(volume, "/name"));
            types.insert(sources.first().copied().unwrap_or("unknown"));
        }
    }
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(names.iter().copied()),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", types.len()),
            quoted(types)
        );
        Violation::new("restricted volume types", detail)
    })
}

fn run_as_non_root(pod: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let (setters, _) = pod.setters("/runAsNonRoot", |v| v == false);
    if !setters.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "));
        return Some(Violation::new(REASON, detail));
    }
    if flag(pod.spec, "/securityContext/runAsNonRoot") {
        return None;
    }
    let names = pod.bad(|c| !flag(c, "/securityContext/runAsNonRoot"));
    (!names.is_empty()).then(|| {
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names));
        Violation::new(REASON, detail)
    })
}

fn run_as_user(pod: &Subject<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let (setters, _) = pod.setters("/runAsUser", |v| v == 0);
    (!setters.is_empty())
        .then(|| Violation::new("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and "))))
}

fn seccomp_restricted(pod: &Subject<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let explicit = explicit_seccomp(pod);
    if explicit.is_some() || pod.spec.pointer("/securityContext/seccompProfile/type").is_some() {
        return explicit;
    }
    let names = pod.bad(|c| c.pointer("/securityContext/seccompProfile/type").is_none());
    (!names.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&names)
        );
        Violation::new("seccompProfile", detail)
    })
}

#[cfg(test)]
mod tests;

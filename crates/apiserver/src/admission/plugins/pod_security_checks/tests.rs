//! Each rule of the Pod Security Standards, and what it says.

use super::*;
use serde_json::json;

const LATEST: u32 = 36;

fn found(level: Level, minor: u32, meta: Value, spec: Value) -> String {
    let list = check(level, minor, &meta, &spec);
    list.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

fn safe() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}})
}

#[test]
fn a_pod_that_says_nothing_is_baseline_but_not_restricted() {
    let spec = json!({"containers": [{"name": "c"}]});
    assert_eq!(found(Level::Baseline, LATEST, json!({}), spec.clone()), "");
    assert_eq!(
        found(Level::Restricted, LATEST, json!({}), spec),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let spec = json!({"containers": [{"name": "c", "securityContext": safe()}]});
    assert_eq!(found(Level::Restricted, LATEST, json!({}), spec), "");
}

#[test]
fn each_rule_of_baseline_says_what_is_wrong() {
    let container = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
    for (spec, want) in [
        (json!({"hostNetwork": true, "hostIPC": true}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            container(json!({"privileged": true})),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            container(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_ADMIN"]}})),
            "non-default capabilities (container \"c\" must not include \"NET_ADMIN\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "emptyDir": {}}]}),
            "hostPath volumes (volume \"a\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"containerPort": 1}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
        ),
        (
            container(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            container(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")",
        ),
        (
            container(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
    ] {
        assert_eq!(found(Level::Baseline, LATEST, json!({}), spec), want);
    }
}

#[test]
fn restricted_takes_back_what_baseline_leaves_open() {
    let with = |change: fn(&mut Value)| {
        let mut spec = json!({"containers": [{"name": "c", "securityContext": safe()}]});
        change(&mut spec);
        found(Level::Restricted, LATEST, json!({}), spec)
    };
    assert_eq!(
        with(|s| s["volumes"] = json!([{"name": "n", "nfs": {}}, {"name": "h", "hostPath": {}}])),
        "restricted volume types (volumes \"n\", \"h\" use restricted volume types \"hostPath\", \"nfs\")"
    );
    assert_eq!(
        with(|s| s["securityContext"] = json!({"runAsUser": 0})),
        "runAsUser=0 (pod must not set runAsUser=0)"
    );
    assert_eq!(
        with(|s| s["containers"][0]["securityContext"]["runAsNonRoot"] = json!(false)),
        "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)"
    );
    assert_eq!(with(|s| s["securityContext"] = json!({"runAsUser": 1000})), "");
    let windows = |s: &mut Value| {
        s["os"] = json!({"name": "windows"});
        s["containers"][0]["securityContext"] = json!({"runAsNonRoot": true});
    };
    assert_eq!(with(windows), "");
}

#[test]
fn an_older_version_knows_fewer_rules() {
    let spec = json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]});
    assert_eq!(found(Level::Restricted, 7, json!({}), spec), "");
    let annotated = json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
    assert_eq!(
        found(Level::Baseline, 18, annotated, json!({})),
        "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
}

//! What a pod gets from its service account (Kubernetes documentation, "Configure Service Accounts for Pods"): its name,
//! image pull secrets, and the volume with its token. Pure.

use crate::registry::metadata::{SUFFIX_LEN, suffix};
use orlop_api::object::{each, list, text};
use serde_json::{Value, json};

/// Where containers find the token.
pub(super) const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The service account of pods that name none.
pub(crate) const DEFAULT: &str = "default";
/// Seconds that a pod's token is valid; the node renews it before.
pub(super) const TOKEN_SECONDS: i64 = 3607;

/// The service account that a pod names, or the default.
pub(crate) fn name(pod: &Value) -> &str {
    match (text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount")) {
        ("", "") => DEFAULT,
        ("", old) => old,
        (name, _) => name,
    }
}

/// Whether the pod was made by its node out of a file: such a pod has no service account.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

/// Gives the pod what its service account brings.
pub(crate) fn admit(pod: &mut Value, account: &Value, random: [u8; SUFFIX_LEN]) {
    let name = name(pod).to_string();
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = json!(name);
    spec["serviceAccount"] = json!(name);
    if list(spec, "/imagePullSecrets").is_empty()
        && let Some(secrets) =
            account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
    {
        spec["imagePullSecrets"] = secrets.clone();
    }
    let says = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if says(spec).or_else(|| says(account)).unwrap_or(true) {
        mount_token(spec, random);
    }
}

fn mount_token(spec: &mut Value, random: [u8; SUFFIX_LEN]) {
    let existing = list(spec, "/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_string);
    let volume = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", suffix(random)));
    let mut used = false;
    for containers in ["initContainers", "containers"] {
        each(spec, containers, |container| {
            if list(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                return;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            if !container.is_object() {
                return;
            }
            used = true;
            match container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        });
    }
    if !used || existing.is_some() {
        return;
    }
    let volume = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
        ]}},
    ]}});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(spec: Value, account: Value) -> Value {
        let mut pod = json!({"spec": spec});
        admit(&mut pod, &account, [0; 5]);
        pod["spec"].take()
    }

    #[test]
    fn every_container_finds_the_token() {
        let spec =
            admitted(json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}), json!({}));
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-bbbbb");
        for path in ["/containers/0", "/initContainers/0"] {
            let mount = &spec.pointer(path).unwrap()["volumeMounts"][0];
            assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!(MOUNT_PATH), &json!(true)));
        }
    }

    #[test]
    fn the_pod_then_the_account_decide_whether_there_is_a_token() {
        let has = |pod: Value, account: Value| {
            let mut spec = json!({"containers": [{"name": "a"}]});
            if !pod.is_null() {
                spec["automountServiceAccountToken"] = pod;
            }
            admitted(spec, json!({"automountServiceAccountToken": account})).get("volumes").is_some()
        };
        assert!(has(Value::Null, Value::Null) && has(json!(true), json!(false)));
        assert!(!has(Value::Null, json!(false)) && !has(json!(false), json!(true)));
    }

    #[test]
    fn a_container_that_mounts_something_there_keeps_it() {
        let own = json!([{"name": "own", "mountPath": MOUNT_PATH}]);
        let spec = admitted(json!({"containers": [{"name": "a", "volumeMounts": own}]}), json!({}));
        assert_eq!(spec["containers"][0]["volumeMounts"], own);
        assert!(spec.get("volumes").is_none());
    }

    #[test]
    fn pull_secrets_come_from_the_account_unless_the_pod_has_its_own() {
        let account = json!({"imagePullSecrets": [{"name": "registry"}]});
        let spec = admitted(json!({"containers": []}), account.clone());
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
        let spec = admitted(json!({"containers": [], "imagePullSecrets": [{"name": "mine"}]}), account);
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "mine"}]));
    }
}

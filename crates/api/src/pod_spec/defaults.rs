//! What a pod spec gets where it says nothing, as documented in the Kubernetes API reference. Works on JSON,
//! since it changes little of much.

use super::{image, volume_sources};
use crate::{
    object::{child, each, flag, has, map, set_default, set_default_nonzero, text},
    pod_resources,
    quantity::{Quantity, canonicalize},
};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Fills in a pod template's spec.
pub fn set_template_defaults(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default_nonzero(spec, "restartPolicy", "Always");
    set_default_nonzero(spec, "dnsPolicy", "ClusterFirst");
    set_default_nonzero(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "securityContext", json!({}));
    mirror_service_account(spec);
    each(spec, "volumes", set_volume_defaults);
    each_container(spec, set_container_defaults);
    if let Some(resources) = spec.get_mut("resources") {
        canonicalize_resources(resources);
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        canonicalize_amounts(overhead);
    }
}

/// Fills in a pod's own spec: what a template gets, and what only a pod gets.
pub fn set_pod_defaults(spec: &mut Value) {
    set_template_defaults(spec);
    if !spec.is_object() {
        return;
    }
    set_default(spec, "enableServiceLinks", true);
    each_container(spec, |container| {
        if let Some(resources) = container.get_mut("resources") {
            request_what_is_limited(resources);
        }
    });
    set_pod_requests(spec);
    if flag(spec, "/hostNetwork") {
        for list in ["containers", "initContainers"] {
            each(spec, list, |container| {
                each(container, "ports", |port| {
                    let number = port.get("containerPort").cloned().unwrap_or(Value::Null);
                    set_default_nonzero(port, "hostPort", number);
                });
            });
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`: both show the same; the new one wins.
pub fn mirror_service_account(spec: &mut Value) {
    let name = match (text(spec, "/serviceAccountName"), text(spec, "/serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_string(),
        (new, _) => new.to_string(),
    };
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
}

fn each_container(spec: &mut Value, mut change: impl FnMut(&mut Value)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, &mut change);
    }
}

fn set_container_defaults(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = image::default_pull_policy(text(container, "/image"));
    set_default_nonzero(container, "imagePullPolicy", policy);
    set_default_nonzero(container, "terminationMessagePath", "/dev/termination-log");
    set_default_nonzero(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    each(container, "ports", |port| set_default_nonzero(port, "protocol", "TCP"));
    each(container, "env", |env| {
        if let Some(from) = env.get_mut("valueFrom") {
            set_field_ref_defaults(from);
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            set_probe_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            set_http_defaults(handler);
        }
    }
    if let Some(resources) = container.get_mut("resources") {
        canonicalize_resources(resources);
    }
}

fn set_probe_defaults(probe: &mut Value) {
    if !probe.is_object() {
        return;
    }
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        set_default_nonzero(probe, field, default);
    }
    set_http_defaults(probe);
    if let Some(grpc) = probe.get_mut("grpc") {
        set_default(grpc, "service", "");
    }
}

fn set_http_defaults(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        set_default_nonzero(get, "path", "/");
        set_default_nonzero(get, "scheme", "HTTP");
    }
}

fn set_field_ref_defaults(holder: &mut Value) {
    if let Some(field) = holder.get_mut("fieldRef") {
        set_default_nonzero(field, "apiVersion", "v1");
    }
    if let Some(divisor) = holder.pointer_mut("/resourceFieldRef/divisor") {
        canonicalize(divisor);
    } else if let Some(resource) = holder.get_mut("resourceFieldRef") {
        set_default(resource, "divisor", "0");
    }
}

fn set_volume_defaults(volume: &mut Value) {
    let has_source =
        |v: &Value| v.as_object().is_some_and(|m| m.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !has_source(volume) {
        set_default(volume, "emptyDir", json!({}));
    }
    if let Some(limit) = volume.pointer_mut("/emptyDir/sizeLimit") {
        canonicalize(limit);
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    volume_sources::set_defaults(volume);
    if let Some(downward) = volume.get_mut("downwardAPI") {
        each(downward, "items", set_field_ref_defaults);
    }
    if let Some(projected) = volume.get_mut("projected") {
        each(projected, "sources", |source| {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                each(downward, "items", set_field_ref_defaults);
            }
        });
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        set_default(spec, "volumeMode", "Filesystem");
    }
    if let Some(image) = volume.get_mut("image") {
        let policy = image::default_pull_policy(text(image, "/reference"));
        set_default_nonzero(image, "pullPolicy", policy);
    }
}

fn canonicalize_resources(resources: &mut Value) {
    for amounts in ["requests", "limits"] {
        if let Some(amounts) = resources.get_mut(amounts) {
            canonicalize_amounts(amounts);
        }
    }
}

/// Quantities in canonical form; parts finer than a thousandth are rounded up.
pub(crate) fn canonicalize_amounts(amounts: &mut Value) {
    for (_, amount) in amounts.as_object_mut().into_iter().flatten() {
        if let Ok(quantity) = Quantity::from_json(amount) {
            *amount = quantity.round_up_to_milli().to_string().into();
        }
    }
}

/// A pod with limits of its own asks for what its containers ask for together, and for as much as it is limited to of
/// what none of them asks for.
fn set_pod_requests(spec: &mut Value) {
    if map(spec, "/resources/limits").is_none_or(Map::is_empty) {
        return;
    }
    let mut containers = spec.clone();
    if let Some(containers) = containers.as_object_mut() {
        containers.retain(|field, _| matches!(field.as_str(), "containers" | "initContainers"));
    }
    let Ok(containers) = PodSpec::deserialize(&containers) else { return };
    let resources = &mut spec["resources"];
    for (name, amount) in pod_resources::requests(&containers).0 {
        if matches!(name.as_str(), "cpu" | "memory")
            && let Some(requests) = child(resources, "requests")
        {
            set_default(requests, &name, amount.to_string());
        }
    }
    request_what_is_limited(resources);
}

fn request_what_is_limited(resources: &mut Value) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if !has(resources, "/requests") {
        resources["requests"] = Value::Object(Map::new());
    }
    if let Some(requests) = child(resources, "requests") {
        for (name, amount) in limits {
            set_default(requests, &name, amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        let mut spec = spec;
        set_pod_defaults(&mut spec);
        let mut again = spec.clone();
        set_pod_defaults(&mut again);
        assert_eq!(spec, again, "defaults are idempotent");
        spec
    }

    #[test]
    fn a_bare_pod_gets_what_kubernetes_gives_it() {
        assert_eq!(
            pod(json!({"containers": [{"name": "a", "image": "web"}]})),
            json!({
                "containers": [{"name": "a", "image": "web", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            })
        );
    }

    #[test]
    fn what_is_said_stays() {
        let spec = pod(
            json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "enableServiceLinks": false,
            "containers": [{"name": "a", "image": "web", "imagePullPolicy": "Never"}]}),
        );
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["terminationGracePeriodSeconds"], 0);
        assert_eq!(spec["enableServiceLinks"], false);
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Never");
    }

    #[test]
    fn limits_become_requests_in_pods_but_not_in_templates() {
        let given = json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": 1.5, "memory": "1024Mi"},
            "requests": {"cpu": "0.1"}}}]});
        let spec = pod(given.clone());
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
        );
        let mut template = given;
        set_template_defaults(&mut template);
        assert_eq!(template["containers"][0]["resources"]["requests"], json!({"cpu": "100m"}));
        assert!(template.get("enableServiceLinks").is_none());
    }

    #[test]
    fn a_pod_with_limits_asks_for_what_its_containers_ask_for() {
        let spec = pod(json!({
            "resources": {"limits": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "b", "resources": {"requests": {"cpu": "250m"}}}]}));
        let want = json!({"cpu": "750m", "memory": "1Gi", "hugepages-2Mi": "4Mi"});
        assert_eq!(spec["resources"]["requests"], want);
        let spec = pod(json!({"resources": {"requests": {"cpu": "2"}}, "containers": [{"name": "a"}]}));
        assert_eq!(spec["resources"], json!({"requests": {"cpu": "2"}}));
    }

    #[test]
    fn probes_hooks_ports_and_env_are_filled_in() {
        let spec = pod(json!({"hostNetwork": true, "containers": [{"name": "a",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"httpGet": {"port": 80}},
            "livenessProbe": {"grpc": {"port": 1}, "periodSeconds": 2},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}}}]}));
        let container = &spec["containers"][0];
        assert_eq!(container["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}));
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(
            container["readinessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(container["livenessProbe"]["periodSeconds"], 2);
        assert_eq!(container["livenessProbe"]["grpc"]["service"], "");
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    }

    #[test]
    fn volumes_are_filled_in() {
        let spec = pod(json!({"volumes": [
            {"name": "none"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "e", "emptyDir": {"sizeLimit": "1024Ki"}}]}));
        assert_eq!(
            spec["volumes"],
            json!([
                {"name": "none", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [{"path": "n",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}}]}},
                {"name": "e", "emptyDir": {"sizeLimit": "1Mi"}},
            ])
        );
    }

    #[test]
    fn the_old_name_of_the_service_account_shows_the_same() {
        for given in [
            json!({"serviceAccount": "x"}),
            json!({"serviceAccountName": "x"}),
            json!({"serviceAccountName": "x", "serviceAccount": "y"}),
        ] {
            let spec = pod(given);
            assert_eq!((&spec["serviceAccount"], &spec["serviceAccountName"]), (&json!("x"), &json!("x")));
        }
    }
}

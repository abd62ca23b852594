//! Node: a machine that runs pods.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, Scope, name,
    object::{condition, flag, has, list, map, text},
    pod_spec::{defaults::canonicalize_amounts, resources::validate_amount, scheduling::validate_taints},
    print,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::api::resource::Quantity};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The description of Node.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["no"]),
        scope: Scope::Cluster,
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Status", "Whether it is ready for pods."),
            print::text_column("Roles", "The roles of the node."),
            print::age_column(),
            print::text_column("Version", "The version of its agent."),
            print::wide_column("Internal-IP", "Its address inside the cluster."),
            print::wide_column("External-IP", "Its address outside the cluster."),
            print::wide_column("OS-Image", "Its operating system."),
            print::wide_column("Kernel-Version", "Its kernel."),
            print::wide_column("Container-Runtime", "What runs its containers."),
        ],
        selectable_fields: texts(&["spec.unschedulable"]),
        ..base("", "v1", "Node", "nodes", Node)
    }
}

struct Node;

impl Rules for Node {
    fn default(&self, object: &mut Value) {
        if let Some(status) = object.get_mut("status") {
            for amounts in ["capacity", "allocatable"] {
                if let Some(amounts) = status.get_mut(amounts) {
                    canonicalize_amounts(amounts);
                }
            }
            if !has(status, "/allocatable") && has(status, "/capacity") {
                status["allocatable"] = status["capacity"].clone();
            }
        }
        if let Some(spec) = object.get_mut("spec") {
            mirror_pod_cidr(spec);
        }
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        if let Some(taints) = object.pointer("/spec/taints").filter(|t| !t.is_null()) {
            // That is what Kubernetes calls the place.
            let path = Path::new("metadata.taints");
            if let Some(taints) = errors.decode::<Vec<Taint>>(&path, taints) {
                validate_taints(&taints, &path, &mut errors);
            }
        }
        for (at, cidr) in list(object, "/spec/podCIDRs").iter().enumerate() {
            let cidr = cidr.as_str().unwrap_or_default();
            errors.messages(&path.child("podCIDRs").index(at), cidr, name::cidr(cidr));
        }
        validate_node_status(object, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (field, pointer) in [("podCIDRs", "/spec/podCIDRs"), ("providerID", "/spec/providerID")] {
            let before = old.pointer(pointer).filter(|v| !v.is_null() && **v != "" && **v != json!([]));
            if before.is_some() && new.pointer(pointer) != before {
                let shown = if field == "podCIDRs" { "podCIDR" } else { field };
                let message = format!("node updates may not change {shown} except from \"\" to valid");
                errors.forbidden(Path::new("spec").child(field), message);
            }
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_node_status(new, &mut errors);
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "spec.unschedulable" => flag(object, "/spec/unschedulable").to_string(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let info = |pointer| match text(object, pointer) {
            "" => "<unknown>".into(),
            known => known.into(),
        };
        let mut kernel: Value = info("/status/nodeInfo/kernelVersion");
        let architecture = text(object, "/status/nodeInfo/architecture");
        if !architecture.is_empty() {
            kernel = format!("{} ({architecture})", kernel.as_str().unwrap_or_default()).into();
        }
        vec![
            print::name(object),
            status(object).into(),
            print::or_none(&roles(object)),
            print::age(object, now),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            print::or_none(address(object, "InternalIP")),
            print::or_none(address(object, "ExternalIP")),
            info("/status/nodeInfo/osImage"),
            kernel,
            info("/status/nodeInfo/containerRuntimeVersion"),
        ]
    }
}

/// `podCIDR` is the first of `podCIDRs`; whichever is missing is filled in.
fn mirror_pod_cidr(spec: &mut Value) {
    let first = text(spec, "/podCIDRs/0").to_string();
    let single = text(spec, "/podCIDR").to_string();
    if !first.is_empty() {
        spec["podCIDR"] = first.into();
    } else if !single.is_empty() {
        spec["podCIDRs"] = json!([single]);
    }
}

fn validate_node_status(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    for part in ["capacity", "allocatable"] {
        for (name, amount) in map(object, &format!("/status/{part}")).into_iter().flatten() {
            let path = path.child(part).child(name);
            let amount = Quantity(amount.as_str().unwrap_or_default().to_string());
            errors.messages(&path, name, name::qualified_name(name));
            validate_amount(name, &amount, &path, errors);
        }
    }
    let mut seen = Vec::new();
    for (at, address) in list(object, "/status/addresses").iter().enumerate() {
        if seen.contains(&address) {
            errors.duplicate(path.child("addresses").index(at), address.clone());
        }
        seen.push(address);
    }
}

fn status(object: &Value) -> String {
    let ready = match condition(object, "Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    };
    if flag(object, "/spec/unschedulable") {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_string()
    }
}

/// From the labels `node-role.kubernetes.io/ROLE` and `kubernetes.io/role=ROLE`.
fn roles(object: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in map(object, "/metadata/labels").into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => continue,
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address<'a>(object: &'a Value, kind: &str) -> &'a str {
    list(object, "/status/addresses")
        .iter()
        .find(|a| text(a, "/type") == kind)
        .map_or("", |a| text(a, "/address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_network_is_given_once() {
        let mut old = json!({"spec": {"podCIDR": "10.0.1.0/24"}});
        Node.default(&mut old);
        assert_eq!(old["spec"]["podCIDRs"], json!(["10.0.1.0/24"]));
        assert!(Node.validate(&old).is_empty());
        let mut new = json!({"spec": {"podCIDR": "10.0.2.0/24"}});
        Node.default(&mut new);
        assert_eq!(
            Node.validate_update(&new, &old)[0].to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
        assert!(Node.validate_update(&new, &json!({"spec": {}})).is_empty());
    }

    #[test]
    fn capacity_is_read_and_allocatable_follows_it() {
        let mut node = json!({"status": {"capacity": {"cpu": 2, "memory": "1024Mi", "pods": "x"}}});
        Node.default(&mut node);
        assert_eq!(node["status"]["allocatable"]["memory"], "1Gi");
        let paths: Vec<String> = Node.validate(&node).into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["status.capacity.pods", "status.allocatable.pods"]);
    }

    #[test]
    fn taints_are_checked() {
        let wrong = |taints: Value| {
            let errors = Node.validate(&json!({"spec": {"taints": taints}}));
            errors.into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(
            wrong(json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]))
                .is_empty()
        );
        assert_eq!(wrong(json!([{"key": "a", "effect": "No"}])), ["metadata.taints[0].effect"]);
        assert_eq!(
            wrong(
                json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "x", "effect": "NoSchedule"}])
            ),
            ["metadata.taints[1]"]
        );
    }

    #[test]
    fn a_row_reads_as_kubectl_prints_it() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let node = json!({
            "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1.0",
                    "architecture": "amd64"}},
        });
        let want = [
            "n1",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "60m",
            "v1.36.0",
            "10.1.1.1",
            "<none>",
            "Debian",
            "6.1.0 (amd64)",
            "<unknown>",
        ];
        assert_eq!(Node.cells(&node, now), want.map(Value::from));
        assert_eq!(status(&json!({})), "Unknown");
        assert_eq!(
            status(&json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})),
            "NotReady"
        );
    }
}

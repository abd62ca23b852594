//! Service: a name and an address for a set of pods.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Rules,
    object::{int, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

mod defaults;
pub mod families;
mod validate;

pub use defaults::{needs_cluster_ip, needs_node_port};

/// The description of Service.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["svc"]),
        categories: texts(&["all"]),
        name_rule: NameRule::DnsLabelLetter,
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Type", "How it is exposed."),
            print::text_column("Cluster-IP", "Its address inside the cluster."),
            print::text_column("External-IP", "Its addresses outside the cluster."),
            print::text_column("Port(s)", "The ports it serves."),
            print::age_column(),
            print::wide_column("Selector", "Labels of the pods behind it."),
        ],
        selectable_fields: texts(&["spec.clusterIP", "spec.type"]),
        ..base("", "v1", "Service", "services", Service)
    }
}

struct Service;

impl Rules for Service {
    fn default(&self, object: &mut Value) {
        defaults::set_defaults(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if object.is_object() {
            object["status"] = serde_json::json!({"loadBalancer": {}});
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        defaults::carry_over_allocated(new, old);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::validate(object, &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate::validate_update(new, old, &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let internal = list(object, "/spec/clusterIPs").first().and_then(Value::as_str).unwrap_or_default();
        vec![
            print::name(object),
            text(object, "/spec/type").into(),
            print::or_none(internal),
            external(object).into(),
            print::or_none(&ports(object)),
            print::age(object, now),
            print::labels(object, "/spec/selector"),
        ]
    }
}

fn external(object: &Value) -> String {
    let given: Vec<&str> = list(object, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(object, "/spec/type") {
        "ClusterIP" | "NodePort" if given.is_empty() => print::NONE.to_string(),
        "ClusterIP" | "NodePort" => given.join(","),
        "LoadBalancer" => {
            let mut all: Vec<&str> = list(object, "/status/loadBalancer/ingress")
                .iter()
                .map(|i| if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") })
                .filter(|address| !address.is_empty())
                .collect();
            all.sort_unstable();
            all.dedup();
            all.extend(given);
            if all.is_empty() { "<pending>".to_string() } else { all.join(",") }
        }
        "ExternalName" => text(object, "/spec/externalName").to_string(),
        _ => "<unknown>".to_string(),
    }
}

/// `80/TCP,443:30443/TCP`.
fn ports(object: &Value) -> String {
    let port = |p: &Value| {
        let (number, protocol) = (int(p, "/port").unwrap_or_default(), text(p, "/protocol"));
        match int(p, "/nodePort").unwrap_or_default() {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    list(object, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(spec: Value, status: Value) -> [String; 3] {
        let cells = Service.cells(&json!({"spec": spec, "status": status}), Timestamp::UNIX_EPOCH);
        [2, 3, 4].map(|i| cells[i].as_str().unwrap().to_string())
    }

    #[test]
    fn addresses_and_ports_read_as_kubectl_prints_them() {
        let ports =
            json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
        for (spec, status, want) in [
            (
                json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": ports}),
                json!({}),
                ["10.0.0.1", "<none>", "80:30080/TCP,53/UDP"],
            ),
            (json!({"type": "ClusterIP", "clusterIPs": ["None"]}), json!({}), ["None", "<none>", "<none>"]),
            (
                json!({"type": "NodePort", "externalIPs": ["1.2.3.4", "5.6.7.8"]}),
                json!({}),
                ["<none>", "1.2.3.4,5.6.7.8", "<none>"],
            ),
            (json!({"type": "LoadBalancer"}), json!({}), ["<none>", "<pending>", "<none>"]),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}),
                json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a.b"}]}}),
                ["<none>", "2.2.2.2,a.b,9.9.9.9", "<none>"],
            ),
            (json!({"type": "ExternalName", "externalName": "x.y"}), json!({}), ["<none>", "x.y", "<none>"]),
        ] {
            assert_eq!(shown(spec.clone(), status), want, "{spec}");
        }
    }
}

//! NetworkPolicy (networking.k8s.io/v1): which pods may talk to which.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{each, int, len, list, set_default, text},
    print, selector,
};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

/// The description of NetworkPolicy.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["netpol"]),
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Pod-Selector", "The pods it is about."),
            print::age_column(),
        ],
        ..base("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", NetworkPolicy)
    }
}

struct NetworkPolicy;

impl Rules for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        for direction in ["ingress", "egress"] {
            each(spec, direction, |rule| each(rule, "ports", |port| set_default(port, "protocol", "TCP")));
        }
        if len(spec, "/policyTypes") == 0 {
            let both = len(spec, "/egress") > 0;
            spec["policyTypes"] = if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        validate_selector(object, "/spec/podSelector", &path.child("podSelector"), &mut errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in list(object, &format!("/spec/{direction}")).iter().enumerate() {
                let path = path.child(direction).index(at);
                for (at, port) in list(rule, "/ports").iter().enumerate() {
                    validate_port(port, &path.child("ports").index(at), &mut errors);
                }
                for (at, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
                    validate_peer(peer, &path.child(peers).index(at), &mut errors);
                }
            }
        }
        let types = list(object, "/spec/policyTypes");
        let at = path.child("policyTypes");
        if types.len() > 2 {
            errors.invalid(&at, types.to_vec(), "may not specify more than two policyTypes");
            return errors.into_vec();
        }
        for (index, kind) in types.iter().enumerate() {
            errors.one_of(&at.index(index), kind.as_str().unwrap_or_default(), &["Ingress", "Egress"]);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::label_selector(object, "/spec/podSelector"), print::age(object, now)]
    }
}

/// Whether there is a selector at the pointer; it is checked.
fn validate_selector(object: &Value, pointer: &str, path: &Path, errors: &mut FieldErrors) -> bool {
    let Some(given) = object.pointer(pointer).filter(|s| !s.is_null()) else { return false };
    if let Some(typed) = errors.decode::<LabelSelector>(path, given) {
        errors.extend(selector::validate(&typed, path.as_str()));
    }
    true
}

fn validate_port(port: &Value, path: &Path, errors: &mut FieldErrors) {
    if let Some(protocol) = port.get("protocol").and_then(Value::as_str) {
        errors.one_of(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = int(port, "/endPort");
    let at = path.child("endPort");
    match (port.get("port"), end) {
        (Some(Value::Number(number)), end) => {
            let number = number.as_i64().unwrap_or_default();
            for message in name::port_number(number) {
                errors.invalid(path.child("port"), number, message);
            }
            let Some(end) = end else { return };
            if end < number {
                errors.invalid(&at, number, "must be greater than or equal to `port`");
            }
            for message in name::port_number(end) {
                errors.invalid(&at, end, message);
            }
        }
        (Some(Value::String(name)), end) => {
            if let Some(end) = end {
                errors.invalid(&at, end, "may not be specified when `port` is non-numeric");
            }
            errors.messages(&path.child("port"), name, name::port_name(name));
        }
        (_, Some(end)) => errors.invalid(&at, end, "may not be specified when `port` is not specified"),
        (_, None) => {}
    }
}

fn validate_peer(peer: &Value, path: &Path, errors: &mut FieldErrors) {
    let mut selectors = 0;
    for field in ["podSelector", "namespaceSelector"] {
        let found = validate_selector(peer, &format!("/{field}"), &path.child(field), errors);
        selectors += usize::from(found);
    }
    let block = peer.get("ipBlock").filter(|b| !b.is_null());
    if let Some(block) = block {
        validate_block(block, &path.child("ipBlock"), errors);
    }
    match (selectors, block) {
        (0, None) => errors.required(path, "must specify a peer"),
        (1.., Some(_)) => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn validate_block(block: &Value, path: &Path, errors: &mut FieldErrors) {
    let cidr = text(block, "/cidr");
    if cidr.is_empty() {
        errors.required(path.child("cidr"), "");
        return;
    }
    errors.messages(&path.child("cidr"), cidr, name::cidr(cidr));
    let Ok(whole) = cidr.parse::<IpNet>() else { return };
    for (at, except) in list(block, "/except").iter().enumerate() {
        let path = path.child("except").index(at);
        let except = except.as_str().unwrap_or_default();
        errors.messages(&path, except, name::cidr(except));
        let Ok(part) = except.parse::<IpNet>() else { continue };
        if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}});
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        NetworkPolicy.default(&mut object);
        object
    }

    #[test]
    fn a_policy_is_about_what_comes_in_and_where_it_says_so_what_goes_out() {
        assert_eq!(policy(json!({}))["spec"]["policyTypes"], json!(["Ingress"]));
        let both = policy(json!({"egress": [{"ports": [{"port": 53}]}]}));
        assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(both["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |spec: Value| {
            let errors = NetworkPolicy.validate(&policy(spec));
            errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        let from = |peer: Value| json!({"ingress": [{"from": [peer]}]});
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        assert!(
            wrong(from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}))).is_empty()
        );
        assert!(wrong(port(json!({"port": 80, "endPort": 90}))).is_empty());
        for (spec, want) in [
            (from(json!({})), "from[0]: Required value: must specify a peer"),
            (
                from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                "from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                port(json!({"port": 80, "endPort": 70})),
                "ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            ),
            (
                port(json!({"endPort": 70})),
                "ports[0].endPort: Invalid value: 70: may not be specified when `port` is not specified",
            ),
            (
                port(json!({"protocol": "ICMP"})),
                "ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [format!("spec.ingress[0].{want}")], "{spec}");
        }
    }
}

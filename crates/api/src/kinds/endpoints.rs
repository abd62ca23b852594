//! Endpoints: the addresses behind a Service, in the old form.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{each, int, list, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of Endpoints.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ep"]),
        columns: vec![
            print::name_column(),
            print::text_column("Endpoints", "The ready addresses with their ports."),
            print::age_column(),
        ],
        ..base("", "v1", "Endpoints", "endpoints", Endpoints)
    }
}

struct Endpoints;

impl Rules for Endpoints {
    fn default(&self, object: &mut Value) {
        each(object, "subsets", |subset| {
            each(subset, "ports", |port| set_default_nonzero(port, "protocol", "TCP"));
        });
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (at, subset) in list(object, "/subsets").iter().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(at), &mut errors);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), addresses(list(object, "/subsets")).into(), print::age(object, now)]
    }
}

fn validate_subset(subset: &Value, path: &Path, errors: &mut FieldErrors) {
    let (ready, not_ready) = (list(subset, "/addresses"), list(subset, "/notReadyAddresses"));
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (addresses, field) in [(ready, "addresses"), (not_ready, "notReadyAddresses")] {
        for (at, address) in addresses.iter().enumerate() {
            let path = path.child(field).index(at);
            let (ip, host, node) =
                (text(address, "/ip"), text(address, "/hostname"), text(address, "/nodeName"));
            errors.messages(&path.child("ip"), ip, name::ip_address(ip));
            if !host.is_empty() {
                errors.messages(&path.child("hostname"), host, name::dns_label(host));
            }
            if !node.is_empty() {
                errors.messages(&path.child("nodeName"), node, name::dns_subdomain(node));
            }
        }
    }
    let ports = list(subset, "/ports");
    for (at, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(at);
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.required(path.child("name"), "");
        } else if !name.is_empty() {
            errors.messages(&path.child("name"), name, name::dns_label(name));
        }
        let number = int(port, "/port").unwrap_or_default();
        for message in name::port_number(number) {
            errors.invalid(path.child("port"), number, message);
        }
        let protocol = text(port, "/protocol");
        errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
}

fn addresses(subsets: &[Value]) -> String {
    if subsets.is_empty() {
        return print::NONE.to_string();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = list(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            all.extend(ips.map(str::to_string));
            continue;
        }
        for port in ports {
            let port = int(port, "/port").unwrap_or_default();
            all.extend(ips.clone().map(|ip| host_port(ip, port)));
        }
    }
    print::first_three(all)
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_are_checked() {
        let wrong = |subset: Value| {
            let mut object = json!({"subsets": [subset]});
            Endpoints.default(&mut object);
            Endpoints.validate(&object).into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]})).is_empty());
        assert_eq!(
            wrong(json!({"ports": [{"port": 0}, {"name": "b", "port": 1, "protocol": "X"}]})),
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ]
        );
        assert!(
            wrong(json!({"addresses": [{"ip": "x"}]}))[0]
                .starts_with("subsets[0].addresses[0].ip: Invalid value")
        );
    }

    #[test]
    fn three_addresses_show_and_the_rest_is_counted() {
        let v = json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]}]);
        assert_eq!(addresses(v.as_array().unwrap()), "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...");
        assert_eq!(addresses(&[]), "<none>");
        assert_eq!(addresses(&[json!({"addresses": [{"ip": "10.0.0.1"}]})]), "10.0.0.1");
    }
}

//! EndpointSlice (discovery.k8s.io/v1): a part of the addresses behind a Service.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{each, int, list, set_default, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// The description of EndpointSlice.
pub(super) fn kind() -> Kind {
    Kind {
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("AddressType", "The type of the addresses."),
            print::text_column("Ports", "The ports of each endpoint."),
            print::text_column("Endpoints", "The addresses."),
            print::age_column(),
        ],
        ..base("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", EndpointSlice)
    }
}

struct EndpointSlice;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;

impl Rules for EndpointSlice {
    fn default(&self, object: &mut Value) {
        each(object, "ports", |port| {
            set_default(port, "name", "");
            set_default_nonzero(port, "protocol", "TCP");
        });
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let kind = text(object, "/addressType");
        errors.required_one_of(&Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
        let endpoints = list(object, "/endpoints");
        let path = Path::new("endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            errors.push(FieldError::too_many(&path, endpoints.len(), MAX_ENDPOINTS));
        } else {
            for (at, endpoint) in endpoints.iter().enumerate() {
                validate_endpoint(endpoint, kind, &path.index(at), &mut errors);
            }
        }
        validate_ports(list(object, "/ports"), &Path::new("ports"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("addressType"), new.get("addressType"), old.get("addressType"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ports =
            list(object, "/ports").iter().map(|port| match (int(port, "/port"), text(port, "/name")) {
                (Some(number), _) => number.to_string(),
                (None, "") => "*".to_string(),
                (None, name) => name.to_string(),
            });
        let addresses = list(object, "/endpoints")
            .iter()
            .flat_map(|e| list(e, "/addresses"))
            .map(|a| a.as_str().unwrap_or_default().to_string());
        vec![
            print::name(object),
            text(object, "/addressType").into(),
            or_unset(print::first_three(ports.collect())),
            or_unset(print::first_three(addresses.collect())),
            print::age(object, now),
        ]
    }
}

fn or_unset(text: String) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

fn validate_endpoint(endpoint: &Value, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let addresses = list(endpoint, "/addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errors.required(&at, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&at, addresses.len(), MAX_ADDRESSES));
    }
    for (index, address) in addresses.iter().enumerate() {
        let (address, at) = (address.as_str().unwrap_or_default(), at.index(index));
        match (kind, address.parse::<IpAddr>()) {
            ("IPv4", Ok(IpAddr::V4(ip))) => validate_usable(ip.into(), &at, errors),
            ("IPv6", Ok(IpAddr::V6(ip))) => validate_usable(ip.into(), &at, errors),
            ("IPv4", _) => errors.invalid(&at, address, "must be a valid IPv4 address"),
            ("IPv6", _) => errors.invalid(&at, address, "must be a valid IPv6 address"),
            ("FQDN", _) => {
                let bare = address.strip_suffix('.').unwrap_or(address);
                errors.messages(&at, address, name::dns_subdomain(bare));
            }
            _ => {}
        }
    }
    for (field, check) in
        [("hostname", name::dns_label as fn(&str) -> Vec<String>), ("nodeName", name::dns_subdomain)]
    {
        let value = text(endpoint, &format!("/{field}"));
        if !value.is_empty() {
            errors.messages(&path.child(field), value, check(value));
        }
    }
}

/// Addresses that would lead back to the node itself, or to many.
pub(super) fn validate_usable(ip: IpAddr, path: &Path, errors: &mut FieldErrors) {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let message = match () {
        () if ip.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        () if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        () if ip.is_multicast() => "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        () => return,
    };
    errors.invalid(path, ip.to_string(), message);
}

fn validate_ports(ports: &[Value], path: &Path, errors: &mut FieldErrors) {
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many(path, ports.len(), MAX_PORTS));
        return;
    }
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(port, "/name");
        if !name.is_empty() {
            errors.messages(&path.child("name"), name, name::dns_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(path.child("name"), name);
        }
        if let Some(number) = int(port, "/port") {
            for message in name::port_number(number) {
                errors.invalid(path.child("port"), number, message);
            }
        }
        let protocol = text(port, "/protocol");
        errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        let app = text(port, "/appProtocol");
        if !app.is_empty() {
            errors.messages(&path.child("appProtocol"), app, name::qualified_name(app));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(mut slice: Value) -> Vec<String> {
        EndpointSlice.default(&mut slice);
        EndpointSlice.validate(&slice).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        let endpoint = |address: &str| json!({"addresses": [address]});
        assert!(
            wrong(
                json!({"addressType": "IPv4", "endpoints": [endpoint("10.0.0.1")], "ports": [{"port": 80}]})
            )
            .is_empty()
        );
        for (slice, want) in [
            (json!({}), "addressType: Required value"),
            (
                json!({"addressType": "IPv4", "endpoints": [endpoint("fd00::1")]}),
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [endpoint("127.0.0.1")]}),
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"addressType": "IPv6", "endpoints": [{}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": vec![endpoint("10.0.0.1"); 1001]}),
                "endpoints: Too many: 1001: must have at most 1000 items",
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]}),
                "ports[1].name: Duplicate value: \"\"",
            ),
        ] {
            assert_eq!(wrong(slice), [want]);
        }
    }

    #[test]
    fn the_address_type_may_not_change() {
        let of = |kind: &str| json!({"addressType": kind});
        assert_eq!(EndpointSlice.validate_update(&of("IPv6"), &of("IPv4"))[0].path, "addressType");
        assert!(EndpointSlice.validate_update(&of("IPv4"), &of("IPv4")).is_empty());
    }

    #[test]
    fn the_row_shows_three_of_each() {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}],
            "endpoints": [{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]});
        let row = EndpointSlice.cells(&slice, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], ["IPv4", "80,x", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..."].map(Value::from));
        assert_eq!(EndpointSlice.cells(&json!({}), Timestamp::UNIX_EPOCH)[2], "<unset>");
    }
}

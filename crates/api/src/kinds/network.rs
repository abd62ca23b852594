//! Network (orlop.dev/v1): a network of its own that spans the machines of the cluster. Which ranges are free is not known here.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope, name,
    object::{carry_over, has, int, list, set_default, set_default_nonzero, text},
    orlop_v1::GROUP,
    print,
};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The description of Network.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["nets"]),
        scope: Scope::Cluster,
        name_rule: NameRule::DnsLabel,
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Subnets", "Its ranges of addresses."),
            print::text_column("Isolation", "Whether its members reach anything else there."),
            print::int_column("Attachments", "How many pods are connected."),
            print::wide_column("Id", "Its number on the wire."),
            print::age_column(),
        ],
        ..base(GROUP, "v1", "Network", "networks", Network)
    }
}

/// The families that a network may have.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// An attachment is named after its pod and its network, and names end somewhere.
const MAX_NAME: usize = 40;
/// VXLAN network identifiers have 24 bits (RFC 7348, section 5).
const MAX_ID: i64 = (1 << 24) - 1;
/// The longest prefix: a network needs room for the nodes and two pods.
const LONGEST: [u8; 2] = [29, 125];
/// The shortest prefix.
const SHORTEST: [u8; 2] = [8, 32];

/// The family of a range, as the API calls it.
pub fn family(range: &IpNet) -> &'static str {
    FAMILIES[usize::from(range.addr().is_ipv6())]
}

/// The families of a network.
pub fn families(network: &Value) -> Vec<&str> {
    list(network, "/spec/families").iter().filter_map(Value::as_str).collect()
}

/// The ranges of a network with the nodes' own address in each. What is not valid is left out.
pub fn subnets(network: &Value) -> Vec<(IpNet, IpAddr)> {
    list(network, "/spec/subnets")
        .iter()
        .filter_map(|subnet| {
            let range: IpNet = text(subnet, "/cidr").parse().ok()?;
            let gateway = text(subnet, "/gateway").parse().ok().or_else(|| first(&range))?;
            Some((range, gateway))
        })
        .collect()
}

/// The first address that a machine may have.
pub fn first(range: &IpNet) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(network) => Some(IpAddr::V4(u32::from(network).checked_add(1)?.into())),
        IpAddr::V6(network) => Some(IpAddr::V6(u128::from(network).checked_add(1)?.into())),
    }
}

/// Whether a machine may have the address in the range.
pub fn is_usable(range: &IpNet, address: IpAddr) -> bool {
    let broadcast = range.addr().is_ipv4() && address == range.broadcast();
    range.contains(&address) && address != range.network() && !broadcast
}

struct Network;

impl Rules for Network {
    fn default(&self, object: &mut Value) {
        set_default(object, "spec", json!({}));
        let ranges = subnets(object);
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_default_nonzero(spec, "isolation", "Isolated");
        if list(spec, "/families").is_empty() {
            let given: Vec<&str> = ranges.iter().map(|(range, _)| family(range)).collect();
            spec["families"] = if given.is_empty() { json!(["IPv4"]) } else { json!(given) };
        }
        let Some(subnets) = spec.get_mut("subnets").and_then(Value::as_array_mut) else { return };
        for subnet in subnets.iter_mut().filter(|s| text(s, "/gateway").is_empty()) {
            if let Some(gateway) = text(subnet, "/cidr").parse().ok().and_then(|range| first(&range)) {
                subnet["gateway"] = json!(gateway.to_string());
            }
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // Who sends what they once created does not mean to take away what the server gave.
        let unset: &[&str] =
            if list(new, "/spec/subnets").is_empty() { &["families", "subnets"] } else { &[] };
        let id = if has(new, "/spec/id") { None } else { Some("id") };
        let (Some(spec), Some(old)) = (new.get_mut("spec"), old.get("spec")) else { return };
        for field in unset.iter().copied().chain(id) {
            carry_over(spec, old, field);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        validate_families(&families(object), &path.child("families"), &mut errors);
        validate_subnets(object, &path.child("subnets"), &mut errors);
        let isolation = text(object, "/spec/isolation");
        errors.required_one_of(&path.child("isolation"), isolation, &["Isolated", "Open"]);
        if let Some(id) = int(object, "/spec/id").filter(|id| !(1..=MAX_ID).contains(id)) {
            errors.invalid(path.child("id"), id, format!("must be between 1 and {MAX_ID}, inclusive"));
        }
        let name = text(object, "/metadata/name");
        if name.len() > MAX_NAME {
            errors.invalid("metadata.name", name, format!("must be no more than {MAX_NAME} characters"));
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for field in ["families", "subnets", "id"] {
            let of = |object: &Value| object.pointer(&format!("/spec/{field}")).cloned();
            errors.immutable(&Path::new("spec").child(field), of(new).as_ref(), of(old).as_ref());
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ranges: Vec<&str> = list(object, "/spec/subnets").iter().map(|s| text(s, "/cidr")).collect();
        vec![
            print::name(object),
            print::or_none(&ranges.join(",")),
            text(object, "/spec/isolation").into(),
            int(object, "/status/attachments").unwrap_or_default().into(),
            int(object, "/spec/id").map_or_else(|| "<none>".into(), |id| id.to_string()).into(),
            print::age(object, now),
        ]
    }
}

fn validate_families(families: &[&str], path: &Path, errors: &mut FieldErrors) {
    for (at, family) in families.iter().enumerate() {
        errors.one_of(&path.index(at), family, &FAMILIES);
        if families[..at].contains(family) {
            errors.duplicate(path.index(at), *family);
        }
    }
}

fn validate_subnets(object: &Value, path: &Path, errors: &mut FieldErrors) {
    let families = families(object);
    let mut seen = Vec::new();
    for (at, subnet) in list(object, "/spec/subnets").iter().enumerate() {
        let (path, cidr) = (path.index(at), text(subnet, "/cidr"));
        errors.required_and(&path.child("cidr"), cidr, name::canonical_cidr);
        let Ok(range) = cidr.parse::<IpNet>() else { continue };
        let of = usize::from(range.addr().is_ipv6());
        if !(SHORTEST[of]..=LONGEST[of]).contains(&range.prefix_len()) {
            let message = format!("must be a /{} to a /{}", SHORTEST[of], LONGEST[of]);
            errors.invalid(path.child("cidr"), cidr, message);
        }
        if !families.contains(&FAMILIES[of]) {
            errors.invalid(path.child("cidr"), cidr, format!("is not of a family in {families:?}"));
        }
        if seen.contains(&of) {
            errors.invalid(path.child("cidr"), cidr, "a network has one subnet for each family");
        }
        seen.push(of);
        let gateway = text(subnet, "/gateway");
        if gateway.is_empty() {
            continue;
        }
        errors.messages(&path.child("gateway"), gateway, name::canonical_ip_address(gateway));
        if gateway.parse().is_ok_and(|address| !is_usable(&range, address)) {
            let message = format!("must be an address of {range} that a machine may have");
            errors.invalid(path.child("gateway"), gateway, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "n"}, "spec": spec});
        Network.default(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        Network.validate(&network(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn families_and_gateways_follow_from_the_subnets() {
        let spec = network(json!({"subnets": [{"cidr": "fd00:60::/64"}, {"cidr": "10.60.0.0/24"}]}));
        assert_eq!(families(&spec), ["IPv6", "IPv4"]);
        let gateways: Vec<String> = subnets(&spec).iter().map(|(_, gateway)| gateway.to_string()).collect();
        assert_eq!(gateways, ["fd00:60::1", "10.60.0.1"]);
        assert_eq!(families(&network(json!({}))), ["IPv4"]);
        assert_eq!(text(&network(json!({})), "/spec/isolation"), "Isolated");
    }

    #[test]
    fn what_cannot_be_a_network_is_refused_by_field() {
        let cases = [
            (json!({"families": ["IPv5"]}), "spec.families[0]: Unsupported value"),
            (json!({"families": ["IPv4", "IPv4"]}), "spec.families[1]: Duplicate value"),
            (json!({"subnets": [{"cidr": "10.60.0.0/30"}]}), "must be a /8 to a /29"),
            (json!({"subnets": [{"cidr": "10.60.0.1/24"}]}), "spec.subnets[0].cidr: Invalid value"),
            (json!({"subnets": [{"cidr": "ten"}]}), "spec.subnets[0].cidr: Invalid value"),
            (json!({"families": ["IPv6"], "subnets": [{"cidr": "10.60.0.0/24"}]}), "is not of a family"),
            (
                json!({"subnets": [{"cidr": "10.60.0.0/24"}, {"cidr": "10.61.0.0/24"}]}),
                "one subnet for each family",
            ),
            (
                json!({"subnets": [{"cidr": "10.60.0.0/24", "gateway": "10.60.0.255"}]}),
                "that a machine may have",
            ),
            (
                json!({"subnets": [{"cidr": "10.60.0.0/24", "gateway": "10.61.0.1"}]}),
                "that a machine may have",
            ),
            (json!({"isolation": "Some"}), "spec.isolation: Unsupported value"),
            (json!({"id": 0}), "between 1 and 16777215"),
        ];
        for (spec, word) in cases {
            let errors = wrong(spec.clone());
            assert!(errors.iter().any(|e| e.contains(word)), "{spec}: {errors:?}");
        }
        assert!(wrong(json!({"subnets": [{"cidr": "10.60.0.0/24", "gateway": "10.60.0.254"}]})).is_empty());
    }

    #[test]
    fn only_the_isolation_can_be_changed() {
        let old = network(json!({"subnets": [{"cidr": "10.60.0.0/24"}]}));
        let mut new = old.clone();
        new["spec"]["isolation"] = json!("Open");
        assert!(Network.validate_update(&new, &old).is_empty());
        new["spec"]["subnets"][0]["cidr"] = json!("10.61.0.0/24");
        assert_eq!(Network.validate_update(&new, &old)[0].path, "spec.subnets");
        let mut again = network(json!({"isolation": "Open"}));
        Network.prepare_update(&mut again, &old);
        assert!(Network.validate_update(&again, &old).is_empty(), "what was not named is not taken away");
    }
}

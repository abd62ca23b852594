//! What stands in strings: selectors, quantities, schedules, lengths of time, names, addresses, ports.

use crate::sections::text;
use orlop_api::{
    NameRule, Path, cron,
    int_or_string::Amount,
    name,
    quantity::Quantity,
    selector::{FieldSelector, Selector},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// A label and field selector.
pub(super) fn selectors(input: &[u8]) {
    let text = text(input);
    if let Ok(selector) = Selector::parse(&text) {
        let labels: BTreeMap<String, String> =
            selector.requirements().iter().map(|r| (r.key().into(), r.values().concat())).collect();
        let printed = selector.to_string();
        let again = Selector::parse(&printed).expect("what is printed is a selector");
        assert_eq!(again.to_string(), printed);
        for labels in [&labels, &BTreeMap::new()] {
            assert_eq!(selector.matches(labels), again.matches(labels), "{text:?} is printed as {printed:?}");
        }
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        let _ = selector.matches_with(|path| path.to_string());
        for kind in orlop_api::kinds::table() {
            let _ = selector.check(&kind);
        }
    }
}

/// Any other text.
pub(super) fn scalars(input: &[u8]) {
    let text = &text(input);
    if let Ok(quantity) = Quantity::parse(text) {
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed).expect("what is printed is a quantity");
        assert_eq!(again, quantity, "{text} is printed as {printed}");
        assert_eq!(again.to_string(), printed);
        let _ = (
            quantity.value(),
            quantity.milli_value(),
            quantity.round_up_to_milli(),
            quantity.times(i64::MIN),
        );
        let _ = (quantity + quantity, quantity - again, quantity.approximate());
    }
    let _ = cron::check(text);
    for zone in ["TZ=UTC ", "CRON_TZ=x ", "@every "] {
        let _ = cron::check(&format!("{zone}{text}"));
    }
    if let Ok(number) = text.parse() {
        let _ = orlop_api::duration::human(number);
    }
    let _ = orlop_cel::parse_duration(text);
    let _ = (orlop_cel::is_uri(text), orlop_cel::is_uuid(text), orlop_cel::escape(text));
    if let Some(amount) = Amount::from_json(&Value::from(text.as_str())) {
        for total in [0, 1, 7, i64::from(i32::MAX), i64::MAX] {
            let _ = amount.resolve(total, orlop_api::int_or_string::Rounding::Up);
            let _ = amount.resolve(total, orlop_api::int_or_string::Rounding::Down);
        }
    }
    let rules = [
        NameRule::DnsSubdomain,
        NameRule::DnsLabel,
        NameRule::DnsLabelLetter,
        NameRule::PathSegment,
        NameRule::IpAddress,
    ];
    for rule in rules {
        let _ = (name::object_name(rule, text), name::object_name_prefix(rule, text));
    }
    let checks = [
        name::qualified_name,
        name::label_value,
        name::env_name,
        name::config_key,
        name::port_name,
        name::ip_address,
        name::canonical_ip_address,
        name::cidr,
        name::canonical_cidr,
        name::wildcard_subdomain,
        name::http_header_name,
    ];
    for check in checks {
        let _ = check(text);
    }
    name::domain_prefixed_path(text, &Path::new("x"), &mut orlop_api::FieldErrors::new());
    for format in FORMATS {
        let _ = orlop_custom::value::has_format(format, text);
    }
    if let Some(path) = orlop_custom::json_path::JsonPath::parse(text) {
        let value = serde_json::json!({"a": [1, {"b": "c"}], "spec": {"replicas": 1}});
        let _ = (path.find(&value), path.fields());
    }
}

const FORMATS: &[&str] = &[
    "date-time",
    "date",
    "duration",
    "uuid",
    "byte",
    "ipv4",
    "ipv6",
    "ip",
    "cidr",
    "hostname",
    "email",
    "uri",
    "mac",
    "bsonobjectid",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "k8s-short-name",
    "k8s-long-name",
    "unknown",
];

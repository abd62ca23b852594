//! Kubernetes' format library: named formats of text, and what is wrong with a text by each.

use super::{Outcome, url::Url};
use crate::value::Value;
use orlop_api::{NameRule, name};
use std::sync::Arc;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedFormat(usize);

const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// Whether a text is a UUID.
pub fn is_uuid(text: &str) -> bool {
    let text = text.as_bytes();
    text.len() == 36
        && text
            .iter()
            .enumerate()
            .all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { *b == b'-' } else { b.is_ascii_hexdigit() })
}

fn problems(name: &str, text: &str) -> Vec<String> {
    let unless = |ok: bool, what: &str| if ok { Vec::new() } else { vec![format!("invalid {what}")] };
    match name {
        "dns1123Label" => name::dns_label(text),
        "dns1123Subdomain" => name::dns_subdomain(text),
        "dns1035Label" => name::dns_1035_label(text),
        "qualifiedName" => name::qualified_name(text),
        "dns1123LabelPrefix" => name::object_name_prefix(NameRule::DnsLabel, text),
        "dns1123SubdomainPrefix" => name::object_name_prefix(NameRule::DnsSubdomain, text),
        "dns1035LabelPrefix" => name::object_name_prefix(NameRule::DnsLabelLetter, text),
        "labelValue" => name::label_value(text),
        "uri" => Url::parse(text).err().into_iter().collect(),
        "uuid" => unless(is_uuid(text), "UUID"),
        "byte" => {
            use base64::Engine;
            unless(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "base64")
        }
        "date" => unless(text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(), "date"),
        _ => unless(text.contains(['T', 't']) && text.parse::<jiff::Timestamp>().is_ok(), "datetime"),
    }
}

fn find(name: &str) -> Option<Value> {
    NAMES.iter().position(|n| *n == name).map(|at| Value::Format(NamedFormat(at)))
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    Some(match (function, args) {
        ("format.named", [Value::String(name)]) => Ok(Value::Optional(find(name).map(Arc::new))),
        ("validate", [Value::Format(format), Value::String(text)]) => {
            let problems = problems(NAMES[format.0], text);
            let list = || Value::list(problems.iter().map(|p| Value::string(p.as_str())).collect());
            Ok(Value::Optional(if problems.is_empty() { None } else { Some(Arc::new(list())) }))
        }
        (function, []) => Ok(find(function.strip_prefix("format.")?)?),
        _ => return None,
    })
}

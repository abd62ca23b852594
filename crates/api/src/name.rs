//! What names, label keys and values, ports and keys may look like, in the words of
//! k8s.io/apimachinery `validation`. Each check returns all that is wrong; nothing means right.

use crate::{FieldErrors, NameRule, Path};

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
    is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation \
    is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
    subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
    character (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
    with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used \
    for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
    '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
    'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(|b| lower_alphanumeric(*b));
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| lower_alphanumeric(*b) || *b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// An RFC 1123 label: one part of a host name.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(value) {
        // A valid subdomain that is no label can only have dots too many.
        errors.push(if is_subdomain(value) { "must not contain dots" } else { LABEL_MESSAGE }.to_string());
    }
    errors
}

/// An RFC 1123 subdomain: a host name.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if !is_subdomain(value) {
        errors.push(SUBDOMAIN_MESSAGE.to_string());
    }
    errors
}

/// An RFC 1035 label: starts with a letter.
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(LABEL_1035_MESSAGE.to_string());
    }
    errors
}

/// Something that can be one segment of a path.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => ["/", "%"]
            .iter()
            .filter(|c| value.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// `metadata.name` of a kind with that rule.
pub fn object_name(rule: NameRule, value: &str) -> Vec<String> {
    match rule {
        NameRule::DnsSubdomain => dns_subdomain(value),
        NameRule::DnsLabel => dns_label(value),
        NameRule::DnsLabelLetter => dns_1035_label(value),
        NameRule::PathSegment => path_segment(value),
        NameRule::IpAddress => canonical_ip_address(value),
    }
}

/// `metadata.generateName` of a kind with that rule: a name that may still end in `-`.
pub fn object_name_prefix(rule: NameRule, value: &str) -> Vec<String> {
    match value.strip_suffix('-') {
        // What comes after the dash is made by the server, and is right.
        Some(stem) if !stem.is_empty() => object_name(rule, &format!("{stem}a")),
        _ => object_name(rule, value),
    }
}

/// A label or annotation key: `name` or `prefix/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_string());
            } else {
                errors.extend(dns_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_string());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {QUALIFIED_MESSAGE}"));
    }
    errors
}

/// A label value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push(LABEL_VALUE_MESSAGE.to_string());
    }
    errors
}

/// The name of an environment variable.
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_string()];
    }
    let good = value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if good { Vec::new() } else { vec![ENV_NAME_MESSAGE.to_string()] }
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errors.push(CONFIG_KEY_MESSAGE.to_string());
    }
    match value {
        "." | ".." => errors.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => errors.push("must not start with '..'".to_string()),
        _ => {}
    }
    errors
}

/// The name of a port (an IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut wrong = |is: bool, message: &str| {
        if is {
            errors.push(message.to_string());
        }
    };
    wrong(value.len() > 15, "must be no more than 15 bytes");
    wrong(
        !value.bytes().all(|b| lower_alphanumeric(b) || b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    wrong(!value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    wrong(value.contains("--"), "must not contain consecutive hyphens");
    wrong(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    errors
}

/// The number of a port.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_string()]
    }
}

/// An IPv4 or IPv6 address.
pub fn ip_address(value: &str) -> Vec<String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string()],
    }
}

/// An address in the one form that stands for it.
pub fn canonical_ip_address(value: &str) -> Vec<String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() == value => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Err(_) => ip_address(value),
    }
}

/// A network in CIDR notation.
pub fn cidr(value: &str) -> Vec<String> {
    match value.parse::<ipnet::IpNet>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_string()],
    }
}

/// A network in the one form that stands for it.
pub fn canonical_cidr(value: &str) -> Vec<String> {
    match value.parse::<ipnet::IpNet>() {
        Ok(net) if net.trunc().to_string() == value => Vec::new(),
        Ok(net) => vec![format!("must be in canonical form ({:?})", net.trunc().to_string())],
        Err(_) => cidr(value),
    }
}

/// The address of an interface with the length of its network's prefix, in the one form that stands for it.
pub fn interface_address(value: &str) -> Vec<String> {
    match value.parse::<ipnet::IpNet>() {
        Ok(address) if address.to_string() == value => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form ({:?})", address.to_string())],
        Err(_) => {
            vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_string()]
        }
    }
}

/// A host name whose first label may be anything: `*.example.com`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(WILDCARD_MESSAGE.to_string());
    }
    errors
}

/// `example.com/what`: a path behind the domain of who defines it, and what is wrong with it at `path`.
pub fn domain_prefixed_path(value: &str, path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    match value.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.messages(path, domain, dns_subdomain(domain));
            let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(good) {
                let message =
                    "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.invalid(path, rest, message);
            }
        }
        _ => errors.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    let good = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if good { Vec::new() } else { vec![HEADER_MESSAGE.to_string()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(check: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(check(value), Vec::<String>::new(), "{value:?} should be right");
        }
        for value in bad {
            assert_ne!(check(value), Vec::<String>::new(), "{value:?} should be wrong");
        }
    }

    #[test]
    fn names_of_each_rule() {
        let long = "a".repeat(64);
        let longest = "a".repeat(63);
        table(
            dns_label,
            &["a", "0", "a-b", "1a", &longest],
            &["", "-a", "a-", "A", "a_b", "a.b", "é", &long],
        );
        table(dns_subdomain, &["a", "a.b", "1.2", &long], &["", ".", "a..b", "a.", ".a", "A", "a_b", "a.-b"]);
        table(dns_1035_label, &["a", "a1", "a-b"], &["", "1a", "-a", "a-", "A", "a.b", &long]);
        table(path_segment, &["a", "system:x", "A B"], &[".", "..", "a/b", "a%b"]);
        table(
            qualified_name,
            &["a", "A.b_c", "x.io/A", "1"],
            &["", "/a", "x/", "x/y/z", "-a", "a-", "A_/b", "a b", &long],
        );
        table(label_value, &["", "a", "A.b_c-1", &longest], &["-", "a-", "a b", "a/b", &long]);
        table(env_name, &["A", "a.b-c", "1", "a b"], &["", "a=b", "a\nb", "é"]);
        table(config_key, &["a", "A_b.c-d", ".a"], &["", ".", "..", "..a", "a/b"]);
        table(
            port_name,
            &["http", "a-1", "p80"],
            &["", "80", "HTTP", "a--b", "-a", "a-", "a-very-long-port"],
        );
        table(ip_address, &["1.2.3.4", "fd00::1"], &["", "1.2.3", "1.2.3.4/8", "a"]);
        table(cidr, &["10.0.0.0/8", "fd00::/64"], &["", "10.0.0.0", "10.0.0.0/33"]);
        table(http_header_name, &["X-A"], &["", "a b", "a:b"]);
    }

    #[test]
    fn the_words_are_those_of_kubernetes() {
        assert_eq!(
            dns_subdomain("A_b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(object_name_prefix(NameRule::DnsSubdomain, "web-").is_empty());
        assert!(object_name_prefix(NameRule::DnsSubdomain, "web").is_empty());
        assert!(!object_name_prefix(NameRule::DnsSubdomain, "Web-").is_empty());
        assert!(!object_name_prefix(NameRule::DnsSubdomain, "-").is_empty());
    }
}

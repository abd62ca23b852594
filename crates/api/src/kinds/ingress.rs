//! Ingress (networking.k8s.io/v1): by which hosts and paths the Services of a namespace are reached from outside.

use super::{base, ingress_class, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, name,
    object::{has, int, len, list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// The description of Ingress.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ing"]),
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Class", "Who serves it."),
            print::text_column("Hosts", "The hosts it answers for."),
            print::text_column("Address", "Where it is reached."),
            print::text_column("Ports", "The ports it is reached on."),
            print::age_column(),
        ],
        ..base("networking.k8s.io", "v1", "Ingress", "ingresses", Ingress)
    }
}

/// The annotation that was there before `spec.ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

struct Ingress;

impl Rules for Ingress {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let rules = list(object, "/spec/rules");
        let default = object.pointer("/spec/defaultBackend").filter(|b| !b.is_null());
        if rules.is_empty() && default.is_none() {
            let message = "either `defaultBackend` or `rules` must be specified";
            errors.invalid(&path, rules.to_vec(), message);
        }
        if let Some(backend) = default {
            validate_backend(backend, &path.child("defaultBackend"), &mut errors);
        }
        for (at, rule) in rules.iter().enumerate() {
            validate_rule(rule, &path.child("rules").index(at), &mut errors);
        }
        for (at, tls) in list(object, "/spec/tls").iter().enumerate() {
            validate_tls(tls, &path.child("tls").index(at), &mut errors);
        }
        let class = object.pointer("/spec/ingressClassName").and_then(Value::as_str);
        if let Some(class) = class {
            errors.messages(&path.child("ingressClassName"), class, name::dns_subdomain(class));
        }
        let old = object.pointer("/metadata/annotations").and_then(|a| a.get(OLD_CLASS)?.as_str());
        // Only a new object must not contradict itself.
        if let (Some(class), Some(old), false) = (class, old, has(object, "/metadata/resourceVersion"))
            && class != old
        {
            let message = "must match `ingressClassName` when both are specified";
            errors.invalid(Path::new("annotations").child(OLD_CLASS), old, message);
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (at, ingress) in list(new, "/status/loadBalancer/ingress").iter().enumerate() {
            let path = Path::new("status.loadBalancer.ingress").index(at);
            let (ip, host) = (text(ingress, "/ip"), text(ingress, "/hostname"));
            if !ip.is_empty() {
                errors.messages(&path.child("ip"), ip, name::ip_address(ip));
            }
            if !host.is_empty() {
                validate_host(host, &path.child("hostname"), &mut errors);
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let class = text(object, "/spec/ingressClassName");
        let addresses: BTreeSet<&str> = list(object, "/status/loadBalancer/ingress")
            .iter()
            .map(|i| if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") })
            .filter(|a| !a.is_empty())
            .collect();
        let ports = if len(object, "/spec/tls") > 0 { "80, 443" } else { "80" };
        vec![
            print::name(object),
            print::or_none(class),
            hosts(object).into(),
            addresses.into_iter().collect::<Vec<_>>().join(",").into(),
            ports.into(),
            print::age(object, now),
        ]
    }
}

/// The first three hosts, or `*` for all.
/// The first three hosts; whatever rules there are besides are counted, even those for any host.
fn hosts(object: &Value) -> String {
    let rules = list(object, "/spec/rules");
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == 3;
        hosts.extend(Some(text(rule, "/host")).filter(|host| !more && !host.is_empty()));
    }
    match hosts.join(",") {
        none if none.is_empty() => "*".into(),
        shown if more => format!("{shown} + {} more...", rules.len() - 3),
        shown => shown,
    }
}

fn validate_host(host: &str, path: &Path, errors: &mut FieldErrors) {
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    errors.messages(path, host, host_rule(host));
}

fn host_rule(host: &str) -> Vec<String> {
    if host.contains('*') { name::wildcard_subdomain(host) } else { name::dns_subdomain(host) }
}

fn validate_rule(rule: &Value, path: &Path, errors: &mut FieldErrors) {
    let host = text(rule, "/host");
    if !host.is_empty() {
        validate_host(host, &path.child("host"), errors);
    }
    if !has(rule, "/http") {
        return;
    }
    let path = path.child("http.paths");
    let paths = list(rule, "/http/paths");
    if paths.is_empty() {
        errors.required(&path, "");
    }
    for (at, entry) in paths.iter().enumerate() {
        validate_path(entry, &path.index(at), errors);
    }
}

fn validate_path(entry: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("path");
    let given = text(entry, "/path");
    let kind = text(entry, "/pathType");
    if !has(entry, "/pathType") {
        errors.required(path.child("pathType"), "pathType must be specified");
        return;
    }
    match kind {
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                errors.invalid(&at, given, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| given.contains(**part)) {
                errors.invalid(&at, given, format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| given.ends_with(**end)) {
                errors.invalid(&at, given, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                errors.invalid(&at, given, "must be an absolute path");
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.one_of(&path.child("pathType"), other, &known);
        }
    }
    let backend = entry.get("backend").unwrap_or(&Value::Null);
    validate_backend(backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &Value, path: &Path, errors: &mut FieldErrors) {
    let resource = backend.get("resource").filter(|r| !r.is_null());
    match (resource, has(backend, "/service")) {
        (Some(_), true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), false) => {
            ingress_class::validate_reference(resource, &path.child("resource"), errors);
        }
        (None, true) => validate_service(backend, path, errors),
        (None, false) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_service(backend: &Value, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("service");
    errors.required_and(&at.child("name"), text(backend, "/service/name"), |name| {
        name::object_name(NameRule::DnsLabelLetter, name)
    });
    let port = text(backend, "/service/port/name");
    let number = int(backend, "/service/port/number").unwrap_or_default();
    match (port.is_empty(), number) {
        (true, 0) => errors.required(path, "port name or number is required"),
        (true, number) => {
            for message in name::port_number(number) {
                errors.invalid(at.child("port.number"), number, message);
            }
        }
        (false, 0) => errors.messages(&at.child("port.name"), port, name::port_name(port)),
        (false, _) => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_tls(tls: &Value, path: &Path, errors: &mut FieldErrors) {
    for (at, host) in list(tls, "/hosts").iter().enumerate() {
        let host = host.as_str().unwrap_or_default();
        errors.messages(&path.child("hosts").index(at), host, host_rule(host));
    }
    let secret = text(tls, "/secretName");
    if !secret.is_empty() {
        errors.messages(&path.child("secretName"), secret, name::dns_subdomain(secret));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(spec: Value) -> Vec<String> {
        Ingress.validate(&json!({"spec": spec})).into_iter().map(|e| e.to_string()).collect()
    }

    fn rule(path: &str, kind: &str, backend: Value) -> Value {
        json!({"rules": [{"host": "a.example.com", "http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]})
    }

    #[test]
    fn wrong_fields_are_named() {
        let service = json!({"service": {"name": "web", "port": {"number": 80}}});
        assert_eq!(wrong(rule("/", "Prefix", service.clone())), Vec::<String>::new());
        assert_eq!(wrong(json!({"defaultBackend": service})), Vec::<String>::new());
        let at = "spec.rules[0].http.paths[0]";
        for (spec, want) in [
            (
                json!({}),
                "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified".to_string(),
            ),
            (
                rule("x", "Exact", service.clone()),
                format!("{at}.path: Invalid value: \"x\": must be an absolute path"),
            ),
            (
                rule("/a//b", "Prefix", service.clone()),
                format!("{at}.path: Invalid value: \"/a//b\": must not contain '//'"),
            ),
            (
                rule("/", "Regex", service.clone()),
                format!(
                    "{at}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
                ),
            ),
            (
                rule("/", "Prefix", json!({})),
                format!("{at}.backend: Invalid value: \"\": resource or service backend is required"),
            ),
            (
                rule("/", "Prefix", json!({"service": {"name": "web"}})),
                format!("{at}.backend: Required value: port name or number is required"),
            ),
            (
                json!({"rules": [{"host": "1.2.3.4"}]}),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"
                    .to_string(),
            ),
        ] {
            assert_eq!(wrong(spec.clone()), [want], "{spec}");
        }
        assert!(wrong(json!({"rules": [{"host": "*.a"}]})).is_empty());
        assert!(
            wrong(json!({"rules": [{"host": "a.*"}]}))[0]
                .contains("a wildcard DNS-1123 subdomain must start with '*.'")
        );
    }

    #[test]
    fn the_row_shows_hosts_and_addresses() {
        let object = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "c", "tls": [{}],
            "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "h"}]}}});
        let row = Ingress.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..5], ["c", "a,b,c + 1 more...", "1.2.3.4,h", "80, 443"].map(Value::from));
        let address = |ip: &str| json!({"ip": ip});
        let object = json!({
            "metadata": {"annotations": {"kubernetes.io/ingress.class": "old"}},
            "spec": {"rules": [{"host": "a"}, {}, {"host": "b"}, {"host": "c"}, {}]},
            "status": {"loadBalancer": {"ingress": [address("9.9.9.9"), address("1.1.1.1"), address("9.9.9.9")]}}});
        let row = Ingress.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..5], ["<none>", "a,b,c + 2 more...", "1.1.1.1,9.9.9.9", "80"].map(Value::from));
        assert_eq!(Ingress.cells(&json!({"spec": {"rules": [{}]}}), Timestamp::UNIX_EPOCH)[2], "*");
    }
}

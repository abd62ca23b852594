//! Validation of Services.

use super::{
    defaults::{is_external, needs_cluster_ip, needs_health_check},
    families::family_of,
};
use crate::{
    FieldErrors, Path,
    kinds::endpoint_slice,
    metadata::validate_labels,
    name,
    object::{has, int, list, map, text},
    pod_spec::probes::validate_port,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// All that is wrong with the spec.
pub(super) fn validate(service: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let kind = text(service, "/spec/type");
    let headless = text(service, "/spec/clusterIP") == "None";
    let ports = list(service, "/spec/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(path.child("ports"), "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let message = format!("may not be set to 'None' for {kind} services");
        errors.invalid(path.child("clusterIPs").index(0), "None", message);
    }
    if kind == "ExternalName" {
        validate_external_name(service, &path, errors);
    }
    validate_ports(kind, ports, &path.child("ports"), errors);
    validate_labels(map(service, "/spec/selector"), &path.child("selector"), errors);
    validate_affinity(service, &path, errors);
    errors.required_one_of(&path.child("type"), kind, &TYPES);
    if needs_cluster_ip(service) {
        validate_cluster_ips(service, &path, errors);
    }
    for (at, ip) in list(service, "/spec/externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        let path = path.child("externalIPs").index(at);
        match ip.parse() {
            Ok(ip) => endpoint_slice::validate_usable(ip, &path, errors),
            Err(_) => errors.messages(&path, ip, name::ip_address(ip)),
        }
    }
    validate_policies(service, &path, errors);
    for (at, range) in list(service, "/spec/loadBalancerSourceRanges").iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        // That is how Kubernetes writes it.
        let path = path.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" && at == 0 {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        errors.messages(&path.index(at), range, name::cidr(range));
    }
    if kind != "LoadBalancer" && has(service, "/spec/allocateLoadBalancerNodePorts") {
        let message = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden(path.child("allocateLoadBalancerNodePorts"), message);
    }
    let class = text(service, "/spec/loadBalancerClass");
    if !class.is_empty() {
        let path = path.child("loadBalancerClass");
        if kind == "LoadBalancer" {
            errors.messages(&path, class, name::qualified_name(class));
        } else {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn validate_external_name(service: &Value, path: &Path, errors: &mut FieldErrors) {
    if !list(service, "/spec/clusterIPs").is_empty() || !text(service, "/spec/clusterIP").is_empty() {
        errors.forbidden(path.child("clusterIPs"), "may not be set for ExternalName services");
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        let given = &service["spec"][field];
        if !given.is_null() && *given != json!([]) {
            errors.forbidden(path.child(field), "may not be set for ExternalName services");
        }
    }
    let external = text(service, "/spec/externalName");
    let bare = external.strip_suffix('.').unwrap_or(external);
    if bare.is_empty() {
        errors.required(path.child("externalName"), "");
    } else {
        errors.messages(&path.child("externalName"), bare, name::dns_subdomain(bare));
    }
}

fn validate_ports(kind: &str, ports: &[Value], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let (name, protocol) = (text(port, "/name"), text(port, "/protocol"));
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(path.child("name"), "");
            }
        } else {
            errors.messages(&path.child("name"), name, name::dns_label(name));
            if !names.insert(name) {
                errors.duplicate(path.child("name"), name);
            }
        }
        let number = int(port, "/port").unwrap_or_default();
        for message in name::port_number(number) {
            errors.invalid(path.child("port"), number, message);
        }
        errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        let target = port.get("targetPort").unwrap_or(&Value::Null);
        if let Some(target) = errors.decode::<IntOrString>(&path.child("targetPort"), target) {
            validate_port(&target, &path.child("targetPort"), errors);
        }
        let app = text(port, "/appProtocol");
        if !app.is_empty() {
            errors.messages(&path.child("appProtocol"), app, name::qualified_name(app));
        }
        if !numbers.insert((number, protocol)) {
            errors.duplicate(&path, json!({"port": number, "protocol": protocol}));
        }
        let node = int(port, "/nodePort").unwrap_or_default();
        if node != 0 {
            match kind {
                "ClusterIP" => {
                    let message = "may not be used when `type` is 'ClusterIP'";
                    errors.forbidden(path.child("nodePort"), message);
                }
                _ if !node_ports.insert((node, protocol)) => errors.duplicate(path.child("nodePort"), node),
                _ => {}
            }
        }
    }
}

fn validate_affinity(service: &Value, path: &Path, errors: &mut FieldErrors) {
    let affinity = text(service, "/spec/sessionAffinity");
    errors.required_one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    if affinity == "ClientIP" {
        let path = path.child("sessionAffinityConfig.clientIP.timeoutSeconds");
        match int(service, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds") {
            None => errors.required(&path, ""),
            Some(seconds) if !(1..=86400).contains(&seconds) => {
                errors.invalid(&path, seconds, "must be greater than 0 and less than 86400");
            }
            Some(_) => {}
        }
    }
}

fn validate_cluster_ips(service: &Value, path: &Path, errors: &mut FieldErrors) {
    let single = text(service, "/spec/clusterIP");
    let all: Vec<&str> = list(service, "/spec/clusterIPs").iter().filter_map(Value::as_str).collect();
    let ips = path.child("clusterIPs");
    match all.first() {
        Some(_) if single.is_empty() => {
            errors.invalid(&ips, json!(all), "must be empty when `clusterIP` is not specified");
        }
        Some(first) if *first != single => {
            errors.invalid(&ips, json!(all), "first value must match `clusterIP`");
        }
        _ => {}
    }
    if all.contains(&"None") && all.len() > 1 {
        errors.invalid(&ips, json!(all), "'None' must be the first and only value");
    }
    if all.len() > 2 {
        errors.invalid(&ips, json!(all), "may only hold up to 2 values");
    }
    let mut parsed = Vec::new();
    for (at, ip) in all.iter().enumerate().filter(|(_, ip)| **ip != "None") {
        let wrong =
            name::ip_address(ip).into_iter().map(|_| "must be empty, 'None', or a valid IP address".into());
        errors.messages(&ips.index(at), ip, wrong.collect());
        parsed.extend(ip.parse::<IpAddr>());
    }
    let families: Vec<&str> = list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str).collect();
    for (at, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(at);
        errors.one_of(&path, family, &["IPv4", "IPv6"]);
        if families[..at].contains(family) {
            errors.duplicate(&path, *family);
        }
    }
    // Of addresses that are wrong in themselves nothing more is said.
    if parsed.len() == all.len() {
        if let [one, other] = parsed.as_slice()
            && one.is_ipv4() == other.is_ipv4()
        {
            errors.invalid(&ips, json!(all), "may specify no more than one IP for each IP family");
        }
        for (at, (ip, family)) in parsed.iter().zip(&families).enumerate() {
            if matches!(*family, "IPv4" | "IPv6") && *family != family_of(*ip) {
                let message = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
                errors.invalid(ips.index(at), ip.to_string(), message);
            }
        }
    }
    let policy = text(service, "/spec/ipFamilyPolicy");
    if !policy.is_empty() {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.one_of(&path.child("ipFamilyPolicy"), policy, &supported);
    }
}

fn validate_policies(service: &Value, path: &Path, errors: &mut FieldErrors) {
    let external = text(service, "/spec/externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if is_external(service) {
        errors.required_one_of(&at, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.invalid(&at, external, "may only be set for externally-accessible services");
    }
    let port = int(service, "/spec/healthCheckNodePort").unwrap_or_default();
    if port != 0 && !needs_health_check(service) {
        let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(path.child("healthCheckNodePort"), port, message);
    }
    let internal = text(service, "/spec/internalTrafficPolicy");
    if needs_cluster_ip(service) {
        let supported = ["Cluster", "Local"];
        errors.required_one_of(&path.child("internalTrafficPolicy"), internal, &supported);
    } else if !internal.is_empty() {
        errors.one_of(&path.child("internalTrafficPolicy"), internal, &["Cluster", "Local"]);
    }
    let distribution = text(service, "/spec/trafficDistribution");
    if !distribution.is_empty() {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.one_of(&path.child("trafficDistribution"), distribution, &supported);
    }
}

/// All that is wrong with a change: addresses that were given stay.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !needs_cluster_ip(old) || !needs_cluster_ip(new) {
        return;
    }
    let policy = text(new, "/spec/ipFamilyPolicy");
    for (field, primary) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        let path = Path::new("spec").child(field);
        let pointer = format!("/spec/{field}");
        let (before, after) = (list(old, &pointer), list(new, &pointer));
        for (at, value) in before.iter().enumerate() {
            match after.get(at) {
                // Families that are not said follow from the addresses.
                None if at == 0 && field == "ipFamilies" => break,
                None if at == 0 => {
                    let message = format!("primary {primary} can not be unset");
                    errors.invalid(path.index(0), json!(after), message);
                }
                None if policy != "SingleStack" => {
                    let message =
                        format!("must be set to 'SingleStack' when releasing the secondary {primary}");
                    errors.invalid("spec.ipFamilyPolicy", policy, message);
                }
                Some(now) if now != value => {
                    errors.invalid(path.index(at), json!(after), "may not change once set");
                }
                _ => {}
            }
        }
    }
    let health = |object: &Value| int(object, "/spec/healthCheckNodePort").unwrap_or_default();
    if needs_health_check(old) && needs_health_check(new) && health(old) != health(new) {
        errors.forbidden("spec.healthCheckNodePort", "field is immutable");
    }
    let class = |object: &Value| text(object, "/spec/loadBalancerClass").to_string();
    let balanced = |object: &Value| text(object, "/spec/type") == "LoadBalancer";
    if balanced(new) && balanced(old) && class(new) != class(old) {
        errors.invalid("spec.loadBalancerClass", class(new), "may not change once set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::service::defaults::set_defaults;

    fn service(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        set_defaults(&mut object);
        object
    }

    fn wrong(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        validate(&service(spec), &mut errors);
        errors.into_vec().into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn usual_services_are_right() {
        for spec in [
            json!({"ports": [{"port": 80}], "selector": {"a": "b"}}),
            json!({"clusterIP": "None"}),
            json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "http"}]}),
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            json!({"type": "LoadBalancer", "ports": [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]}),
            json!({"type": "ExternalName", "externalName": "example.com."}),
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"]}),
        ] {
            assert_eq!(wrong(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let http = json!([{"port": 80}]);
        for (spec, want) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (json!({"ports": [{"port": 1}, {"name": "b", "port": 2}]}), "spec.ports[0].name: Required value"),
            (
                json!({"ports": [{"name": "b", "port": 1}, {"name": "b", "port": 2}]}),
                "spec.ports[1].name: Duplicate value: \"b\"",
            ),
            (
                json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}),
                "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30080}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": http, "type": "Magic"}),
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \
                 \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"ports": http, "clusterIP": "10.0.0"}),
                "spec.clusterIPs[0]: Invalid value: \"10.0.0\": must be empty, 'None', or a valid IP address",
            ),
            (
                json!({"ports": http, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ports": http, "clusterIP": "None", "type": "NodePort"}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.1"}),
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            ),
            (
                json!({"ports": http, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than \
                 86400",
            ),
            (
                json!({"ports": http, "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"ports": http, "externalIPs": ["127.0.0.1"]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"ports": http, "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"ports": http, "allocateLoadBalancerNodePorts": false}),
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"type": "ExternalName", "externalName": "a", "ipFamilies": ["IPv4"]}),
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            ),
            (
                json!({"ports": http, "ipFamilies": ["IPv4", "IPv4"]}),
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            ),
            (
                json!({"ports": http, "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            ),
            (
                json!({"ports": http, "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({"ports": http, "externalIPs": ["x"]}),
                "spec.externalIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        ] {
            let found = wrong(spec.clone());
            assert!(found.iter().any(|e| e == want), "{spec}\n  want {want}\n  got  {found:#?}");
        }
    }

    #[test]
    fn the_address_may_not_change() {
        let old = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1"}));
        let paths = |new: &Value| {
            let mut errors = FieldErrors::new();
            validate_update(new, &old, &mut errors);
            errors.into_vec().into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(paths(&old).is_empty());
        assert_eq!(
            paths(&service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2"}))),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
        assert_eq!(
            paths(&service(json!({"ports": [{"port": 80}]}))),
            ["spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset"]
        );
        assert!(paths(&service(json!({"type": "ExternalName", "externalName": "a"}))).is_empty());
    }
}

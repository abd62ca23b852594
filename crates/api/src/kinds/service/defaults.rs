//! What a Service gets where it says nothing, and what an update carries over. Which address or node port it gets
//! is the API server's to choose.

use crate::object::{carry_over, child, each, has, list, put, set_default, set_default_nonzero, text};
use serde_json::{Value, json};

/// Whether it gets an address inside the cluster.
pub fn needs_cluster_ip(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName"
}

/// Whether its ports are open on the nodes.
pub fn needs_node_port(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// Whether it can be reached from outside.
pub(super) fn is_external(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(service, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether the node of the client or of the load balancer decides where a connection goes, so that a port for
/// its health check is needed.
pub(super) fn needs_health_check(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Fills in what does not depend on the cluster.
pub(super) fn set_defaults(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|s| s.is_object()) else { return };
    set_default_nonzero(spec, "type", "ClusterIP");
    set_default_nonzero(spec, "sessionAffinity", "None");
    match text(spec, "/sessionAffinity") {
        "ClientIP" => {
            let config = child(spec, "sessionAffinityConfig").and_then(|config| child(config, "clientIP"));
            if let Some(client) = config {
                set_default(client, "timeoutSeconds", 10800);
            }
        }
        "None" => {
            if let Some(map) = spec.as_object_mut() {
                map.remove("sessionAffinityConfig");
            }
        }
        _ => {}
    }
    each(spec, "ports", |port| {
        set_default_nonzero(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        set_default_nonzero(port, "targetPort", number);
    });
    mirror_cluster_ips(spec);
    let kind = text(spec, "/type").to_string();
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default_nonzero(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_external(service) {
        set_default_nonzero(&mut service["spec"], "externalTrafficPolicy", "Cluster");
    }
    if let Some(balancer) = service.pointer_mut("/status/loadBalancer").filter(|_| kind == "LoadBalancer") {
        each(balancer, "ingress", |ingress| {
            if !text(ingress, "/ip").is_empty() {
                set_default(ingress, "ipMode", "VIP");
            }
        });
    }
}

/// `clusterIP` is the first of `clusterIPs`; where only one of them is there, the other is filled in.
pub(super) fn mirror_cluster_ips(spec: &mut Value) {
    let single = text(spec, "/clusterIP").to_string();
    if list(spec, "/clusterIPs").is_empty() {
        if !single.is_empty() {
            spec["clusterIPs"] = json!([single]);
        }
    } else if single.is_empty() && !spec.as_object().is_some_and(|m| m.contains_key("clusterIP")) {
        spec["clusterIP"] = spec["clusterIPs"][0].clone();
    }
}

/// What an update that says nothing of them keeps: addresses, node ports and families that the server chose.
/// What no longer goes with the type is dropped.
pub(super) fn carry_over_allocated(new: &mut Value, old: &Value) {
    if !new["spec"].is_object() {
        return;
    }
    drop_what_the_type_forbids(new, old);
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let spec = &mut new["spec"];
        if text(spec, "/clusterIP").is_empty() && spec.get("clusterIPs").is_none_or(|ips| ips.is_null()) {
            carry_over(spec, &old["spec"], "clusterIP");
            carry_over(spec, &old["spec"], "clusterIPs");
        } else if text(spec, "/clusterIP") == text(old, "/spec/clusterIP")
            && list(spec, "/clusterIPs").is_empty()
        {
            carry_over(spec, &old["spec"], "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(&new["spec"], &format!("/{field}")) {
                carry_over(&mut new["spec"], &old["spec"], field);
            }
        }
        mirror_cluster_ips(&mut new["spec"]);
    }
    if needs_node_port(new) && needs_node_port(old) {
        keep_node_ports(new, old);
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && new["spec"]["healthCheckNodePort"].as_i64().unwrap_or_default() == 0
    {
        carry_over(&mut new["spec"], &old["spec"], "healthCheckNodePort");
    }
}

fn keep_node_ports(new: &mut Value, old: &Value) {
    let key = |port: &Value| (port["port"].clone(), text(port, "/protocol").to_string());
    let taken: Vec<Value> = list(new, "/spec/ports").iter().map(|p| p["nodePort"].clone()).collect();
    let before = list(old, "/spec/ports").to_vec();
    each(&mut new["spec"], "ports", |port| {
        if port["nodePort"].as_i64().unwrap_or_default() != 0 {
            return;
        }
        let same = before.iter().find(|p| key(p) == key(port)).map(|p| p["nodePort"].clone());
        match same.filter(|n| n.is_number() && !taken.contains(n)) {
            Some(node_port) => put(port, "nodePort", node_port),
            None => {
                if let Some(map) = port.as_object_mut() {
                    map.remove("nodePort");
                }
            }
        }
    });
}

/// On a change of type, what the old type had and the client just sent back.
fn drop_what_the_type_forbids(new: &mut Value, old: &Value) {
    let spec = |object: &Value, field: &str| object["spec"].get(field).cloned().unwrap_or(Value::Null);
    let unchanged = |new: &Value, field: &str| spec(new, field) == spec(old, field);
    let mut drop = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) && unchanged(new, "clusterIP") {
        drop.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if !is_external(new) && is_external(old) && unchanged(new, "externalTrafficPolicy") {
        drop.push("externalTrafficPolicy");
    }
    if needs_health_check(old) && !needs_health_check(new) && unchanged(new, "healthCheckNodePort") {
        drop.push("healthCheckNodePort");
    }
    if text(old, "/spec/type") == "LoadBalancer" && text(new, "/spec/type") != "LoadBalancer" {
        drop.extend(
            ["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|f| unchanged(new, f)),
        );
    }
    if text(new, "/spec/type") == "ExternalName" && unchanged(new, "internalTrafficPolicy") {
        drop.push("internalTrafficPolicy");
    }
    if let Some(map) = new["spec"].as_object_mut() {
        for field in drop {
            map.remove(field);
        }
    }
    if needs_node_port(old) && !needs_node_port(new) {
        let before = list(old, "/spec/ports").to_vec();
        each(&mut new["spec"], "ports", |port| {
            let sent_back = before.iter().any(|p| p["nodePort"] == port["nodePort"]);
            if let Some(map) = port.as_object_mut().filter(|_| sent_back) {
                map.remove("nodePort");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        set_defaults(&mut object);
        object
    }

    #[test]
    fn a_bare_service_is_filled_in() {
        let object =
            service(json!({"ports": [{"port": 80}, {"port": 81, "targetPort": "http", "protocol": "UDP"}]}));
        assert_eq!(
            object["spec"],
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [
                    {"port": 80, "protocol": "TCP", "targetPort": 80},
                    {"port": 81, "protocol": "UDP", "targetPort": "http"}]})
        );
    }

    #[test]
    fn types_and_affinity_bring_their_own() {
        let spec = &service(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}))["spec"];
        assert_eq!(spec["externalTrafficPolicy"], "Cluster");
        assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
        assert_eq!(spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
        let spec = &service(json!({"type": "ExternalName", "externalName": "a.b"}))["spec"];
        assert_eq!(spec.get("internalTrafficPolicy"), None);
        assert_eq!(service(json!({"clusterIP": "None"}))["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(service(json!({"clusterIPs": ["10.0.0.5"]}))["spec"]["clusterIP"], "10.0.0.5");
    }

    #[test]
    fn an_update_keeps_what_the_server_chose() {
        let mut old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.1",
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 30081}]}));
        old["spec"]["ipFamilies"] = json!(["IPv4"]);
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 82}]}));
        carry_over_allocated(&mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);
        assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
    }

    #[test]
    fn a_change_of_type_drops_what_no_longer_fits() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        carry_over_allocated(&mut new, &old);
        assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(new["spec"].get("externalTrafficPolicy"), None);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        new["spec"]["type"] = json!("ExternalName");
        carry_over_allocated(&mut new, &old);
        assert_eq!(new["spec"].get("clusterIP"), None);
        assert_eq!(new["spec"].get("clusterIPs"), None);
    }
}

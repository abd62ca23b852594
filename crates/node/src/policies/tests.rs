//! What is read of the API's objects, and what is known after lists and watches.

use super::{catalogue::Catalogue, facts, text};
use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use kube::runtime::watcher::Event;
use orlop_network::{
    Protocol,
    policy::{CounterOf, Direction, ObjectName, Peer, Policy, Ports, Selector},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn object(spec: Value) -> NetworkPolicy {
    let metadata = json!({"namespace": "x", "name": "p", "resourceVersion": "7"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn read(spec: Value) -> Policy {
    facts::policy(&object(spec)).unwrap()
}

fn pod(name: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": "x", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": "here", "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 9}]}]},
        "status": status,
    }))
    .unwrap()
}

#[test]
fn a_policy_is_about_the_directions_that_it_names_or_has_rules_for() {
    let about = |spec: Value| {
        let policy = read(spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(about(json!({"podSelector": {}})), (true, false));
    assert_eq!(about(json!({"podSelector": {}, "egress": [{}]})), (true, true));
    assert_eq!(about(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
    assert_eq!(about(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]})), (false, true));
}

#[test]
fn absent_lists_mean_all_and_what_cannot_be_read_means_nothing() {
    let rules = |rule: Value| read(json!({"podSelector": {}, "ingress": [rule]})).ingress.unwrap().remove(0);
    let all = rules(json!({}));
    assert!(all.peers.is_empty() && all.ports.is_empty());
    assert!(rules(json!({"from": [], "ports": []})).peers.is_empty(), "an empty list is as none");
    let peer = |peer: Value| rules(json!({"from": [peer]})).peers.remove(0);
    assert_eq!(
        peer(json!({"namespaceSelector": {}})),
        Peer::Pods { namespaces: Some(Selector::default()), pods: Selector::default() }
    );
    assert_eq!(peer(json!({"podSelector": {}})), Peer::Pods { namespaces: None, pods: Selector::default() });
    let unknown = [
        json!({}),
        json!({"ipBlock": {"cidr": "nowhere"}}),
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["a"]}]}}),
    ];
    let someone = facts::pod(&pod("a", json!({"podIP": "10.0.0.1"}))).unwrap();
    for wrong in unknown {
        let nobody = peer(wrong.clone());
        let labels = BTreeMap::new();
        assert!(!nobody.matches("x", someone.addresses[0], Some((&someone, &labels))), "{wrong}");
    }
}

#[test]
fn ports_are_read_by_number_range_and_name() {
    let port = |port: Value| {
        let policy = read(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        let found = policy.ingress.unwrap()[0].ports[0].clone();
        (found.protocol, found.ports)
    };
    assert_eq!(port(json!({"port": 80})), (Protocol::Tcp, Ports::Range(80, 80)));
    assert_eq!(
        port(json!({"port": 80, "endPort": 90, "protocol": "SCTP"})),
        (Protocol::Sctp, Ports::Range(80, 90))
    );
    assert_eq!(port(json!({"port": "web", "protocol": "UDP"})), (Protocol::Udp, Ports::Named("web".into())));
    assert_eq!(port(json!({"protocol": "UDP"})), (Protocol::Udp, Ports::All));
    let none = Ports::Named(String::new());
    assert_eq!(port(json!({"port": 80, "endPort": 70})).1, none);
    assert_eq!(port(json!({"protocol": "QUIC"})).1, none);
}

#[test]
fn a_pod_has_its_addresses_until_it_has_ended() {
    let status = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "192.0.2.1"});
    let read = facts::pod(&pod("a", status.clone())).unwrap();
    assert_eq!(read.addresses.len(), 2);
    assert_eq!(read.node_addresses.len(), 1);
    let names: Vec<&str> = read.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["web", "dns"]);
    let mut ended = status;
    ended["phase"] = json!("Succeeded");
    assert!(facts::pod(&pod("a", ended)).unwrap().addresses.is_empty());
}

fn complete() -> Catalogue {
    let mut catalogue = Catalogue::new("here".into());
    catalogue.policy(Event::Init);
    catalogue.policy(Event::InitApply(object(json!({"podSelector": {}}))));
    catalogue.policy(Event::InitDone);
    catalogue.pod(Event::Init);
    catalogue.pod(Event::InitApply(pod("a", json!({"podIP": "10.0.0.1"}))));
    catalogue.pod(Event::InitDone);
    assert!(!catalogue.is_complete());
    catalogue.namespace(Event::Init);
    catalogue.namespace(Event::InitDone);
    assert!(catalogue.is_complete());
    catalogue
}

fn isolated(catalogue: &mut Catalogue) -> Vec<String> {
    catalogue.rules().pods.keys().map(|(_, address)| address.to_string()).collect()
}

#[test]
fn what_is_missing_in_a_new_list_is_gone() {
    let mut catalogue = complete();
    assert_eq!(isolated(&mut catalogue), ["10.0.0.1"]);
    catalogue.pod(Event::Init);
    catalogue.pod(Event::InitApply(pod("b", json!({"podIP": "10.0.0.2"}))));
    catalogue.pod(Event::InitDone);
    assert_eq!(isolated(&mut catalogue), ["10.0.0.2"]);
    catalogue.policy(Event::Init);
    assert_eq!(isolated(&mut catalogue), ["10.0.0.2"], "while a list is made, what is known holds");
    catalogue.policy(Event::InitDone);
    assert!(isolated(&mut catalogue).is_empty());
}

#[test]
fn a_pod_is_isolated_at_the_address_that_the_node_gave_it() {
    let mut catalogue = complete();
    let new = pod("new", json!({}));
    catalogue.place(&new, "new_0", &["10.0.0.9".parse().unwrap()]);
    assert!(catalogue.has_news());
    assert_eq!(isolated(&mut catalogue), ["10.0.0.1", "10.0.0.9"]);
    catalogue.place(&new, "new_1", &["10.0.0.10".parse().unwrap()]);
    catalogue.unplace("new", "new_0");
    assert_eq!(
        isolated(&mut catalogue),
        ["10.0.0.1", "10.0.0.10"],
        "an earlier sandbox's end takes nothing away"
    );
    catalogue.unplace("new", "new_1");
    assert_eq!(isolated(&mut catalogue), ["10.0.0.1"]);
}

#[test]
fn a_listed_policy_is_known_when_it_was_heard_of_in_that_version() {
    let mut catalogue = complete();
    let name = |name: &str| ObjectName { namespace: "x".into(), name: name.into() };
    let listed = |all: &[(&str, &str)]| -> BTreeMap<ObjectName, String> {
        all.iter().map(|(n, v)| (name(n), (*v).into())).collect()
    };
    assert!(catalogue.knows("x", &listed(&[("p", "7")])) && catalogue.knows("y", &listed(&[])));
    assert!(!catalogue.knows("x", &listed(&[("p", "8")])) && !catalogue.knows("x", &listed(&[])));
    assert!(!catalogue.knows("x", &listed(&[("p", "7"), ("q", "9")])));
    catalogue.policy(Event::Delete(object(json!({"podSelector": {}}))));
    assert!(catalogue.knows("x", &listed(&[])));
}

#[test]
fn counters_are_shown_by_policy_direction_and_verdict() {
    let of = CounterOf {
        policy: ObjectName { namespace: "x".into(), name: "p".into() },
        direction: Direction::Ingress,
        allowed: false,
    };
    let shown = text(&vec![(of, 3)]);
    let line = "orlop_network_policy_packets_total{namespace=\"x\",policy=\"p\",direction=\"ingress\",verdict=\"denied\"} 3";
    assert!(shown.lines().any(|l| l == line), "{shown}");
    assert!(text(&vec![]).is_empty());
}

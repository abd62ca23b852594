//! What Services are called, inside the cluster and outside, and where their names lead.

use super::*;
use orlop_dns::{EndpointRecord, Layout, ServiceTarget};
use serde_json::{Value, json};

fn service(annotations: Value, spec: Value, status: Value) -> Service {
    let metadata = json!({"namespace": "default", "name": "web", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn slice(annotations: Value, endpoints: Value) -> EndpointSlice {
    let labels = json!({"kubernetes.io/service-name": "web"});
    let metadata =
        json!({"namespace": "default", "name": "web-1", "labels": labels, "annotations": annotations});
    let ports = json!([{"name": "http", "port": 8080}]);
    let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    serde_json::from_value(slice).unwrap()
}

fn node(name: &str, external: Option<&str>, ready: bool) -> Node {
    let last = name.chars().last().unwrap();
    let mut addresses = vec![json!({"type": "InternalIP", "address": format!("192.0.2.{last}")})];
    addresses.extend(external.map(|address| json!({"type": "ExternalIP", "address": address})));
    let ready = if ready { "True" } else { "Unknown" };
    let status = json!({"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]});
    serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
}

fn listed<K>(objects: Vec<K>) -> Vec<Event<K>> {
    let all = objects.into_iter().map(Event::InitApply);
    [Event::Init].into_iter().chain(all).chain([Event::InitDone]).collect()
}

fn news(service: Service, slice: EndpointSlice) -> News {
    let mut catalogue = Catalogue::new("node-1".into());
    listed(vec![service]).into_iter().for_each(|event| catalogue.service(event));
    listed(vec![slice]).into_iter().for_each(|event| catalogue.slice(event));
    let nodes = vec![
        node("node-1", None, true),
        node("node-2", Some("203.0.113.2"), true),
        node("node-3", None, false),
    ];
    listed(nodes).into_iter().for_each(|event| catalogue.node(event));
    catalogue.news()
}

/// `HOST ADDRESS PRIORITY WEIGHT PORT…`
fn printed(endpoints: &[EndpointRecord]) -> Vec<String> {
    let line = |e: &EndpointRecord| {
        let ports: Vec<String> = e.ports.iter().map(|p| format!("{}:{}", p.name, p.port)).collect();
        let host = e.hostname.clone().unwrap_or_default();
        format!("{host} {} {} {} {}", e.address, e.rank.priority, e.rank.weight, ports.join(" "))
    };
    endpoints.iter().map(line).collect()
}

fn endpoints_of(target: &ServiceTarget) -> Vec<String> {
    match target {
        ServiceTarget::Headless { endpoints } => printed(endpoints),
        other => panic!("{other:?}"),
    }
}

fn inside(news: &News) -> Vec<String> {
    endpoints_of(&news.set[0].0.target)
}

fn outside(news: &News) -> Option<Vec<String>> {
    news.set[0].1.as_ref().map(|exported| endpoints_of(&exported.record.target))
}

fn two_pods() -> Value {
    json!([
        {"addresses": ["10.42.0.5"], "nodeName": "node-1", "hostname": "web-0"},
        {"addresses": ["10.42.1.5"], "nodeName": "node-2"},
    ])
}

fn headless() -> Value {
    json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})
}

#[test]
fn ranks_are_those_of_the_endpoint_else_of_its_slice_else_of_the_service() {
    let notes = r#"{"10.42.0.5": {"priority": 10}, "10.42.9.9": {"weight": 1}}"#;
    for (of_service, of_slice, expected) in [
        (json!({}), json!({}), ["web-0 10.42.0.5 0 100 http:8080", " 10.42.1.5 0 100 http:8080"]),
        (
            json!({"orlop.dev/srv-priority": "5", "orlop.dev/srv-weight": "30"}),
            json!({}),
            ["web-0 10.42.0.5 5 30 http:8080", " 10.42.1.5 5 30 http:8080"],
        ),
        (
            json!({"orlop.dev/srv-priority": "5", "orlop.dev/srv-weight": "30"}),
            json!({"orlop.dev/srv-weight": "7", "orlop.dev/endpoints": notes}),
            ["web-0 10.42.0.5 10 7 http:8080", " 10.42.1.5 5 7 http:8080"],
        ),
        (
            json!({"orlop.dev/srv-priority": "first", "orlop.dev/srv-weight": "70000"}),
            json!({"orlop.dev/endpoints": "nonsense"}),
            ["web-0 10.42.0.5 0 100 http:8080", " 10.42.1.5 0 100 http:8080"],
        ),
    ] {
        let news = news(service(of_service, headless(), json!({})), slice(of_slice, two_pods()));
        assert_eq!(inside(&news), expected);
    }
}

#[test]
fn a_pod_behind_a_port_of_its_node_is_found_there() {
    let notes =
        r#"{"10.42.0.5": {"ports": {"http": 18080}}, "10.42.1.5": {"weight": 5, "ports": {"http": 28080}}}"#;
    let through = json!({"orlop.dev/dns-access": "node"});
    let both = news(
        service(through, headless(), json!({})),
        slice(json!({"orlop.dev/endpoints": notes}), two_pods()),
    );
    assert_eq!(inside(&both), ["web-0 192.0.2.1 0 100 http:18080", "node-2 192.0.2.2 0 5 http:28080"]);
    assert_eq!(
        outside(&both).unwrap(),
        ["web-0 192.0.2.1 0 100 http:18080", "node-2 203.0.113.2 0 5 http:28080"]
    );
    // A pod in its node's network is there at its own port; others without a port of the node are not.
    let at_nodes = json!([
        {"addresses": ["192.0.2.1"], "nodeName": "node-1"},
        {"addresses": ["10.42.1.5"], "nodeName": "node-2"},
    ]);
    let news = news(service(json!({}), headless(), json!({})), slice(json!({}), at_nodes));
    assert_eq!(outside(&news).unwrap(), ["node-1 192.0.2.1 0 100 http:8080"]);
}

#[test]
fn a_node_port_is_found_at_all_nodes_that_carry_traffic_or_at_those_with_pods() {
    let spec = |policy: &str| {
        json!({
            "type": "NodePort", "clusterIP": "10.43.0.7", "externalTrafficPolicy": policy,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        })
    };
    let on_second = json!([{"addresses": ["10.42.1.5"], "nodeName": "node-2"}]);
    let of = |policy, endpoints| {
        outside(&news(service(json!({}), spec(policy), json!({})), slice(json!({}), endpoints)))
    };
    assert_eq!(
        of("Cluster", on_second.clone()).unwrap(),
        ["node-1 192.0.2.1 0 100 http:30080", "node-2 203.0.113.2 0 100 http:30080"]
    );
    assert_eq!(of("Local", on_second).unwrap(), ["node-2 203.0.113.2 0 100 http:30080"]);
    assert_eq!(of("Cluster", json!([])), None);
}

#[test]
fn outside_a_load_balancer_comes_first_and_what_is_not_reachable_has_no_name() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let balancer = |ingress: Value| json!({"loadBalancer": {"ingress": ingress}});
    let target = |spec: &Value, status| {
        let all = news(service(json!({}), spec.clone(), status), slice(json!({}), two_pods()));
        all.set[0].1.as_ref().map(|exported| exported.record.target.clone())
    };
    let by_address = target(&spec, balancer(json!([{"ip": "203.0.113.9", "ipMode": "Proxy"}])));
    let Some(ServiceTarget::Cluster { addresses, ports, .. }) = by_address else { panic!("{by_address:?}") };
    assert_eq!((addresses[0].to_string(), ports[0].port), ("203.0.113.9".into(), 80));
    let by_name = target(&spec, balancer(json!([{"hostname": "lb.example.net"}])));
    assert_eq!(by_name, Some(ServiceTarget::External { name: "lb.example.net".into() }));
    let within = json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80}]});
    assert_eq!(target(&within, json!({})), None);
}

#[test]
fn a_zone_shows_its_namespace_or_what_asks_for_it() {
    let zone = |name: &str, layout, namespace: Option<&str>| ExportedZone {
        index: Arc::new(DnsIndex::with_layout(name, layout).unwrap()),
        namespace: namespace.map(str::to_owned),
    };
    let names = Names {
        cluster: Arc::new(DnsIndex::new("cluster.local").unwrap()),
        exported: vec![
            zone("all.example", Layout::Namespaces, None),
            zone("mine.example", Layout::OneNamespace, Some("default")),
            zone("other.example", Layout::OneNamespace, Some("other")),
        ],
    };
    let spec = json!({"clusterIP": "10.43.0.7", "externalIPs": ["203.0.113.9"], "ports": [{"name": "http", "port": 80}]});
    for (annotation, shown) in [
        (json!({}), [false, true, false]),
        (json!({"orlop.dev/dns-export": "true"}), [true, true, false]),
        (json!({"orlop.dev/dns-export": "false"}), [false, false, false]),
    ] {
        tell_dns(&names, news(service(annotation, spec.clone(), json!({})), slice(json!({}), json!([]))));
        let there: Vec<bool> = names.exported.iter().map(|zone| !zone.index.is_empty()).collect();
        assert_eq!(there, shown);
        assert_eq!(names.cluster.len(), 1);
    }
}

#[test]
fn what_is_told_changes_with_the_nodes() {
    let mut catalogue = Catalogue::new("node-1".into());
    let spec = json!({"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    catalogue.service(Event::Apply(service(json!({}), spec, json!({}))));
    catalogue.slice(Event::Apply(slice(json!({}), two_pods())));
    assert_eq!(outside(&catalogue.news()), None);
    listed(vec![node("node-1", None, true)]).into_iter().for_each(|event| catalogue.node(event));
    assert_eq!(outside(&catalogue.news()).unwrap().len(), 1);
    catalogue.node(Event::Apply(node("node-2", None, true)));
    assert_eq!(outside(&catalogue.news()).unwrap().len(), 2);
    catalogue.node(Event::Apply(node("node-2", None, true)));
    assert!(!catalogue.has_news());
    catalogue.node(Event::Delete(node("node-2", None, true)));
    assert_eq!(outside(&catalogue.news()).unwrap().len(), 1);
}

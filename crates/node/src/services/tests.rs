//! From objects to rules and names, as a cluster's events come in.

use super::*;
use futures::stream;
use orlop_network::{Endpoint, Protocol};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::convert::Infallible;

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
}

fn slice(name: &str, of: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn web() -> Service {
    service(
        "web",
        json!({"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"], "ports": [{"name": "http", "port": 80}]}),
    )
}

fn web_slice(endpoints: Value) -> EndpointSlice {
    slice("web-1", "web", json!([{"name": "http", "port": 8080, "protocol": "TCP"}]), endpoints)
}

fn node_in_zone(name: &str, zone: &str) -> Node {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
}

/// A catalogue that has heard of these in full.
fn catalogue(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Catalogue {
    let mut catalogue = Catalogue::new("here".into());
    listed(services).into_iter().for_each(|event| catalogue.service(event));
    listed(slices).into_iter().for_each(|event| catalogue.slice(event));
    assert!(catalogue.is_complete());
    catalogue.news();
    catalogue
}

fn listed<K>(objects: Vec<K>) -> Vec<Event<K>> {
    let mut events = vec![Event::Init];
    events.extend(objects.into_iter().map(Event::InitApply));
    events.push(Event::InitDone);
    events
}

fn to(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.to.to_string()).collect()
}

#[test]
fn traffic_goes_to_ready_endpoints_and_to_serving_terminating_ones_if_there_are_no_others() {
    let ready = json!({"addresses": ["10.42.0.2"]});
    let not_ready = json!({"addresses": ["10.42.0.3"], "conditions": {"ready": false}});
    let serving = json!({"addresses": ["10.42.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let dying = json!({"addresses": ["10.42.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    for (endpoints, expected) in [
        (json!([ready, not_ready, serving, dying]), vec!["10.42.0.2:8080"]),
        (json!([not_ready, serving, dying]), vec!["10.42.0.4:8080"]),
        (json!([not_ready, dying]), vec![]),
        (json!([]), vec![]),
    ] {
        let catalogue = catalogue(vec![web()], vec![web_slice(endpoints)]);
        assert_eq!(to(&catalogue.ports()[0].endpoints), expected);
    }
}

#[test]
fn policies_choose_the_endpoints_of_this_node() {
    let endpoints = json!([
        {"addresses": ["10.42.0.2"], "nodeName": "here"},
        {"addresses": ["10.42.1.2"], "nodeName": "there"},
    ]);
    let (here, both) = (vec!["10.42.0.2:8080"], vec!["10.42.0.2:8080", "10.42.1.2:8080"]);
    for (internal, external, inside, outside) in [
        ("Cluster", "Cluster", &both, &both),
        ("Local", "Cluster", &here, &both),
        ("Cluster", "Local", &both, &here),
    ] {
        let service = service(
            "web",
            json!({
                "clusterIP": "10.43.0.1", "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
            }),
        );
        let ports = catalogue(vec![service], vec![web_slice(endpoints.clone())]).ports();
        assert_eq!(&to(&ports[0].internal_endpoints), inside);
        assert_eq!(&to(&ports[0].external_endpoints), outside);
        assert_eq!(&to(&ports[0].endpoints), &both);
        assert_eq!(ports[0].node_port, Some(30080));
        assert_eq!(ports[0].endpoints.iter().filter(|endpoint| endpoint.local).count(), 1);
    }
}

#[test]
fn endpoints_that_are_meant_for_this_place_are_taken_if_all_ready_ones_say_where_they_are_meant_for() {
    let endpoint = |last: u8, hints: Value, ready: bool| {
        json!({"addresses": [format!("10.42.0.{last}")], "hints": hints,
            "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let both = |node: &str, zone: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
    for (endpoints, expected) in [
        (vec![endpoint(1, zone("a"), true), endpoint(2, zone("b"), true)], vec![1]),
        (vec![endpoint(1, both("here", "a"), true), endpoint(2, both("there", "a"), true)], vec![1]),
        // None for this node, but one for its zone.
        (vec![endpoint(1, both("there", "a"), true), endpoint(2, both("far", "b"), true)], vec![1]),
        // None for either, or one says nothing: all.
        (vec![endpoint(1, zone("c"), true), endpoint(2, zone("b"), true)], vec![1, 2]),
        (vec![endpoint(1, zone("a"), true), endpoint(2, json!({}), true)], vec![1, 2]),
        // What terminates has no say, and no traffic as long as there are others.
        (vec![endpoint(1, zone("a"), true), endpoint(2, json!({}), false)], vec![1]),
    ] {
        let mut catalogue = catalogue(vec![web()], vec![web_slice(json!(endpoints))]);
        catalogue.node(Event::Apply(node_in_zone("here", "a")));
        catalogue.node(Event::Apply(node_in_zone("there", "b")));
        catalogue.news();
        let expected: Vec<String> = expected.iter().map(|last| format!("10.42.0.{last}:8080")).collect();
        assert_eq!(to(&catalogue.ports()[0].endpoints), expected, "{endpoints:?}");
    }
}

#[test]
fn each_family_falls_back_for_itself() {
    let v4 = web_slice(json!([{"addresses": ["10.42.0.2"]}]));
    let mut v6 = slice(
        "web-2",
        "web",
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
        json!([{"addresses": ["fd42::2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]),
    );
    v6.address_type = "IPv6".into();
    let mut web = web();
    web.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.43.0.1".into(), "fd43::1".into()]);
    let ports = catalogue(vec![web], vec![v4, v6]).ports();
    assert_eq!(to(&ports[0].endpoints), ["10.42.0.2:8080", "[fd42::2]:8080"]);
    assert_eq!(ports[0].cluster_addresses.len(), 2);
}

#[test]
fn weights_health_checks_and_announced_addresses_are_read() {
    let mut slice = web_slice(json!([
        {"addresses": ["10.42.0.2"], "nodeName": "here"},
        {"addresses": ["10.42.0.3"], "nodeName": "there"},
        {"addresses": ["10.42.0.4"], "nodeName": "here", "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]));
    slice.metadata.annotations =
        Some([("orlop.dev/weights".into(), "10.42.0.3=30,nonsense,10.42.0.9=x".into())].into());
    let balanced: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web", "annotations": {"orlop.dev/announced-by": "here"}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.1", "ports": [{"name": "http", "port": 80}],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2", "ipMode": "VIP"}]}},
    })).unwrap();
    let catalogue = catalogue(vec![balanced], vec![slice]);
    let port = &catalogue.ports()[0];
    assert_eq!(port.endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [1, 30]);
    assert_eq!(port.source_ranges, ["192.0.2.0/24".parse().unwrap()]);
    let check = &catalogue.health_checks()[&30999];
    assert_eq!((check.of.1.as_str(), check.local_endpoints), ("web", 1));
    assert_eq!(catalogue.announced(), ["203.0.113.2".parse().unwrap()].into());
}

#[test]
fn ports_match_by_name_and_protocol() {
    let dns = service(
        "dns",
        json!({"clusterIP": "10.43.0.2", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"name": "metrics", "port": 9153},
        ]}),
    );
    let ports = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}]);
    let ports =
        catalogue(vec![dns], vec![slice("dns-1", "dns", ports, json!([{"addresses": ["10.42.0.9"]}]))])
            .ports();
    let found: Vec<_> =
        ports.iter().map(|port| (port.name.as_str(), port.protocol, to(&port.endpoints))).collect();
    assert_eq!(
        found,
        [
            ("default/dns:dns", Protocol::Udp, vec!["10.42.0.9:5353".to_owned()]),
            ("default/dns:dns-tcp", Protocol::Tcp, vec!["10.42.0.9:5354".to_owned()]),
            ("default/dns:metrics", Protocol::Tcp, vec![]),
        ]
    );
}

#[test]
fn affinity_and_load_balancer_addresses_are_carried() {
    let balanced: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "http", "port": 80}], "externalIPs": ["203.0.113.1"],
            "sessionAffinity": "ClientIP"},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}, {"ip": "203.0.113.3", "ipMode": "Proxy"}]}},
    })).unwrap();
    let ports = catalogue(vec![balanced], vec![]).ports();
    assert_eq!(ports[0].external_addresses, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(ports[0].balancer_addresses, ["203.0.113.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(ports[0].affinity_seconds, Some(10_800));
    let short = service(
        "web",
        json!({"clusterIP": "10.43.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
    );
    assert_eq!(catalogue(vec![short], vec![]).ports()[0].affinity_seconds, Some(5));
}

#[test]
fn headless_services_aliases_and_those_of_other_proxies_have_names_but_no_rules() {
    let headless = service("db", json!({"clusterIP": "None", "ports": [{"name": "redis", "port": 6379}]}));
    let alias = service("alias", json!({"type": "ExternalName", "externalName": "example.org"}));
    let mut other = web();
    other.metadata.labels =
        Some([("service.kubernetes.io/service-proxy-name".to_owned(), "mine".to_owned())].into());
    let mut catalogue = Catalogue::new("here".into());
    listed(vec![headless, alias, other]).into_iter().for_each(|event| catalogue.service(event));
    listed(vec![]).into_iter().for_each(|event| catalogue.slice(event));
    let news = catalogue.news();
    assert_eq!(news.set.len(), 3);
    assert!(!news.ports_changed);
    assert!(catalogue.ports().is_empty());
}

#[test]
fn not_ready_endpoints_are_in_dns_only_if_the_service_publishes_them() {
    let endpoints = json!([
        {"addresses": ["10.42.0.2"], "hostname": "db-0"},
        {"addresses": ["10.42.0.3"], "hostname": "db-1", "conditions": {"ready": false}},
    ]);
    let slice = slice("db-1", "db", json!([{"name": "redis", "port": 6379}]), endpoints);
    for (publish, expected) in [(false, 1), (true, 2)] {
        let db = service(
            "db",
            json!({"clusterIP": "None", "publishNotReadyAddresses": publish, "ports": [{"name": "redis", "port": 6379}]}),
        );
        let mut catalogue = Catalogue::new("here".into());
        catalogue.slice(Event::Apply(slice.clone()));
        catalogue.service(Event::Apply(db));
        let orlop_dns::ServiceTarget::Headless { endpoints } = catalogue.news().set.remove(0).0.target else {
            panic!()
        };
        assert_eq!(endpoints.len(), expected);
        assert_eq!(endpoints[0].hostname.as_deref(), Some("db-0"));
        assert_eq!(endpoints[0].ports[0].port, 6379);
    }
}

#[test]
fn an_update_that_changes_nothing_of_ours_is_no_news() {
    let mut catalogue = catalogue(vec![web()], vec![web_slice(json!([{"addresses": ["10.42.0.2"]}]))]);
    let mut annotated = web();
    annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    catalogue.service(Event::Apply(annotated));
    assert!(!catalogue.has_news());
}

#[test]
fn what_a_new_list_does_not_have_is_gone() {
    let mut catalogue = catalogue(vec![web()], vec![web_slice(json!([{"addresses": ["10.42.0.2"]}]))]);
    listed(vec![]).into_iter().for_each(|event| catalogue.slice(event));
    assert!(catalogue.news().ports_changed);
    assert!(catalogue.ports()[0].endpoints.is_empty());
    listed(vec![]).into_iter().for_each(|event| catalogue.service(event));
    let news = catalogue.news();
    assert!(news.ports_changed && news.removed.len() == 1);
    assert!(catalogue.ports().is_empty());
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first() {
    let other = service("other", json!({"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}]}));
    let endpoints = json!([{"addresses": ["10.42.0.2"]}]);
    let mut catalogue = catalogue(vec![web(), other], vec![web_slice(endpoints.clone())]);
    catalogue.slice(Event::Apply(slice(
        "web-1",
        "other",
        json!([{"name": "http", "port": 8080}]),
        endpoints,
    )));
    assert!(catalogue.news().ports_changed);
    let counts: Vec<_> =
        catalogue.ports().iter().map(|port| (port.name.clone(), port.endpoints.len())).collect();
    assert_eq!(counts, [("default/other:http".to_owned(), 1), ("default/web:http".to_owned(), 0)]);
}

/// Follows these events and returns what was applied. `refusals` applications fail first.
async fn applied(
    services: Vec<Event<Service>>,
    slices: Vec<Event<EndpointSlice>>,
    refusals: usize,
) -> (Vec<Vec<ServicePort>>, Names) {
    let cluster = Arc::new(DnsIndex::new("cluster.local").unwrap());
    let names = Names { cluster, exported: vec![] };
    let (applied, left) = (Mutex::new(Vec::new()), Mutex::new(refusals));
    let apply = |ports: Vec<ServicePort>, _| {
        let mut left = left.lock();
        let outcome = if *left > 0 {
            *left -= 1;
            Err("not now")
        } else {
            applied.lock().push(ports);
            Ok(())
        };
        async move { outcome }
    };
    let endless = |events| stream::iter(events).chain(stream::pending());
    let services = endless(services.into_iter().map(Ok::<_, Infallible>).collect::<Vec<_>>());
    let slices = stream::iter(slices.into_iter().map(Ok).collect::<Vec<_>>()).chain(stream::pending());
    let heard = Heard { services, slices, nodes: stream::pending::<Result<Event<Node>, Infallible>>() };
    let carry = follow(heard, apply, &names, "here".into());
    let _ = tokio::time::timeout(Duration::from_secs(60), carry).await;
    let applied = std::mem::take(&mut *applied.lock());
    (applied, names)
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_is_applied_once() {
    let services = listed(
        (0..100)
            .map(|index| {
                service(
                    &format!("web-{index}"),
                    json!({"clusterIP": format!("10.43.1.{index}"), "ports": [{"port": 80}]}),
                )
            })
            .collect(),
    );
    let (applied, dns) = applied(services, listed(vec![]), 0).await;
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].len(), 100);
    drop(dns);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_applied_before_both_kinds_are_known() {
    let mut half = listed(vec![web_slice(json!([]))]);
    half.pop();
    let (applied, _) = applied(listed(vec![web()]), half, 0).await;
    assert!(applied.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_applied_too_and_a_refusal_is_tried_again() {
    assert_eq!(applied(listed(vec![]), listed(vec![]), 0).await.0, [vec![]]);
    let (applied, _) = applied(listed(vec![web()]), listed(vec![]), 3).await;
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].len(), 1);
}

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
        assert_eq!(&to(&ports[0].endpoints), inside);
        assert_eq!(&to(&ports[0].external_endpoints), outside);
        assert_eq!(ports[0].external_local, external == "Local");
        assert_eq!(ports[0].node_port, Some(30080));
        assert_eq!(ports[0].endpoints.iter().filter(|endpoint| endpoint.local).count(), 1);
    }
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
    assert_eq!(
        ports[0].external_addresses,
        ["203.0.113.1", "203.0.113.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
    );
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
        let orlop_dns::ServiceTarget::Headless { endpoints } = catalogue.news().set.remove(0).target else {
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
) -> (Vec<Vec<ServicePort>>, DnsIndex) {
    let dns = DnsIndex::new("cluster.local").unwrap();
    let (applied, left) = (Mutex::new(Vec::new()), Mutex::new(refusals));
    let apply = |ports: Vec<ServicePort>| {
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
    let carry = follow(services, slices, apply, &dns, "here".into());
    let _ = tokio::time::timeout(Duration::from_secs(60), carry).await;
    let applied = std::mem::take(&mut *applied.lock());
    (applied, dns)
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

//! The rules as listings that a person can check, and against a simple model of what a packet should meet.

use super::*;
use crate::NetworkConfig;
use proptest::prelude::*;

fn layout() -> Layout {
    Layout::new(&NetworkConfig {
        instance: "test".into(),
        pod_range: "10.42.0.0/24".parse().unwrap(),
        cluster_range: "10.42.0.0/16".parse().unwrap(),
        service_range: "10.43.0.0/16".parse().unwrap(),
        dns_address: "10.43.0.10".parse().unwrap(),
        state_dir: "/nowhere".into(),
        mtu: None,
    })
    .unwrap()
}

fn endpoint(to: &str, local: bool) -> Endpoint {
    Endpoint { to: to.parse().unwrap(), local }
}

fn service(name: &str, address: &str, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        cluster_addresses: vec![address.parse().unwrap()],
        external_addresses: vec![],
        port: 80,
        node_port: None,
        external_endpoints: endpoints.clone(),
        endpoints,
        external_local: false,
        affinity_seconds: None,
    }
}

/// Compares with a file under `tests/golden`; `UPDATE_GOLDEN=1` writes it.
fn assert_golden(name: &str, actual: &str) {
    // Asked now: a target folder outlives the clone that it was filled from.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let path = std::path::Path::new(&folder).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(actual, expected, "if this is meant, run the tests with UPDATE_GOLDEN=1");
}

#[test]
fn every_kind_of_service_has_the_rules_in_the_golden_file() {
    let (here, also_here, there) = (
        endpoint("10.42.0.2:8080", true),
        endpoint("10.42.0.3:8080", true),
        endpoint("10.42.1.2:8080", false),
    );
    let plain = service("default/plain:http", "10.43.0.1", vec![here.clone(), also_here]);
    let empty = service("default/empty:http", "10.43.0.2", vec![]);
    let sticky = ServicePort {
        affinity_seconds: Some(10_800),
        ..service("default/sticky:http", "10.43.0.3", vec![here.clone()])
    };
    let exposed = ServicePort {
        node_port: Some(30080),
        external_addresses: vec!["203.0.113.1".parse().unwrap()],
        ..service("default/exposed:http", "10.43.0.4", vec![here.clone(), there.clone()])
    };
    let local = ServicePort {
        node_port: Some(30081),
        external_endpoints: vec![here.clone()],
        external_local: true,
        ..service("default/local:http", "10.43.0.5", vec![here, there.clone()])
    };
    let local_elsewhere = ServicePort {
        node_port: Some(30082),
        external_endpoints: vec![],
        external_local: true,
        ..service("default/local-elsewhere:http", "10.43.0.6", vec![there])
    };
    let dns = ServicePort {
        protocol: Protocol::Udp,
        port: 53,
        ..service("kube-system/kube-dns:dns", "10.43.0.10", vec![endpoint("10.42.0.9:53", true)])
    };
    let services = [plain, empty, sticky, exposed, local, local_elsewhere, dns];
    assert_golden("services.txt", &service_rules(&layout(), &services, &Ruleset::default()).to_string());
}

#[test]
fn host_ports_have_the_rules_in_the_golden_file() {
    let port = |host_ip: Option<&str>, host_port, protocol| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        pod_port: 80,
        protocol,
    };
    let web = [port(None, 8080, Protocol::Tcp), port(Some("0.0.0.0"), 8081, Protocol::Udp)];
    let one = [port(Some("192.0.2.1"), 8080, Protocol::Sctp)];
    let pods = [("10.42.0.2".parse().unwrap(), &web[..]), ("10.42.0.3".parse().unwrap(), &one[..])];
    assert_golden("host_ports.txt", &host_port_rules(pods.into_iter()).to_string());
}

#[test]
fn one_endpoint_more_or_less_changes_a_handful_of_elements() {
    let layout = layout();
    let all: Vec<Endpoint> = (1..=100).map(|index| endpoint(&format!("10.42.1.{index}:80"), false)).collect();
    let rules = |endpoints: &[Endpoint], before: &Ruleset| {
        service_rules(&layout, &[service("default/web:http", "10.43.0.1", endpoints.to_vec())], before)
    };
    let whole = rules(&all, &Ruleset::default());
    let mut fewer = all.clone();
    fewer.remove(17);
    let less = rules(&fewer, &whole);
    let (down, up) = (whole.change_to(&less), less.change_to(&rules(&all, &less)));
    // The verdict with the new count, the slot that the last one takes, the last slot, the endpoint in `remote`.
    assert!(down.remove.len() <= 4 && down.add.len() <= 2, "{down:?}");
    assert!(up.remove.len() <= 1 && up.add.len() <= 3, "{up:?}");
}

#[test]
fn udp_targets_are_stale_when_they_lose_an_endpoint_or_appear_but_not_when_they_gain_one() {
    let layout = layout();
    let rules = |ports: &[&str]| {
        let endpoints = ports.iter().map(|to| endpoint(to, true)).collect();
        let udp = ServicePort {
            protocol: Protocol::Udp,
            node_port: Some(30053),
            ..service("default/dns:dns", "10.43.0.1", endpoints)
        };
        service_rules(&layout, &[udp], &Ruleset::default())
    };
    let (a, b) = ("10.42.0.2:53", "10.42.0.3:53");
    let none = Ruleset::default();
    assert_eq!(changed_udp_targets(&none, &rules(&[a])).len(), 2);
    assert_eq!(changed_udp_targets(&rules(&[a]), &rules(&[a, b])).len(), 0);
    assert_eq!(changed_udp_targets(&rules(&[a, b]), &rules(&[b])).len(), 2);
    let gone = changed_udp_targets(&rules(&[a]), &none);
    assert_eq!(gone[&(None, 30053)], BTreeSet::new());
    assert_eq!(gone[&(Some("10.43.0.1".parse().unwrap()), 80)], BTreeSet::new());
}

/// What a packet meets.
#[derive(Debug, PartialEq)]
enum Fate {
    OneOf(BTreeSet<(Ipv4Addr, u16)>),
    Refused,
    Dropped,
    Untouched,
}

/// What a packet meets in the rules, read as the kernel reads them.
fn fate(rules: &Ruleset, target: Key, outside: bool, node: bool) -> Fate {
    let (first, second) =
        if node { (Lookup::OutsideNode, Lookup::InsideNode) } else { (Lookup::Outside, Lookup::Inside) };
    let asked = outside.then_some(first).into_iter().chain([second]);
    let Some(verdict) = asked.into_iter().find_map(|lookup| rules.get(Map::Verdicts(lookup), target)) else {
        return Fate::Untouched;
    };
    match verdict {
        Value::Refuse => Fate::Refused,
        Value::Drop => Fate::Dropped,
        Value::Branch(Branch::Pick(pick)) => {
            let drawn =
                (0..pick.count).map(|slot| match rules.get(Map::Endpoints(pick.lookup), target.slot(slot)) {
                    Some(Value::Endpoint(address, port)) => (address, port),
                    other => panic!("slot {slot} of {} holds {other:?}", pick.count),
                });
            let drawn: Vec<_> = drawn.collect();
            let distinct: BTreeSet<_> = drawn.iter().copied().collect();
            assert_eq!(drawn.len(), distinct.len(), "an endpoint is drawn more often than others");
            let remembered = rules.get(if node { Map::StickyNode } else { Map::Sticky }, target);
            assert_eq!(
                pick.sticky,
                remembered.is_some(),
                "affinity is asked for but not kept, or the reverse"
            );
            Fate::OneOf(distinct)
        }
        other => panic!("{other:?} is no verdict"),
    }
}

/// What a packet should meet, straight from the service.
fn expected(service: &ServicePort, outside: bool, exposed: bool) -> Fate {
    let inside = backends(&service.endpoints);
    let wanted = if outside && exposed { backends(&service.external_endpoints) } else { inside.clone() };
    if !wanted.is_empty() {
        Fate::OneOf(wanted)
    } else if outside && exposed && service.external_local && !inside.is_empty() {
        Fate::Dropped
    } else {
        Fate::Refused
    }
}

prop_compose! {
    fn any_service(index: u8)(
        endpoints in proptest::collection::btree_set(1u8..30, 0..6),
        local_below in 0u8..30,
        external_local: bool,
        node_port: bool,
        external_address: bool,
        sticky: bool,
        udp: bool,
        there in 0u8..4,
    ) -> Option<ServicePort> {
        let endpoints: Vec<Endpoint> = endpoints
            .into_iter()
            .map(|last| endpoint(&format!("10.42.{}.{last}:80", u8::from(last >= local_below)), last < local_below))
            .collect();
        let local: Vec<Endpoint> = endpoints.iter().filter(|endpoint| endpoint.local).cloned().collect();
        (there > 0).then(|| ServicePort {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            external_addresses: if external_address { vec![[203, 0, 113, index].into()] } else { vec![] },
            node_port: node_port.then_some(30000 + u16::from(index)),
            external_endpoints: if external_local { local } else { endpoints.clone() },
            external_local,
            affinity_seconds: sticky.then_some(60),
            ..service(&format!("default/web-{index}:http"), &format!("10.43.1.{index}"), endpoints)
        })
    }
}

fn cluster() -> impl Strategy<Value = Vec<ServicePort>> {
    (any_service(1), any_service(2), any_service(3))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn packets_meet_what_the_services_say_through_any_history(states in proptest::collection::vec(cluster(), 1..5)) {
        let layout = layout();
        let mut rules = Ruleset::default();
        for services in states {
            let wanted = service_rules(&layout, &services, &rules);
            let change = rules.change_to(&wanted);
            for (map, key, _) in &change.remove {
                prop_assert!(rules.elements.remove(&(*map, *key)).is_some());
            }
            for (map, key, value) in &change.add {
                prop_assert!(rules.elements.insert((*map, *key), *value).is_none());
            }
            prop_assert_eq!(&rules, &wanted);
            for service in &services {
                for outside in [false, true] {
                    let cluster = Key::Target(v4(&service.cluster_addresses).next().unwrap(), service.protocol, service.port);
                    prop_assert_eq!(fate(&rules, cluster, outside, false), expected(service, outside, false));
                    if let Some(address) = v4(&service.external_addresses).next() {
                        let key = Key::Target(address, service.protocol, service.port);
                        prop_assert_eq!(fate(&rules, key, outside, false), expected(service, outside, true));
                    }
                    if let Some(port) = service.node_port {
                        let key = Key::Port(service.protocol, port);
                        prop_assert_eq!(fate(&rules, key, outside, true), expected(service, outside, true));
                    }
                }
            }
            let nobody = Key::Target([10, 43, 9, 9].into(), Protocol::Tcp, 80);
            prop_assert_eq!(fate(&rules, nobody, true, false), Fate::Untouched);
        }
    }

    #[test]
    fn chain_names_can_be_read_back(lookup in 0usize..4, count in 1u32.., sticky: bool) {
        let pick = Branch::Pick(Pick { lookup: Lookup::ALL[lookup], count, sticky });
        prop_assert_eq!(pick.to_string().parse(), Ok(pick));
        let remember = Branch::Remember(count);
        prop_assert_eq!(remember.to_string().parse(), Ok(remember));
    }
}

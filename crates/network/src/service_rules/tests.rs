//! The rules as listings that a person can check, and against a simple model of what a packet should meet.

use super::*;
use crate::{Endpoint, NetworkConfig, layout::Layout};
use proptest::prelude::*;

fn layout() -> Layout {
    let ranges = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
    Layout::new(&NetworkConfig {
        instance: "test".into(),
        pod_ranges: ranges(["10.42.0.0/24", "fd42::/64"]),
        cluster_ranges: ranges(["10.42.0.0/16", "fd42::/56"]),
        service_ranges: ranges(["10.43.0.0/16", "fd43::/112"]),
        dns_addresses: vec!["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()],
        state_dir: "/nowhere".into(),
        mtu: None,
    })
    .unwrap()
}

fn side(family: Family) -> Side {
    layout().side(family).unwrap().clone()
}

/// Rules that begin with nothing.
fn fresh(family: Family) -> ServiceRules {
    ServiceRules::new(side(family), Ruleset::default())
}

/// The rules of a family for these services.
fn rules(family: Family, services: &[ServicePort]) -> Ruleset {
    let mut rules = fresh(family);
    rules.set_services(services);
    rules.rules().clone()
}

fn endpoint(to: &str, local: bool) -> Endpoint {
    Endpoint::new(to.parse().unwrap(), local)
}

fn service(name: &str, address: &str, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        cluster_addresses: vec![address.parse().unwrap()],
        external_addresses: vec![],
        balancer_addresses: vec![],
        source_ranges: vec![],
        port: 80,
        node_port: None,
        internal_endpoints: endpoints.clone(),
        external_endpoints: endpoints.clone(),
        endpoints,
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
        ..service("default/local:http", "10.43.0.5", vec![here, there.clone()])
    };
    let local_elsewhere = ServicePort {
        node_port: Some(30082),
        external_endpoints: vec![],
        ..service("default/local-elsewhere:http", "10.43.0.6", vec![there])
    };
    let dns = ServicePort {
        protocol: Protocol::Udp,
        port: 53,
        ..service("kube-system/kube-dns:dns", "10.43.0.10", vec![endpoint("10.42.0.9:53", true)])
    };
    let services = [plain, empty, sticky, exposed, local, local_elsewhere, dns];
    assert_golden("services.txt", &rules(Family::V4, &services).to_string());
    assert_eq!(rules(Family::V6, &services), Ruleset::default());
}

#[test]
fn services_of_both_families_have_the_rules_in_the_golden_files() {
    let pods = [("10.42.0.2:8080", true), ("[fd42::2]:8080", true), ("[fd42:0:0:1::2]:8080", false)];
    let all: Vec<Endpoint> = pods.into_iter().map(|(to, local)| endpoint(to, local)).collect();
    let web = ServicePort {
        cluster_addresses: vec!["fd43::1".parse().unwrap(), "10.43.0.1".parse().unwrap()],
        node_port: Some(30080),
        ..service("default/web:http", "fd43::1", all.clone())
    };
    let balanced = ServicePort {
        balancer_addresses: vec!["2001:db8::80".parse().unwrap(), "192.0.2.80".parse().unwrap()],
        source_ranges: ["2001:db8:1::/48", "198.51.100.0/24", "203.0.113.7/24"]
            .map(|range| range.parse().unwrap())
            .into(),
        affinity_seconds: Some(60),
        ..service("default/balanced:http", "fd43::2", all.clone())
    };
    let one_family = service("default/one-family:http", "10.43.0.3", all.clone());
    let only_here = ServicePort {
        internal_endpoints: vec![],
        external_addresses: vec!["203.0.113.9".parse().unwrap()],
        ..service("default/internal-local-elsewhere:http", "10.43.0.4", all)
    };
    let weighed = service(
        "default/weighed:http",
        "10.43.0.5",
        vec![
            Endpoint { weight: 30, ..endpoint("10.42.0.3:80", true) },
            Endpoint { weight: 10, ..endpoint("10.42.0.4:80", true) },
        ],
    );
    let services = [web, balanced, one_family, only_here, weighed];
    assert_golden("dual_stack_ip.txt", &rules(Family::V4, &services).to_string());
    assert_golden("dual_stack_ip6.txt", &rules(Family::V6, &services).to_string());
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
    let one =
        [port(Some("192.0.2.1"), 8080, Protocol::Sctp), port(Some("2001:db8::1"), 8080, Protocol::Sctp)];
    let pods = [
        ("10.42.0.2".parse().unwrap(), &web[..]),
        ("fd42::2".parse().unwrap(), &web[..]),
        ("10.42.0.3".parse().unwrap(), &one[..]),
        ("fd42::3".parse().unwrap(), &one[..]),
    ];
    let listing = Family::ALL.map(|family| {
        let mut rules = fresh(family);
        rules.set_host_ports(pods.into_iter());
        format!("{family:?}\n{}", rules.rules())
    });
    assert_golden("host_ports.txt", &listing.concat());
}

#[test]
fn of_two_services_with_one_address_the_one_whose_cluster_address_it_is_has_it_until_it_goes() {
    let first = service("default/b:http", "10.43.0.1", vec![endpoint("10.42.0.2:80", true)]);
    let thief = ServicePort {
        external_addresses: vec!["10.43.0.1".parse().unwrap()],
        ..service("default/a:http", "10.43.0.2", vec![endpoint("10.42.0.3:80", true)])
    };
    let mut rules = fresh(Family::V4);
    let target = Key::Target("10.43.0.1".parse().unwrap(), Protocol::Tcp, 80);
    let who = |rules: &ServiceRules| rules.rules().slots(Lookup::Inside, target);
    rules.set_services(std::slice::from_ref(&thief));
    assert_eq!(who(&rules), [("10.42.0.3".parse().unwrap(), 80)]);
    rules.set_services(&[first.clone(), thief.clone()]);
    assert_eq!(who(&rules), [("10.42.0.2".parse().unwrap(), 80)]);
    rules.set_services(&[thief]);
    assert_eq!(who(&rules), [("10.42.0.3".parse().unwrap(), 80)]);
    rules.set_services(&[]);
    assert_eq!(rules.rules(), &Ruleset::default());
}

#[test]
fn what_was_found_in_the_kernel_stays_until_services_are_told_and_then_goes_as_far_as_it_must() {
    let web = service("default/web:http", "10.43.0.1", vec![endpoint("10.42.0.2:80", true)]);
    let old = service("default/old:http", "10.43.0.9", vec![endpoint("10.42.1.2:80", false)]);
    let found = rules(Family::V4, &[web.clone(), old]);
    let mut rules = ServiceRules::new(side(Family::V4), found.clone());
    assert_eq!(rules.set_host_ports(std::iter::empty()), News::default());
    let news = rules.set_services(&[web]);
    let gone: Vec<Key> = news.change.remove.iter().map(|(_, key, _)| key.target()).collect();
    assert!(news.change.add.is_empty() && news.change.new_branches.is_empty(), "{news:?}");
    assert_eq!(gone.len(), 3, "{gone:?}");
    assert!(
        gone.iter()
            .all(|key| key.to_string().starts_with("10.43.0.9") || key.to_string().starts_with("10.42.1.2"))
    );
}

#[test]
fn one_endpoint_more_or_less_changes_a_handful_of_elements() {
    let all: Vec<Endpoint> = (1..=100).map(|index| endpoint(&format!("10.42.1.{index}:80"), false)).collect();
    let mut rules = fresh(Family::V4);
    let mut change = |endpoints: &[Endpoint]| {
        rules.set_services(&[service("default/web:http", "10.43.0.1", endpoints.to_vec())]).change
    };
    change(&all);
    let mut fewer = all.clone();
    fewer.remove(17);
    let (down, up) = (change(&fewer), change(&all));
    // The verdict with the new count, the slot that the last one takes, the last slot, the endpoint in `remote`.
    assert!(down.remove.len() <= 4 && down.add.len() <= 2, "{down:?}");
    assert!(up.remove.len() <= 1 && up.add.len() <= 3, "{up:?}");
}

#[test]
fn udp_targets_are_stale_when_they_lose_an_endpoint_or_appear_but_not_when_they_gain_one() {
    let stale = |before: Option<&[&str]>, after: Option<&[&str]>| {
        let mut rules = fresh(Family::V4);
        let mut set = |ports: Option<&[&str]>| {
            let services = ports.map(|ports| ServicePort {
                protocol: Protocol::Udp,
                node_port: Some(30053),
                ..service("default/dns:dns", "10.43.0.1", ports.iter().map(|to| endpoint(to, true)).collect())
            });
            rules.set_services(services.as_slice()).stale_udp
        };
        set(before);
        set(after)
    };
    let (a, b) = ("10.42.0.2:53", "10.42.0.3:53");
    assert_eq!(stale(None, Some(&[a])).len(), 2);
    assert_eq!(stale(Some(&[a]), Some(&[a, b])).len(), 0);
    assert_eq!(stale(Some(&[a, b]), Some(&[b])).len(), 2);
    let gone = stale(Some(&[a]), None);
    assert_eq!(gone[&(None, 30053)], BTreeSet::new());
    assert_eq!(gone[&(Some("10.43.0.1".parse().unwrap()), 80)], BTreeSet::new());
}

#[test]
fn affinities_are_forgotten_where_they_lead_some_clients_to_what_they_may_not_reach() {
    let (a, b) = (endpoint("10.42.0.2:80", true), endpoint("10.42.1.2:80", false));
    let backend = |endpoint: &Endpoint| (endpoint.to.ip(), endpoint.to.port());
    let web = |sticky: bool, endpoints: &[&Endpoint], outside: &[&Endpoint]| ServicePort {
        affinity_seconds: sticky.then_some(60),
        external_addresses: vec!["203.0.113.1".parse().unwrap()],
        external_endpoints: outside.iter().copied().cloned().collect(),
        ..service("default/web:http", "10.43.0.1", endpoints.iter().copied().cloned().collect())
    };
    let stale = |before: ServicePort, after: Option<ServicePort>| {
        let mut rules = fresh(Family::V4);
        assert_eq!(rules.set_services(&[before]).stale_affinities, StaleAffinities::new());
        rules.set_services(after.as_slice()).stale_affinities
    };
    let target = |address: &str| (Some(address.parse().unwrap()), Protocol::Tcp, 80);
    let (inside, outside) = (target("10.43.0.1"), target("203.0.113.1"));
    let lost = |endpoint: &Endpoint| BTreeSet::from([backend(endpoint)]);

    let both = web(true, &[&a, &b], &[&a, &b]);
    assert_eq!(stale(both.clone(), Some(both.clone())), StaleAffinities::new());
    let fewer = stale(both.clone(), Some(web(true, &[&a], &[&a])));
    assert_eq!(fewer, [(inside, lost(&b)), (outside, lost(&b))].into());
    // Clients outside may no longer go to other nodes; those inside still may.
    let local = web(true, &[&a, &b], &[&a]);
    assert_eq!(stale(both.clone(), Some(local.clone())), [(outside, lost(&b))].into());
    assert_eq!(stale(local, Some(both.clone())), StaleAffinities::new());
    let all = BTreeSet::from([backend(&a), backend(&b)]);
    let off = [(inside, all.clone()), (outside, all)];
    assert_eq!(stale(both.clone(), Some(web(false, &[&a, &b], &[&a, &b]))), off.clone().into());
    assert_eq!(stale(both, None), off.into());
}

/// What a packet meets.
#[derive(Debug, PartialEq)]
enum Fate {
    OneOf(BTreeSet<Backend>),
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

fn backends(endpoints: &[Endpoint]) -> BTreeSet<Backend> {
    shares(Family::V4, endpoints).into_keys().collect()
}

/// What a packet should meet, straight from the service.
fn expected(service: &ServicePort, outside: bool, exposed: bool) -> Fate {
    let all = backends(&service.endpoints);
    let wanted = match (exposed, outside) {
        (false, _) => backends(&service.internal_endpoints),
        (true, true) => backends(&service.external_endpoints),
        (true, false) => all.clone(),
    };
    if !wanted.is_empty() {
        Fate::OneOf(wanted)
    } else if all.is_empty() {
        Fate::Refused
    } else {
        Fate::Dropped
    }
}

prop_compose! {
    fn any_service(index: u8)(
        endpoints in proptest::collection::btree_set(1u8..30, 0..6),
        local_below in 0u8..30,
        external_local: bool,
        internal_local: bool,
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
            external_endpoints: if external_local { local.clone() } else { endpoints.clone() },
            internal_endpoints: if internal_local { local } else { endpoints.clone() },
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
        let (mut wanted, mut kernel) = (fresh(Family::V4), Ruleset::default());
        for services in states {
            let change = wanted.set_services(&services).change;
            let chains = kernel.branches();
            prop_assert!(change.new_branches.iter().all(|branch| !chains.contains(branch)));
            for (map, key, value) in &change.remove {
                prop_assert_eq!(kernel.elements.remove(&(*map, *key)), Some(*value));
            }
            for (map, key, value) in &change.add {
                prop_assert!(kernel.elements.insert((*map, *key), *value).is_none());
            }
            prop_assert_eq!(&wanted.rules().elements, &kernel.elements);
            prop_assert_eq!(&rules(Family::V4, &services).branches(), &kernel.branches());
            let left: BTreeSet<Branch> = chains.into_iter().chain(change.new_branches).collect();
            let old: BTreeSet<Branch> = change.old_branches.into_iter().collect();
            prop_assert_eq!(&left - &old, kernel.branches());
            let rules = &kernel;
            for service in &services {
                for outside in [false, true] {
                    let cluster = Key::Target(service.cluster_addresses[0], service.protocol, service.port);
                    prop_assert_eq!(fate(rules, cluster, outside, false), expected(service, outside, false));
                    if let Some(address) = service.external_addresses.first() {
                        let key = Key::Target(*address, service.protocol, service.port);
                        prop_assert_eq!(fate(rules, key, outside, false), expected(service, outside, true));
                    }
                    if let Some(port) = service.node_port {
                        let key = Key::Port(service.protocol, port);
                        prop_assert_eq!(fate(rules, key, outside, true), expected(service, outside, true));
                    }
                }
            }
            let nobody = Key::Target([10, 43, 9, 9].into(), Protocol::Tcp, 80);
            prop_assert_eq!(fate(rules, nobody, true, false), Fate::Untouched);
        }
    }

    #[test]
    fn chain_names_can_be_read_back(lookup in 0usize..4, count in 1u32.., sticky: bool) {
        let pick = Branch::Pick(Pick { lookup: Lookup::ALL[lookup], count, sticky });
        prop_assert_eq!(pick.to_string().parse(), Ok(pick));
        let remember = Branch::Remember(count);
        prop_assert_eq!(remember.to_string().parse(), Ok(remember));
        let sources = Branch::Sources(u64::from(count) << 20);
        prop_assert_eq!(sources.to_string().parse(), Ok(sources));
    }
}

//! IPv6, alone and beside IPv4.

use crate::world::{Answer, Netns, World, ranges, service, with_endpoints};
use orlop_network::{Endpoint, HostPort, Network, NetworkConfig, PodLink, Protocol, ServicePort};

#[test]
fn a_pod_speaks_ipv6_at_once_to_pods_the_node_and_the_world() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    assert_eq!(a.address6.to_string(), "fd42::2");
    // No address is tentative, nobody waits for duplicate address detection.
    assert!(!a.netns.sh("ip -6 address show dev eth0 scope global").contains("tentative"));
    assert_eq!(b.netns.ask("[fd42::2]:80"), Answer::From("a".into(), b.address6.to_string()));
    world.outside.serve_tcp(80, "outside");
    assert_eq!(a.netns.ask("[2001:db8::2]:80"), Answer::From("outside".into(), "2001:db8::1".into()));
    world.machine.serve_tcp(8080, "machine");
    assert_eq!(a.netns.ask("[2001:db8::1]:8080").seen_as(), a.address6.to_string());
    assert_eq!(a.netns.ask("[fd43::a]:8080").name(), "machine");
    assert_eq!(world.machine.ask("[fd42::2]:80").seen_as(), "fd42::1");
    assert_eq!(a.netns.ask("[fd42::99]:80"), Answer::Unreachable);
}

#[test]
fn a_service_of_both_families_answers_by_both() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    let web = ServicePort {
        node_port: Some(30080),
        external_addresses: vec!["2001:db8:f::7".parse().unwrap()],
        ..service(Protocol::Tcp, &[&a, &b])
    };
    world.services(std::slice::from_ref(&web));
    world.outside.sh("ip route add 2001:db8:f::7 via 2001:db8::1");
    for to in ["10.43.0.1:80", "[fd43::1]:80", "[2001:db8::1]:30080", "[2001:db8:f::7]:80"] {
        let mut seen: Vec<String> = (0..20).map(|_| client.netns.ask(to).name().to_owned()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, ["a", "b"], "{to}");
    }
    assert_eq!(world.outside.ask("[2001:db8::1]:30080").seen_as(), "2001:db8::2");
    assert_eq!(world.outside.ask("[2001:db8:f::7]:80").seen_as(), "2001:db8::2");
    assert!(["a", "b"].contains(&world.machine.ask("[fd43::1]:80").name()));
    assert!(["a", "b"].contains(&world.machine.ask("[2001:db8::1]:30080").name()));
    // A pod that reaches itself is answered through the node.
    world.services(&[service(Protocol::Tcp, &[&a])]);
    assert_eq!(a.netns.ask("[fd43::1]:80"), Answer::From("a".into(), "fd42::1".into()));
    // Nobody is there: refused at once, in both families, whoever asks.
    world.services(&[with_endpoints(vec![], web)]);
    for from in [&client.netns, &world.machine] {
        for to in ["[fd43::1]:80", "[fd43::1]:81", "[fd43::99]:80", "[2001:db8::1]:30080"] {
            assert_eq!(from.ask(to), Answer::Refused, "{to}");
        }
    }
    assert_eq!(client.netns.udp_client("[fd43::99]:53").ask(), Answer::Refused);
}

#[test]
fn a_family_without_endpoints_refuses_and_the_other_answers() {
    let world = World::new();
    let (a, client) = (world.pod("a"), world.pod("client"));
    world.services(&[with_endpoints(vec![a.endpoint()], service(Protocol::Tcp, &[]))]);
    assert_eq!(client.netns.ask("10.43.0.1:80").name(), "a");
    assert_eq!(client.netns.ask("[fd43::1]:80"), Answer::Refused);
}

#[test]
fn affinity_holds_by_ipv6_over_restarts_and_the_rules_can_be_listed() {
    let world = World::new();
    let pods: Vec<_> = ["a", "b", "c", "d"].map(|name| world.pod(name)).into();
    let client = world.pod("client");
    let sticky = ServicePort {
        affinity_seconds: Some(600),
        ..service(Protocol::Tcp, &pods.iter().collect::<Vec<_>>())
    };
    world.services(std::slice::from_ref(&sticky));
    let mine = client.netns.ask("[fd43::1]:80").name().to_owned();
    world.services(&[sticky]);
    for _ in 0..12 {
        assert_eq!(client.netns.ask("[fd43::1]:80").name(), mine);
    }
    let listed = world.machine.sh("nft list ruleset");
    for part in [
        "dnat ip6 to ip6 daddr . meta l4proto . th dport . numgen random mod 4 map @services-endpoints",
        "fd43::1 . tcp . 80 : goto pick-services-4-sticky",
        &format!("fd43::1 . tcp . 80 . {}", client.address6),
    ] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
}

#[test]
fn a_udp_client_by_ipv6_is_moved_when_its_endpoint_goes() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    world.services(&[service(Protocol::Udp, &[&a])]);
    let asking = client.netns.udp_client("[fd43::1]:80");
    assert_eq!(asking.ask().name(), "a");
    world.services(&[service(Protocol::Udp, &[&b])]);
    assert_eq!(asking.ask().name(), "b");
}

#[test]
fn a_host_port_is_there_by_both_families() {
    let world = World::new();
    let port = HostPort { host_ip: None, host_port: 8080, pod_port: 80, protocol: Protocol::Tcp };
    let pod = world.pod_with("a", vec![port]);
    let other = world.pod("b");
    assert_eq!(world.outside.ask("[2001:db8::1]:8080"), Answer::From("a".into(), "2001:db8::2".into()));
    assert_eq!(world.machine.ask("[2001:db8::1]:8080").name(), "a");
    assert_eq!(other.netns.ask("[2001:db8::1]:8080").name(), "a");
    assert_eq!(pod.netns.ask("[2001:db8::1]:8080").name(), "a");
    world.with(|network| async move { network.detach("a").await.unwrap() });
    assert_eq!(world.outside.ask("[2001:db8::1]:8080"), Answer::Refused);
}

#[test]
fn an_answer_by_ipv6_from_an_endpoint_elsewhere_comes_back_through_this_node() {
    let world = World::new();
    world.with(|_| async {});
    let far = Netns::new();
    crate::world::wire(&world.machine, &far, "far0", "198.51.100.1/24", "198.51.100.2/24");
    world.machine.sh("ip address add 2001:db8:2::1/64 dev far0 nodad");
    far.sh("ip address add 2001:db8:2::2/64 dev eth0 nodad");
    far.serve_tcp(80, "far");
    let far = Endpoint::new("[2001:db8:2::2]:80".parse().unwrap(), false);
    let service =
        ServicePort { node_port: Some(30080), ..with_endpoints(vec![far], service(Protocol::Tcp, &[])) };
    world.services(&[service]);
    assert_eq!(world.outside.ask("[2001:db8::1]:30080"), Answer::From("far".into(), "2001:db8:2::1".into()));
}

#[test]
fn a_pod_cannot_pose_as_another_by_ipv6() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    a.netns.sh("ip address add fd42::77/128 dev eth0 nodad");
    let true_to_itself = a.netns.ask(&format!("[{}]:80", b.address6));
    assert_eq!(true_to_itself.seen_as(), "fd42::2");
    a.netns.sh("ip -6 route replace default via fe80::1 dev eth0 src fd42::77");
    assert_eq!(a.netns.ask(&format!("[{}]:80", b.address6)), Answer::Silence);
}

#[test]
fn a_cluster_of_ipv6_alone_works() {
    let world = World::new();
    let config = NetworkConfig {
        pod_ranges: ranges(["fd42::/64"]),
        cluster_ranges: ranges(["fd42::/56"]),
        service_ranges: ranges(["fd43::/112"]),
        dns_addresses: vec!["fd43::a".parse().unwrap()],
        ..world.config()
    };
    let (netns, client) = (Netns::new(), Netns::new());
    let (path, client_path) = (netns.path(), client.path());
    let web = ServicePort {
        cluster_addresses: vec!["fd43::1".parse().unwrap()],
        ..with_endpoints(
            vec![Endpoint::new("[fd42::2]:80".parse().unwrap(), true)],
            service(Protocol::Tcp, &[]),
        )
    };
    let given = world.machine.block_on(move || async move {
        let network = Network::open(config).await.unwrap();
        let link = |id: &str, netns| PodLink { id: id.into(), netns, host_ports: vec![] };
        let given = network.attach(link("a", path)).await.unwrap();
        network.attach(link("client", client_path)).await.unwrap();
        network.apply_services(vec![web]).await.unwrap();
        given
    });
    assert_eq!(given.addresses, ["fd42::2".parse::<std::net::IpAddr>().unwrap()]);
    netns.serve_tcp(80, "a");
    assert_eq!(client.ask("[fd43::1]:80").name(), "a");
    let shown = world.machine.sh("nft list tables; ip route");
    assert!(!shown.contains("table ip orlop") && !shown.contains("10.4"), "{shown}");
}

#[test]
fn only_sources_that_are_allowed_reach_a_balancers_address() {
    let world = World::new();
    let (a, client) = (world.pod("a"), world.pod("client"));
    let balanced = |ranges: &[&str]| ServicePort {
        balancer_addresses: vec!["192.0.2.100".parse().unwrap(), "2001:db8::100".parse().unwrap()],
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..service(Protocol::Tcp, &[&a])
    };
    world.outside.sh("ip route add 192.0.2.100 via 192.0.2.1 && ip route add 2001:db8::100 via 2001:db8::1");
    let (v4, v6) = ("192.0.2.100:80", "[2001:db8::100]:80");
    world.services(&[balanced(&["192.0.2.0/30", "10.42.0.0/16"])]);
    assert_eq!(world.outside.ask(v4).name(), "a");
    assert_eq!(client.netns.ask(v4).name(), "a");
    // Ranges of the other family alone say nothing of this one.
    assert_eq!(world.outside.ask(v6).name(), "a");
    world.services(&[balanced(&["198.51.100.0/24", "2001:db8:5::/48"])]);
    for to in [v4, v6] {
        assert_eq!(world.outside.ask(to), Answer::Silence);
        assert_eq!(client.netns.ask(to), Answer::Silence);
    }
    // Its other addresses are open to all.
    assert_eq!(client.netns.ask("10.43.0.1:80").name(), "a");
    world.services(&[balanced(&[])]);
    assert_eq!(world.outside.ask(v6).name(), "a");
}

#[test]
fn an_endpoint_that_weighs_more_is_asked_more() {
    let world = World::new();
    let (light, heavy, client) = (world.pod("light"), world.pod("heavy"), world.pod("client"));
    let endpoints = vec![light.endpoint(), Endpoint { weight: 4, ..heavy.endpoint() }];
    world.services(&[with_endpoints(endpoints, service(Protocol::Tcp, &[]))]);
    let heavy = (0..100).filter(|_| client.netns.ask("10.43.0.1:80").name() == "heavy").count();
    // 80 are expected; below 60 or all of them happens less than once in a million runs.
    assert!((60..100).contains(&heavy), "{heavy}");
}

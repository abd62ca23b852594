//! Services: who answers, evenly, for how long, and what happens when nobody is there.

use crate::world::{Answer, Netns, Pod, World, service, wire, with_endpoints};
use orlop_network::{Endpoint, Protocol, ServicePort};
use std::collections::BTreeMap;

fn with_node_port(port: u16, service: ServicePort) -> ServicePort {
    ServicePort { node_port: Some(port), ..service }
}

fn with_external(address: &str, service: ServicePort) -> ServicePort {
    ServicePort { external_addresses: vec![address.parse().unwrap()], ..service }
}

fn answers(client: &Netns, to: &str, times: usize) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for _ in 0..times {
        *count.entry(client.ask(to).name().to_owned()).or_default() += 1;
    }
    count
}

#[test]
fn a_cluster_ip_leads_to_all_its_endpoints_evenly_from_a_pod_and_from_the_node() {
    let world = World::new();
    let pods: Vec<Pod> = ["a", "b", "c"].map(|name| world.pod(name)).into();
    let client = world.pod("client");
    world.services(&[service(Protocol::Tcp, &pods.iter().collect::<Vec<_>>())]);
    let from_pod = answers(&client.netns, "10.43.0.1:80", 90);
    assert_eq!(from_pod.len(), 3);
    // Each is expected 30 times; below 10 happens once in a million runs.
    assert!(from_pod.values().all(|times| *times >= 10), "{from_pod:?}");
    assert_eq!(answers(&world.machine, "10.43.0.1:80", 30).len(), 3);
    // The endpoint sees who really asked.
    assert_eq!(client.netns.ask("10.43.0.1:80").seen_as(), client.address.to_string());
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new();
    let pod = world.pod("a");
    world.services(&[service(Protocol::Tcp, &[&pod])]);
    assert_eq!(pod.netns.ask("10.43.0.1:80"), Answer::From("a".into(), "10.42.0.1".into()));
    world.services(&[service(Protocol::Udp, &[&pod])]);
    assert_eq!(pod.netns.udp_client("10.43.0.1:80").ask().name(), "a");
}

#[test]
fn services_reach_a_machine_without_a_default_route() {
    let world = World::new();
    let pod = world.pod("a");
    world.machine.sh("ip route del default");
    world.services(&[service(Protocol::Tcp, &[&pod])]);
    assert_eq!(world.machine.ask("10.43.0.1:80").name(), "a");
    assert_eq!(world.machine.ask("10.43.0.2:80"), Answer::Refused);
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let world = World::new();
    let client = world.pod("client");
    let nobody = with_node_port(30080, with_external("192.0.2.100", service(Protocol::Tcp, &[])));
    let silent = ServicePort { name: "default/dns:udp".into(), ..service(Protocol::Udp, &[]) };
    world.outside.sh("ip route add 192.0.2.100 via 192.0.2.1");
    world.services(&[nobody, silent]);
    for from in [&client.netns, &world.machine] {
        assert_eq!(from.ask("10.43.0.1:80"), Answer::Refused);
        assert_eq!(from.udp_client("10.43.0.1:80").ask(), Answer::Refused);
        assert_eq!(from.ask("192.0.2.100:80"), Answer::Refused);
        assert_eq!(from.ask("192.0.2.1:30080"), Answer::Refused);
        // An address that no service has, and a port that this one does not have.
        assert_eq!(from.ask("10.43.9.9:80"), Answer::Refused);
        assert_eq!(from.ask("10.43.0.1:81"), Answer::Refused);
    }
    assert_eq!(world.outside.ask("192.0.2.1:30080"), Answer::Refused);
    assert_eq!(world.outside.ask("192.0.2.100:80"), Answer::Refused);
}

#[test]
fn a_node_port_is_on_all_addresses_of_the_node() {
    let world = World::new();
    let pod = world.pod("a");
    let client = world.pod("client");
    world.services(&[with_node_port(30080, service(Protocol::Tcp, &[&pod]))]);
    assert_eq!(world.outside.ask("192.0.2.1:30080"), Answer::From("a".into(), "192.0.2.2".into()));
    assert_eq!(world.machine.ask("127.0.0.1:30080").name(), "a");
    assert_eq!(world.machine.ask("192.0.2.1:30080").name(), "a");
    assert_eq!(client.netns.ask("192.0.2.1:30080").name(), "a");
    assert_eq!(client.netns.ask("10.42.0.1:30080").name(), "a");
    assert_eq!(pod.netns.ask("192.0.2.1:30080").name(), "a");
}

#[test]
fn an_external_address_leads_to_the_service_from_everywhere() {
    let world = World::new();
    let pod = world.pod("a");
    world.services(&[with_external("203.0.113.7", service(Protocol::Tcp, &[&pod]))]);
    world.outside.sh("ip route add 203.0.113.7 via 192.0.2.1");
    assert_eq!(world.outside.ask("203.0.113.7:80").seen_as(), "192.0.2.2");
    assert_eq!(world.machine.ask("203.0.113.7:80").name(), "a");
    assert_eq!(pod.netns.ask("203.0.113.7:80").name(), "a");
}

#[test]
fn with_the_local_policy_outsiders_get_local_endpoints_or_silence() {
    let world = World::new();
    let (local, client) = (world.pod("local"), world.pod("client"));
    let far = Netns::new();
    wire(&world.machine, &far, "far0", "198.51.100.1/24", "198.51.100.2/24");
    far.sh("ip route add 10.42.0.0/16 via 198.51.100.1");
    far.serve_tcp(80, "far");
    let far = Endpoint::new("198.51.100.2:80".parse().unwrap(), false);
    let mut both = with_node_port(30080, service(Protocol::Tcp, &[&local]));
    both.endpoints.push(far.clone());
    both.internal_endpoints.push(far.clone());
    world.services(&[both.clone()]);
    assert_eq!(answers(&world.outside, "192.0.2.1:30080", 20), [("local".to_owned(), 20)].into());
    assert_eq!(answers(&client.netns, "10.43.0.1:80", 30).len(), 2);
    assert_eq!(answers(&client.netns, "192.0.2.1:30080", 30).len(), 2);

    world.services(&[ServicePort { external_endpoints: vec![], ..with_endpoints(vec![far], both) }]);
    assert_eq!(world.outside.ask("192.0.2.1:30080"), Answer::Silence);
    assert_eq!(client.netns.ask("192.0.2.1:30080").name(), "far");
}

#[test]
fn an_answer_from_an_endpoint_elsewhere_comes_back_through_this_node() {
    let world = World::new();
    world.with(|_| async {});
    let far = Netns::new();
    wire(&world.machine, &far, "far0", "198.51.100.1/24", "198.51.100.2/24");
    far.serve_tcp(80, "far");
    let far = Endpoint::new("198.51.100.2:80".parse().unwrap(), false);
    let service = with_endpoints(vec![far], service(Protocol::Tcp, &[]));
    world.services(&[with_node_port(30080, service)]);
    // The endpoint has no route to the client: it can only answer the node.
    assert_eq!(world.outside.ask("192.0.2.1:30080"), Answer::From("far".into(), "198.51.100.1".into()));
}

#[test]
fn a_client_with_affinity_keeps_its_endpoint_over_restarts_until_that_is_gone() {
    let world = World::new();
    let pods: Vec<Pod> = ["a", "b", "c", "d"].map(|name| world.pod(name)).into();
    let client = world.pod("client");
    let all: Vec<&Pod> = pods.iter().collect();
    let sticky = |pods: &[&Pod]| ServicePort { affinity_seconds: Some(600), ..service(Protocol::Tcp, pods) };
    world.services(&[sticky(&all)]);
    let mine = client.netns.ask("10.43.0.1:80").name().to_owned();
    assert_eq!(answers(&client.netns, "10.43.0.1:80", 12), [(mine.clone(), 12)].into());

    // `services` opens the network anew each time, as a restarted agent does. One endpoint fewer, but not mine.
    let spared = pods
        .iter()
        .zip(["a", "b", "c", "d"])
        .filter(|(_, name)| *name != mine)
        .map(|(pod, _)| pod)
        .next()
        .unwrap();
    let fewer: Vec<&Pod> = all.iter().copied().filter(|pod| pod.address != spared.address).collect();
    world.services(&[sticky(&fewer)]);
    assert_eq!(answers(&client.netns, "10.43.0.1:80", 12), [(mine.clone(), 12)].into());

    // Now mine goes: another one, and that one for good.
    let without: Vec<&Pod> = all
        .iter()
        .copied()
        .zip(["a", "b", "c", "d"])
        .filter(|(_, name)| *name != mine)
        .map(|(pod, _)| pod)
        .collect();
    world.services(&[sticky(&without)]);
    let next = client.netns.ask("10.43.0.1:80").name().to_owned();
    assert_ne!(next, mine);
    assert_eq!(answers(&client.netns, "10.43.0.1:80", 12), [(next, 12)].into());

    // Without affinity it spreads again.
    world.services(&[service(Protocol::Tcp, &all)]);
    assert!(answers(&client.netns, "10.43.0.1:80", 40).len() > 1);
}

#[test]
fn affinity_that_was_off_in_between_knows_nothing_of_before() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    let sticky = |pods: &[&Pod]| ServicePort { affinity_seconds: Some(600), ..service(Protocol::Tcp, pods) };
    world.services(&[sticky(&[&b])]);
    assert_eq!(client.netns.ask("10.43.0.1:80").name(), "b");
    world.services(&[service(Protocol::Tcp, &[&b])]);
    world.services(&[service(Protocol::Tcp, &[&a])]);
    world.services(&[sticky(&[&a])]);
    assert_eq!(answers(&client.netns, "10.43.0.1:80", 4), [("a".to_owned(), 4)].into());
}

#[test]
#[allow(clippy::disallowed_methods)] // the clock is the kernel's
fn affinity_ends_when_its_time_is_over() {
    let world = World::new();
    let pods: Vec<Pod> = ["a", "b", "c", "d"].map(|name| world.pod(name)).into();
    let service =
        ServicePort { affinity_seconds: Some(1), ..service(Protocol::Tcp, &pods.iter().collect::<Vec<_>>()) };
    world.services(&[service]);
    let mut seen = std::collections::BTreeSet::new();
    // The chance of drawing one endpoint 12 times of 4 is 1 in 4 million.
    for _ in 0..12 {
        seen.insert(world.machine.ask("10.43.0.1:80").name().to_owned());
        if seen.len() > 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1200));
    }
    panic!("still at {seen:?}");
}

#[test]
fn a_udp_client_that_keeps_sending_is_moved_when_its_endpoint_goes() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    let web = |pods: &[&Pod]| with_node_port(30053, service(Protocol::Udp, pods));
    world.services(&[web(&[&a])]);
    let inside = client.netns.udp_client("10.43.0.1:80");
    let outside = world.outside.udp_client("192.0.2.1:30053");
    assert_eq!(inside.ask().name(), "a");
    assert_eq!(outside.ask().name(), "a");
    world.services(&[web(&[&b])]);
    assert_eq!(inside.ask().name(), "b");
    assert_eq!(outside.ask().name(), "b");
    world.services(&[web(&[])]);
    assert_eq!(inside.ask(), Answer::Refused);
}

#[test]
fn a_udp_client_that_came_before_the_node_port_finds_it() {
    let world = World::new();
    let pod = world.pod("a");
    let outside = world.outside.udp_client("192.0.2.1:30053");
    // A listener on the node that answers nothing makes the flow known to the kernel.
    let _listener = world.machine.run(|| std::net::UdpSocket::bind("192.0.2.1:30053").unwrap());
    assert_eq!(outside.ask(), Answer::Silence);
    world.services(&[with_node_port(30053, service(Protocol::Udp, &[&pod]))]);
    assert_eq!(outside.ask().name(), "a");
}

#[test]
fn rules_hold_while_the_agent_restarts_and_change_after() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    world.services(&[service(Protocol::Tcp, &[&a])]);
    world.with(|_| async {});
    assert_eq!(b.netns.ask("10.43.0.1:80").name(), "a");
    world.services(&[service(Protocol::Tcp, &[&b])]);
    assert_eq!(a.netns.ask("10.43.0.1:80").name(), "b");
    world.services(&[]);
    assert_eq!(a.netns.ask("10.43.0.1:80"), Answer::Refused);
}

#[test]
fn rules_that_somebody_flushed_come_back_with_the_next_change() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let (first, second) = (service(Protocol::Tcp, &[&a]), service(Protocol::Tcp, &[&b]));
    world.with(|network| async move {
        network.apply_services(vec![first]).await.unwrap();
        crate::world::sh("nft flush ruleset");
        network.apply_services(vec![second]).await.unwrap();
    });
    assert_eq!(a.netns.ask("10.43.0.1:80").name(), "b");
}

#[test]
fn a_service_at_the_dns_address_does_not_take_the_nodes_dns_away() {
    let world = World::new();
    let pod = world.pod("a");
    world.machine.serve_udp("10.43.0.10:53", "node");
    let dns = ServicePort {
        name: "kube-system/kube-dns:dns".into(),
        cluster_addresses: vec!["10.43.0.10".parse().unwrap()],
        port: 53,
        ..service(Protocol::Udp, &[])
    };
    world.services(&[dns]);
    assert_eq!(pod.netns.udp_client("10.43.0.10:53").ask().name(), "node");
}

#[test]
fn thousands_of_services_answer_and_a_change_is_small() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let many = |pod: &Pod| -> Vec<ServicePort> {
        (0..5000_u16)
            .map(|index| ServicePort {
                name: format!("default/web-{index}:http"),
                cluster_addresses: vec![std::net::Ipv4Addr::from(0x0a2b_1000 + u32::from(index)).into()],
                ..service(Protocol::Tcp, &[pod])
            })
            .collect()
    };
    let before = many(&a);
    let mut after = many(&a);
    after[4999] = with_endpoints(vec![b.endpoint()], after[4999].clone());
    let (first, change) = world.with(|network| async move {
        let start = std::time::Instant::now();
        network.apply_services(before).await.unwrap();
        let first = start.elapsed();
        let start = std::time::Instant::now();
        network.apply_services(after).await.unwrap();
        (first, start.elapsed())
    });
    println!("5000 services applied in {first:?}, one endpoint changed in {change:?}");
    assert_eq!(a.netns.ask("10.43.16.0:80").name(), "a");
    let last = std::net::Ipv4Addr::from(0x0a2b_1000 + 4999);
    assert_eq!(a.netns.ask(&format!("{last}:80")).name(), "b");
}

#[test]
fn the_rules_can_be_listed_by_the_nft_program() {
    let world = World::new();
    let port =
        orlop_network::HostPort { host_ip: None, host_port: 8080, pod_port: 80, protocol: Protocol::Tcp };
    let (a, b) = (world.pod_with("a", vec![port]), world.pod("b"));
    let web = with_node_port(30080, with_external("203.0.113.7", service(Protocol::Tcp, &[&a, &b])));
    let local = ServicePort { external_endpoints: vec![a.endpoint()], ..web.clone() };
    let sticky = ServicePort {
        name: "default/sticky:http".into(),
        cluster_addresses: vec!["10.43.0.2".parse().unwrap()],
        external_addresses: vec![],
        node_port: Some(30081),
        affinity_seconds: Some(600),
        ..web
    };
    world.services(&[local, sticky]);
    a.netns.ask("10.43.0.2:80");
    let listed = world.machine.sh("nft list ruleset");
    for part in [
        "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @services-endpoints",
        "10.43.0.2 . tcp . 80 : goto pick-services-2-sticky",
        "tcp . 30081 : jump remember-600",
        "type filter hook",
    ] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
}

#[test]
fn an_endpoint_on_the_node_itself_answers_pods_and_the_node() {
    let world = World::new();
    let client = world.pod("client");
    world.machine.serve_tcp(6443, "node");
    let node = vec![Endpoint::new("192.0.2.1:6443".parse().unwrap(), true)];
    let api =
        with_endpoints(node, ServicePort { affinity_seconds: Some(600), ..service(Protocol::Tcp, &[]) });
    world.services(&[with_node_port(30443, api)]);
    assert_eq!(client.netns.ask("10.43.0.1:80"), Answer::From("node".into(), client.address.to_string()));
    assert_eq!(world.machine.ask("10.43.0.1:80").name(), "node");
    assert_eq!(world.outside.ask("192.0.2.1:30443").name(), "node");
    assert_eq!(client.netns.ask("192.0.2.1:30443").name(), "node");
    assert_eq!(world.machine.ask("127.0.0.1:30443").name(), "node");
    let known = world.machine.sh("nft list map ip orlop-test affinity");
    assert!(known.contains(&format!("10.43.0.1 . tcp . 80 . {}", client.address)), "{known}");
    assert!(known.contains("192.0.2.1 . tcp . 30443 . 192.0.2.2"), "{known}");
}

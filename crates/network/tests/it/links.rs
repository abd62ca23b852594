//! Links, addresses and the way out.

use crate::world::{Answer, Netns, World, ranges};
use orlop_network::{Error, HostPort, Network, NetworkConfig, PodLink, Protocol};

#[test]
fn pods_reach_each_other_and_the_world_and_the_world_sees_the_machine() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    assert_eq!(b.netns.ask(&format!("{}:80", a.address)), Answer::From("a".into(), b.address.to_string()));
    world.outside.serve_tcp(80, "outside");
    assert_eq!(a.netns.ask("192.0.2.2:80"), Answer::From("outside".into(), "192.0.2.1".into()));
    // The node sees the pod itself, and the pod sees the node as its gateway.
    world.machine.serve_tcp(8080, "machine");
    assert_eq!(a.netns.ask("192.0.2.1:8080").seen_as(), a.address.to_string());
    assert_eq!(a.netns.ask("10.43.0.10:8080").name(), "machine");
    assert_eq!(world.machine.ask(&format!("{}:80", a.address)).seen_as(), "10.42.0.1");
}

#[test]
fn an_address_that_no_pod_has_is_unreachable_at_once() {
    let world = World::new();
    let pod = world.pod("a");
    assert_eq!(pod.netns.ask("10.42.0.99:80"), Answer::Unreachable);
    assert_eq!(world.machine.ask("10.42.0.99:80"), Answer::Unreachable);
}

#[test]
fn a_network_with_other_ranges_takes_the_place_of_the_old_one() {
    let world = World::new();
    world.pod("a");
    let config = NetworkConfig {
        pod_ranges: ranges(["10.42.7.0/24"]),
        cluster_ranges: ranges(["10.42.0.0/16"]),
        service_ranges: ranges(["10.44.0.0/16"]),
        dns_addresses: vec!["10.44.0.10".parse().unwrap()],
        ..world.config()
    };
    let netns = Netns::new();
    let link = PodLink { id: "b".into(), netns: netns.path(), host_ports: vec![] };
    world.machine.block_on(move || async move {
        let network = Network::open(config).await.unwrap();
        network.retain(&[]).await.unwrap();
        network.attach(link).await.unwrap();
    });
    netns.serve_tcp(80, "b");
    assert_eq!(world.machine.ask("10.42.7.2:80").name(), "b");
    let left = world.machine.sh("ip -o address; ip route; ip -6 route; nft list ruleset");
    assert!(!left.contains("10.43.0.") && !left.contains("10.42.0.1"), "{left}");
    // Nor anything of the family that it does not have any more.
    assert!(!left.contains("fd42:") && !left.contains("fd43:") && !left.contains("table ip6"), "{left}");
}

#[test]
fn a_pod_has_eth0_with_the_uplinks_mtu_and_a_default_route() {
    let world = World::new();
    let pod = world.pod("a");
    let link = pod.netns.sh("ip -o link show eth0");
    assert!(link.contains("mtu 1400") && link.contains("UP"), "{link}");
    assert!(pod.netns.sh("ip -o -4 address show eth0").contains("10.42.0.2/32"));
    assert!(pod.netns.sh("ip route").contains("default via 10.42.0.1 dev eth0"));
    assert!(world.machine.sh("ip -o link show").contains(&pod.host_link));
}

#[test]
fn attaching_again_changes_nothing_even_after_a_restart() {
    let world = World::new();
    let pod = world.pod("a");
    let before = pod.netns.sh("ip -o link show eth0");
    let link = PodLink { id: "a".into(), netns: pod.netns.path(), host_ports: vec![] };
    let again = world.with(|network| async move {
        network.attach(link.clone()).await.unwrap();
        network.attach(link).await.unwrap()
    });
    assert_eq!(again.addresses[0], pod.address);
    assert_eq!(pod.netns.sh("ip -o link show eth0"), before);
}

#[test]
fn a_half_made_link_is_made_anew() {
    let world = World::new();
    let pod = world.pod("a");
    // As if the agent had been killed between making the links and giving the pod its address.
    let journal = world.config().state_dir.join("addresses");
    let text = std::fs::read_to_string(&journal).unwrap();
    let without: String =
        text.lines().filter(|line| !line.contains("linked\":{")).map(|line| format!("{line}\n")).collect();
    assert_ne!(text, without);
    std::fs::write(&journal, without).unwrap();
    pod.netns.sh("ip address flush dev eth0");
    let link = PodLink { id: "a".into(), netns: pod.netns.path(), host_ports: vec![] };
    let given = world.with(|network| async move { network.attach(link).await.unwrap() });
    assert_eq!(given.addresses[0], pod.address);
    assert_eq!(world.machine.ask(&format!("{}:80", pod.address)).name(), "a");
}

#[test]
fn detached_and_forgotten_pods_leave_nothing() {
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let c = world.pod("c");
    world.with(|network| async move {
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        network.retain(&["c".into()]).await.unwrap();
    });
    let links = world.machine.sh("ip -o link show");
    assert!(!links.contains(&a.host_link) && !links.contains(&b.host_link), "{links}");
    assert!(links.contains(&c.host_link));
    assert_eq!(world.machine.ask(&format!("{}:80", c.address)).name(), "c");
}

#[test]
fn a_pod_whose_namespace_is_gone_gets_no_address() {
    let world = World::new();
    let (first, again) = world.with(|network| async move {
        let link = PodLink { id: "a".into(), netns: "/no/such/namespace".into(), host_ports: vec![] };
        let first = network.attach(link).await.unwrap_err();
        let netns = Netns::new();
        let link = PodLink { id: "b".into(), netns: netns.path(), host_ports: vec![] };
        (first, network.attach(link).await.map(|given| given.addresses[0].to_string()))
    });
    assert!(first.to_string().contains("/no/such/namespace"), "{first}");
    assert!(again.is_ok());
    assert!(!std::fs::read_to_string(world.config().state_dir.join("addresses")).unwrap().trim().is_empty());
    assert!(!world.machine.sh("ip -o link show").contains("-0002"));
}

#[test]
fn a_host_port_leads_to_its_pod_until_it_is_detached() {
    let world = World::new();
    let port = HostPort { host_ip: None, host_port: 8080, pod_port: 80, protocol: Protocol::Tcp };
    let pod = world.pod_with("a", vec![port.clone()]);
    let other = world.pod("b");
    assert_eq!(world.outside.ask("192.0.2.1:8080"), Answer::From("a".into(), "192.0.2.2".into()));
    assert_eq!(world.machine.ask("127.0.0.1:8080").name(), "a");
    assert_eq!(world.machine.ask("192.0.2.1:8080").name(), "a");
    assert_eq!(other.netns.ask("192.0.2.1:8080").name(), "a");
    assert_eq!(pod.netns.ask("192.0.2.1:8080").name(), "a");

    let taken = world.with(|network| async move {
        let netns = Netns::new();
        network
            .attach(PodLink { id: "c".into(), netns: netns.path(), host_ports: vec![port] })
            .await
            .unwrap_err()
    });
    assert!(matches!(taken, Error::HostPortTaken { port: 8080, .. }), "{taken}");

    world.with(|network| async move { network.detach("a").await.unwrap() });
    assert_eq!(world.outside.ask("192.0.2.1:8080"), Answer::Refused);
}

#[test]
fn a_host_port_on_one_address_is_not_on_another() {
    let world = World::new();
    world.machine.sh("ip address add 192.0.2.9/24 dev up0");
    let host_ip = Some("192.0.2.9".parse().unwrap());
    world.pod_with("a", vec![HostPort { host_ip, host_port: 8080, pod_port: 80, protocol: Protocol::Tcp }]);
    assert_eq!(world.outside.ask("192.0.2.9:8080").name(), "a");
    assert_eq!(world.outside.ask("192.0.2.1:8080"), Answer::Refused);
}

#[test]
fn a_range_that_is_in_use_is_refused_by_name() {
    let world = World::new();
    let refused = |config: NetworkConfig| {
        world.machine.block_on(|| async move { Network::open(config).await.err().unwrap().to_string() })
    };
    world.machine.sh("ip route add 10.42.0.0/20 via 192.0.2.2");
    let error = refused(world.config());
    assert!(
        error.contains("pod range 10.42.0.0/24 overlaps 10.42.0.0/20") && error.contains("up0"),
        "{error}"
    );
    world.machine.sh("ip route del 10.42.0.0/20 && ip route add 10.43.7.0/24 via 192.0.2.2");
    let error = refused(world.config());
    assert!(error.contains("service range 10.43.0.0/16 overlaps 10.43.7.0/24"), "{error}");
    assert!(!world.machine.sh("ip -o link show").contains("orlop-"));
}

fn second(world: &World) -> NetworkConfig {
    NetworkConfig {
        instance: "other".into(),
        pod_ranges: ranges(["10.52.0.0/24", "fd52::/64"]),
        cluster_ranges: ranges(["10.52.0.0/16", "fd52::/56"]),
        service_ranges: ranges(["10.53.0.0/16", "fd53::/112"]),
        dns_addresses: vec!["10.53.0.10".parse().unwrap(), "fd53::a".parse().unwrap()],
        state_dir: world.state.path().join("other"),
        mtu: None,
    }
}

#[test]
fn two_instances_do_not_disturb_each_other() {
    let world = World::new();
    let a = world.pod("a");
    world.services(&[crate::world::service(Protocol::Tcp, &[&a])]);
    let config = second(&world);
    let netns = Netns::new();
    let path = netns.path();
    let address = world.machine.block_on(move || async move {
        let other = Network::open(config).await.unwrap();
        let given = other.attach(PodLink { id: "a".into(), netns: path, host_ports: vec![] }).await.unwrap();
        other.retain(&["a".into()]).await.unwrap();
        other.apply_services(vec![]).await.unwrap();
        given.addresses[0]
    });
    netns.serve_tcp(80, "other");
    assert_eq!(world.machine.ask(&format!("{address}:80")).name(), "other");
    assert_eq!(a.netns.ask("10.43.0.1:80").name(), "a");
    let dir = second(&world).state_dir;
    world.machine.block_on(move || async move { Network::remove_all("other", &dir).await.unwrap() });
    assert_eq!(a.netns.ask("10.43.0.1:80").name(), "a");
    let left = world.machine.sh("ip -o link show; nft list tables; ip route; ip -6 route");
    assert!(!left.contains("other") && !left.contains("10.5") && !left.contains("fd5"), "{left}");
}

#[test]
fn removing_all_leaves_the_machine_as_it_was() {
    let world = World::new();
    let shown = "ip -o link show | cut -d: -f2; ip route; ip -6 route show default; nft list tables; \
                 cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/up0/accept_ra";
    world
        .machine
        .sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; \
         echo 1 > /proc/sys/net/ipv6/conf/up0/accept_ra");
    let before = world.machine.sh(shown);
    let port = HostPort { host_ip: None, host_port: 8080, pod_port: 80, protocol: Protocol::Tcp };
    let pod = world.pod_with("a", vec![port]);
    world.services(&[crate::world::service(Protocol::Tcp, &[&pod])]);
    let during = world.machine.sh(shown);
    assert!(during.ends_with("1\n1\n2\n"), "{during}");
    let dir = world.config().state_dir;
    world.machine.block_on(move || async move {
        Network::remove_all("test", &dir).await.unwrap();
        Network::remove_all("test", &dir).await.unwrap();
    });
    assert_eq!(world.machine.sh(shown), before);
    assert_eq!(std::fs::read_dir(world.config().state_dir).unwrap().count(), 0);
    assert!(!pod.netns.sh("ip -o link show").contains("eth0"));
}

#[test]
fn pods_cannot_reach_what_listens_on_the_nodes_loopback() {
    let world = World::new();
    let pod = world.pod("a");
    let listener = world.machine.run(|| std::net::TcpListener::bind("127.0.0.1:9000").unwrap());
    pod.netns.sh(
        "ip address flush dev lo && ip route del table local 127.0.0.0/8 2>/dev/null; \
         echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet && ip route add 127.0.0.0/8 via 10.42.0.1 src 10.42.0.2",
    );
    assert_eq!(pod.netns.ask("127.0.0.1:9000"), Answer::Silence);
    drop(listener);
}

#[test]
fn a_hundred_pods_attached_at_once_have_a_hundred_addresses() {
    let world = World::new();
    let spaces: Vec<Netns> = (0..100).map(|_| Netns::new()).collect();
    let links: Vec<PodLink> = spaces
        .iter()
        .enumerate()
        .map(|(index, netns)| PodLink { id: format!("pod-{index}"), netns: netns.path(), host_ports: vec![] })
        .collect();
    let (addresses, took) = world.with(|network| async move {
        let start = std::time::Instant::now();
        let given = futures::future::join_all(links.into_iter().map(|link| network.attach(link))).await;
        let took = start.elapsed();
        (
            given
                .into_iter()
                .map(|given| given.unwrap().addresses[0])
                .collect::<std::collections::BTreeSet<_>>(),
            took,
        )
    });
    println!("100 pods attached in {took:?}");
    assert_eq!(addresses.len(), 100);
    let last = &spaces[99];
    last.serve_tcp(80, "last");
    let address = last.sh("ip -o -4 address show eth0 | awk '{print $4}'");
    let address = address.trim().trim_end_matches("/32");
    assert_eq!(spaces[0].ask(&format!("{address}:80")).name(), "last");
}

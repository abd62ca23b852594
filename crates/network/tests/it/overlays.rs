//! Networks that people make: members on one machine and on two, what is kept apart, and what is left behind.

use crate::mesh::Killed;
use crate::world::{Answer, Netns, World, wire};
use orlop_network::overlay::{Member, Overlay, OverlayConfig, Overlays, Remote, member_mac};
use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

fn config(node: &str) -> OverlayConfig {
    OverlayConfig { instance: "test".into(), node_address: node.parse().unwrap(), port: 4789, mtu: 1450 }
}

fn member(id: &str, netns: &Netns, addresses: &[&str]) -> Member {
    Member {
        id: id.into(),
        mac: member_mac(id),
        netns: netns.path(),
        interface: "back".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn overlay(members: Vec<Member>, remotes: &[(&str, &str)]) -> Overlay {
    let subnet = |range: &str, gateway: &str| (range.parse().unwrap(), gateway.parse().unwrap());
    Overlay {
        id: 4096,
        subnets: vec![subnet("10.60.0.0/24", "10.60.0.1"), subnet("fd00:60::/64", "fd00:60::1")],
        open: false,
        members,
        remotes: remotes
            .iter()
            .map(|(id, node)| Remote { mac: member_mac(id), node: node.parse::<IpAddr>().unwrap() })
            .collect(),
    }
}

/// Whether somebody there takes a connection.
fn reaches(from: &Netns, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
}

/// Takes connections by IPv6.
fn listen6(on: &Netns) -> TcpListener {
    on.run(|| TcpListener::bind("[::]:81").unwrap())
}

/// Whether a datagram of that many bytes arrives in one piece.
fn arrives(from: &Netns, to: &Netns, address: &'static str, bytes: usize) -> bool {
    let socket = to.run(|| UdpSocket::bind("0.0.0.0:82").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    from.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&vec![7; bytes], (address, 82)).unwrap());
    let mut buffer = vec![0; 9000];
    socket.recv(&mut buffer).is_ok_and(|read| read == bytes)
}

/// Makes a machine's networks these, from a fresh start each time.
fn apply(machine: &Netns, node: &str, overlays: Vec<Overlay>) {
    let config = config(node);
    let failed =
        machine.block_on(|| async move { Overlays::open(config).unwrap().apply(&overlays).await.unwrap() });
    assert!(failed.is_empty(), "{failed:?}");
}

/// Two machines on one segment.
fn two_machines() -> (Netns, Netns) {
    let (one, other) = (Netns::new(), Netns::new());
    wire(&one, &other, "up0", "192.0.2.1/24", "192.0.2.2/24");
    one.sh("ip link set up0 up");
    (one, other)
}

#[test]
fn members_of_one_machine_reach_each_other_in_both_families_and_come_and_go_alive() {
    let world = World::new();
    let (a, b) = (Netns::new(), Netns::new());
    let both =
        || vec![member("a", &a, &["10.60.0.2", "fd00:60::2"]), member("b", &b, &["10.60.0.3", "fd00:60::3"])];
    apply(&world.machine, "192.0.2.1", vec![overlay(both(), &[])]);
    b.serve_tcp(80, "b");
    assert_eq!(a.ask("10.60.0.3:80"), Answer::From("b".into(), "10.60.0.2".into()));
    let _listener = listen6(&b);
    assert!(reaches(&a, "[fd00:60::3]:81"));
    // Said again, nothing changes: the connection's links are the same ones.
    let before = world.machine.sh("ip -o link");
    apply(&world.machine, "192.0.2.1", vec![overlay(both(), &[])]);
    assert_eq!(world.machine.sh("ip -o link"), before);
    apply(&world.machine, "192.0.2.1", vec![overlay(vec![member("a", &a, &["10.60.0.2"])], &[])]);
    assert!(!b.sh("ip -o link").contains(": back@"), "the disconnected pod has lost its interface");
    assert!(a.sh("ip -o -4 address show back").contains("10.60.0.2/24"));
}

#[test]
fn members_of_two_machines_reach_each_other_through_the_tunnel() {
    let (one, other) = two_machines();
    let (a, b, c) = (Netns::new(), Netns::new(), Netns::new());
    let here = || vec![member("a", &a, &["10.60.0.2", "fd00:60::2"])];
    let remotes = [("b", "192.0.2.2"), ("c", "192.0.2.2")];
    apply(&one, "192.0.2.1", vec![overlay(here(), &remotes)]);
    let there = vec![member("b", &b, &["10.60.0.3", "fd00:60::3"]), member("c", &c, &["10.60.0.4"])];
    apply(&other, "192.0.2.2", vec![overlay(there, &[("a", "192.0.2.1")])]);
    b.serve_tcp(80, "b");
    c.serve_tcp(80, "c");
    assert_eq!(a.ask("10.60.0.3:80"), Answer::From("b".into(), "10.60.0.2".into()));
    assert_eq!(a.ask("10.60.0.4:80").name(), "c");
    let _listener = listen6(&b);
    assert!(reaches(&a, "[fd00:60::3]:81"));
    // 1450 less the headers of IPv4 and UDP.
    assert!(arrives(&a, &b, "10.60.0.3", 1422), "a full-sized packet");
    // One moves away: what is known of it is forgotten, the other still answers.
    apply(&one, "192.0.2.1", vec![overlay(here(), &remotes[..1])]);
    let forwarded = one.sh("bridge fdb show dev xtest001000");
    assert_eq!(forwarded.matches("192.0.2.2").count(), 2, "b, and everybody: {forwarded}");
    assert_eq!(a.ask("10.60.0.3:80").name(), "b");
}

#[test]
fn an_isolated_network_is_reached_by_its_members_alone_and_an_open_one_by_all() {
    let world = World::new();
    let (a, stranger) = (Netns::new(), world.pod("stranger"));
    let isolated = || overlay(vec![member("a", &a, &["10.60.0.2"])], &[]);
    apply(&world.machine, "192.0.2.1", vec![isolated()]);
    a.serve_tcp(80, "a");
    world.machine.serve_tcp(8080, "machine");
    // Even a member that knows the bridge's own address gets nowhere through it.
    let mac = world.machine.sh("ip -o link show btest001000 | sed 's/.*ether \\([^ ]*\\).*/\\1/'");
    a.sh(&format!(
        "ip neigh add 10.60.0.99 lladdr {} dev back && ip route add default via 10.60.0.99",
        mac.trim()
    ));
    assert!(!reaches(&a, "192.0.2.1:8080"));
    assert!(!reaches(&stranger.netns, "10.60.0.2:80"));
    a.sh("ip route del default");
    apply(&world.machine, "192.0.2.1", vec![Overlay { open: true, ..isolated() }]);
    assert_eq!(stranger.netns.ask("10.60.0.2:80"), Answer::From("a".into(), "10.60.0.1".into()));
    a.sh("ip route add default via 10.60.0.1");
    assert_eq!(a.ask("192.0.2.1:8080").name(), "machine");
    apply(&world.machine, "192.0.2.1", vec![isolated()]);
    assert!(!reaches(&a, "192.0.2.1:8080"), "and is closed again");
}

#[test]
fn a_half_made_member_is_made_anew_and_nothing_is_left_in_the_end() {
    let world = World::new();
    let before = world.machine.sh("ip -o link; nft list ruleset");
    let a = Netns::new();
    let wanted = || vec![overlay(vec![member("a", &a, &["10.60.0.2"])], &[("b", "192.0.2.2")])];
    apply(&world.machine, "192.0.2.1", wanted());
    // As after a kill before the end.
    world.machine.sh("ip link set mtest000000 alias ''");
    a.sh("ip address flush dev back");
    apply(&world.machine, "192.0.2.1", wanted());
    assert!(a.sh("ip -o -4 address show back").contains("10.60.0.2/24"));
    world.machine.block_on(|| async { Overlays::remove_all("test").await.unwrap() });
    assert_eq!(world.machine.sh("ip -o link; nft list ruleset"), before);
    assert!(!a.sh("ip -o link").contains(": back@"));
}

#[test]
fn a_member_that_cannot_be_connected_is_named_and_the_others_are() {
    let world = World::new();
    let (a, b) = (Netns::new(), Netns::new());
    a.sh("ip link add back type bridge");
    let wanted = overlay(vec![member("a", &a, &["10.60.0.2"]), member("b", &b, &["10.60.0.3"])], &[]);
    let failed = world.machine.block_on(|| async move {
        Overlays::open(config("192.0.2.1")).unwrap().apply(&[wanted]).await.unwrap()
    });
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["a"]);
    assert!(b.sh("ip -o -4 address show back").contains("10.60.0.3/24"));
}

#[test]
fn an_agent_killed_on_its_way_leaves_nothing_that_the_next_one_does_not_put_right() {
    let world = World::new();
    let machine = &world.machine;
    let pods: Vec<Netns> = (0..4).map(|_| Netns::new()).collect();
    let shown = || {
        let inside: String = pods.iter().map(|pod| pod.sh("ip -o link | wc -l; ip -o -4 address")).collect();
        machine.sh("ip -o link | cut -d: -f2; bridge fdb | grep dst || true; nft list tables") + &inside
    };
    let before = shown();
    // A generator with a seed of its own: a failure can be seen again.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let of = |id: u32, interface: &str, which: &dyn Fn(usize) -> bool, remotes: &[(&str, &str)]| {
        let members = pods.iter().enumerate().filter(|(n, _)| which(*n)).map(|(n, pod)| Member {
            interface: interface.into(),
            ..member(&format!("{interface}{n}"), pod, &[&format!("10.60.0.{}", n + 2)])
        });
        Overlay { id, ..overlay(members.collect(), remotes) }
    };
    let mut killed = 0;
    for round in 0..300 {
        let (some, others, far) = (draw(16), draw(16), draw(3) as usize);
        let remotes = &[("x", "192.0.2.2"), ("y", "192.0.2.3")][..far];
        let wanted = vec![
            of(5000, "back", &|n| some >> n & 1 == 1, remotes),
            of(5001, "front", &|n| others >> n & 1 == 1, &[]),
        ];
        let (polls, config) = (draw(30) as u32, config("192.0.2.1"));
        let done = machine.block_on(move || async move {
            let work =
                async { Overlays::open(config).unwrap().apply(&wanted).await.map(|failed| failed.len()) };
            Killed(Box::pin(work), polls).await
        });
        killed += u32::from(done.is_none());
        if let Some(done) = done {
            assert_eq!(done.unwrap(), 0, "round {round}: what another left is in nobody's way");
        }
        if round % 50 == 49 {
            let last = vec![of(5000, "back", &|n| n < 2, &[("x", "192.0.2.2")])];
            apply(machine, "192.0.2.1", last);
            let found = machine
                .sh("ip -o link | grep -c 'test00'; bridge fdb show dev xtest001388 | grep -c 192.0.2");
            // A bridge, its tunnel and two members; x, and everybody.
            assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["4", "2"], "{}", shown());
            assert!(pods[0].sh("ip -o -4 address show back").contains("10.60.0.2/24"));
        }
        if round % 100 == 99 {
            machine.block_on(|| async { Overlays::remove_all("test").await.unwrap() });
            assert_eq!(shown(), before);
        }
    }
    assert!(killed > 30, "{killed} were killed before they were done");
}

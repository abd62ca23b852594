//! Load balancer addresses that this machine answers for.

use crate::world::{Answer, World, service};
use orlop_network::{Network, Protocol, ServicePort};
use std::{collections::BTreeSet, net::IpAddr};

fn balanced(pod: &crate::world::Pod) -> ServicePort {
    ServicePort {
        balancer_addresses: vec!["192.0.2.100".parse().unwrap(), "2001:db8::100".parse().unwrap()],
        ..service(Protocol::Tcp, &[pod])
    }
}

#[test]
fn neighbours_find_a_balancers_address_here_as_long_as_it_is_announced_and_nothing_is_left() {
    let world = World::new();
    let pod = world.pod("a");
    let web = balanced(&pod);
    let addresses: BTreeSet<IpAddr> = web.balancer_addresses.iter().copied().collect();
    let outside = world.outside.clone();
    // The machine knows its neighbour: it cannot ask while its own link-local address is that young.
    assert_eq!(outside.ask("[2001:db8::1]:9"), Answer::Refused);
    // As if another node had answered until now.
    outside.sh("ip neigh replace 192.0.2.100 lladdr 02:00:00:00:00:99 dev eth0 nud reachable; \
         ip neigh replace 2001:db8::100 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
    let shown = "ip -o -4 address; ip -o -6 address show scope global";
    let before = world.machine.sh(shown);
    let ask = move |all: &'static [&str]| {
        let outside = outside.clone();
        async move {
            let asked =
                tokio::task::spawn_blocking(move || all.iter().map(|to| outside.ask(to)).collect::<Vec<_>>());
            asked.await.unwrap()
        }
    };
    let (found, other_port) = world.with(move |network| async move {
        network.apply_services(vec![web]).await.unwrap();
        network.announce(addresses).await.unwrap();
        let found = ask(&["192.0.2.100:80", "[2001:db8::100]:80"]).await;
        let other_port = ask(&["192.0.2.100:81", "[2001:db8::100]:81"]).await;
        network.announce(BTreeSet::new()).await.unwrap();
        (found, other_port)
    });
    assert_eq!(
        found,
        [Answer::From("a".into(), "192.0.2.2".into()), Answer::From("a".into(), "2001:db8::2".into())]
    );
    // What no Service answers for is nobody's, above all not this machine's.
    assert_eq!(other_port, [Answer::Unreachable, Answer::Unreachable]);
    assert_eq!(world.machine.sh(shown), before);
    assert!(!world.machine.sh("ip route; ip -6 route").contains("::100"));
    world.outside.sh("ip neigh flush dev eth0");
    assert!(matches!(world.outside.ask("192.0.2.100:80"), Answer::Silence | Answer::Unreachable));
}

#[test]
fn routes_of_announced_addresses_that_a_killed_agent_left_go_with_the_next() {
    let world = World::new();
    let addresses: BTreeSet<IpAddr> =
        ["192.0.2.100".parse().unwrap(), "2001:db8::100".parse().unwrap()].into();
    world.with(|network| async move { network.announce(addresses).await.unwrap() });
    let routes = "ip route show dev orlop-test; ip -6 route show dev orlop-test";
    assert!(world.machine.sh(routes).contains("192.0.2.100"));
    world.with(|network| async move { network.announce(BTreeSet::new()).await.unwrap() });
    let left = world.machine.sh(routes);
    assert!(!left.contains("100"), "{left}");
    assert!(left.contains("fd43::/112") && left.contains("10.43.0.0/16"), "{left}");
    let dir = world.config().state_dir;
    world.machine.block_on(move || async move { Network::remove_all("test", &dir).await.unwrap() });
}

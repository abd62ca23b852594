//! The kernel against a model: for random Services through a random history, a packet from anywhere to anything meets what the
//! Services say.

use crate::world::{Answer, Netns, World, service, wire};
use orlop_network::{Endpoint, Network, Protocol, ServicePort};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{collections::BTreeSet, time::Duration};

/// Where an endpoint runs. The first two are on this machine.
const ENDPOINTS: [&str; 3] = ["a", "b", "far"];
/// Long enough for an answer within one machine, short enough to wait for silence often.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Clone, Debug)]
struct Wanted {
    endpoints: BTreeSet<usize>,
    v6_too: bool,
    internal_local: bool,
    external_local: bool,
    sources: Option<Client>,
    sticky: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Pod,
    Machine,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Cluster,
    NodePort,
    External,
    Balancer,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    service: usize,
    from: Client,
    by: Door,
    v6: bool,
}

fn wanted() -> impl Strategy<Value = Option<Wanted>> {
    let endpoints = proptest::collection::btree_set(0..ENDPOINTS.len(), 0..=ENDPOINTS.len());
    let sources = prop_oneof![
        2 => Just(None), 1 => Just(Some(Client::Pod)), 1 => Just(Some(Client::Outside))
    ];
    let wanted = (endpoints, any::<[bool; 4]>(), sources).prop_map(
        |(endpoints, [v6_too, internal_local, external_local, sticky], sources)| Wanted {
            endpoints,
            v6_too,
            internal_local,
            external_local,
            sources,
            sticky,
        },
    );
    proptest::option::weighted(0.9, wanted)
}

fn packet() -> impl Strategy<Value = Packet> {
    let from = prop_oneof![Just(Client::Pod), Just(Client::Machine), Just(Client::Outside)];
    let by =
        prop_oneof![Just(Door::Cluster), Just(Door::NodePort), Just(Door::External), Just(Door::Balancer)];
    (0..3_usize, from, by, any::<bool>()).prop_map(|(service, from, by, v6)| Packet { service, from, by, v6 })
}

/// What a packet should meet: one of these endpoints, a refusal, or nothing.
#[derive(Debug, PartialEq)]
enum Fate {
    OneOf(BTreeSet<&'static str>),
    Refused,
    Silence,
}

/// Straight from the words of the API: nothing of maps, chains and slots.
fn model(services: &[Option<Wanted>], packet: Packet) -> Fate {
    let service = services.get(packet.service).and_then(Option::as_ref);
    let Some(service) = service.filter(|service| service.v6_too || !packet.v6) else {
        // Of the range of Services nothing is anybody else's; a port that nobody opened is refused by the node.
        return Fate::Refused;
    };
    let allowed = service.sources.is_none_or(|sources| sources == packet.from);
    if packet.by == Door::Balancer && !allowed {
        return Fate::Silence;
    }
    let only_local = match (packet.by, packet.from) {
        (Door::Cluster, _) => service.internal_local,
        (_, Client::Outside) => service.external_local,
        (_, Client::Pod | Client::Machine) => false,
    };
    let usable = service.endpoints.iter().filter(|at| **at < 2 || !only_local);
    let usable: BTreeSet<&str> = usable.map(|at| ENDPOINTS[*at]).collect();
    if !usable.is_empty() {
        Fate::OneOf(usable)
    } else if service.endpoints.is_empty() {
        Fate::Refused
    } else {
        Fate::Silence
    }
}

struct Scene {
    world: World,
    pods: Vec<crate::world::Pod>,
    client: crate::world::Pod,
    _far: Netns,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let pods = vec![world.pod("a"), world.pod("b")];
        let client = world.pod("client");
        let far = Netns::new();
        wire(&world.machine, &far, "far0", "198.51.100.1/24", "198.51.100.2/24");
        world.machine.sh("ip address add 2001:db8:2::1/64 dev far0 nodad");
        far.sh(
            "ip address add 2001:db8:2::2/64 dev eth0 nodad && ip route add 10.42.0.0/16 via 198.51.100.1 && \
             ip route add fd42::/56 via 2001:db8:2::1",
        );
        far.serve_tcp(80, "far");
        world
            .outside
            .sh("ip route add 10.43.0.0/16 via 192.0.2.1 && ip route add 203.0.113.0/24 via 192.0.2.1 && \
             ip route add fd43::/112 via 2001:db8::1 && ip route add 2001:db8:f::/64 via 2001:db8::1");
        Self { world, pods, client, _far: far }
    }

    fn endpoint(&self, at: usize, v6: bool) -> Endpoint {
        match self.pods.get(at) {
            Some(pod) if v6 => pod.endpoint6(),
            Some(pod) => pod.endpoint(),
            None if v6 => Endpoint::new("[2001:db8:2::2]:80".parse().unwrap(), false),
            None => Endpoint::new("198.51.100.2:80".parse().unwrap(), false),
        }
    }

    fn service(&self, at: usize, wanted: &Wanted) -> ServicePort {
        let families = if wanted.v6_too { vec![false, true] } else { vec![false] };
        let address = |v4: &str, v6: &str| {
            families.iter().map(|six| if *six { v6 } else { v4 }.parse().unwrap()).collect()
        };
        let endpoints = |only_local: bool| -> Vec<Endpoint> {
            let usable = wanted.endpoints.iter().filter(|at| **at < 2 || !only_local);
            usable.flat_map(|at| families.iter().map(|v6| self.endpoint(*at, *v6))).collect()
        };
        ServicePort {
            name: format!("default/web-{at}:http"),
            cluster_addresses: address(&format!("10.43.1.{at}"), &format!("fd43::10{at}")),
            external_addresses: address(&format!("203.0.113.{at}"), &format!("2001:db8:f::{at}")),
            balancer_addresses: address(&format!("203.0.113.10{at}"), &format!("2001:db8:f::10{at}")),
            source_ranges: match wanted.sources {
                None => vec![],
                Some(Client::Outside) => {
                    vec!["192.0.2.2/32".parse().unwrap(), "2001:db8::2/128".parse().unwrap()]
                }
                Some(_) => vec!["10.42.0.128/25", "10.42.0.0/25", "fd42::/56"]
                    .into_iter()
                    .map(|range| range.parse().unwrap())
                    .collect(),
            },
            node_port: Some(30080 + u16::try_from(at).unwrap()),
            endpoints: endpoints(false),
            internal_endpoints: endpoints(wanted.internal_local),
            external_endpoints: endpoints(wanted.external_local),
            affinity_seconds: wanted.sticky.then_some(600),
            ..service(Protocol::Tcp, &[])
        }
    }

    fn ask(&self, packet: Packet) -> Answer {
        let Packet { service, from, by, v6 } = packet;
        let to = match (by, v6) {
            (Door::Cluster, false) => format!("10.43.1.{service}:80"),
            (Door::Cluster, true) => format!("[fd43::10{service}]:80"),
            (Door::NodePort, false) => format!("192.0.2.1:{}", 30080 + service),
            (Door::NodePort, true) => format!("[2001:db8::1]:{}", 30080 + service),
            (Door::External, false) => format!("203.0.113.{service}:80"),
            (Door::External, true) => format!("[2001:db8:f::{service}]:80"),
            (Door::Balancer, false) => format!("203.0.113.10{service}:80"),
            (Door::Balancer, true) => format!("[2001:db8:f::10{service}]:80"),
        };
        let netns = match from {
            Client::Pod => &self.client.netns,
            Client::Machine => &self.world.machine,
            Client::Outside => &self.world.outside,
        };
        netns.ask_within(&to, PATIENCE)
    }
}

#[test]
fn packets_meet_in_the_kernel_what_the_model_says() {
    let scene = Scene::new();
    let config = scene.world.config();
    let network = scene.world.machine.block_on(|| async move { Network::open(config).await.unwrap() });
    drop(network);
    let history = proptest::collection::vec(
        (proptest::collection::vec(wanted(), 3), proptest::collection::vec(packet(), 8)),
        3,
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 12,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&history, |history| {
        let mut states: Vec<Vec<ServicePort>> = Vec::new();
        for (wanted, _) in &history {
            let services = wanted.iter().enumerate();
            states.push(
                services.filter_map(|(at, wanted)| Some(scene.service(at, wanted.as_ref()?))).collect(),
            );
        }
        for ((wanted, packets), services) in history.iter().zip(states) {
            scene.world.services(&services);
            for packet in packets {
                let outside = matches!(packet.by, Door::External | Door::Balancer);
                let known =
                    wanted[packet.service].as_ref().is_some_and(|service| service.v6_too || !packet.v6);
                if outside && !known {
                    // An address that no Service has is no affair of these rules.
                    continue;
                }
                let (expected, met) = (model(wanted, *packet), scene.ask(*packet));
                let agree = match (&expected, &met) {
                    (Fate::OneOf(names), Answer::From(name, _)) => names.contains(name.as_str()),
                    (Fate::Refused, Answer::Refused) | (Fate::Silence, Answer::Silence) => true,
                    _ => false,
                };
                prop_assert!(agree, "{:?} should meet {:?}, but {:?}", packet, expected, met);
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

//! Policies in the kernel: random ones against their meaning, packet by packet, and what holds over time.

use crate::world::{Netns, sh, wire};
use orlop_network::{
    PolicyTable,
    Protocol::{self, Tcp, Udp},
    policy::{
        Connection, Direction, Index, Labels, NamedPort, ObjectName, Operator, Peer, Pod, Policy,
        PolicyRules, PortMatch, Ports, Requirement, Rule, Selector, World, judge,
    },
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// How long something that should not come is waited for.
const SILENCE: Duration = Duration::from_millis(80);
/// How long something that should come is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two namespaces with two pods each and somebody outside, joined by a machine that forwards between them.
struct Cluster {
    machine: Netns,
    /// x/a, x/b, y/a, y/b, outside.
    hosts: Vec<(Netns, [IpAddr; 2])>,
}

const PODS: [(&str, &str); 4] = [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")];
const PROBES: [(Protocol, u16); 3] = [(Tcp, 80), (Tcp, 81), (Udp, 80)];

impl Cluster {
    fn new() -> Self {
        let machine = Netns::new();
        machine.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let hosts = (0..5).map(|number| Self::host(&machine, number)).collect();
        Self { machine, hosts }
    }

    fn host(machine: &Netns, number: usize) -> (Netns, [IpAddr; 2]) {
        let (host, link) = (Netns::new(), format!("h{number}"));
        // 10.0.0.x and 10.0.1.x are pods of x and y.
        let (v4, v6) = match number {
            4 => ("198.51.100".to_owned(), "2001:db8::".to_owned()),
            _ => (format!("10.0.{}", number / 2), format!("fd00:{number}::")),
        };
        let first = if number == 4 { 0 } else { number % 2 * 4 };
        let (gateway, own) = (format!("{v4}.{}", first + 1), format!("{v4}.{}", first + 2));
        wire(machine, &host, &link, &format!("{gateway}/30"), &format!("{own}/30"));
        machine.sh(&format!("ip address add {v6}1/64 dev {link} nodad"));
        host.sh(&format!(
            "ip address add {v6}2/64 dev eth0 nodad && ip route add default via {gateway} && ip route add default via {v6}1"
        ));
        for (protocol, port) in PROBES {
            serve(&host, protocol, port);
        }
        (host, [own.parse().unwrap(), format!("{v6}2").parse().unwrap()])
    }

    /// The pods, called and labelled by their names, and namespaces labelled by theirs.
    fn world(&self) -> World {
        let mut world = World::default();
        for (number, (namespace, name)) in PODS.into_iter().enumerate() {
            world.namespaces.insert(namespace.into(), label("ns", namespace));
            let web = if name == "a" { 80 } else { 81 };
            world.pods.push(Pod {
                uid: format!("{namespace}-{name}"),
                name: object(namespace, name),
                labels: label("pod", name),
                addresses: self.hosts[number].1.to_vec(),
                ports: vec![
                    NamedPort { name: "web".into(), protocol: Tcp, port: web },
                    NamedPort { name: "dns".into(), protocol: Udp, port: 80 },
                ],
                node: "here".into(),
                node_addresses: vec![],
                host_network: false,
            });
        }
        world
    }

    /// All pairs of hosts try all ports in both families, and must have the luck that the world says.
    fn compare(&self, world: &World) -> Result<(), TestCaseError> {
        let mut tries = Vec::new();
        for (from, (host, own)) in self.hosts.iter().enumerate() {
            let mut questions = Vec::new();
            for (to, (_, other)) in self.hosts.iter().enumerate() {
                for family in 0..2 {
                    for (protocol, port) in PROBES {
                        if from != to {
                            let connection =
                                Connection { from: own[family], to: other[family], protocol, port };
                            questions.push((connection, judge(world, connection).is_allowed()));
                        }
                    }
                }
            }
            let host = host.clone();
            tries.push(thread::spawn(move || host.run(move || wrong_answers(&questions))));
        }
        let wrong: Vec<String> = tries.into_iter().flat_map(|one| one.join().unwrap()).collect();
        prop_assert!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }
}

/// Accepts and answers.
fn serve(host: &Netns, protocol: Protocol, port: u16) {
    let on = SocketAddr::new("::".parse().unwrap(), port);
    if protocol == Udp {
        let socket = host.run(move || UdpSocket::bind(on).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(b"yes", from);
            }
        });
        return;
    }
    let listener = host.run(move || TcpListener::bind(on).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 1];
                while matches!(stream.read(&mut buffer), Ok(1)) {
                    let _ = stream.write_all(&buffer);
                }
            });
        }
    });
}

/// Tries all at once from this thread's namespace.
fn wrong_answers(questions: &[(Connection, bool)]) -> Vec<String> {
    let tries: Vec<_> = questions
        .iter()
        .map(|(connection, expected)| {
            let (connection, expected) = (*connection, *expected);
            // A thread is in its parent's namespace.
            thread::spawn(move || {
                let patience = if expected { PATIENCE } else { SILENCE };
                let reached = reaches(connection, patience);
                (reached != expected)
                    .then(|| format!("{connection:?} {}", if reached { "passes" } else { "does not pass" }))
            })
        })
        .collect();
    tries.into_iter().filter_map(|one| one.join().unwrap()).collect()
}

fn reaches(connection: Connection, patience: Duration) -> bool {
    let to = SocketAddr::new(connection.to, connection.port);
    if connection.protocol == Tcp {
        return TcpStream::connect_timeout(&to, patience).is_ok();
    }
    // Not the same port again soon: a datagram from the port of an earlier one belongs to that flow, which may go on.
    static FLOWS: AtomicU32 = AtomicU32::new(0);
    let port = 2000 + FLOWS.fetch_add(1, Ordering::Relaxed) % 60_000;
    let from = SocketAddr::new(connection.from, u16::try_from(port).unwrap());
    let socket = UdpSocket::bind(from).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send_to(b"may I?", to).unwrap();
    socket.recv_from(&mut [0; 8]).is_ok()
}

fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.into(), name: name.into() }
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.into(), value.into())])
}

fn selectors(key: &'static str, values: [&'static str; 2]) -> impl Strategy<Value = Selector> {
    let required = move |operator, values: &[&str]| {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Selector { requirements: [Requirement { key: key.into(), operator, values }].into() }
    };
    prop_oneof![
        2 => Just(Selector::default()),
        2 => prop::sample::select(values.to_vec()).prop_map(move |one| required(Operator::In, &[one])),
        1 => Just(required(Operator::In, &values)),
        1 => prop::sample::select(values.to_vec()).prop_map(move |one| required(Operator::NotIn, &[one])),
        1 => prop::sample::select(vec![Operator::Exists, Operator::DoesNotExist]).prop_map(move |o| required(o, &[])),
    ]
}

fn pods() -> impl Strategy<Value = Selector> {
    selectors("pod", ["a", "b"])
}

fn peers() -> impl Strategy<Value = Peer> {
    let blocks = [
        ("0.0.0.0/0", &[][..]),
        ("10.0.0.0/16", &["10.0.1.0/24"]),
        ("10.0.0.0/24", &["10.0.0.2/32"]),
        ("198.51.100.0/24", &[]),
        ("0.0.0.0/0", &["10.0.0.0/8", "198.51.100.128/25"]),
        ("::/0", &["fd00::/16"]),
        ("fd00::/16", &["fd00:1::/32"]),
        ("fd00:2::2/128", &[]),
    ];
    let blocks: Vec<Peer> = blocks
        .into_iter()
        .map(|(cidr, except)| Peer::Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        })
        .collect();
    prop_oneof![
        3 => (prop::option::of(selectors("ns", ["x", "y"])), pods())
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        2 => prop::sample::select(blocks),
    ]
}

fn ports() -> impl Strategy<Value = PortMatch> {
    let which = [Ports::All, Ports::Range(80, 80), Ports::Range(81, 90), Ports::Range(1, 65535)]
        .into_iter()
        .chain(["web", "dns", "none"].map(|name| Ports::Named(name.into())));
    (prop::sample::select(vec![Tcp, Udp]), prop::sample::select(which.collect::<Vec<_>>()))
        .prop_map(|(protocol, ports)| PortMatch { protocol, ports })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (prop::collection::vec(peers(), 0..3), prop::collection::vec(ports(), 0..3))
        .prop_map(|(peers, ports)| Rule { peers, ports });
    prop::option::of(prop::collection::vec(rule, 0..3))
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let policy = (prop::sample::select(vec!["x", "y"]), pods(), rules(), rules());
    prop::collection::vec(policy, 0..5).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named
            .map(|(number, (namespace, pods, ingress, egress))| Policy {
                name: object(namespace, &format!("p{number}")),
                pods,
                ingress,
                egress,
            })
            .collect()
    })
}

#[test]
fn the_kernel_lets_through_what_policies_mean_to_let_through() {
    let cluster = Cluster::new();
    let machine = cluster.machine.clone();
    machine.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let table = std::cell::RefCell::new(runtime.block_on(async { PolicyTable::open("test").unwrap() }));
        let mut index = Index::new("here");
        let world = cluster.world();
        for (name, labels) in &world.namespaces {
            index.set_namespace(name, labels.clone());
        }
        let index = std::cell::RefCell::new(index);
        let relabelled = prop::collection::vec(prop::sample::select(vec!["a", "b"]), 4);
        // Each case waits for what should not come; POLICY_CASES asks for more of them.
        let more = std::env::var("POLICY_CASES").ok().and_then(|cases| cases.parse().ok());
        let cases = more.unwrap_or(40);
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
        // Each case changes what the one before has left, so changes are tried as well as rules.
        let outcome = TestRunner::new(config).run(&(policies(), relabelled), |(policies, names)| {
            let mut world = World { policies, ..world.clone() };
            for (pod, name) in world.pods.iter_mut().zip(names) {
                pod.labels = label("pod", name);
            }
            let mut index = index.borrow_mut();
            let known: Vec<ObjectName> = index.policy_names().cloned().collect();
            for name in known {
                index.remove_policy(&name);
            }
            for policy in &world.policies {
                index.set_policy(policy.clone());
            }
            for pod in &world.pods {
                index.set_pod(pod.clone());
            }
            runtime.block_on(table.borrow_mut().apply(index.rules())).unwrap();
            cluster.compare(&world)
        });
        if let Err(error) = outcome {
            panic!("{error}\n{}", sh("nft list ruleset"));
        }
    });
}

/// x/a isolated in a direction, with no rule.
fn deny(direction: Direction) -> Policy {
    let none = |of| (of == direction).then(Vec::new);
    Policy {
        name: object("x", "deny"),
        pods: Selector {
            requirements: [Requirement {
                key: "pod".into(),
                operator: Operator::In,
                values: ["a".to_owned()].into(),
            }]
            .into(),
        },
        ingress: none(Direction::Ingress),
        egress: none(Direction::Egress),
    }
}

fn index_of(world: &World, policies: &[Policy]) -> Index {
    let mut index = Index::new("here");
    for (name, labels) in &world.namespaces {
        index.set_namespace(name, labels.clone());
    }
    for pod in &world.pods {
        index.set_pod(pod.clone());
    }
    for policy in policies {
        index.set_policy(policy.clone());
    }
    index
}

/// Runs a test in the machine's namespace. A table lives as long as the runtime that it was opened in.
fn on_machine(test: impl FnOnce(&Cluster, &tokio::runtime::Runtime) + Send + 'static) {
    let cluster = Cluster::new();
    let machine = cluster.machine.clone();
    machine.run(move || {
        test(&cluster, &tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    });
}

fn open(runtime: &tokio::runtime::Runtime) -> PolicyTable {
    runtime.block_on(async { PolicyTable::open("test").unwrap() })
}

#[test]
fn open_connections_stay_answers_pass_the_node_passes_and_what_is_denied_is_counted() {
    on_machine(|cluster, runtime| {
        let world = cluster.world();
        let [(a, at_a), (b, at_b), ..] = &cluster.hosts[..] else { unreachable!() };
        let mut table = open(runtime);
        runtime.block_on(table.apply(PolicyRules::default())).unwrap();
        let to_a = SocketAddr::new(at_a[0], 80);
        let mut open = b.run(move || TcpStream::connect_timeout(&to_a, PATIENCE).unwrap());
        open.set_read_timeout(Some(PATIENCE)).unwrap();
        runtime.block_on(table.apply(index_of(&world, &[deny(Direction::Ingress)]).rules())).unwrap();
        open.write_all(b"?").unwrap();
        open.read_exact(&mut [0]).unwrap();
        let (from, to) = (at_b[0], at_a[0]);
        let ask = |from, to| Connection { from, to, protocol: Tcp, port: 80 };
        let (forth, back) = (ask(from, to), ask(to, from));
        assert!(!b.run(move || reaches(forth, SILENCE)), "nobody may come in anew");
        assert!(a.run(move || reaches(back, PATIENCE)), "answers come in");
        assert!(reaches(ask("10.0.0.1".parse().unwrap(), to), PATIENCE), "the node comes in");
        assert!(a.run(move || reaches(ask(to, to), PATIENCE)), "it reaches itself");
        let counts = runtime.block_on(table.counts()).unwrap();
        let [(of, packets)] = &counts.iter().filter(|(of, _)| !of.allowed).collect::<Vec<_>>()[..] else {
            panic!("{counts:?}")
        };
        assert_eq!((of.policy.to_string().as_str(), of.direction), ("x/deny", Direction::Ingress));
        assert!(*packets >= 1, "{counts:?}");
    });
}

#[test]
fn rules_outlive_who_made_them_come_back_when_removed_and_can_be_listed_by_the_nft_program() {
    on_machine(|cluster, runtime| {
        let world = cluster.world();
        let connection =
            Connection { from: cluster.hosts[1].1[1], to: cluster.hosts[0].1[1], protocol: Udp, port: 80 };
        let b = cluster.hosts[1].0.clone();
        let passes = move |patience| b.run(move || reaches(connection, patience));
        let allow = Rule {
            peers: vec![
                Peer::Pods { namespaces: None, pods: Selector::default() },
                Peer::Block {
                    cidr: "10.0.0.0/8".parse().unwrap(),
                    except: vec!["10.1.0.0/16".parse().unwrap()],
                },
            ],
            ports: vec![
                PortMatch { protocol: Tcp, ports: Ports::Named("web".into()) },
                PortMatch { protocol: Tcp, ports: Ports::Range(80, 90) },
            ],
        };
        let policy = Policy { ingress: Some(vec![allow]), ..deny(Direction::Ingress) };
        let rules = index_of(&world, &[policy]).rules();
        runtime.block_on(open(runtime).apply(rules.clone())).unwrap();
        assert!(!passes(SILENCE), "its maker is gone");
        // The next one finds a table that it knows nothing of.
        let mut table = open(runtime);
        assert!(!runtime.block_on(table.repair()).unwrap());
        runtime.block_on(table.apply(rules)).unwrap();
        assert!(!passes(SILENCE));
        let listed = sh("nft list ruleset");
        for part in [
            "table inet orlop-test-policy",
            "ip saddr @blocks-1-4 tcp dport 80-90",
            "10.0.0.0/16, 10.2.0.0-10.255.255.255",
            "ct state established,related accept",
            "counter name \"ingress-allowed-x/deny\"",
            "goto ingress-pods-1-6",
        ] {
            assert!(listed.contains(part), "{part} is not in {listed}");
        }
        sh("nft delete table inet orlop-test-policy");
        assert!(passes(PATIENCE));
        assert!(runtime.block_on(table.repair()).unwrap());
        assert!(!passes(SILENCE));
        sh("nft delete table inet orlop-test-policy");
        let other = index_of(&world, &[deny(Direction::Egress)]).rules();
        runtime.block_on(table.apply(other)).unwrap();
        assert!(passes(PATIENCE), "a change of what somebody removed makes all of it anew");
        assert!(sh("nft list ruleset").contains("goto egress-pods-1-6"));
    });
}

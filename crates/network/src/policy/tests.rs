//! The meaning of policies case by case, and the rules of a small cluster as a listing.

use super::*;
use crate::Protocol::{self, Sctp, Tcp, Udp};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), operator, values: values.iter().map(|v| (*v).into()).collect() }
}

/// A selector of labels that are equal.
fn selector(text: &str) -> Selector {
    let equal = labels(text).into_iter();
    Selector { requirements: equal.map(|(k, v)| requirement(&k, Operator::In, &[&v])).collect() }
}

fn expression(key: &str, operator: Operator, values: &[&str]) -> Selector {
    Selector { requirements: BTreeSet::from([requirement(key, operator, values)]) }
}

fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName { namespace: namespace.into(), name: name.into() }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A pod `NAMESPACE/NAME` on node `here` with the label `pod=NAME` and the port 80 called `web`.
fn pod(full: &str, at: &[&str]) -> Pod {
    let name = name(full);
    Pod {
        uid: full.into(),
        labels: labels(&format!("pod={}", name.name)),
        name,
        addresses: at.iter().map(|a| address(a)).collect(),
        ports: vec![NamedPort { name: "web".into(), protocol: Tcp, port: 80 }],
        node: "here".into(),
        node_addresses: vec![address("192.0.2.1"), address("2001:db8::1")],
        host_network: false,
    }
}

/// Pods a, b and c in the namespaces x and y, which have the label `ns` with their name.
fn world(policies: Vec<Policy>) -> World {
    let mut world = World { policies, ..World::default() };
    for (at, namespace) in ["x", "y"].into_iter().enumerate() {
        world.namespaces.insert(namespace.into(), labels(&format!("ns={namespace}")));
        for (number, one) in ["a", "b", "c"].into_iter().enumerate() {
            let (v4, v6) = (format!("10.0.{at}.{}", number + 1), format!("fd00::{at}:{}", number + 1));
            world.pods.push(pod(&format!("{namespace}/{one}"), &[&v4, &v6]));
        }
    }
    world
}

fn policy(full: &str, pods: Selector) -> Policy {
    Policy { name: name(full), pods, ingress: None, egress: None }
}

fn ingress(pods: &str, rules: Vec<Rule>) -> Policy {
    Policy { ingress: Some(rules), ..policy("x/p", selector(pods)) }
}

fn egress(pods: &str, rules: Vec<Rule>) -> Policy {
    Policy { egress: Some(rules), ..policy("x/p", selector(pods)) }
}

fn from(peers: Vec<Peer>) -> Rule {
    Rule { peers, ports: vec![] }
}

fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: None, pods: selector(pods) }
}

fn of(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Some(selector(namespaces)), pods: selector(pods) }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block { cidr: net(cidr), except: except.iter().map(|e| net(e)).collect() }
}

fn port(protocol: Protocol, ports: Ports) -> PortMatch {
    PortMatch { protocol, ports }
}

/// Who of `from` reaches `to`, by names of pods or addresses.
fn reaches(world: &World, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
    let at = |who: &str| match world.pods.iter().find(|pod| pod.uid == who) {
        Some(pod) => pod.addresses[0],
        None => address(who),
    };
    judge(world, Connection { from: at(from), to: at(to), protocol, port }).is_allowed()
}

/// Who reaches x/a on TCP port 80.
fn callers(world: &World) -> String {
    let names = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "192.0.2.1", "198.51.100.1"];
    let calling = names.into_iter().filter(|name| reaches(world, name, "x/a", Tcp, 80));
    calling.collect::<Vec<_>>().join(" ")
}

const ALL: &str = "x/a x/b x/c y/a y/b y/c 192.0.2.1 198.51.100.1";
/// Whom no policy of x/a keeps out: itself and its node.
const NEAR: &str = "x/a 192.0.2.1";

#[test]
fn who_may_come_in_follows_from_all_policies_together() {
    let with = |policies: Vec<Policy>| callers(&world(policies));
    assert_eq!(with(vec![]), ALL);
    assert_eq!(with(vec![ingress("", vec![])]), NEAR, "no rules: nobody");
    assert_eq!(with(vec![ingress("", vec![Rule::default()])]), ALL, "an empty rule: everybody");
    assert_eq!(with(vec![ingress("pod=b", vec![])]), ALL, "a policy of another pod");
    assert_eq!(with(vec![egress("pod=a", vec![])]), ALL, "what leaves says nothing of what comes");
    assert_eq!(with(vec![ingress("", vec![from(vec![own("pod=b")])])]), "x/a x/b 192.0.2.1");
    assert_eq!(with(vec![ingress("", vec![from(vec![of("", "pod=b")])])]), "x/a x/b y/b 192.0.2.1");
    assert_eq!(with(vec![ingress("", vec![from(vec![of("ns=y", "")])])]), "x/a y/a y/b y/c 192.0.2.1");
    assert_eq!(
        with(vec![ingress("", vec![from(vec![of("ns=y", "pod=b")])])]),
        "x/a y/b 192.0.2.1",
        "both at once"
    );
    let either = from(vec![of("ns=y", ""), own("pod=b")]);
    assert_eq!(with(vec![ingress("", vec![either])]), "x/a x/b y/a y/b y/c 192.0.2.1", "either of two");
    let two =
        vec![ingress("", vec![from(vec![own("pod=b")])]), ingress("", vec![from(vec![of("ns=y", "pod=c")])])];
    assert_eq!(with(two), "x/a x/b y/c 192.0.2.1", "policies add up");
    let more = vec![ingress("", vec![]), ingress("pod=a", vec![Rule::default()])];
    assert_eq!(with(more), ALL, "what one lets through no other takes back");
    let elsewhere = Policy { name: name("y/p"), ..ingress("", vec![]) };
    assert_eq!(with(vec![elsewhere]), ALL, "a policy is about pods of its own namespace");
}

#[test]
fn expressions_select_as_they_do_everywhere() {
    let with = |namespaces: Selector, pods: Selector| {
        let peer = Peer::Pods { namespaces: Some(namespaces), pods };
        callers(&world(vec![ingress("", vec![from(vec![peer])])]))
    };
    let all = Selector::default;
    assert_eq!(with(all(), expression("pod", Operator::In, &["b", "c"])), "x/a x/b x/c y/b y/c 192.0.2.1");
    assert_eq!(with(all(), expression("pod", Operator::NotIn, &["b"])), "x/a x/c y/a y/c 192.0.2.1");
    assert_eq!(with(expression("ns", Operator::NotIn, &["x"]), all()), "x/a y/a y/b y/c 192.0.2.1");
    assert_eq!(with(expression("ns", Operator::Exists, &[]), selector("pod=b")), "x/a x/b y/b 192.0.2.1");
    assert_eq!(with(expression("ns", Operator::DoesNotExist, &[]), all()), NEAR);
    assert_eq!(
        with(all(), expression("other", Operator::NotIn, &["b"])),
        "x/a x/b x/c y/a y/b y/c 192.0.2.1"
    );
}

#[test]
fn blocks_are_about_addresses_whoever_has_them() {
    let with = |peers: Vec<Peer>| callers(&world(vec![ingress("", vec![from(peers)])]));
    assert_eq!(with(vec![block("198.51.100.0/24", &[])]), "x/a 192.0.2.1 198.51.100.1");
    assert_eq!(with(vec![block("10.0.0.0/24", &[])]), "x/a x/b x/c 192.0.2.1");
    assert_eq!(with(vec![block("10.0.0.0/16", &["10.0.1.0/24"])]), "x/a x/b x/c 192.0.2.1");
    let again = vec![block("10.0.0.0/16", &["10.0.1.0/24"]), block("10.0.1.2/32", &[])];
    assert_eq!(with(again), "x/a x/b x/c y/b 192.0.2.1", "another block lets in again what one excepts");
    assert_eq!(with(vec![block("::/0", &[])]), NEAR, "a family says nothing of the other");
    let six = world(vec![ingress("", vec![from(vec![block("fd00::1:0/112", &[])])])]);
    assert!(reaches(&six, "fd00::1:1", "fd00::1", Tcp, 80));
    assert!(!reaches(&six, "fd00::2", "fd00::1", Tcp, 80));
}

#[test]
fn ports_are_those_of_the_destination_by_number_range_and_name() {
    let with = |ports: Vec<PortMatch>, protocol: Protocol, number: u16| {
        let world = world(vec![ingress("pod=a", vec![Rule { peers: vec![], ports }])]);
        reaches(&world, "x/b", "x/a", protocol, number)
    };
    let range = |first, last| vec![port(Tcp, Ports::Range(first, last))];
    assert!(with(range(80, 80), Tcp, 80) && !with(range(80, 80), Tcp, 81) && !with(range(80, 80), Udp, 80));
    assert!(with(range(80, 90), Tcp, 90) && !with(range(80, 90), Tcp, 91));
    assert!(with(vec![port(Udp, Ports::All)], Udp, 53) && !with(vec![port(Udp, Ports::All)], Tcp, 53));
    assert!(with(vec![port(Sctp, Ports::Range(1, 9))], Sctp, 5));
    let web = || vec![port(Tcp, Ports::Named("web".into()))];
    assert!(with(web(), Tcp, 80) && !with(web(), Tcp, 81));
    assert!(!with(vec![port(Udp, Ports::Named("web".into()))], Udp, 80), "a name is of one protocol");
    assert!(!with(vec![port(Tcp, Ports::Named("none".into()))], Tcp, 80), "nobody has such a port");
    let leaving = Rule { peers: vec![of("", "")], ports: web() };
    let world = world(vec![egress("pod=a", vec![leaving])]);
    assert!(reaches(&world, "x/a", "y/b", Tcp, 80), "the name is the destination's");
    assert!(!reaches(&world, "x/a", "y/b", Tcp, 81) && !reaches(&world, "x/a", "198.51.100.1", Tcp, 80));
}

#[test]
fn both_ends_must_agree() {
    let out = egress("pod=b", vec![from(vec![of("ns=y", "")])]);
    let into = ingress("pod=a", vec![from(vec![own("pod=b")])]);
    let world = world(vec![out, into]);
    assert!(!reaches(&world, "x/b", "x/a", Tcp, 80), "it may come, but not leave");
    assert!(!reaches(&world, "x/c", "x/a", Tcp, 80), "it may leave, but not come");
    assert!(reaches(&world, "x/b", "y/a", Tcp, 80) && reaches(&world, "x/a", "x/c", Tcp, 80));
    assert!(reaches(&world, "x/b", "192.0.2.1", Tcp, 6443), "the own node is always near");
    assert!(!reaches(&world, "x/b", "192.0.2.2", Tcp, 6443), "another is not");
}

#[test]
fn pods_in_the_nodes_network_are_not_selected_and_not_meant() {
    let mut world = world(vec![ingress("", vec![from(vec![own("")])]), egress("", vec![])]);
    let mut guest = pod("x/guest", &["192.0.2.7"]);
    guest.host_network = true;
    world.pods.push(guest);
    assert!(!reaches(&world, "192.0.2.7", "x/a", Tcp, 80), "its address is its node's, not a pod's");
    assert!(reaches(&world, "192.0.2.7", "y/a", Tcp, 80), "no policy keeps it from leaving");
}

#[test]
fn the_rule_that_decides_is_named_and_so_is_what_does_not_fit() {
    let rules = vec![
        Rule { peers: vec![own("pod=c")], ports: vec![] },
        Rule { peers: vec![own("pod=b")], ports: vec![port(Tcp, Ports::Range(80, 80))] },
    ];
    let world = world(vec![ingress("pod=a", rules)]);
    let ask = |number| {
        let (from, to) = (address("10.0.0.2"), address("10.0.0.1"));
        judge(&world, Connection { from, to, protocol: Tcp, port: number })
    };
    let allowed = Judgement {
        egress: Verdict::NotSelected,
        ingress: Verdict::Allowed(vec![Allowance { policy: name("x/p"), rule: 1 }]),
    };
    assert_eq!(ask(80), allowed);
    let misses = vec![Miss { peers: true, ports: false }, Miss { peers: false, ports: true }];
    assert_eq!(ask(81).ingress, Verdict::Denied(vec![Refusal { policy: name("x/p"), misses }]));
}

/// The rules of node `here` for a world.
fn index(world: &World) -> Index {
    let mut index = Index::new("here");
    for (name, labels) in &world.namespaces {
        index.set_namespace(name, labels.clone());
    }
    for pod in &world.pods {
        index.set_pod(pod.clone());
    }
    for policy in &world.policies {
        index.set_policy(policy.clone());
    }
    index
}

fn example() -> World {
    let mut world = world(vec![]);
    world.pods[3].node = "there".into();
    world.policies = vec![
        Policy {
            name: name("x/deny-all"),
            pods: Selector::default(),
            ingress: Some(vec![]),
            egress: Some(vec![]),
        },
        Policy {
            name: name("x/web"),
            pods: selector("pod=a"),
            ingress: Some(vec![
                Rule {
                    peers: vec![of("ns=y", "pod=b"), own("pod=c"), block("10.0.0.0/8", &["10.0.0.0/16"])],
                    ports: vec![port(Tcp, Ports::Named("web".into())), port(Udp, Ports::Range(100, 200))],
                },
                Rule { peers: vec![], ports: vec![port(Sctp, Ports::Range(7, 7))] },
            ]),
            egress: None,
        },
        Policy {
            name: name("y/out"),
            pods: expression("pod", Operator::In, &["a", "b"]),
            ingress: None,
            egress: Some(vec![from(vec![of("ns=y", "pod=b"), own("pod=c")]), Rule::default()]),
        },
    ];
    world
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
fn policies_have_the_rules_in_the_golden_file() {
    assert_golden("policies.txt", &index(&example()).rules().to_string());
}

#[test]
fn a_pod_more_or_less_changes_one_element_of_each_set_that_means_it() {
    let mut index = index(&example());
    let before = index.rules();
    let mut late = pod("y/b2", &["10.0.1.9"]);
    late.labels = labels("pod=b");
    late.node = "there".into();
    assert!(index.set_pod(late.clone()));
    let with = index.rules();
    let change = before.change_to(&with);
    let set = before.sets.keys().find(|name| name.starts_with("peers-") && name.ends_with("-4")).unwrap();
    assert!(change.added.contains(&(set.clone(), Element::Address(address("10.0.1.9")))), "{change:?}");
    let elements = change.added.len();
    assert_eq!(change, Change { added: change.added.clone(), ..Change::default() }, "nothing else");
    assert!(elements <= 3, "two sets of peers and one of ports: {change:?}");
    assert!(!index.set_pod(late), "what is known is no news");
    assert!(index.remove_pod("y/b2"));
    assert_eq!(with.change_to(&index.rules()).removed.len(), elements);
    assert!(before.change_to(&index.rules()).is_empty());
}

#[test]
fn a_pod_is_isolated_from_when_it_is_placed_until_its_address_is_taken_back() {
    let mut world = example();
    let mut new = pod("x/new", &[]);
    new.uid = "new".into();
    world.pods.push(new.clone());
    let mut index = index(&world);
    let its = |rules: &PolicyRules| rules.pods.keys().filter(|(_, a)| *a == address("10.0.0.77")).count();
    assert_eq!(its(&index.rules()), 0, "it has no address yet");
    index.place(new, vec![address("10.0.0.77")]);
    assert_eq!(its(&index.rules()), 2, "both directions");
    index.remove_pod("new");
    assert_eq!(its(&index.rules()), 2, "it is gone from the API, but still runs");
    assert!(index.unplace("new"));
    assert_eq!(its(&index.rules()), 0);
    assert!(!index.unplace("new"));
}

#[test]
fn an_address_that_was_given_anew_is_its_new_pods_alone() {
    let mut world = example();
    let mut old = pod("x/c-old", &["10.0.0.77"]);
    old.labels = labels("pod=c");
    world.pods.push(old);
    let mut index = index(&world);
    let meant = |rules: &PolicyRules| {
        rules.sets.values().flat_map(Content::elements).any(|e| e == Element::Address(address("10.0.0.77")))
    };
    assert!(meant(&index.rules()));
    let mut new = pod("x/other", &[]);
    new.uid = "new".into();
    index.place(new, vec![address("10.0.0.77")]);
    assert!(!meant(&index.rules()), "the new one is no peer");
}

#[test]
fn a_namespaces_new_label_makes_its_pods_peers() {
    let mut index = index(&example());
    let before = index.rules();
    assert!(index.set_namespace("x", labels("ns=y")));
    let change = before.change_to(&index.rules());
    assert!(change.added.iter().any(|(_, e)| *e == Element::Address(address("10.0.0.2"))), "{change:?}");
    assert!(change.led.is_empty() && change.written_chains.is_empty());
}

//! What policies cost a node of a large cluster: 10,000 pods in 100 namespaces, 110 of them here, 1,000 policies. From nothing to rules in
//! the kernel, and from a pod's appearance elsewhere to its address in the sets. In a network namespace of its own; needs root.

#![allow(clippy::unwrap_used)] // what cannot be set up ends the bench

use orlop_network::{
    PolicyTable,
    Protocol::Tcp,
    policy::{
        Index, Labels, NamedPort, ObjectName, Operator, Peer, Pod, Policy, PortMatch, Ports, Requirement,
        Rule, Selector,
    },
};
use std::{net::Ipv4Addr, time::Instant};

const NAMESPACES: usize = 100;
const PODS: usize = 100;
const POLICIES: usize = 10;
const HERE: usize = 110;
const CHANGES: usize = 500;

fn labels(key: &str, value: usize) -> Labels {
    Labels::from([(key.into(), value.to_string())])
}

fn selector(key: &str, value: usize) -> Selector {
    let values = [value.to_string()].into();
    Selector { requirements: [Requirement { key: key.into(), operator: Operator::In, values }].into() }
}

fn name(namespace: usize, name: usize) -> ObjectName {
    ObjectName { namespace: format!("n{namespace}"), name: format!("o{name}") }
}

fn pod(namespace: usize, number: usize) -> Pod {
    let all = namespace * PODS + number;
    Pod {
        uid: format!("{namespace}-{number}"),
        name: name(namespace, number),
        labels: labels("app", number % 10),
        addresses: vec![Ipv4Addr::from(0x0a00_0000 + u32::try_from(all).unwrap()).into()],
        ports: vec![NamedPort { name: "web".into(), protocol: Tcp, port: 80 }],
        node: if all.is_multiple_of(NAMESPACES * PODS / HERE) { "here" } else { "there" }.into(),
        node_addresses: vec![],
        host_network: false,
    }
}

fn policy(namespace: usize, number: usize) -> Policy {
    let port = |ports| PortMatch { protocol: Tcp, ports };
    let rule = Rule {
        peers: vec![
            Peer::Pods { namespaces: None, pods: selector("app", (number + 1) % 10) },
            Peer::Pods { namespaces: Some(selector("ns", namespace / 10)), pods: selector("app", number) },
            Peer::Block {
                cidr: "192.0.2.0/24".parse().unwrap(),
                except: vec!["192.0.2.64/26".parse().unwrap()],
            },
        ],
        ports: vec![port(Ports::Named("web".into())), port(Ports::Range(1000, 2000))],
    };
    Policy {
        name: name(namespace, number),
        pods: selector("app", number),
        ingress: Some(vec![rule.clone()]),
        egress: Some(vec![rule]),
    }
}

fn main() {
    // SAFETY: this process has one thread, which shares no state that a network namespace of its own could break.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut table = runtime.block_on(async { PolicyTable::open("bench").unwrap() });
    let begun = Instant::now();
    let mut index = Index::new("here");
    for namespace in 0..NAMESPACES {
        index.set_namespace(&format!("n{namespace}"), labels("ns", namespace / 10));
        for number in 0..PODS {
            index.set_pod(pod(namespace, number));
        }
        for number in 0..POLICIES {
            index.set_policy(policy(namespace, number));
        }
    }
    let rules = index.rules();
    let made = begun.elapsed();
    let elements: usize = rules.sets.values().map(|set| set.elements().len()).sum();
    println!("{} chains, {} sets with {elements} elements", rules.chains.len(), rules.sets.len());
    runtime.block_on(table.apply(rules)).unwrap();
    println!("from nothing: rules made in {made:.0?}, in the kernel after {:.0?}", begun.elapsed());

    let (mut pure, mut whole) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let mut new = pod(change % NAMESPACES, PODS + change / NAMESPACES);
        new.addresses = vec![Ipv4Addr::from(0x0a80_0000 + u32::try_from(change).unwrap()).into()];
        new.node = "there".into();
        let begun = Instant::now();
        index.set_pod(new);
        let rules = index.rules();
        pure.push(begun.elapsed());
        runtime.block_on(table.apply(rules)).unwrap();
        whole.push(begun.elapsed());
    }
    for (what, times) in [("rules made", &mut pure), ("in the kernel", &mut whole)] {
        times.sort_unstable();
        println!(
            "a pod more elsewhere, {what}: p50 {:.1?}, p99 {:.1?}",
            times[CHANGES / 2],
            times[CHANGES * 99 / 100]
        );
    }
}

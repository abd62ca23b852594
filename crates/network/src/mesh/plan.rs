//! Which routes, neighbours and forwarding entries follow from the nodes that there are, and what must be done to get there. Pure.

use super::{Backend, Peer};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// How packets for a range leave this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// To a node on the same segment.
    Direct(IpAddr),
    /// Through the VXLAN, to the address that a node has there.
    Tunnel(IpAddr),
}

/// What this node has, or should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The VXLAN's device.
    pub device: bool,
    /// Where each other node's range is.
    pub routes: BTreeMap<IpNet, Hop>,
    /// In the VXLAN: whose Ethernet address is whose.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// In the VXLAN: which node has which Ethernet address.
    pub forwarding: BTreeSet<(Mac, IpAddr)>,
}

/// This node.
#[derive(Clone, Debug)]
pub(crate) struct Here<'a> {
    pub node: &'a str,
    pub address: IpAddr,
    pub ranges: &'a [IpNet],
    pub cluster: &'a [IpNet],
    pub backend: Backend,
    /// The segments that this machine is on.
    pub segments: &'a [IpNet],
}

/// What must be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    SetNeighbour(IpAddr, Mac),
    SetForwarding(Mac, IpAddr),
    SetRoute(IpNet, Hop),
    DropRoute(IpNet, Hop),
    DropNeighbour(IpAddr),
    DropForwarding(Mac, IpAddr),
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The address of a node in the VXLAN, by one of its ranges: the first one, which is also its pods' gateway.
pub(crate) fn tunnel_address(range: &IpNet) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from(u32::from(range.network()).wrapping_add(1)).into(),
        IpNet::V6(range) => Ipv6Addr::from(u128::from(range.network()).wrapping_add(1)).into(),
    }
}

/// The Ethernet address of a node in the VXLAN. It follows from its ranges, so nobody has to be told.
pub(crate) fn tunnel_mac(ranges: &[IpNet]) -> Mac {
    // Locally administered; no other node has the same range, so none has the same address.
    let v4 = ranges.iter().find(|r| matches!(r, IpNet::V4(_))).or(ranges.first()).map(tunnel_address);
    match v4 {
        Some(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x6f, a, b, c, d]
        }
        Some(IpAddr::V6(address)) => {
            // The last bits of the network part tell nodes of one cluster apart.
            let [.., a, b, c, d, _, _, _, _, _, _, _, _] = address.octets();
            [0x02, 0x66, a, b, c, d]
        }
        None => [0x02, 0x6f, 0, 0, 0, 0],
    }
}

/// What this node should have, and what cannot be had: which peer, and why.
pub(crate) fn desired(here: &Here<'_>, peers: &[Peer]) -> (State, Vec<(String, String)>) {
    let mut state = State::default();
    let mut left_out = Vec::new();
    // One without an address has not said yet where it is.
    let known = |p: &&Peer| p.name != here.node && !p.addresses.is_empty();
    let mut others: Vec<&Peer> = peers.iter().filter(known).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    for peer in others {
        for range in &peer.ranges {
            if let Err(why) = add(&mut state, here, peer, range) {
                left_out.push((peer.name.clone(), format!("{range}: {why}")));
            }
        }
    }
    // Also where all are near: a node may be near to this one, and this one far from it by its own addresses.
    state.device = here.backend != Backend::Direct && !state.routes.is_empty();
    (state, left_out)
}

fn add(state: &mut State, here: &Here<'_>, peer: &Peer, range: &IpNet) -> Result<(), String> {
    if !here.cluster.iter().any(|all| all.contains(range)) {
        return Err("it is not part of the cluster's ranges".into());
    }
    if here.ranges.iter().any(|own| overlap(own, range)) {
        return Err("it overlaps this node's own".into());
    }
    if let Some(other) = state.routes.keys().find(|other| overlap(other, range)) {
        return Err(format!("it overlaps {other} of another node"));
    }
    let same = |a: &&IpAddr| a.is_ipv4() == matches!(range, IpNet::V4(_));
    let near = peer.addresses.iter().filter(same).find(|a| here.segments.iter().any(|s| s.contains(*a)));
    let hop = match (here.backend, near) {
        (Backend::Direct | Backend::Auto, Some(address)) => Hop::Direct(*address),
        (Backend::Direct, None) => {
            return Err(
                "its node is on no segment of this node: the backends \"auto\" and \"vxlan\" reach it".into(),
            );
        }
        (Backend::Vxlan | Backend::Auto, _) => {
            let carried = |a: &&IpAddr| a.is_ipv4() == here.address.is_ipv4();
            let to =
                peer.addresses.iter().find(carried).ok_or("its node has no address of this node's family")?;
            let (address, mac) = (tunnel_address(range), tunnel_mac(&peer.ranges));
            state.neighbours.insert(address, mac);
            state.forwarding.insert((mac, *to));
            Hop::Tunnel(address)
        }
    };
    state.routes.insert(*range, hop);
    Ok(())
}

/// What must be done to get from `have` to `want`. What a route needs comes before it and goes after it.
pub(crate) fn steps(have: &State, want: &State) -> Vec<Step> {
    let mut steps = Vec::new();
    for (address, mac) in &want.neighbours {
        if have.neighbours.get(address) != Some(mac) {
            steps.push(Step::SetNeighbour(*address, *mac));
        }
    }
    for (mac, to) in want.forwarding.difference(&have.forwarding) {
        steps.push(Step::SetForwarding(*mac, *to));
    }
    for (range, hop) in &want.routes {
        if have.routes.get(range) != Some(hop) {
            steps.push(Step::SetRoute(*range, *hop));
        }
    }
    for (range, hop) in &have.routes {
        if !want.routes.contains_key(range) {
            steps.push(Step::DropRoute(*range, *hop));
        }
    }
    for address in have.neighbours.keys() {
        if !want.neighbours.contains_key(address) {
            steps.push(Step::DropNeighbour(*address));
        }
    }
    for (mac, to) in have.forwarding.difference(&want.forwarding) {
        steps.push(Step::DropForwarding(*mac, *to));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    fn peer(name: &str, address: &str, ranges: &[&str]) -> Peer {
        Peer {
            name: name.into(),
            addresses: vec![address.parse().expect("an address")],
            ranges: ranges.iter().map(|r| net(r)).collect(),
        }
    }

    fn plan(backend: Backend, peers: &[Peer]) -> (State, Vec<(String, String)>) {
        let here = Here {
            node: "here",
            address: "192.0.2.1".parse().expect("an address"),
            ranges: &[net("10.42.0.0/24")],
            cluster: &[net("10.42.0.0/16"), net("fd00:42::/56")],
            backend,
            segments: &[net("192.0.2.0/24")],
        };
        desired(&here, peers)
    }

    fn peers() -> Vec<Peer> {
        vec![
            peer("far", "198.51.100.7", &["10.42.2.0/24"]),
            peer("here", "192.0.2.1", &["10.42.0.0/24"]),
            peer("near", "192.0.2.2", &["10.42.1.0/24"]),
        ]
    }

    #[test]
    fn nodes_on_the_segment_are_reached_directly_and_others_through_the_tunnel() {
        let (state, left_out) = plan(Backend::Auto, &peers());
        assert_eq!(left_out, []);
        assert!(state.device);
        let hops: Vec<_> = state.routes.into_iter().collect();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            hops,
            [
                (net("10.42.1.0/24"), Hop::Direct(address("192.0.2.2"))),
                (net("10.42.2.0/24"), Hop::Tunnel(address("10.42.2.1"))),
            ]
        );
        let mac = [0x02, 0x6f, 10, 42, 2, 1];
        assert_eq!(state.neighbours.into_iter().collect::<Vec<_>>(), [(address("10.42.2.1"), mac)]);
        assert_eq!(state.forwarding.into_iter().collect::<Vec<_>>(), [(mac, address("198.51.100.7"))]);
    }

    #[test]
    fn direct_routes_do_not_reach_other_segments_and_say_so() {
        let (state, left_out) = plan(Backend::Direct, &peers());
        assert!(!state.device && state.neighbours.is_empty());
        assert_eq!(state.routes.len(), 1);
        assert_eq!(left_out[0].0, "far");
        assert!(left_out[0].1.contains("vxlan"), "{left_out:?}");
        let (state, _) = plan(Backend::Vxlan, &peers());
        assert!(state.routes.values().all(|hop| matches!(hop, Hop::Tunnel(_))));
    }

    #[test]
    fn a_lonely_node_needs_nothing() {
        let (state, left_out) = plan(Backend::Auto, &[peer("here", "192.0.2.1", &["10.42.0.0/24"])]);
        assert_eq!((state, left_out), (State::default(), vec![]));
    }

    #[test]
    fn nodes_without_an_address_are_no_reason_for_a_device() {
        let unborn = Peer { name: "unborn".into(), addresses: vec![], ranges: vec![net("10.42.9.0/24")] };
        assert_eq!(plan(Backend::Auto, &[unborn]), (State::default(), vec![]));
    }

    #[test]
    fn both_families_of_a_node_share_its_place_in_the_tunnel() {
        let (state, _) =
            plan(Backend::Vxlan, &[peer("a", "192.0.2.2", &["10.42.1.0/24", "fd00:42:0:1::/64"])]);
        assert_eq!(state.routes.len(), 2);
        assert_eq!(state.neighbours.len(), 2);
        assert_eq!(state.forwarding.len(), 1);
    }

    #[test]
    fn ranges_that_cannot_be_right_are_left_out() {
        let wrong = [
            peer("a", "192.0.2.2", &["10.42.0.128/25"]),
            peer("b", "192.0.2.3", &["10.99.0.0/24"]),
            peer("c", "192.0.2.4", &["10.42.3.0/24"]),
            peer("d", "192.0.2.5", &["10.42.3.0/25"]),
        ];
        let (state, left_out) = plan(Backend::Auto, &wrong);
        assert_eq!(state.routes.len(), 1);
        let names: Vec<_> = left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "d"]);
    }

    fn apply(mut state: State, steps: &[Step]) -> State {
        for step in steps {
            match *step {
                Step::SetNeighbour(a, m) => drop(state.neighbours.insert(a, m)),
                Step::SetForwarding(m, a) => {
                    // As the kernel replaces: one destination an Ethernet address.
                    state.forwarding.retain(|(mac, _)| *mac != m);
                    state.forwarding.insert((m, a));
                }
                Step::SetRoute(r, h) => drop(state.routes.insert(r, h)),
                Step::DropRoute(r, _) => drop(state.routes.remove(&r)),
                Step::DropNeighbour(a) => drop(state.neighbours.remove(&a)),
                Step::DropForwarding(m, a) => drop(state.forwarding.remove(&(m, a))),
            }
        }
        state
    }

    fn some_peers() -> impl Strategy<Value = Vec<Peer>> {
        let one = (0u8..8, 0u8..8, any::<bool>());
        proptest::collection::vec(one, 0..8).prop_map(|all| {
            all.into_iter()
                .map(|(name, range, near)| {
                    let address = if near {
                        format!("192.0.2.{}", name + 2)
                    } else {
                        format!("198.51.100.{}", name + 2)
                    };
                    peer(&format!("n{name}"), &address, &[&format!("10.42.{range}.0/24")])
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn from_whatever_was_left_the_steps_lead_to_what_is_wanted(
            before in some_peers(), after in some_peers(), killed_after in 0usize..20,
        ) {
            let (old, _) = plan(Backend::Auto, &before);
            let (mut want, _) = plan(Backend::Auto, &after);
            want.device = old.device;
            let all = steps(&old, &want);
            let half = apply(old, &all[..killed_after.min(all.len())]);
            let rest = steps(&half, &want);
            let done = apply(half, &rest);
            prop_assert_eq!(&done, &want);
            prop_assert_eq!(steps(&done, &want), vec![]);
        }
    }
}

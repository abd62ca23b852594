//! What has to be done so that the kernel's links are those that are wanted. Pure.

use super::{Overlay, OverlayConfig};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Stands for every address that is not known: such packets go to all nodes.
const EVERYBODY: Mac = [0; 6];
/// The kernel's names of links end here (`IFNAMSIZ` less the zero).
const MAX_NAME: usize = 15;

/// The bridge of a network.
pub(crate) fn bridge_name(instance: &str, id: u32) -> String {
    format!("b{instance}{id:06x}")
}

/// The VXLAN of a network.
pub(crate) fn tunnel_name(instance: &str, id: u32) -> String {
    format!("x{instance}{id:06x}")
}

/// A member's end on the host.
fn member_name(instance: &str, number: u32) -> String {
    format!("m{instance}{number:06x}")
}

/// Whether a link is one of an instance's.
pub(crate) fn is_ours(instance: &str, link: &str) -> bool {
    let rest = link.strip_prefix(['b', 'x', 'm']).and_then(|rest| rest.strip_prefix(instance));
    rest.is_some_and(|rest| {
        rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    })
}

/// What a member's end on the host is marked with when it is finished.
pub(crate) fn mark(id: &str) -> String {
    format!("orlop member {id}")
}

/// What a VXLAN is marked with when it is finished: one that was made otherwise is made anew.
fn tunnel_mark(config: &OverlayConfig) -> String {
    format!("orlop tunnel {} {} {}", config.node_address, config.port, config.mtu)
}

/// FNV-1a: the same on every node.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn mac(id: &str) -> Mac {
    let [a, b, c, d, e, ..] = hash(id).to_be_bytes();
    [0x0a, a, b, c, d, e]
}

pub(super) fn interface_name(network: &str) -> String {
    // These two every pod has.
    if network.len() <= MAX_NAME && !matches!(network, "lo" | "eth0") {
        return network.to_string();
    }
    let short: String = network.chars().take(8).collect();
    format!("{}-{:06x}", short.trim_end_matches('-'), hash(network) & 0xff_ffff)
}

/// What is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Links of the instance, with their alias.
    pub links: BTreeMap<String, Option<String>>,
    /// What the VXLANs forward where.
    pub forwarding: BTreeMap<String, BTreeSet<(Mac, IpAddr)>>,
}

impl State {
    /// The names of all links: members first, bridges last.
    pub fn links(&self) -> impl Iterator<Item = &str> {
        self.links.keys().rev().map(String::as_str)
    }
}

/// A bridge as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub name: String,
    /// The same on every node: their addresses are the same too, and each answers for itself.
    pub mac: Mac,
    pub mtu: u32,
    /// Its addresses with the length of the prefix.
    pub addresses: BTreeSet<(IpAddr, u8)>,
}

/// A VXLAN as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub name: String,
    pub bridge: String,
    pub id: u32,
    pub port: u16,
    pub local: IpAddr,
    pub mtu: u32,
    /// What it is marked with when it is finished.
    pub mark: String,
    /// Whether it has yet to be made.
    pub is_new: bool,
    pub add: BTreeSet<(Mac, IpAddr)>,
    pub remove: BTreeSet<(Mac, IpAddr)>,
}

/// A member that has to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMember {
    pub id: String,
    pub host_link: String,
    pub bridge: String,
    pub netns: PathBuf,
    pub interface: String,
    pub mac: Mac,
    pub mtu: u32,
    /// With the length of the prefix.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// What has to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Links to remove.
    pub remove: Vec<String>,
    /// All bridges.
    pub bridges: Vec<Bridge>,
    /// All tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Members that are not connected yet.
    pub members: Vec<NewMember>,
}

/// The difference between what is wanted and what is there.
pub(super) fn plan(config: &OverlayConfig, wanted: &[Overlay], state: &State) -> Planned {
    let instance = config.instance.as_str();
    let mut planned = Planned::default();
    let mut keep = BTreeSet::new();
    // A link that was given to a member and finished is that member's as long as it exists.
    let mut finished: BTreeMap<&str, &str> = BTreeMap::new();
    for (link, alias) in &state.links {
        if let Some(alias) = alias {
            finished.insert(alias, link);
        }
    }
    let mut missing = Vec::new();
    for overlay in wanted.iter().filter(|overlay| !overlay.members.is_empty()) {
        let bridge = bridge_name(instance, overlay.id);
        for member in &overlay.members {
            match finished.get(mark(&member.id).as_str()) {
                Some(link) => {
                    keep.insert((*link).to_string());
                }
                None => missing.push((overlay, member, bridge.clone())),
            }
        }
        keep.insert(bridge.clone());
        let own = overlay.subnets.iter().filter(|_| overlay.open);
        planned.bridges.push(Bridge {
            name: bridge.clone(),
            mac: mac(&format!("bridge {}", overlay.id)),
            mtu: config.mtu,
            addresses: own.map(|(range, gateway)| (*gateway, range.prefix_len())).collect(),
        });
        if overlay.remotes.is_empty() {
            continue;
        }
        let (name, mark) = (tunnel_name(instance, overlay.id), tunnel_mark(config));
        let finished = state.links.get(&name).is_some_and(|alias| alias.as_ref() == Some(&mark));
        if finished {
            keep.insert(name.clone());
        }
        let forward = forwarding(overlay);
        let there = state.forwarding.get(&name).filter(|_| finished);
        let nothing = BTreeSet::new();
        let before = there.unwrap_or(&nothing);
        planned.tunnels.push(Tunnel {
            bridge,
            id: overlay.id,
            port: config.port,
            local: config.node_address,
            mtu: config.mtu,
            mark,
            is_new: !finished,
            add: forward.difference(before).copied().collect(),
            remove: before.difference(&forward).copied().collect(),
            name,
        });
    }
    planned.remove = state.links().filter(|link| !keep.contains(*link)).map(str::to_string).collect();
    let mut number = 0;
    for (overlay, member, bridge) in missing {
        let mut host_link = member_name(instance, number);
        while keep.contains(&host_link) {
            number += 1;
            host_link = member_name(instance, number);
        }
        number += 1;
        let prefix = |address: &IpAddr| {
            let range = overlay.subnets.iter().find(|(range, _)| range.contains(address));
            range.map_or(if address.is_ipv4() { 32 } else { 128 }, |(range, _)| range.prefix_len())
        };
        planned.members.push(NewMember {
            id: member.id.clone(),
            host_link,
            bridge,
            netns: member.netns.clone(),
            interface: member.interface.clone(),
            mac: member.mac,
            mtu: config.mtu,
            addresses: member.addresses.iter().map(|a| (*a, prefix(a))).collect(),
        });
    }
    planned
}

/// What a network's VXLAN forwards: each member elsewhere to its node, and what is for nobody known to all of those nodes.
fn forwarding(overlay: &Overlay) -> BTreeSet<(Mac, IpAddr)> {
    overlay.remotes.iter().flat_map(|remote| [(remote.mac, remote.node), (EVERYBODY, remote.node)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Member, Remote},
        *,
    };

    fn config() -> OverlayConfig {
        OverlayConfig {
            instance: "test".into(),
            node_address: "192.0.2.1".parse().unwrap(),
            port: 4789,
            mtu: 1450,
        }
    }

    fn overlay(members: &[&str], remotes: &[&str]) -> Overlay {
        Overlay {
            id: 4096,
            subnets: vec![("10.60.0.0/24".parse().unwrap(), "10.60.0.1".parse().unwrap())],
            open: false,
            members: members
                .iter()
                .map(|id| Member {
                    id: (*id).to_string(),
                    mac: mac(id),
                    netns: format!("/pods/{id}").into(),
                    interface: "back".into(),
                    addresses: vec!["10.60.0.7".parse().unwrap()],
                })
                .collect(),
            remotes: remotes
                .iter()
                .map(|node| Remote { mac: mac(node), node: node.parse().unwrap() })
                .collect(),
        }
    }

    fn state(links: &[(&str, Option<&str>)]) -> State {
        let links = links.iter().map(|(name, id)| {
            let alias = if name.starts_with('x') { Some(tunnel_mark(&config())) } else { id.map(mark) };
            ((*name).to_string(), alias)
        });
        State { links: links.collect(), forwarding: BTreeMap::new() }
    }

    #[test]
    fn names_fit_the_kernels_fifteen_characters_and_are_told_from_another_instances() {
        for name in
            [bridge_name("abcdefgh", 0xff_ffff), tunnel_name("abcdefgh", 1), member_name("abcdefgh", 9)]
        {
            assert_eq!(name.len(), 15, "{name}");
            assert!(is_ours("abcdefgh", &name) && !is_ours("abcdefg", &name), "{name}");
        }
        for name in ["back", "a-network-with-a-long-name", "eth0", "lo"] {
            let interface = interface_name(name);
            assert!(interface.len() <= 15 && !matches!(interface.as_str(), "eth0" | "lo"), "{interface}");
        }
        assert_ne!(
            interface_name("a-network-with-a-long-name"),
            interface_name("a-network-with-a-long-face")
        );
    }

    #[test]
    fn a_first_member_gets_a_bridge_and_a_link_and_only_neighbours_elsewhere_a_vxlan() {
        let planned = plan(&config(), &[overlay(&["a"], &[])], &State::default());
        assert_eq!(planned.bridges[0].name, "btest001000");
        assert!(planned.bridges[0].addresses.is_empty(), "an isolated network has no way out");
        assert!(planned.tunnels.is_empty() && planned.remove.is_empty());
        let member = &planned.members[0];
        assert_eq!((member.host_link.as_str(), member.addresses[0].1), ("mtest000000", 24));
        let planned = plan(&config(), &[overlay(&["a"], &["192.0.2.2"])], &State::default());
        let tunnel = &planned.tunnels[0];
        assert!(tunnel.is_new && tunnel.add.len() == 2, "{tunnel:?}");
    }

    #[test]
    fn an_open_network_gives_the_node_its_gateways_address() {
        let open = Overlay { open: true, ..overlay(&["a"], &[]) };
        let planned = plan(&config(), &[open], &State::default());
        assert_eq!(planned.bridges[0].addresses, [("10.60.0.1".parse().unwrap(), 24)].into());
    }

    #[test]
    fn what_is_there_stays_and_what_is_half_made_or_left_over_goes() {
        let there = state(&[
            ("btest001000", None),
            ("btest001001", None),
            ("xtest001000", None),
            ("mtest000000", Some("gone")),
            ("mtest000001", Some("a")),
            ("mtest000002", None),
        ]);
        let planned = plan(&config(), &[overlay(&["a", "b"], &[])], &there);
        assert_eq!(planned.remove, ["xtest001000", "mtest000002", "mtest000000", "btest001001"]);
        let made: Vec<_> = planned.members.iter().map(|m| (m.id.as_str(), m.host_link.as_str())).collect();
        assert_eq!(made, [("b", "mtest000000")]);
    }

    #[test]
    fn without_members_here_nothing_of_a_network_is_here() {
        let planned = plan(&config(), &[overlay(&[], &["192.0.2.2"])], &state(&[("btest001000", None)]));
        assert_eq!(planned, Planned { remove: vec!["btest001000".into()], ..Planned::default() });
    }

    #[test]
    fn a_tunnel_that_begins_elsewhere_is_made_anew() {
        let mut there = state(&[("btest001000", None), ("xtest001000", None), ("mtest000000", Some("a"))]);
        there.forwarding.insert("xtest001000".into(), forwarding(&overlay(&[], &["192.0.2.2"])));
        let moved = OverlayConfig { node_address: "192.0.2.9".parse().unwrap(), ..config() };
        let planned = plan(&moved, &[overlay(&["a"], &["192.0.2.2"])], &there);
        assert_eq!(planned.remove, ["xtest001000"]);
        assert!(planned.tunnels[0].is_new && planned.tunnels[0].add.len() == 2);
        assert!(planned.members.is_empty(), "members stay connected");
    }

    #[test]
    fn forwarding_follows_who_is_where() {
        let mut there = state(&[("btest001000", None), ("xtest001000", None), ("mtest000000", Some("a"))]);
        let old: IpAddr = "192.0.2.3".parse().unwrap();
        let before = forwarding(&overlay(&[], &["192.0.2.2", "192.0.2.3"]));
        there.forwarding.insert("xtest001000".into(), before);
        let planned = plan(&config(), &[overlay(&["a"], &["192.0.2.2"])], &there);
        let tunnel = &planned.tunnels[0];
        assert!(!tunnel.is_new && tunnel.add.is_empty(), "{tunnel:?}");
        assert_eq!(tunnel.remove, [(EVERYBODY, old), (mac("192.0.2.3"), old)].into());
    }
}

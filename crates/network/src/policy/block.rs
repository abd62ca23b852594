//! Blocks of addresses with holes, as ranges without holes.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses from the first to the last, both included; both of one family.
pub type Range = (IpAddr, IpAddr);

/// Whether an address is in the block and in none of its holes.
pub(super) fn contains(cidr: IpNet, except: &[IpNet], address: IpAddr) -> bool {
    cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
}

/// The addresses of several blocks, each less its own holes: ranges that neither overlap nor touch, in order.
pub(super) fn ranges<'a>(blocks: impl Iterator<Item = (IpNet, &'a [IpNet])>) -> Vec<Range> {
    let mut all: Vec<(bool, u128, u128)> = Vec::new();
    for (cidr, except) in blocks {
        let (v6, first, last) = span(cidr);
        let mut holes: Vec<(u128, u128)> = except
            .iter()
            .map(|hole| span(*hole))
            .filter(|hole| hole.0 == v6)
            .map(|hole| (hole.1, hole.2))
            .collect();
        holes.sort_unstable();
        let mut from = Some(first);
        for (begin, end) in holes {
            let Some(next) = from else { break };
            if begin > next {
                all.push((v6, next, last.min(begin - 1)));
            }
            if end >= next {
                from = end.checked_add(1);
            }
            if from.is_some_and(|next| next > last) {
                from = None;
            }
        }
        if let Some(next) = from {
            all.push((v6, next, last));
        }
    }
    all.retain(|(_, first, last)| first <= last);
    all.sort_unstable();
    let mut joined: Vec<(bool, u128, u128)> = Vec::new();
    for (v6, first, last) in all {
        match joined.last_mut() {
            Some((family, _, end)) if *family == v6 && first <= end.saturating_add(1) => {
                *end = last.max(*end)
            }
            _ => joined.push((v6, first, last)),
        }
    }
    joined.into_iter().map(|(v6, first, last)| (address(v6, first), address(v6, last))).collect()
}

fn span(cidr: IpNet) -> (bool, u128, u128) {
    (matches!(cidr, IpNet::V6(_)), number(cidr.network()), number(cidr.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(v6: bool, number: u128) -> IpAddr {
    if v6 {
        Ipv6Addr::from(number).into()
    } else {
        // Numbers of IPv4 come from 32 bits.
        Ipv4Addr::from(number as u32).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(blocks: &[(&str, &[&str])]) -> String {
        let parsed: Vec<(IpNet, Vec<IpNet>)> = blocks
            .iter()
            .map(|(cidr, except)| {
                (cidr.parse().unwrap(), except.iter().map(|e| e.parse().unwrap()).collect())
            })
            .collect();
        let found = ranges(parsed.iter().map(|(cidr, except)| (*cidr, except.as_slice())));
        found.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn holes_are_cut_out_and_neighbours_joined() {
        assert_eq!(
            text(&[("10.0.0.0/8", &["10.1.0.0/16"])]),
            "10.0.0.0-10.0.255.255 10.2.0.0-10.255.255.255"
        );
        assert_eq!(text(&[("10.0.0.0/24", &["10.0.0.0/25"])]), "10.0.0.128-10.0.0.255");
        assert_eq!(text(&[("10.0.0.0/25", &[]), ("10.0.0.128/25", &[])]), "10.0.0.0-10.0.0.255");
        assert_eq!(text(&[("10.0.0.0/24", &["10.0.0.0/25"]), ("10.0.0.64/26", &[])]), "10.0.0.64-10.0.0.255");
        assert_eq!(text(&[("0.0.0.0/0", &["255.255.255.255/32"])]), "0.0.0.0-255.255.255.254");
        assert_eq!(text(&[("::/0", &[])]), "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(text(&[("fd00::/126", &["fd00::1/128"])]), "fd00::-fd00:: fd00::2-fd00::3");
    }

    proptest! {
        #[test]
        fn ranges_hold_what_the_blocks_hold(
            blocks in prop::collection::vec(
                (0u8..4, 24u8..=32, prop::collection::vec((0u8..4, 25u8..=32), 0..3)), 0..4),
        ) {
            let net = |octet: u8, bits: u8| IpNet::new(Ipv4Addr::new(10, 0, 0, octet * 64).into(), bits).unwrap().trunc();
            let blocks: Vec<(IpNet, Vec<IpNet>)> = blocks
                .into_iter()
                .map(|(octet, bits, holes)| (net(octet, bits), holes.into_iter().map(|(o, b)| net(o, b)).collect()))
                .collect();
            let found = ranges(blocks.iter().map(|(cidr, except)| (*cidr, except.as_slice())));
            for octet in 0..=255u8 {
                let address: IpAddr = Ipv4Addr::new(10, 0, 0, octet).into();
                let meant = blocks.iter().any(|(cidr, except)| contains(*cidr, except, address));
                let held = found.iter().filter(|(first, last)| (*first..=*last).contains(&address)).count();
                prop_assert_eq!(held, usize::from(meant));
            }
        }
    }
}

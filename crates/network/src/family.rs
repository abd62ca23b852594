//! The two address families, and how addresses of either are counted. Pure.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The address that stands for all of a machine's.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Bits of an address: the prefix of a range that is one address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// The address so many after a range's first.
pub(crate) fn nth(range: IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
    }
}

/// The reverse of [`nth`]; `None` for an address outside of the range, or too far in to be one of ours.
pub(crate) fn offset(range: IpNet, address: IpAddr) -> Option<u32> {
    if !range.contains(&address) {
        return None;
    }
    match (range.network(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(u32::from(first)),
        (IpAddr::V6(first), IpAddr::V6(address)) => {
            u32::try_from(u128::from(address).checked_sub(u128::from(first))?).ok()
        }
        _ => None,
    }
}

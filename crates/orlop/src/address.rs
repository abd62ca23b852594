//! This machine's name and its address towards others.

use crate::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The address from which this machine reaches others by IPv4 or IPv6: that of the default route. Nothing is sent.
pub(crate) fn of_this_machine(v4: bool) -> Option<IpAddr> {
    // For documentation (RFC 5737, RFC 3849): connecting a datagram socket only chooses the route.
    let (any, far): (IpAddr, IpAddr) = if v4 {
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
    } else {
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

/// The host name as a node name: lower case, as RFC 1123 wants it.
pub(crate) fn host_name() -> Result<String, Error> {
    let raw = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String =
        raw.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']).to_string();
    if name.is_empty() {
        return Err(Error::Configuration("this machine has no host name: give one with --node-name".into()));
    }
    Ok(name)
}

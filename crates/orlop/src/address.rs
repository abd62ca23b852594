//! This machine's name and its address towards others.

use crate::Error;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The address from which this machine reaches others: that of the default route. Nothing is sent.
pub(crate) fn of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): connecting a datagram socket only chooses the route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
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

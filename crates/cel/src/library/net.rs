//! Kubernetes' IP and CIDR libraries.

use super::Outcome;
use crate::value::Value;
use std::net::{IpAddr, Ipv6Addr};

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let wrong = |why: &str| format!("IP Address {text:?} parse error during conversion from string: {why}");
    let ip: IpAddr = text.parse().map_err(|_| {
        if text.contains('%') {
            format!("IP address {text:?} with zone value is not allowed")
        } else {
            wrong(&format!("ParseAddr({text:?}): unable to parse IP"))
        }
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong =
        || format!("network address parse error during conversion from string: netip.ParsePrefix({text:?})");
    let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
    let digits = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 = bits.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    let ip = parse_ip(ip)?;
    if bits > if ip.is_ipv4() { 32 } else { 128 } { Err(wrong()) } else { Ok((ip, bits)) }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    ipnet::IpNet::new(ip, bits).map_or(ip, |net| net.network())
}

fn contains(net: (IpAddr, u8), ip: IpAddr) -> bool {
    net.0.is_ipv4() == ip.is_ipv4() && masked(net.0, net.1) == masked(ip, net.1)
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local_unicast(ip)
}

fn canonical(text: &str) -> Outcome {
    let ip = parse_ip(text)?;
    let written = match ip {
        IpAddr::V6(ip) => Ipv6Addr::to_string(&ip),
        IpAddr::V4(ip) => ip.to_string(),
    };
    Ok(Value::Bool(written == text))
}

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    Some(match (function, args) {
        ("ip", [Value::String(text)]) => parse_ip(text).map(Value::Ip),
        ("isIP", [Value::String(text)]) => Ok(Value::Bool(parse_ip(text).is_ok())),
        ("ip.isCanonical", [Value::String(text)]) => canonical(text),
        ("family", [Value::Ip(ip)]) => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Value::Ip(ip)]) => Ok(Value::Bool(ip.is_unspecified())),
        ("isLoopback", [Value::Ip(ip)]) => Ok(Value::Bool(ip.is_loopback())),
        ("isLinkLocalMulticast", [Value::Ip(ip)]) => Ok(Value::Bool(link_local_multicast(*ip))),
        ("isLinkLocalUnicast", [Value::Ip(ip)]) => Ok(Value::Bool(link_local_unicast(*ip))),
        ("isGlobalUnicast", [Value::Ip(ip)]) => Ok(Value::Bool(global_unicast(*ip))),
        ("cidr", [Value::String(text)]) => parse_cidr(text).map(|(ip, bits)| Value::Cidr(ip, bits)),
        ("isCIDR", [Value::String(text)]) => Ok(Value::Bool(parse_cidr(text).is_ok())),
        ("containsIP", [Value::Cidr(net, bits), Value::Ip(ip)]) => {
            Ok(Value::Bool(contains((*net, *bits), *ip)))
        }
        ("containsIP", [Value::Cidr(net, bits), Value::String(text)]) => {
            parse_ip(text).map(|ip| Value::Bool(contains((*net, *bits), ip)))
        }
        ("containsCIDR", [Value::Cidr(net, bits), Value::Cidr(ip, inner)]) => {
            Ok(Value::Bool(bits <= inner && contains((*net, *bits), *ip)))
        }
        ("containsCIDR", [Value::Cidr(net, bits), Value::String(text)]) => {
            parse_cidr(text).map(|(ip, inner)| Value::Bool(*bits <= inner && contains((*net, *bits), ip)))
        }
        ("ip", [Value::Cidr(ip, _)]) => Ok(Value::Ip(*ip)),
        ("masked", [Value::Cidr(ip, bits)]) => Ok(Value::Cidr(masked(*ip, *bits), *bits)),
        ("prefixLength", [Value::Cidr(_, bits)]) => Ok(Value::Int(i64::from(*bits))),
        _ => return None,
    })
}

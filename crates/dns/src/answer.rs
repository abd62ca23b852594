//! What an index says to a question: the cluster's zone by the Kubernetes DNS-based service discovery specification 1.1.0,
//! section 2; exported zones likewise, without what is the cluster's own. Pure of I/O.

use crate::{
    Layout, PortRecord,
    index::{Addresses, DnsIndex, HostPort, Service, Target},
    name::{Name, WireName},
    wire::{Data, Section, Writer, kind},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the specification, as `dns-version` says it.
const SPECIFICATION: &[u8] = b"1.1.0";
/// How long "no" may be remembered, in seconds; not longer than a Service takes to appear.
const NEGATIVE_TTL: u32 = 5;
/// Addresses of targets that are sent along: a client asks for those that are missing.
const MAX_GLUE: usize = 64;

/// What became of a question.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The answer is written.
    Written,
    /// Nothing has this name, nor a name below it.
    NoSuchName,
    /// The name exists; records of this type do not.
    NoData,
    /// The name stands for another one.
    Alias(Name),
}

/// A question and what to answer with.
pub(crate) struct Question<'a> {
    /// The name.
    pub name: &'a WireName,
    /// The name if it is not the one that the client wrote: where an alias led.
    pub owner: Option<&'a Name>,
    /// Type of the records.
    pub kind: u16,
    /// Time to live of answers.
    pub ttl: u32,
    /// Where the server listens: the addresses of the zone's name server.
    pub server: &'a Addresses,
    /// Rotates answers so that clients that take the first one spread.
    pub turn: usize,
}

impl DnsIndex {
    /// Answers a question for a name that is this many labels below the zone.
    pub(crate) fn answer(&self, question: &Question<'_>, depth: usize, out: &mut Writer<'_>) -> Outcome {
        let label = |from_zone: usize| question.name.label(depth - from_zone);
        match self.layout {
            _ if depth == 0 => self.of_zone(question, out),
            _ if depth == 2 && label(1) == b"dns" && label(2) == b"ns" => {
                question.addresses(question.server, out)
            }
            // A Service of that name may be there too.
            Layout::OneNamespace if depth == 1 && label(1) == b"dns" => {
                match self.of_service(question, b"", b"dns", 0, out) {
                    Outcome::NoSuchName => Outcome::NoData,
                    outcome => outcome,
                }
            }
            _ if depth == 1 && label(1) == b"dns" => Outcome::NoData,
            Layout::Cluster => self.of_cluster(question, depth, out),
            Layout::Namespaces | Layout::Networks if depth == 1 => exists(self.has_namespace(label(1))),
            Layout::Namespaces | Layout::Networks => {
                self.of_service(question, label(1), label(2), depth - 2, out)
            }
            // The namespace is the one that was exported; the index knows it under no name.
            Layout::OneNamespace => self.of_service(question, b"", label(1), depth - 1, out),
        }
    }

    fn of_cluster(&self, question: &Question<'_>, depth: usize, out: &mut Writer<'_>) -> Outcome {
        let label = |from_zone: usize| question.name.label(depth - from_zone);
        match (label(1), depth) {
            (b"dns-version", 1) if question.wants(kind::TXT) => {
                question.put(out, &Data::Txt(SPECIFICATION));
                Outcome::Written
            }
            (b"dns-version", 1) => Outcome::NoData,
            (b"svc" | b"pod", 1) | (b"pod", 2) => Outcome::NoData,
            (b"pod", 3) => question.pod(label(3), out),
            (b"svc", 2) => exists(self.has_namespace(label(2))),
            (b"svc", _) => self.of_service(question, label(2), label(3), depth - 3, out),
            _ => Outcome::NoSuchName,
        }
    }

    fn of_service(
        &self,
        question: &Question<'_>,
        namespace: &[u8],
        name: &[u8],
        below: usize,
        out: &mut Writer<'_>,
    ) -> Outcome {
        match self.service(namespace, name) {
            Some(service) if below <= 2 => question.service(&service, below, out),
            _ => Outcome::NoSuchName,
        }
    }

    fn of_zone(&self, question: &Question<'_>, out: &mut Writer<'_>) -> Outcome {
        match question.kind {
            kind::SOA | kind::ANY => {
                self.authority(Section::Answer, out);
                Outcome::Written
            }
            kind::NS => {
                question.put(out, &Data::Ns(self.apex.server.wire()));
                glue(out, question.server, question.ttl, |out, ttl, data| {
                    out.record(Section::Additional, self.apex.server.wire(), ttl, data)
                });
                Outcome::Written
            }
            _ => Outcome::NoData,
        }
    }

    /// The record that goes with every "no".
    pub(crate) fn authority(&self, section: Section, out: &mut Writer<'_>) {
        self.authority_of(self.zone.wire(), section, out);
    }

    fn authority_of(&self, zone: &[u8], section: Section, out: &mut Writer<'_>) {
        let numbers = [self.serial(), 7200, 1800, 86400, NEGATIVE_TTL];
        let (server, mailbox) = (self.apex.server.wire(), self.apex.mailbox.wire());
        out.record(section, zone, NEGATIVE_TTL, &Data::Soa { server, mailbox, numbers });
    }

    /// The record that goes with "no" for an address: the zone is all addresses, as far as we speak for it.
    pub(crate) fn authority_of_address(&self, name: &WireName, out: &mut Writer<'_>) {
        let zone = name.start(name.depth().saturating_sub(2));
        self.authority_of(&name.lower()[zone..], Section::Authority, out);
    }

    /// Names of an address; `None` if it has none.
    pub(crate) fn pointer(
        &self,
        question: &Question<'_>,
        address: IpAddr,
        out: &mut Writer<'_>,
    ) -> Option<Outcome> {
        let names = self.names_of(address);
        if names.is_empty() {
            return None;
        }
        if !question.wants(kind::PTR) {
            return Some(Outcome::NoData);
        }
        for name in names {
            question.put(out, &Data::Ptr(name.wire()));
        }
        Some(Outcome::Written)
    }
}

impl Question<'_> {
    /// Below a Service: nothing is itself, one label is an endpoint, `_port._proto` is SRV.
    fn service(&self, service: &Service, below: usize, out: &mut Writer<'_>) -> Outcome {
        match (&service.target, below) {
            (Target::External { name }, 0) => Outcome::Alias(name.clone()),
            (Target::External { .. }, _) => Outcome::NoSuchName,
            (Target::Headless { addresses, .. }, _) if addresses.is_empty() => Outcome::NoSuchName,
            (Target::Cluster { addresses, .. } | Target::Headless { addresses, .. }, 0) => {
                self.addresses(addresses, out)
            }
            (Target::Cluster { ports, .. }, 1) => exists(ports.iter().any(|port| self.has_protocol(port))),
            (Target::Headless { hosts, ports, .. }, 1) => match hosts.get(self.name.label(0)) {
                Some(host) => self.addresses(&host.addresses, out),
                None => exists(ports.iter().any(|port| self.has_protocol(&port.port))),
            },
            (Target::Cluster { addresses, ports, rank }, _) => {
                let Some(port) = ports.iter().find(|port| self.is_port(port)) else {
                    return Outcome::NoSuchName;
                };
                if !self.wants(kind::SRV) {
                    return Outcome::NoData;
                }
                let (target, port) = (service.name.wire(), port.port);
                self.put(out, &Data::Srv { priority: rank.priority, weight: rank.weight, port, target });
                glue(out, addresses, self.ttl, |out, ttl, data| {
                    out.record(Section::Additional, target, ttl, data)
                });
                Outcome::Written
            }
            (Target::Headless { hosts, ports, .. }, _) => {
                let found: Vec<&HostPort> = ports.iter().filter(|port| self.is_port(&port.port)).collect();
                if found.is_empty() {
                    return Outcome::NoSuchName;
                }
                if !self.wants(kind::SRV) {
                    return Outcome::NoData;
                }
                let mut targets = Vec::new();
                let turn = self.turn % found.len();
                for port in found[turn..].iter().chain(&found[..turn]) {
                    let Some(host) = hosts.get(&port.host) else { continue };
                    let (rank, target) = (port.rank, host.name.wire());
                    let data = Data::Srv {
                        priority: rank.priority,
                        weight: rank.weight,
                        port: port.port.port,
                        target,
                    };
                    if self.put(out, &data)
                        && let Some(at) = out.last_target(target)
                        && targets.len() < MAX_GLUE
                    {
                        targets.push((at, &host.addresses));
                    }
                }
                for (at, addresses) in targets {
                    glue(out, addresses, self.ttl, |out, ttl, data| {
                        out.record_at(Section::Additional, at, ttl, data)
                    });
                }
                Outcome::Written
            }
        }
    }

    /// `1-2-3-4.NAMESPACE.pod`: the address is in the name.
    fn pod(&self, dashed: &[u8], out: &mut Writer<'_>) -> Outcome {
        let Ok(dashed) = std::str::from_utf8(dashed) else { return Outcome::NoSuchName };
        let address = dashed
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map(IpAddr::V4)
            .or_else(|_| dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        address.map_or(Outcome::NoSuchName, |address| self.addresses(&Addresses::of([address]), out))
    }

    /// Asked for everything, a client gets one kind of address (RFC 8482).
    fn addresses(&self, addresses: &Addresses, out: &mut Writer<'_>) -> Outcome {
        let (v4, v6) = (&addresses.v4, &addresses.v6);
        if self.wants(kind::A) && !v4.is_empty() {
            self.rotated(v4, out, |address| Data::A(*address));
        } else if self.wants(kind::AAAA) && !v6.is_empty() {
            self.rotated(v6, out, |address| Data::Aaaa(*address));
        } else {
            return Outcome::NoData;
        }
        Outcome::Written
    }

    fn rotated<'d, T>(&self, items: &[T], out: &mut Writer<'_>, data: impl Fn(&T) -> Data<'d>) {
        let turn = self.turn % items.len();
        for item in items[turn..].iter().chain(&items[..turn]) {
            self.put(out, &data(item));
        }
    }

    fn has_protocol(&self, port: &PortRecord) -> bool {
        !port.name.is_empty() && port.protocol.label() == self.name.label(0)
    }

    fn is_port(&self, port: &PortRecord) -> bool {
        let asked = self.name.label(0).strip_prefix(b"_");
        let named = asked.is_some_and(|asked| asked.eq_ignore_ascii_case(port.name.as_bytes()));
        !port.name.is_empty() && named && port.protocol.label() == self.name.label(1)
    }

    fn wants(&self, kind: u16) -> bool {
        self.kind == kind || self.kind == kind::ANY
    }

    /// Writes a record of the name asked for. `false` if it does not fit.
    pub(crate) fn put(&self, out: &mut Writer<'_>, data: &Data<'_>) -> bool {
        match self.owner {
            None => out.answer(self.ttl, data),
            Some(owner) => out.record(Section::Answer, owner.wire(), self.ttl, data),
        }
    }
}

fn exists(it_does: bool) -> Outcome {
    if it_does { Outcome::NoData } else { Outcome::NoSuchName }
}

fn glue(
    out: &mut Writer<'_>,
    addresses: &Addresses,
    ttl: u32,
    mut put: impl FnMut(&mut Writer<'_>, u32, &Data<'_>) -> bool,
) {
    let v4 = addresses.v4.iter().map(|address| Data::A(*address));
    let v6 = addresses.v6.iter().map(|address| Data::Aaaa(*address));
    for data in v4.chain(v6).take(MAX_GLUE) {
        put(out, ttl, &data);
    }
}

/// The address that a name in `in-addr.arpa` or `ip6.arpa` stands for; `None` if it is no whole address.
pub(crate) fn address_of(name: &WireName) -> Option<IpAddr> {
    let from_end = |nth: usize| name.depth().checked_sub(nth).map(|index| name.label(index));
    if from_end(1)? != b"arpa" {
        return None;
    }
    match (from_end(2)?, name.depth()) {
        (b"in-addr", 6) => {
            let mut octets = [0; 4];
            for (octet, index) in octets.iter_mut().zip([3, 2, 1, 0]) {
                let label = std::str::from_utf8(name.label(index)).ok()?;
                let plain = label.bytes().all(|digit| digit.is_ascii_digit())
                    && (label == "0" || !label.starts_with('0'));
                *octet = label.parse().ok().filter(|_| plain)?;
            }
            Some(IpAddr::V4(octets.into()))
        }
        (b"ip6", 34) => {
            let mut address = 0_u128;
            for index in (0..32).rev() {
                let [digit] = name.label(index) else { return None };
                address = address << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(address.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reverse_name_is_an_address_or_nothing() {
        for (name, address) in [
            ("4.3.2.1.in-addr.arpa", Some("1.2.3.4")),
            ("0.0.0.0.in-addr.arpa", Some("0.0.0.0")),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Some("fd00::1")),
            ("3.2.1.in-addr.arpa", None),
            ("256.2.3.4.in-addr.arpa", None),
            ("+1.2.3.4.in-addr.arpa", None),
            ("01.2.3.4.in-addr.arpa", None),
            ("1.4.3.2.1.in-addr.arpa", None),
            ("g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", None),
            ("arpa", None),
            ("4.3.2.1.in-addr.example", None),
        ] {
            let name = WireName::from(&Name::parse(name).unwrap());
            assert_eq!(address_of(&name), address.map(|address| address.parse().unwrap()));
        }
    }
}

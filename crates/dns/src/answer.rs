//! What the index says to a question: the cluster's zone by the Kubernetes DNS-based service discovery specification 1.1.0,
//! section 2. Pure of I/O.

use crate::index::{Addresses, DnsIndex, HostPort, Service, Target};
use hickory_server::proto::rr::{
    LowerName, Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the specification, as `dns-version` says it.
const SPECIFICATION: &str = "1.1.0";
/// How long "no" may be remembered, in seconds; not longer than a Service takes to appear.
const NEGATIVE_TTL: u32 = 5;
/// The weight of the only target of a name.
const ONLY_WEIGHT: u16 = 100;

/// The answer to a question.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The name is not the cluster's.
    Elsewhere,
    /// Nothing has this name, nor a name below it.
    NoSuchName,
    /// The name exists; records of this type do not.
    NoData,
    /// Records.
    Records {
        /// Of the name asked for.
        answers: Vec<Record>,
        /// Addresses of the names in them.
        additionals: Vec<Record>,
    },
    /// The name stands for another one.
    Alias(Name),
}

/// A question and what to answer with.
pub(crate) struct Question<'a> {
    /// The name in lower case.
    pub name: &'a LowerName,
    /// The name as it was written: answers repeat it.
    pub written: &'a Name,
    /// Type of the records.
    pub kind: RecordType,
    /// Time to live of answers.
    pub ttl: u32,
    /// Where the server listens: the addresses of the zone's name server.
    pub server: &'a [IpAddr],
    /// Rotates answers so that clients that take the first one spread.
    pub turn: usize,
}

impl DnsIndex {
    /// Answers a question.
    pub(crate) fn answer(&self, question: &Question<'_>) -> Outcome {
        let zone = self.zone();
        if !zone.zone_of(question.name) {
            return self.pointer(question);
        }
        let depth = usize::from(question.name.num_labels() - zone.num_labels());
        let mut labels = [&[][..]; 6];
        if depth > labels.len() {
            return Outcome::NoSuchName;
        }
        for (place, label) in labels.iter_mut().zip(question.name.iter().take(depth)) {
            *place = label;
        }
        match &labels[..depth] {
            [] => self.apex(question),
            [b"dns-version"] => {
                question.only(RecordType::TXT, || RData::TXT(TXT::new(vec![SPECIFICATION.into()])))
            }
            [b"dns"] | [b"svc"] | [b"pod"] => Outcome::NoData,
            [b"ns", b"dns"] => question.addresses(&split(question.server)),
            [_, b"pod"] => Outcome::NoData,
            [dashed, _, b"pod"] => question.pod(dashed),
            [namespace, b"svc"] => exists(self.has_namespace(namespace)),
            [.., service, namespace, b"svc"] => match self.service(namespace, service) {
                Some(service) => question.service(&service, &labels[..depth - 3]),
                None => Outcome::NoSuchName,
            },
            _ => Outcome::NoSuchName,
        }
    }

    /// The record that goes with every "no".
    pub(crate) fn authority(&self) -> Record {
        let label = |labels: &[&str]| {
            let name = Name::from_labels(labels.iter().map(|label| label.as_bytes()))
                .and_then(|name| name.append_domain(self.zone()));
            name.unwrap_or_else(|_| self.zone().clone())
        };
        let soa = SOA::new(
            label(&["ns", "dns"]),
            label(&["hostmaster"]),
            self.serial(),
            7200,
            1800,
            86400,
            NEGATIVE_TTL,
        );
        Record::from_rdata(self.zone().clone(), NEGATIVE_TTL, RData::SOA(soa))
    }

    fn apex(&self, question: &Question<'_>) -> Outcome {
        match question.kind {
            RecordType::SOA => Outcome::Records { answers: vec![self.authority()], additionals: vec![] },
            RecordType::NS => {
                let Ok(server) =
                    Name::from_labels([&b"ns"[..], b"dns"]).and_then(|name| name.append_domain(self.zone()))
                else {
                    return Outcome::NoData;
                };
                let answers = vec![question.record(RData::NS(NS(server.clone())))];
                Outcome::Records {
                    answers,
                    additionals: glue(&server, &split(question.server), question.ttl),
                }
            }
            _ => Outcome::NoData,
        }
    }

    /// Names of addresses. Those of others are somebody else's to answer.
    fn pointer(&self, question: &Question<'_>) -> Outcome {
        let Ok(address) = question.name.parse_arpa_name() else { return Outcome::Elsewhere };
        if address.prefix_len() != address.max_prefix_len() {
            return Outcome::Elsewhere;
        }
        let names = self.names_of(address.addr());
        match question.kind {
            _ if names.is_empty() => Outcome::Elsewhere,
            RecordType::PTR | RecordType::ANY => {
                let answers = names.into_iter().map(|name| question.record(RData::PTR(PTR(name)))).collect();
                Outcome::Records { answers, additionals: vec![] }
            }
            _ => Outcome::NoData,
        }
    }
}

impl Question<'_> {
    /// Below a Service: nothing is itself, one label is an endpoint, `_port._proto` is SRV.
    fn service(&self, service: &Service, below: &[&[u8]]) -> Outcome {
        match (&service.target, below) {
            (Target::External { name }, []) => Outcome::Alias(name.clone()),
            (Target::External { .. }, _) => Outcome::NoSuchName,
            (Target::Cluster { addresses, .. } | Target::Headless { addresses, .. }, []) => {
                self.addresses(addresses)
            }
            (Target::Cluster { ports, .. }, [protocol]) => {
                exists(ports.iter().any(|port| !port.name.is_empty() && port.protocol.label() == *protocol))
            }
            (Target::Headless { hosts, ports, .. }, [label]) => {
                let host = std::str::from_utf8(label).ok().and_then(|label| hosts.get(label));
                match host {
                    Some(host) => self.addresses(&host.addresses),
                    None => exists(
                        ports
                            .iter()
                            .any(|port| !port.port.name.is_empty() && port.port.protocol.label() == *label),
                    ),
                }
            }
            (Target::Cluster { addresses, ports }, [name, protocol]) => {
                let Some(port) =
                    ports.iter().find(|port| is_port(&port.name, port.protocol.label(), name, protocol))
                else {
                    return Outcome::NoSuchName;
                };
                if !self.wants(RecordType::SRV) {
                    return Outcome::NoData;
                }
                let srv = SRV::new(0, ONLY_WEIGHT, port.port, service.name.clone());
                let additionals = glue(&service.name, addresses, self.ttl);
                Outcome::Records { answers: vec![self.record(RData::SRV(srv))], additionals }
            }
            (Target::Headless { hosts, ports, .. }, [name, protocol]) => {
                let named =
                    |port: &&HostPort| is_port(&port.port.name, port.port.protocol.label(), name, protocol);
                let mut found = ports.iter().filter(named).peekable();
                if found.peek().is_none() {
                    return Outcome::NoSuchName;
                }
                if !self.wants(RecordType::SRV) {
                    return Outcome::NoData;
                }
                let (mut answers, mut additionals) = (Vec::new(), Vec::new());
                for port in found {
                    let Some(host) = hosts.get(&port.host) else { continue };
                    let srv = SRV::new(port.priority, port.weight, port.port.port, host.name.clone());
                    answers.push(self.record(RData::SRV(srv)));
                    additionals.extend(glue(&host.name, &host.addresses, self.ttl));
                }
                Outcome::Records { answers, additionals }
            }
            _ => Outcome::NoSuchName,
        }
    }

    /// `1-2-3-4.NAMESPACE.pod`: the address is in the name.
    fn pod(&self, dashed: &[u8]) -> Outcome {
        let Ok(dashed) = std::str::from_utf8(dashed) else { return Outcome::NoSuchName };
        let address = dashed
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map(IpAddr::V4)
            .or_else(|_| dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        address.map_or(Outcome::NoSuchName, |address| self.addresses(&split(&[address])))
    }

    fn addresses(&self, addresses: &Addresses) -> Outcome {
        let mut answers = Vec::with_capacity(addresses.v4.len());
        if self.wants(RecordType::A) {
            answers.extend(addresses.v4.iter().map(|address| self.record(RData::A(A(*address)))));
        }
        if self.wants(RecordType::AAAA) {
            answers.extend(addresses.v6.iter().map(|address| self.record(RData::AAAA(AAAA(*address)))));
        }
        if answers.is_empty() {
            return Outcome::NoData;
        }
        let turn = self.turn % answers.len();
        answers.rotate_left(turn);
        Outcome::Records { answers, additionals: vec![] }
    }

    fn only(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Outcome {
        if self.wants(kind) {
            Outcome::Records { answers: vec![self.record(data())], additionals: vec![] }
        } else {
            Outcome::NoData
        }
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.written.clone(), self.ttl, data)
    }
}

impl Outcome {
    /// Puts an alias before what it led to.
    pub(crate) fn alias_record(written: &Name, ttl: u32, to: &Name) -> Record {
        Record::from_rdata(written.clone(), ttl, RData::CNAME(CNAME(to.clone())))
    }
}

fn exists(it_does: bool) -> Outcome {
    if it_does { Outcome::NoData } else { Outcome::NoSuchName }
}

fn is_port(name: &str, label: &[u8], asked: &[u8], asked_protocol: &[u8]) -> bool {
    !name.is_empty() && asked.strip_prefix(b"_") == Some(name.as_bytes()) && label == asked_protocol
}

fn glue(name: &Name, addresses: &Addresses, ttl: u32) -> Vec<Record> {
    let v4 = addresses.v4.iter().map(|address| RData::A(A(*address)));
    let v6 = addresses.v6.iter().map(|address| RData::AAAA(AAAA(*address)));
    v4.chain(v6).map(|data| Record::from_rdata(name.clone(), ttl, data)).collect()
}

fn split(addresses: &[IpAddr]) -> Addresses {
    let mut split = Addresses::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => split.v4.push(*address),
            IpAddr::V6(address) => split.v6.push(*address),
        }
    }
    split
}

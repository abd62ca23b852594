//! From a packet to its answer: whose question it is, which zone knows, and what goes back. What must be asked elsewhere is
//! handed out and taken in again. It touches no socket.

use crate::{
    DnsIndex, Layout,
    answer::{Outcome, Question, address_of},
    forward::{Forwarder, Heard},
    index::Addresses,
    limits::{Clients, Limiter, Verdict},
    metrics::{Metrics, Zone},
    name::{Name, WireName},
    wire::{Data, Query, Section, Unreadable, Writer, code, flag, kind, read_query},
};
use ipnet::IpNet;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// The largest datagram that passes everywhere (DNS flag day 2020).
const DATAGRAM: usize = 1232;
/// What every client takes without saying so (RFC 1035, section 4.2.1).
const SMALL_DATAGRAM: usize = 512;
/// The longest message over TCP.
const STREAM: usize = 65_535;
/// How many aliases are followed one after another.
const MAX_ALIASES: usize = 8;

/// Which door a packet came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// For the cluster's own.
    Cluster,
    /// For everybody: exported zones alone.
    Exported,
}

/// Where a packet came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub door: Door,
    pub from: SocketAddr,
    pub tcp: bool,
    pub at: Instant,
}

/// What is to be done with a packet.
#[derive(Debug)]
pub(crate) enum Step {
    /// The answer is there.
    Reply,
    /// There is none.
    Drop,
    /// Somebody else must be asked for this.
    Ask { name: Name, kind: u16 },
}

/// Zones and rules.
pub(crate) struct Responder {
    pub cluster: Arc<DnsIndex>,
    /// A zone below the cluster's with names of its own, for the cluster's own too.
    pub below: Option<Arc<DnsIndex>>,
    /// The longest names first.
    pub exported: Vec<Arc<DnsIndex>>,
    pub own_ranges: Vec<IpNet>,
    pub clients: Clients,
    pub limiter: Limiter,
    pub forwarder: Arc<Forwarder>,
    pub metrics: Arc<Metrics>,
    pub ttl: u32,
    pub servers: Addresses,
    pub export_servers: Addresses,
    pub turn: AtomicUsize,
}

/// Where a question stands after our own zones were asked.
enum Found {
    Done,
    Elsewhere(Name),
    /// Aliases that go in a circle, or too far.
    Lost,
}

impl Responder {
    /// Answers a packet, or says who must be asked. With `heard`, the answer of whom the first call said: `Some(None)` if
    /// nobody answered.
    pub fn respond(
        &self,
        packet: &[u8],
        origin: &Origin,
        heard: Option<Option<Heard>>,
        out: &mut Vec<u8>,
    ) -> Step {
        let stranger = !self.is_ours(origin);
        let query = match read_query(packet) {
            Ok(query) => query,
            Err(Unreadable::Noise) => return self.drop_it(),
            Err(Unreadable::Refused { id, flags, code }) => {
                if stranger && self.judge(origin, true) != Verdict::Send {
                    return self.drop_it();
                }
                self.metrics.response(Zone::Elsewhere, code);
                Writer::only_header(out, id, flags, code);
                return Step::Reply;
            }
        };
        let mut zone = self.zone_of(&query.name, origin, stranger);
        if heard.is_none() {
            self.metrics.request(zone.kind(), origin.tcp, origin.from.ip(), query.kind);
        }
        let limit = if origin.tcp {
            STREAM
        } else {
            let payload = query.edns.map_or(SMALL_DATAGRAM, |edns| edns.payload.into());
            payload.clamp(SMALL_DATAGRAM, DATAGRAM)
        };
        let mut writer = Writer::new(out, &query, limit);
        if origin.door == Door::Cluster && !stranger {
            writer.flag(flag::RECURSION_AVAILABLE);
        }
        if let Some(code) = self.refusal(&query, &zone) {
            writer.code(code);
            zone = Place::Refused;
        } else if let Some(step) = self.fill(&query, &zone, heard, origin, &mut writer) {
            return step;
        }
        let code = writer.current_code();
        if stranger {
            match self.judge(origin, code != code::NO_ERROR) {
                Verdict::Send => {}
                Verdict::Drop => return self.drop_it(),
                Verdict::Truncate => {
                    writer = Writer::new(out, &query, SMALL_DATAGRAM);
                    writer.empty_and_truncated();
                }
            }
        }
        writer.finish();
        self.metrics.response(zone.kind(), code);
        self.metrics.took(zone.kind(), origin.at.elapsed());
        Step::Reply
    }

    fn is_ours(&self, origin: &Origin) -> bool {
        origin.door == Door::Cluster && self.clients.contain(origin.from.ip(), origin.at)
    }

    fn judge(&self, origin: &Origin, error: bool) -> Verdict {
        // Who has a connection cannot have lied about his address.
        if origin.tcp { Verdict::Send } else { self.limiter.judge(origin.from.ip(), error, origin.at) }
    }

    fn drop_it(&self) -> Step {
        self.metrics.dropped();
        Step::Drop
    }

    /// Why a question is not answered at all.
    fn refusal(&self, query: &Query<'_>, place: &Place<'_>) -> Option<u16> {
        let transfer = matches!(query.kind, kind::AXFR | kind::IXFR | kind::OPT);
        match place {
            _ if query.edns.is_some_and(|edns| edns.version > 0) => Some(code::BAD_VERS),
            Place::Refused => Some(code::REFUSED),
            _ if query.class != crate::wire::IN || transfer => Some(code::REFUSED),
            _ => None,
        }
    }

    fn zone_of(&self, name: &WireName, origin: &Origin, stranger: bool) -> Place<'_> {
        if !stranger
            && let Some(zone) = &self.below
            && let Some(depth) = name.depth_below(zone.zone.wire(), zone.depth)
        {
            return Place::In(zone, depth);
        }
        if !stranger && let Some(depth) = name.depth_below(self.cluster.zone.wire(), self.cluster.depth) {
            return Place::In(&self.cluster, depth);
        }
        if !stranger || origin.door == Door::Exported {
            for zone in &self.exported {
                if let Some(depth) = name.depth_below(zone.zone.wire(), zone.depth) {
                    return Place::In(zone, depth);
                }
            }
        }
        match stranger {
            true => Place::Refused,
            false => address_of(name).map_or(Place::Elsewhere, Place::Address),
        }
    }

    /// Writes the answer's records. A step, if it cannot be done yet.
    fn fill(
        &self,
        query: &Query<'_>,
        place: &Place<'_>,
        heard: Option<Option<Heard>>,
        origin: &Origin,
        out: &mut Writer<'_>,
    ) -> Option<Step> {
        let servers = if origin.door == Door::Exported { &self.export_servers } else { &self.servers };
        let question = Question {
            name: &query.name,
            owner: None,
            kind: query.kind,
            ttl: self.ttl,
            server: servers,
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        if !matches!(place, Place::Elsewhere | Place::Refused) {
            out.flag(flag::AUTHORITATIVE);
        }
        let elsewhere = match self.look_up(&question, place, origin, out) {
            Found::Done => return None,
            Found::Lost => {
                out.code(code::SERV_FAIL);
                return None;
            }
            Found::Elsewhere(name) => name,
        };
        let wire = WireName::from(&elsewhere);
        let heard = match heard {
            Some(heard) => heard,
            None => match self.forwarder.remembered(&wire, query.kind, origin.at) {
                Some(heard) => Some(heard),
                None => return Some(Step::Ask { name: elsewhere, kind: query.kind }),
            },
        };
        match heard {
            Some(heard) => repeat(&heard, out),
            None => out.code(code::SERV_FAIL),
        }
        None
    }

    /// Answers from our own zones and follows aliases as long as they stay there.
    fn look_up(
        &self,
        question: &Question<'_>,
        place: &Place<'_>,
        origin: &Origin,
        out: &mut Writer<'_>,
    ) -> Found {
        let (mut zone, mut depth) = match place {
            Place::In(zone, depth) => (*zone, *depth),
            Place::Address(address) => return self.reverse(question, *address, out),
            Place::Elsewhere | Place::Refused => return Found::Elsewhere(Name::from_wire(question.name)),
        };
        let mut alias: Option<(Name, WireName)> = None;
        for _ in 0..=MAX_ALIASES {
            let (owner, name) = match &alias {
                None => (None, question.name),
                Some((owner, name)) => (Some(owner), name),
            };
            let question = Question { name, owner, ..*question };
            match zone.answer(&question, depth, out) {
                Outcome::Written => return Found::Done,
                Outcome::NoData => {
                    zone.authority(Section::Authority, out);
                    return Found::Done;
                }
                Outcome::NoSuchName => {
                    out.code(code::NX_DOMAIN);
                    zone.authority(Section::Authority, out);
                    return Found::Done;
                }
                Outcome::Alias(target) => {
                    question.put(out, &Data::Cname(target.wire()));
                    if matches!(question.kind, kind::CNAME | kind::ANY) {
                        return Found::Done;
                    }
                    let wire = WireName::from(&target);
                    match self.zone_of(&wire, origin, origin.door == Door::Exported) {
                        Place::In(next, below) => (zone, depth) = (next, below),
                        // A stranger's resolver follows it by itself.
                        _ if origin.door == Door::Exported => return Found::Done,
                        _ => return Found::Elsewhere(target),
                    }
                    alias = Some((target, wire));
                }
            }
        }
        Found::Lost
    }

    fn reverse(&self, question: &Question<'_>, address: IpAddr, out: &mut Writer<'_>) -> Found {
        let ours = self.own_ranges.iter().any(|range| range.contains(&address));
        let below = self.below.as_ref().and_then(|zone| zone.pointer(question, address, out));
        match below.or_else(|| self.cluster.pointer(question, address, out)) {
            Some(Outcome::Written) => Found::Done,
            None if !ours => Found::Elsewhere(Name::from_wire(question.name)),
            outcome => {
                if outcome.is_none() {
                    out.code(code::NX_DOMAIN);
                }
                self.cluster.authority_of_address(question.name, out);
                Found::Done
            }
        }
    }
}

/// Where a name belongs.
enum Place<'a> {
    /// Below one of our zones, by so many labels.
    In(&'a Arc<DnsIndex>, usize),
    Address(IpAddr),
    Elsewhere,
    Refused,
}

impl Place<'_> {
    fn kind(&self) -> Zone {
        match self {
            Self::In(zone, _) if matches!(zone.layout, Layout::Cluster | Layout::Networks) => Zone::Cluster,
            Self::In(..) => Zone::Exported,
            Self::Address(_) => Zone::Cluster,
            Self::Elsewhere | Self::Refused => Zone::Elsewhere,
        }
    }
}

/// Writes what somebody else said, as old as it is by now.
fn repeat(heard: &Heard, out: &mut Writer<'_>) {
    let sections = [Section::Answer, Section::Authority, Section::Additional];
    // Codes beyond the header's four bits speak of the way to that server, not of the name.
    out.code(if heard.reply.code > flag::CODE { code::SERV_FAIL } else { heard.reply.code });
    for record in &heard.reply.records {
        let ttl = record.ttl.saturating_sub(heard.age);
        let data = Data::Other { kind: record.kind, data: heard.reply.data(record) };
        let owner = heard.reply.owner(record);
        out.record(sections[usize::from(record.section.min(2))], owner, ttl, &data);
    }
}

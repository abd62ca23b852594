//! Writes an answer, as much of it as fits.

use super::{HEADER, IN, Query, TO_QUESTION, code, flag, kind};
use crate::name::{WireName, labels};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the largest OPT record of ours takes.
const OPT_LENGTH: usize = 11;
/// What we say that we take ourselves: what passes everywhere (DNS flag day 2020).
const OWN_PAYLOAD: u16 = 1232;

/// A part of an answer. They are written in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// What a record says. Names are in wire form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(&'a [u8]),
    Ns(&'a [u8]),
    Ptr(&'a [u8]),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: &'a [u8],
    },
    Txt(&'a [u8]),
    Soa {
        server: &'a [u8],
        mailbox: &'a [u8],
        numbers: [u32; 5],
    },
    /// Of somebody else, without compression.
    Other {
        kind: u16,
        data: &'a [u8],
    },
}

/// An answer under way. What does not fit is left out, and in the first two sections the client is told so.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    name: &'a WireName,
    room: usize,
    flags: u16,
    counts: [u16; 3],
    edns: Option<bool>,
    /// Bits of the response code above the header's four.
    high_code: u8,
}

impl<'a> Writer<'a> {
    /// Begins an answer to a question in at most this many bytes.
    pub fn new(out: &'a mut Vec<u8>, query: &'a Query<'_>, limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(query.written);
        let edns = query.edns.map(|edns| edns.dnssec);
        let room = limit - if edns.is_some() { OPT_LENGTH } else { 0 };
        Self {
            out,
            name: &query.name,
            room,
            flags: flag::RESPONSE | query.flags,
            counts: [0; 3],
            edns,
            high_code: 0,
        }
    }

    /// Raises flags of the header.
    pub fn flag(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Sets the response code.
    pub fn code(&mut self, code: u16) {
        self.flags = self.flags & !flag::CODE | code & flag::CODE;
        self.high_code = (code >> 4) as u8;
    }

    /// Whether something did not fit.
    pub fn is_truncated(&self) -> bool {
        self.flags & flag::TRUNCATED != 0
    }

    /// Adds a record of the name that was asked for.
    pub fn answer(&mut self, ttl: u32, data: &Data<'_>) -> bool {
        let before = self.out.len();
        self.out.extend_from_slice(&TO_QUESTION);
        self.rest(Section::Answer, before, ttl, data)
    }

    /// Adds a record of any name. `false` if it did not fit.
    pub fn record(&mut self, section: Section, owner: &[u8], ttl: u32, data: &Data<'_>) -> bool {
        let before = self.out.len();
        self.name(owner);
        self.rest(section, before, ttl, data)
    }

    /// Adds a record whose owner was written as the target of an SRV record before.
    pub fn record_at(&mut self, section: Section, owner: usize, ttl: u32, data: &Data<'_>) -> bool {
        let before = self.out.len();
        self.out.extend_from_slice(&(0xc000 | owner as u16).to_be_bytes());
        self.rest(section, before, ttl, data)
    }

    /// Where the target of the SRV record that was just written stands, if a compressed name reaches there.
    pub fn last_target(&self, target: &[u8]) -> Option<usize> {
        Some(self.out.len() - target.len()).filter(|at| *at < 0x4000)
    }

    fn rest(&mut self, section: Section, before: usize, ttl: u32, data: &Data<'_>) -> bool {
        if self.is_truncated() {
            self.out.truncate(before);
            return false;
        }
        let kind = match data {
            Data::A(_) => kind::A,
            Data::Aaaa(_) => kind::AAAA,
            Data::Cname(_) => kind::CNAME,
            Data::Ns(_) => kind::NS,
            Data::Ptr(_) => kind::PTR,
            Data::Srv { .. } => kind::SRV,
            Data::Txt(_) => kind::TXT,
            Data::Soa { .. } => kind::SOA,
            Data::Other { kind, .. } => *kind,
        };
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        self.data(data);
        let length = self.out.len() - length_at - 2;
        if self.out.len() > self.room {
            self.out.truncate(before);
            if section != Section::Additional {
                self.flags |= flag::TRUNCATED;
            }
            return false;
        }
        // What fits a message is shorter than 65,536 bytes.
        self.out[length_at..length_at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        self.counts[section as usize] += 1;
        true
    }

    fn data(&mut self, data: &Data<'_>) {
        match data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name),
            Data::Srv { priority, weight, port, target } => {
                for number in [priority, weight, port] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
                // Not to be compressed (RFC 2782).
                self.out.extend_from_slice(target);
            }
            Data::Txt(text) => {
                for part in text.chunks(255) {
                    self.out.push(part.len() as u8);
                    self.out.extend_from_slice(part);
                }
            }
            Data::Soa { server, mailbox, numbers } => {
                self.name(server);
                self.name(mailbox);
                for number in numbers {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Data::Other { data, .. } => self.out.extend_from_slice(data),
        }
    }

    /// Writes a name, what it shares with the end of the question's as a pointer there.
    fn name(&mut self, name: &[u8]) {
        let depth = labels(name).count();
        let mut at = 0;
        for left in (1..=depth).rev() {
            let rest = &name[at..];
            if left <= self.name.depth() {
                let start = self.name.start(self.name.depth() - left);
                if rest.eq_ignore_ascii_case(&self.name.lower()[start..]) {
                    self.out.extend_from_slice(&name[..at]);
                    self.out.extend_from_slice(&(0xc000 | (HEADER + start) as u16).to_be_bytes());
                    return;
                }
            }
            at += 1 + usize::from(rest[0]);
        }
        self.out.extend_from_slice(name);
    }

    /// Ends the answer.
    pub fn finish(mut self) {
        if let Some(dnssec) = self.edns {
            let [high, low] = OWN_PAYLOAD.to_be_bytes();
            let flags = if dnssec { 0x80 } else { 0 };
            self.out.extend_from_slice(&[
                0,
                0,
                kind::OPT as u8,
                high,
                low,
                self.high_code,
                0,
                flags,
                0,
                0,
                0,
            ]);
            self.counts[2] += 1;
        }
        self.out[2..4].copy_from_slice(&self.flags.to_be_bytes());
        for (place, count) in self.out[6..HEADER].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    /// An answer to what could not be read: a header alone.
    pub fn only_header(out: &mut Vec<u8>, id: u16, flags: u16, code: u16) {
        out.clear();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&(flag::RESPONSE | flags | code & flag::CODE).to_be_bytes());
        out.resize(HEADER, 0);
    }

    /// The response code so far.
    pub fn current_code(&self) -> u16 {
        u16::from(self.high_code) << 4 | self.flags & flag::CODE
    }

    /// Leaves the answer empty, so that the client asks again over TCP.
    pub fn empty_and_truncated(&mut self) {
        self.flags = self.flags & !flag::CODE | flag::TRUNCATED | code::NO_ERROR;
    }
}

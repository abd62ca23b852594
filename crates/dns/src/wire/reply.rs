//! What other servers say: questions to them, and their answers taken apart into records that can be put together anew.

use super::{HEADER, IN, code, flag, kind, query::skip_name, u16_at, u32_at};
use crate::name::MAX_NAME;

/// Somebody else's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Response code.
    pub code: u16,
    /// It did not fit.
    pub truncated: bool,
    /// Records of the three sections, without OPT, in one piece of memory.
    pub records: Vec<ForeignRecord>,
    bytes: Vec<u8>,
}

/// Where a record of a reply stands, and what is needed to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForeignRecord {
    /// 0 for answers, 1 for authorities, 2 for additionals.
    pub section: u8,
    /// Type.
    pub kind: u16,
    /// Time to live as it was heard.
    pub ttl: u32,
    start: u32,
    middle: u32,
    end: u32,
}

impl Reply {
    /// That nobody answered.
    pub fn failure() -> Self {
        Self { code: code::SERV_FAIL, ..Self::default() }
    }

    /// A record's owner, in wire form.
    pub fn owner(&self, record: &ForeignRecord) -> &[u8] {
        self.bytes.get(record.start as usize..record.middle as usize).unwrap_or(&[0])
    }

    /// A record's data, without compression.
    pub fn data(&self, record: &ForeignRecord) -> &[u8] {
        self.bytes.get(record.middle as usize..record.end as usize).unwrap_or(&[])
    }

    /// The records of a section.
    pub fn section(&self, section: u8) -> impl Iterator<Item = &ForeignRecord> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.records.capacity() * size_of::<ForeignRecord>()
    }
}

/// A question to another server, which is told that we take datagrams of this size.
pub(crate) fn write_question(id: u16, name: &[u8], kind: u16, payload: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + name.len() + 15);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flag::RECURSION_DESIRED.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(name);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    let [high, low] = payload.to_be_bytes();
    out.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, 0, 0, 0, 0, 0, 0]);
    out
}

/// Reads an answer. Its question is taken to be the given one, which the caller has compared.
pub(crate) fn read_reply(packet: &[u8]) -> Option<Reply> {
    let flags = u16_at(packet, 2)?;
    let mut at = HEADER;
    for _ in 0..u16_at(packet, 4)? {
        at = skip_name(packet, at)?.checked_add(4)?;
    }
    let truncated = flags & flag::TRUNCATED != 0;
    let mut reply = Reply { code: flags & flag::CODE, truncated, ..Reply::default() };
    for section in 0..3_u8 {
        for _ in 0..u16_at(packet, 6 + 2 * usize::from(section))? {
            match reply.take(packet, at, section) {
                Some(end) => at = end,
                // Where an answer was cut off is nobody's business: it is asked for again over TCP.
                None if truncated => return Some(reply),
                None => return None,
            }
        }
    }
    reply.bytes.shrink_to_fit();
    reply.records.shrink_to_fit();
    Some(reply)
}

impl Reply {
    /// Takes in the record at a place; returns where it ends.
    fn take(&mut self, packet: &[u8], at: usize, section: u8) -> Option<usize> {
        let start = self.bytes.len();
        let at = self.expand(packet, at)?;
        let (kind, class, ttl) = (u16_at(packet, at)?, u16_at(packet, at + 2)?, u32_at(packet, at + 4)?);
        let (from, middle) = (at + 10, self.bytes.len());
        let end = from + usize::from(u16_at(packet, at + 8)?);
        let data = packet.get(from..end)?;
        if kind == kind::OPT {
            // The upper bits of the code stand in it (BADVERS and the like): such an answer is no answer.
            self.bytes.truncate(start);
            self.code |= (ttl >> 24) as u16 * 16;
            return Some(end);
        }
        if class != IN {
            self.bytes.truncate(start);
            return Some(end);
        }
        // Only data of these types may hold compressed names (RFC 3597, section 4).
        let names_until = match kind {
            kind::NS | kind::CNAME | kind::PTR => self.expand(packet, from)?,
            kind::MX => {
                self.bytes.extend_from_slice(data.get(..2)?);
                self.expand(packet, from + 2)?
            }
            kind::SRV => {
                self.bytes.extend_from_slice(data.get(..6)?);
                self.expand(packet, from + 6)?
            }
            kind::SOA => {
                let second = self.expand(packet, from)?;
                let numbers = self.expand(packet, second)?;
                self.bytes.extend_from_slice(packet.get(numbers..numbers.checked_add(20)?)?);
                numbers + 20
            }
            _ => {
                self.bytes.extend_from_slice(data);
                end
            }
        };
        if names_until != end || self.bytes.len() - middle > usize::from(u16::MAX) {
            return None;
        }
        // A time to live with its highest bit is none (RFC 2181, section 8). A message is far shorter than 4 GiB.
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        let (start, middle, end_of_data) = (start as u32, middle as u32, self.bytes.len() as u32);
        self.records.push(ForeignRecord { section, kind, ttl, start, middle, end: end_of_data });
        Some(end)
    }

    /// Copies a name without compression; returns where it ends in the packet. Pointers lead backwards only, so it ends.
    fn expand(&mut self, packet: &[u8], at: usize) -> Option<usize> {
        let (start, mut at, mut end, mut lowest) = (self.bytes.len(), at, None, at);
        loop {
            let length = *packet.get(at)?;
            match length {
                0 => {
                    self.bytes.push(0);
                    return (self.bytes.len() - start <= MAX_NAME).then_some(end.unwrap_or(at + 1));
                }
                1..=63 => {
                    let next = at + 1 + usize::from(length);
                    self.bytes.extend_from_slice(packet.get(at..next)?);
                    if self.bytes.len() - start > MAX_NAME {
                        return None;
                    }
                    at = next;
                }
                0xc0.. => {
                    let to = usize::from(u16_at(packet, at)? & 0x3fff);
                    if to >= lowest {
                        return None;
                    }
                    end.get_or_insert(at + 2);
                    (at, lowest) = (to, to);
                }
                _ => return None,
            }
        }
    }
}

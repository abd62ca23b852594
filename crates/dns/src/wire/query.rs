//! Reads what a client asks.

use super::{HEADER, code, flag, kind, u16_at, u32_at};
use crate::name::WireName;

/// A client's question.
pub(crate) struct Query<'a> {
    /// Number by which the client knows the answer.
    pub id: u16,
    /// The flags that an answer repeats.
    pub flags: u16,
    /// Name, type and class as they were written; an answer repeats them to the letter.
    pub written: &'a [u8],
    /// The name in lower case.
    pub name: WireName,
    /// Type of the records.
    pub kind: u16,
    /// Their class.
    pub class: u16,
    /// Extension mechanisms, if the client speaks them.
    pub edns: Option<Edns>,
}

/// What a client says in its OPT record (RFC 6891). Its options (cookies, client subnets) mean nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest datagram that it takes.
    pub payload: u16,
    /// Version; only 0 exists.
    pub version: u8,
    /// It asks for DNSSEC's records, which an answer's OPT record repeats (RFC 3225).
    pub dnssec: bool,
}

/// Why a packet is no question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Nothing is answered: it is too short for a header, or an answer itself.
    Noise,
    /// This is answered, without the question.
    Refused { id: u16, flags: u16, code: u16 },
}

/// Reads a packet.
pub(crate) fn read_query(packet: &[u8]) -> Result<Query<'_>, Unreadable> {
    let word = |index: usize| u16_at(packet, index * 2).ok_or(Unreadable::Noise);
    let (id, flags, questions) = (word(0)?, word(1)?, word(2)?);
    let records = usize::from(word(3)?) + usize::from(word(4)?) + usize::from(word(5)?);
    if flags & flag::RESPONSE != 0 {
        return Err(Unreadable::Noise);
    }
    let flags = flags & (flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
    let refused = |code| Unreadable::Refused { id, flags, code };
    if flags & flag::OPCODE != 0 {
        return Err(refused(code::NOT_IMP));
    }
    let malformed = || refused(code::FORM_ERR);
    if questions != 1 {
        return Err(malformed());
    }
    let name = WireName::read(&packet[HEADER..]).ok_or_else(malformed)?;
    let after = HEADER + name.lower().len();
    let kind = u16_at(packet, after).ok_or_else(malformed)?;
    let class = u16_at(packet, after + 2).ok_or_else(malformed)?;
    let edns = read_edns(packet, after + 4, records).ok_or_else(malformed)?;
    Ok(Query { id, flags, written: &packet[HEADER..after + 4], name, kind, class, edns })
}

/// The OPT record among the records that follow; `None` if they cannot be read or there are two.
fn read_edns(packet: &[u8], mut at: usize, records: usize) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let owner = at;
        at = skip_name(packet, at)?;
        let kind = u16_at(packet, at)?;
        let (class, ttl, length) =
            (u16_at(packet, at + 2)?, u32_at(packet, at + 4)?, u16_at(packet, at + 8)?);
        let end = at + 10 + usize::from(length);
        if packet.len() < end {
            return None;
        }
        if kind == kind::OPT {
            let version = (ttl >> 16) as u8;
            if found.is_some() || packet[owner] != 0 {
                return None;
            }
            found = Some(Edns { payload: class, version, dnssec: ttl & 0x8000 != 0 });
        }
        at = end;
    }
    Some(found)
}

/// Where a name that may be compressed ends.
pub(super) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(*length),
            0xc0.. => return (at + 2 <= packet.len()).then_some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn packet(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34];
        packet.extend(flags.to_be_bytes());
        counts.iter().for_each(|count| packet.extend(count.to_be_bytes()));
        packet.extend(rest.concat());
        packet
    }

    const QUESTION: &[u8] = b"\x03WEB\x00\x00\x01\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    #[test]
    fn a_question_is_read_with_its_extensions() {
        let bytes = packet(0x0100, [1, 0, 0, 1], &[QUESTION, OPT]);
        let query = read_query(&bytes).unwrap_or_else(|bad| panic!("{bad:?}"));
        assert_eq!((query.id, query.flags, query.kind, query.class), (0x1234, 0x0100, 1, 1));
        assert_eq!((query.name.lower(), query.written), (Name::parse("web").unwrap().wire(), QUESTION));
        assert_eq!(query.edns, Some(Edns { payload: 1232, version: 0, dnssec: true }));
    }

    #[test]
    fn what_is_no_question_is_refused_or_passed_over() {
        let refused = |code| Err(Unreadable::Refused { id: 0x1234, flags: 0, code });
        for (bytes, expected) in [
            (packet(0x8000, [1, 0, 0, 0], &[QUESTION]), Err(Unreadable::Noise)),
            (vec![0; 11], Err(Unreadable::Noise)),
            (packet(0, [0; 4], &[]), refused(code::FORM_ERR)),
            (packet(0, [2, 0, 0, 0], &[QUESTION, QUESTION]), refused(code::FORM_ERR)),
            (packet(0, [1, 0, 0, 0], &[&QUESTION[..8]]), refused(code::FORM_ERR)),
            (packet(0, [1, 0, 0, 1], &[QUESTION]), refused(code::FORM_ERR)),
            (packet(0, [1, 0, 0, 2], &[QUESTION, OPT, OPT]), refused(code::FORM_ERR)),
            (packet(0, [1, 0, 0, 0], &[b"\xc0\x0c\x00\x01\x00\x01"]), refused(code::FORM_ERR)),
            (
                packet(0x2800, [1, 0, 0, 0], &[QUESTION]),
                Err(Unreadable::Refused { id: 0x1234, flags: 0x2800, code: code::NOT_IMP }),
            ),
        ] {
            assert_eq!(read_query(&bytes).map(|_| ()), expected, "{bytes:?}");
        }
    }
}

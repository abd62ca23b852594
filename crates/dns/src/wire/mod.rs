//! DNS messages (RFC 1035, RFC 6891): questions are read, answers written, and what other servers say is taken apart. Every
//! function is total: whatever stands in a packet, it returns. It knows no zone.

mod query;
mod reply;
mod writer;

pub(crate) use query::{Query, Unreadable, read_query};
pub(crate) use reply::{Reply, read_reply, write_question};
pub(crate) use writer::{Data, Section, Writer};

/// Types of records (RFC 1035, section 3.2.2, and later ones).
pub(crate) mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const HTTPS: u16 = 65;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Response codes.
pub(crate) mod code {
    pub const NO_ERROR: u16 = 0;
    pub const FORM_ERR: u16 = 1;
    pub const SERV_FAIL: u16 = 2;
    pub const NX_DOMAIN: u16 = 3;
    pub const NOT_IMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BAD_VERS: u16 = 16;
}

/// The class of the Internet.
pub(crate) const IN: u16 = 1;
/// Length of a message's header.
pub(crate) const HEADER: usize = 12;
/// Where a reply's own question begins, as a compressed name.
pub(crate) const TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// Bits of the second word of a header.
pub(crate) mod flag {
    pub const RESPONSE: u16 = 0x8000;
    pub const OPCODE: u16 = 0x7800;
    pub const AUTHORITATIVE: u16 = 0x0400;
    pub const TRUNCATED: u16 = 0x0200;
    pub const RECURSION_DESIRED: u16 = 0x0100;
    pub const RECURSION_AVAILABLE: u16 = 0x0080;
    pub const CHECKING_DISABLED: u16 = 0x0010;
    pub const CODE: u16 = 0x000f;
}

/// Two bytes at a place.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Four bytes at a place.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

//! One question to one server. Only an answer from its address, to our port, with our number and our spelling of the name
//! counts: an impostor must guess them all.

use crate::{
    name::Name,
    wire::{HEADER, Reply, flag, read_reply, u16_at, write_question},
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// The largest datagram that passes everywhere (DNS flag day 2020).
const DATAGRAM: u16 = 1232;

/// How a packet relates to a question.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Exact,
    /// The same but for the case of letters.
    Respelt,
    Other,
}

/// A question under way.
struct Asked {
    bytes: Vec<u8>,
    plain: Name,
}

/// What is known of a server after it was asked.
pub(super) struct Exchanged {
    pub reply: Reply,
    /// It does not repeat the case of letters.
    pub respells: bool,
}

/// Asks over UDP, and over TCP what did not fit or came back in another spelling.
pub(super) async fn ask(server: SocketAddr, name: &Name, kind: u16, spell: bool) -> io::Result<Exchanged> {
    let asked = Asked::new(name, kind, spell);
    let (packet, respells) = over_udp(server, &asked).await?;
    if let Some(packet) = packet {
        let reply = read(packet, &asked)?;
        if !reply.truncated {
            return Ok(Exchanged { reply, respells });
        }
    }
    let asked = Asked::new(name, kind, false);
    Ok(Exchanged { reply: read(over_tcp(server, &asked).await?, &asked)?, respells })
}

impl Asked {
    fn new(name: &Name, kind: u16, spell: bool) -> Self {
        let mut spelt = name.wire().to_vec();
        if spell {
            let (dice, mut at): ([u64; 4], usize) = (rand::random(), 0);
            while let Some(length) = spelt.get(at).copied().filter(|length| *length > 0) {
                for place in at + 1..=at + usize::from(length) {
                    if dice[place / 64 % 4] >> (place % 64) & 1 == 1 {
                        spelt[place].make_ascii_uppercase();
                    }
                }
                at += 1 + usize::from(length);
            }
        }
        Self { bytes: write_question(rand::random(), &spelt, kind, DATAGRAM), plain: name.clone() }
    }

    /// Name, type and class as they were asked.
    fn question(&self) -> &[u8] {
        &self.bytes[HEADER..HEADER + self.plain.wire().len() + 4]
    }

    fn matches(&self, packet: &[u8]) -> Match {
        let question = self.question();
        let head = packet.get(..2) == self.bytes.get(..2)
            && u16_at(packet, 2)
                .is_some_and(|flags| flags & flag::RESPONSE != 0 && flags & flag::OPCODE == 0)
            && u16_at(packet, 4) == Some(1);
        match packet.get(HEADER..HEADER + question.len()) {
            Some(theirs) if head && theirs == question => Match::Exact,
            Some(theirs) if head && theirs.eq_ignore_ascii_case(question) => Match::Respelt,
            _ => Match::Other,
        }
    }
}

fn read(mut packet: Vec<u8>, asked: &Asked) -> io::Result<Reply> {
    // Names in the answer that point here should not show our spelling.
    let plain = asked.plain.wire();
    if let Some(place) = packet.get_mut(HEADER..HEADER + plain.len()) {
        place.copy_from_slice(plain);
    }
    read_reply(&packet).ok_or_else(|| io::Error::other("the answer cannot be read"))
}

/// The packet, unless it must not be believed; and whether the server spells names its own way.
async fn over_udp(server: SocketAddr, asked: &Asked) -> io::Result<(Option<Vec<u8>>, bool)> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket for each question: its random port is half of what an impostor must guess.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&asked.bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let read = socket.recv(&mut buffer).await?;
        match asked.matches(&buffer[..read]) {
            Match::Exact => {
                buffer.truncate(read);
                return Ok((Some(buffer), false));
            }
            Match::Respelt => return Ok((None, true)),
            Match::Other => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, asked: &Asked) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &asked.bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    match asked.matches(&buffer) {
        Match::Other => Err(io::Error::other("the answer is to another question")),
        _ => Ok(buffer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::kind;

    #[test]
    fn only_an_answer_with_our_number_and_spelling_counts() {
        let name = Name::parse("www.example.org").unwrap();
        let asked =
            Asked { bytes: write_question(7, b"\x03wWw\x07exAmple\x03orG\x00", kind::A, 1232), plain: name };
        let answer = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = asked.bytes.clone();
            packet[2] |= 0x80;
            change(&mut packet);
            asked.matches(&packet)
        };
        assert_eq!(answer(&|_| ()), Match::Exact);
        assert_eq!(answer(&|packet| packet[13] = b'W'), Match::Respelt);
        assert_eq!(answer(&|packet| packet[13] = b'x'), Match::Other);
        assert_eq!(answer(&|packet| packet[1] = 8), Match::Other);
        assert_eq!(answer(&|packet| packet[2] = 1), Match::Other);
        assert_eq!(answer(&|packet| packet[5] = 0), Match::Other);
        assert_eq!(answer(&|packet| packet.truncate(20)), Match::Other);
    }

    #[test]
    fn names_are_spelt_by_chance_and_say_the_same() {
        let name = Name::parse(&format!("{}.example.org", "abcdefghij".repeat(6))).unwrap();
        let spelt: std::collections::HashSet<Vec<u8>> =
            (0..8).map(|_| Asked::new(&name, kind::A, true).question().to_vec()).collect();
        assert_eq!(spelt.len(), 8);
        for spelt in spelt {
            assert!(spelt[..name.wire().len()].eq_ignore_ascii_case(name.wire()));
        }
        assert!(Asked::new(&name, kind::A, false).question().starts_with(name.wire()));
    }
}

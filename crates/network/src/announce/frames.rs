//! The frames of answering for an address on a link: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861). Pure; frames come
//! from strangers, and what is not exactly a question for one of our addresses gets no answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link-layer address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_HEADER: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The answer to a frame that asks for an address that `is_ours`, if it is one.
pub(super) fn answer(frame: &[u8], mac: Mac, is_ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let (header, rest) = frame.split_first_chunk::<14>()?;
    let asking: Mac = header[6..12].try_into().ok()?;
    if asking == mac || asking[0] & 1 == 1 {
        return None;
    }
    match [header[12], header[13]] {
        ARP => answer_arp(rest, mac, is_ours),
        IPV6 => answer_solicitation(rest, asking, mac, is_ours),
        _ => None,
    }
}

fn answer_arp(packet: &[u8], mac: Mac, is_ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let packet = packet.first_chunk::<28>()?;
    if packet[..6] != ARP_HEADER || packet[6..8] != REQUEST {
        return None;
    }
    let sender: Mac = packet[8..14].try_into().ok()?;
    let sender_address: [u8; 4] = packet[14..18].try_into().ok()?;
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[24..28]).ok()?);
    if !is_ours(target.into()) || sender == mac {
        return None;
    }
    Some(arp(sender, REPLY, (mac, target), (sender, sender_address.into())))
}

fn answer_solicitation(
    packet: &[u8],
    asking: Mac,
    mac: Mac,
    is_ours: impl Fn(IpAddr) -> bool,
) -> Option<Vec<u8>> {
    let (header, message) = packet.split_first_chunk::<40>()?;
    let (message, _) = message.split_first_chunk::<24>()?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    // The hop limit says that nobody has forwarded it.
    let sound = header[0] >> 4 == 6 && header[6] == ICMPV6 && header[7] == 255 && length >= 24;
    if !sound || message[0] != SOLICITATION || message[1] != 0 {
        return None;
    }
    let from = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).ok()?);
    if !is_ours(target.into()) {
        return None;
    }
    // Somebody who has no address yet (RFC 4861, 7.2.4) is told with all others.
    let to = if from.is_unspecified() { None } else { Some((asking, from)) };
    Some(advertisement(target, mac, to))
}

/// What tells all neighbours that the address is here now.
pub(super) fn gratuitous(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(BROADCAST, REQUEST, (mac, address), ([0; 6], address)),
        IpAddr::V6(address) => advertisement(address, mac, None),
    }
}

fn arp(to: Mac, operation: [u8; 2], sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&sender.0);
    frame.extend_from_slice(&ARP);
    frame.extend_from_slice(&ARP_HEADER);
    frame.extend_from_slice(&operation);
    for (mac, address) in [sender, target] {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&address.octets());
    }
    // The shortest frame of Ethernet.
    frame.resize(60, 0);
    frame
}

/// Sent from the address itself, with "override"; "solicited" if to somebody.
fn advertisement(address: Ipv6Addr, mac: Mac, to: Option<(Mac, Ipv6Addr)>) -> Vec<u8> {
    let (to_mac, to_address) = to.unwrap_or(([0x33, 0x33, 0, 0, 0, 1], ALL_NODES));
    let flags: u8 = if to.is_some() { 0x60 } else { 0x20 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let sum = checksum(address, to_address, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend_from_slice(&to_mac);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&to_address.octets());
    frame.extend_from_slice(&message);
    frame
}

/// Of an ICMPv6 message (RFC 4443, 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets()[..], &length[..], &[0, 0, 0, ICMPV6], message].concat();
    let words = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 0xffff after folding.
    !u16::try_from(sum).unwrap_or_default()
}

/// The group in which neighbours ask for an address (RFC 4291, 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [a, b, c] = [a, b, c].map(u16::from);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a, b << 8 | c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = [0x02, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [0x02, 0, 0, 0, 0, 2];

    fn is_ours(address: IpAddr) -> bool {
        ["192.0.2.100", "2001:db8::100"].iter().any(|ours| address.to_string() == *ours)
    }

    fn question(target: Ipv4Addr) -> Vec<u8> {
        arp(BROADCAST, REQUEST, (THEIRS, [192, 0, 2, 7].into()), ([0; 6], target))
    }

    fn solicitation(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let to = solicited_node(target);
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        let sum = checksum(from, to, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame =
            [&[0x33, 0x33, 0xff, 0, 1, 0][..], &THEIRS, &IPV6, &[0x60, 0, 0, 0, 0, 24, 58, 255]].concat();
        frame.extend_from_slice(&from.octets());
        frame.extend_from_slice(&to.octets());
        frame.extend_from_slice(&message);
        frame
    }

    #[test]
    fn a_question_for_one_of_our_addresses_is_answered_to_who_asked() {
        let reply = answer(&question([192, 0, 2, 100].into()), OURS, is_ours).unwrap();
        assert_eq!(reply[..6], THEIRS);
        assert_eq!(reply[20..22], REPLY);
        assert_eq!(reply[22..28], OURS);
        assert_eq!(reply[28..32], [192, 0, 2, 100]);
        assert_eq!(reply[32..42], [&THEIRS[..], &[192, 0, 2, 7]].concat()[..]);
    }

    #[test]
    fn a_solicitation_is_answered_with_a_sound_checksum() {
        let (from, target): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::7".parse().unwrap(), "2001:db8::100".parse().unwrap());
        let reply = answer(&solicitation(from, target), OURS, is_ours).unwrap();
        assert_eq!(reply[..6], THEIRS);
        assert_eq!(reply[38..54], from.octets());
        assert_eq!((reply[54], reply[58]), (ADVERTISEMENT, 0x60));
        // A sum over a message with its checksum is nothing.
        assert_eq!(checksum(target, from, &reply[54..]), 0);
        // Who has no address yet is answered together with all.
        let to_all = answer(&solicitation(Ipv6Addr::UNSPECIFIED, target), OURS, is_ours).unwrap();
        assert_eq!((to_all[38..54].to_vec(), to_all[58]), (ALL_NODES.octets().to_vec(), 0x20));
    }

    #[test]
    fn other_addresses_own_frames_answers_and_forwarded_ones_are_no_questions() {
        assert_eq!(answer(&question([192, 0, 2, 101].into()), OURS, is_ours), None);
        assert_eq!(answer(&question([192, 0, 2, 100].into()), THEIRS, is_ours), None);
        let reply = arp(OURS, REPLY, (THEIRS, [192, 0, 2, 100].into()), (OURS, [192, 0, 2, 7].into()));
        assert_eq!(answer(&reply, OURS, is_ours), None);
        let mut forwarded = solicitation("2001:db8::7".parse().unwrap(), "2001:db8::100".parse().unwrap());
        forwarded[21] = 254;
        assert_eq!(answer(&forwarded, OURS, is_ours), None);
    }

    #[test]
    fn the_group_of_an_address_is_its_last_three_bytes() {
        assert_eq!(solicited_node("2001:db8::12:3456".parse().unwrap()).to_string(), "ff02::1:ff12:3456");
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic_or_answer_with_more_than_a_frame(frame in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(reply) = answer(&frame, OURS, |_| true) {
                prop_assert!(reply.len() <= 86);
            }
        }

        #[test]
        fn a_cut_question_is_none(cut in 0usize..42) {
            prop_assert_eq!(answer(&question([192, 0, 2, 100].into())[..cut], OURS, is_ours), None);
        }
    }
}

//! The channel protocols of Kubernetes over WebSocket (`channel.k8s.io`, its `v4` and `v5`, and their base64 forms): one
//! byte before each message names its channel. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// In `v5`, a message on this channel says that the sender is done with the channel named in it.
const CLOSE: u8 = 255;

/// One of the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// 1 (the first, with plain text for errors), 4 (a `Status` for how it ended), or 5 (channels can be closed).
    pub version: u8,
    /// Text messages with base64 content instead of binary ones.
    pub base64: bool,
}

/// All names that exec and attach know.
pub const REMOTE_COMMAND: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// All names that port-forward over channels knows.
pub const PORT_FORWARD: &[&str] = &["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

impl Protocol {
    /// The protocol of a name.
    pub fn of(name: &str) -> Self {
        let version = match name.split('.').next() {
            Some("v5") => 5,
            Some("v4") => 4,
            _ => 1,
        };
        Self { version, base64: name.contains("base64.") }
    }

    /// A message for the client.
    pub fn encode(self, channel: u8, payload: &[u8]) -> Message {
        if self.base64 {
            let digit = char::from(b'0' + channel % 10);
            return Message::text(format!("{digit}{}", STANDARD.encode(payload)));
        }
        let mut message = BytesMut::with_capacity(payload.len() + 1);
        message.put_u8(channel);
        message.put_slice(payload);
        Message::Binary(message.freeze())
    }

    /// What a client's message says; nothing for what is empty, undecodable, or not about a channel.
    pub fn decode(self, message: Message) -> Option<ChannelEvent> {
        // Some clients send text where bytes are meant; its bytes are what counts.
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let (&first, rest) = bytes.split_first()?;
        if self.base64 {
            let channel = first.checked_sub(b'0').filter(|c| *c < 10)?;
            return Some(ChannelEvent::Data(channel, STANDARD.decode(rest).ok()?.into()));
        }
        if self.version >= 5 && first == CLOSE {
            return rest.first().map(|channel| ChannelEvent::Closed(*channel));
        }
        Some(ChannelEvent::Data(first, bytes.slice(1..)))
    }
}

/// What a client says on its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    Data(u8, Bytes),
    /// The client will send no more on it.
    Closed(u8),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_protocols() {
        let want = [(5, false), (4, false), (4, true), (1, false), (1, true)];
        let got: Vec<_> =
            REMOTE_COMMAND.iter().map(|n| Protocol::of(n)).map(|p| (p.version, p.base64)).collect();
        assert_eq!(got, want);
        assert_eq!(Protocol::of(""), Protocol { version: 1, base64: false });
    }

    #[test]
    fn only_version_five_can_close_a_channel() {
        let message = || Message::binary(vec![255, 0]);
        assert_eq!(Protocol::of("v5.channel.k8s.io").decode(message()), Some(ChannelEvent::Closed(0)));
        let data = ChannelEvent::Data(255, Bytes::from_static(&[0]));
        assert_eq!(Protocol::of("v4.channel.k8s.io").decode(message()), Some(data));
    }

    #[test]
    fn messages_that_say_nothing_are_passed_over() {
        let base64 = Protocol::of("base64.channel.k8s.io");
        assert_eq!(base64.encode(1, b"hi"), Message::text("1aGk="));
        for message in
            [Message::binary(vec![]), Message::text("x"), Message::text("1?"), Message::Ping(Bytes::new())]
        {
            assert_eq!(base64.decode(message), None);
        }
        let text = Protocol::of("v4.channel.k8s.io").decode(Message::text("\0typed"));
        assert_eq!(text, Some(ChannelEvent::Data(0, Bytes::from_static(b"typed"))));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(which in 0..REMOTE_COMMAND.len(), channel in 0u8..10, data in prop::collection::vec(any::<u8>(), 0..200)) {
            let protocol = Protocol::of(REMOTE_COMMAND[which]);
            let got = protocol.decode(protocol.encode(channel, &data));
            prop_assert_eq!(got, Some(ChannelEvent::Data(channel, data.into())));
        }

        #[test]
        fn no_message_makes_the_decoder_panic(which in 0..REMOTE_COMMAND.len(), data in prop::collection::vec(any::<u8>(), 0..20)) {
            let protocol = Protocol::of(REMOTE_COMMAND[which]);
            let _ = protocol.decode(Message::text(String::from_utf8_lossy(&data).into_owned()));
            let _ = protocol.decode(Message::binary(data));
        }
    }
}

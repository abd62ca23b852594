//! Everything that reads what clients send, as functions of bytes: for fuzzing, which stands outside of this crate.

use super::{
    channels::{PORT_FORWARD, Protocol, REMOTE_COMMAND},
    logs::{
        entry::{Entry, Formatter},
        options::LogOptions,
    },
    request::{Query, Route},
    spdy::{Decoder, Encoder},
};
use bytes::BytesMut;
use tokio_tungstenite::tungstenite::Message;

/// Reads a SPDY connection that comes in pieces. What can be read can be written, and read again.
///
/// # Panics
/// Where that is not so.
pub fn spdy(bytes: &[u8]) {
    let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
    let Ok(mut encoder) = Encoder::new() else { return };
    let mut reader = Decoder::new();
    for piece in bytes.chunks(37) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    if let Ok(written) = encoder.encode(&frame) {
                        assert_eq!(reader.decode(&mut BytesMut::from(&written[..])), Ok(Some(frame)));
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.len() <= (1 << 20) + 8 + 37);
    }
}

/// Reads one message by each protocol of channels.
pub fn channels(bytes: &[u8]) {
    for name in REMOTE_COMMAND.iter().chain(PORT_FORWARD) {
        let protocol = Protocol::of(name);
        let _ = protocol.decode(Message::binary(bytes.to_vec()));
        let _ = protocol.decode(Message::text(String::from_utf8_lossy(bytes).into_owned()));
    }
    let _ = super::remote_command::terminal_size(bytes);
}

/// Reads a path with its query.
pub fn request(line: &str) {
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    let _ = Route::parse(path);
    let query = Query::parse(query);
    let _ = LogOptions::parse(&query, jiff::Timestamp::UNIX_EPOCH);
}

/// Reads a container's log.
///
/// # Panics
/// When more is shown of it than was asked for.
pub fn log(bytes: &[u8]) {
    let options = LogOptions { timestamps: true, limit: Some(1000), ..LogOptions::default() };
    let (mut formatter, mut out) = (Formatter::new(options), Vec::new());
    for line in bytes.split(|b| *b == b'\n') {
        let _ = Entry::parse(line);
        formatter.push(line, &mut out);
    }
    assert!(out.len() <= 1000);
}

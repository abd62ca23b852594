//! Frames of SPDY/3.1 (SPDY Draft 3, section 2.2), to and from bytes. Pure, but for the state of the header compression.

use super::headers::{Compressor, Decompressor, Headers};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const STREAM_ID: u32 = CONTROL - 1;
/// Longest frame that is taken; clients send pieces of 32 KiB.
const LIMIT: usize = 1 << 20;

/// `RST_STREAM`: the id is not one of an open stream.
pub const INVALID_STREAM: u32 = 2;
/// `RST_STREAM`: the stream is not wanted.
pub const REFUSED_STREAM: u32 = 3;
/// `GOAWAY`: the other side broke the rules.
pub const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    /// Its entries (flags and id in one, value) mean nothing here.
    Settings(Vec<(u32, u32)>),
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Of a type that is not known; to be passed over.
    Unknown(u16),
}

/// Why bytes are not frames. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not SPDY/3.
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    /// The header block is damaged.
    #[error("damaged header compression")]
    Compression,
    /// The header block is not names and values.
    #[error("malformed headers")]
    Headers,
    /// A frame is shorter than its fields.
    #[error("frame too short")]
    TooShort,
    /// A frame or header block is longer than anything a client should send.
    #[error("frame too long")]
    TooLong,
}

/// Makes frames of bytes.
pub struct Decoder(Decompressor);

impl Decoder {
    pub fn new() -> Self {
        Self(Decompressor::new())
    }

    /// Takes the next frame out of what has come; none if it is not whole yet.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let mut head = &input[..];
        let (Ok(first), Ok(second)) = (head.try_get_u32(), head.try_get_u32()) else { return Ok(None) };
        let (flags, length) = ((second >> 24) as u8, (second & 0xff_ffff) as usize);
        if first & CONTROL != 0 && (first & !CONTROL) >> 16 != u32::from(VERSION) {
            return Err(FrameError::Version(((first & !CONTROL) >> 16) as u16));
        }
        if length > LIMIT {
            return Err(FrameError::TooLong);
        }
        if input.len() < 8 + length {
            input.reserve(8 + length - input.len());
            return Ok(None);
        }
        input.advance(8);
        let body = input.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if first & CONTROL == 0 {
            return Ok(Some(Frame::Data { id: first, fin, bytes: body }));
        }
        self.control((first & 0xffff) as u16, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FIN != 0;
        let word = |body: &mut Bytes| body.try_get_u32().map_err(|_| FrameError::TooShort);
        Ok(match kind {
            1 => {
                let id = word(&mut body)? & STREAM_ID;
                let _associated = word(&mut body)?;
                let priority = body.try_get_u8().map_err(|_| FrameError::TooShort)? >> 5;
                let _slot = body.try_get_u8().map_err(|_| FrameError::TooShort)?;
                let headers = self.0.decompress(&body)?;
                Frame::SynStream { id, priority, fin, unidirectional: flags & UNIDIRECTIONAL != 0, headers }
            }
            2 | 8 => {
                let id = word(&mut body)? & STREAM_ID;
                let headers = self.0.decompress(&body)?;
                match kind {
                    2 => Frame::SynReply { id, fin, headers },
                    _ => Frame::Headers { id, fin, headers },
                }
            }
            3 => Frame::RstStream { id: word(&mut body)? & STREAM_ID, status: word(&mut body)? },
            4 => {
                let count = word(&mut body)?;
                let entry = |_| Ok((word(&mut body)?, word(&mut body)?));
                Frame::Settings((0..count).map(entry).collect::<Result<_, FrameError>>()?)
            }
            6 => Frame::Ping { id: word(&mut body)? },
            7 => Frame::GoAway { last_stream: word(&mut body)? & STREAM_ID, status: word(&mut body)? },
            9 => {
                Frame::WindowUpdate { id: word(&mut body)? & STREAM_ID, delta: word(&mut body)? & STREAM_ID }
            }
            other => Frame::Unknown(other),
        })
    }
}

/// Makes bytes of frames.
pub struct Encoder(Compressor);

impl Encoder {
    pub fn new() -> Result<Self, FrameError> {
        Compressor::new().map(Self)
    }

    /// The bytes of a frame.
    pub fn encode(&mut self, frame: &Frame) -> Result<Bytes, FrameError> {
        let fin = |fin: bool| if fin { FIN } else { 0 };
        let mut body = Vec::new();
        let (kind, flags) = match frame {
            Frame::SynStream { id, priority, fin: end, unidirectional, headers } => {
                body.put_u32(*id);
                body.put_u32(0);
                body.put_u8(priority << 5);
                body.put_u8(0);
                body.extend(self.0.compress(headers)?);
                (1, fin(*end) | if *unidirectional { UNIDIRECTIONAL } else { 0 })
            }
            Frame::SynReply { id, fin: end, headers } => {
                body.put_u32(*id);
                body.extend(self.0.compress(headers)?);
                (2, fin(*end))
            }
            Frame::RstStream { id, status } => (3, words(&mut body, &[*id, *status])),
            Frame::Settings(entries) => {
                body.put_u32(entries.len() as u32);
                entries.iter().for_each(|(id, value)| {
                    words(&mut body, &[*id, *value]);
                });
                (4, 0)
            }
            Frame::Ping { id } => (6, words(&mut body, &[*id])),
            Frame::GoAway { last_stream, status } => (7, words(&mut body, &[*last_stream, *status])),
            Frame::Headers { id, fin: end, headers } => {
                body.put_u32(*id);
                body.extend(self.0.compress(headers)?);
                (8, fin(*end))
            }
            Frame::WindowUpdate { id, delta } => (9, words(&mut body, &[*id, *delta])),
            Frame::Data { id, fin: end, bytes } => return framed(*id, fin(*end), bytes),
            Frame::Unknown(kind) => (*kind, 0),
        };
        framed(CONTROL | u32::from(VERSION) << 16 | u32::from(kind), flags, &body)
    }
}

fn words(body: &mut Vec<u8>, words: &[u32]) -> u8 {
    words.iter().for_each(|word| body.put_u32(*word));
    0
}

fn framed(first: u32, flags: u8, body: &[u8]) -> Result<Bytes, FrameError> {
    if body.len() > LIMIT {
        return Err(FrameError::TooLong);
    }
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u32(first);
    frame.put_u32(u32::from(flags) << 24 | body.len() as u32);
    frame.put_slice(body);
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_headers() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z-]{1,12}", "[ -~]{0,40}"), 0..4).prop_map(Headers)
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = 0u32..STREAM_ID;
        prop_oneof![
            (id.clone(), 0u8..8, any::<bool>(), any::<bool>(), any_headers()).prop_map(
                |(id, priority, fin, unidirectional, headers)| Frame::SynStream {
                    id,
                    priority,
                    fin,
                    unidirectional,
                    headers
                }
            ),
            (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
            prop::collection::vec(any::<(u32, u32)>(), 0..4).prop_map(Frame::Settings),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (id.clone(), any::<u32>())
                .prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
            (id.clone(), id.clone()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            (id, any::<bool>(), prop::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes: bytes.into() }),
            Just(Frame::Unknown(77)),
        ]
    }

    proptest! {
        /// However the network cuts them.
        #[test]
        fn frames_come_through_in_their_order(frames in prop::collection::vec(any_frame(), 1..8), step in 1usize..64) {
            let (mut encoder, mut decoder) = (Encoder::new().expect("an encoder"), Decoder::new());
            let bytes: Vec<u8> = frames.iter().flat_map(|f| encoder.encode(f).expect("encoded")).collect();
            let (mut input, mut got) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                input.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut input).expect("decoded") {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 0u8..12, body in prop::collection::vec(any::<u8>(), 0..60)) {
            let head = [0x80, 3, 0, kind, 0, 0, 0, body.len() as u8];
            let _ = Decoder::new().decode(&mut BytesMut::from(&[&head[..], &body].concat()[..]));
            let _ = Decoder::new().decode(&mut BytesMut::from(&body[..]));
        }
    }

    #[test]
    fn bytes_are_as_the_specification_draws_them() {
        let mut encoder = Encoder::new().expect("an encoder");
        let ping = encoder.encode(&Frame::Ping { id: 7 }).expect("encoded");
        assert_eq!(&ping[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        let data = Frame::Data { id: 5, fin: true, bytes: Bytes::from_static(b"hi") };
        assert_eq!(&encoder.encode(&data).expect("encoded")[..], [0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i']);
        let syn = Frame::SynStream {
            id: 1,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: Headers::default(),
        };
        let syn = encoder.encode(&syn).expect("encoded");
        assert_eq!(&syn[..4], [0x80, 3, 0, 1]);
        // zlib's header with a preset dictionary, and which one.
        assert_eq!(&syn[19..24], [0x20 | syn[19] & 0xdf, 0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn another_version_and_too_long_frames_are_refused() {
        let decode = |bytes: &[u8]| Decoder::new().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]), Err(FrameError::Version(2)));
        assert_eq!(decode(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(FrameError::TooLong));
        assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0]), Err(FrameError::TooShort));
    }
}

//! The server's side of SPDY/3.1 as far as Kubernetes' clients speak it (the library `spdystream`): streams that the client
//! opens, and no flow control. It knows nothing of what streams carry.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Offer, StreamReceiver, StreamSender, byte_stream, serve, websocket_stream};

pub use frame::{Decoder, Encoder};

/// For the minimal client in tests.
#[cfg(test)]
pub use {frame::Frame, headers::Headers};

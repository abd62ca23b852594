//! What clients send over upgraded connections: SPDY frames, messages on WebSocket channels, and the requests that open
//! them; and lines of container logs.

use orlop_node::streaming::parsers;

/// Bytes of a SPDY connection, in pieces of odd sizes.
pub(super) fn spdy(input: &[u8]) {
    parsers::spdy(input);
}

/// Messages on channels, paths, queries.
pub(super) fn channels(input: &[u8]) {
    parsers::channels(input);
    parsers::request(&String::from_utf8_lossy(input));
}

/// Log files.
pub(super) fn log_lines(input: &[u8]) {
    parsers::log(input);
}

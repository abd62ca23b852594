//! How an input of several parts is written, so that a person can read and write seeds: parts are separated by a line
//! `%%`.

/// The parts of an input; at most `most`, the last one holds the rest.
pub fn sections(input: &[u8], most: usize) -> Vec<&[u8]> {
    let (mut out, mut rest) = (Vec::new(), input);
    while out.len() + 1 < most
        && let Some(at) = rest.windows(4).position(|w| w == b"\n%%\n")
    {
        out.push(&rest[..at]);
        rest = &rest[at + 4..];
    }
    out.push(rest);
    out
}

/// A part as text; what is no UTF-8 is replaced.
pub fn text(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}

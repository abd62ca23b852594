//! Domain names as they stand in messages: labels with their lengths, in lower case. Pure.

use std::fmt;

/// The longest name, its root label included (RFC 1035, section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// The longest label.
const MAX_LABEL: usize = 63;
/// Most labels that fit in a name, without the root.
const MAX_LABELS: usize = 127;

/// A whole name in wire form and lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(Box<[u8]>);

impl Name {
    /// Reads `a.b.c` or `a.b.c.`; there is no way to write a dot inside a label.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(Self([0].into()));
        }
        Self([0].into()).below(text.split('.').map(str::as_bytes))
    }

    /// The name with these labels before it; `None` if that is no name.
    pub fn below<'a>(&self, labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = Vec::with_capacity(self.0.len() + 32);
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.extend_from_slice(&self.0);
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// A name whose wire form was checked.
    pub fn from_wire(name: &WireName) -> Self {
        Self(name.lower().into())
    }

    /// The wire form.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// How many labels it has, without the root.
    pub fn depth(&self) -> usize {
        labels(&self.0).count()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in labels(&self.0) {
            write!(f, "{}.", label.escape_ascii())?;
        }
        if self.0.len() == 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The labels of a name in wire form, without the root.
pub(crate) fn labels(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = wire.split_first()?;
        let label = rest.get(..usize::from(*length)).filter(|label| !label.is_empty())?;
        wire = &rest[label.len()..];
        Some(label)
    })
}

/// A name read from a message, in lower case and without allocation, with the places of its labels.
#[derive(Clone)]
pub(crate) struct WireName {
    bytes: [u8; MAX_NAME],
    length: u8,
    starts: [u8; MAX_LABELS + 1],
    count: u8,
}

impl WireName {
    /// Reads an uncompressed name at the start of these bytes. Where it ends is its length.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME], length: 0, starts: [0; MAX_LABELS + 1], count: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                name.starts[usize::from(name.count)] = at as u8;
                name.length = at as u8 + 1;
                return Some(name);
            }
            let end = at + 1 + length;
            // One byte must be left for the root; the labels then fit too, as each takes two bytes at least.
            if length > MAX_LABEL || end >= MAX_NAME {
                return None;
            }
            let label = bytes.get(at + 1..end)?;
            name.starts[usize::from(name.count)] = at as u8;
            name.count += 1;
            name.bytes[at] = length as u8;
            for (to, from) in name.bytes[at + 1..end].iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            at = end;
        }
    }

    /// In lower case.
    pub fn lower(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// How many labels, without the root.
    pub fn depth(&self) -> usize {
        usize::from(self.count)
    }

    /// Where the name that these many first labels leave begins.
    pub fn start(&self, skipped: usize) -> usize {
        usize::from(self.starts[skipped.min(self.depth())])
    }

    /// A label, counted from the left.
    pub fn label(&self, index: usize) -> &[u8] {
        if index >= self.depth() {
            return &[];
        }
        let start = self.start(index);
        &self.bytes[start + 1..self.start(index + 1)]
    }

    /// How many labels it has before this name's; `None` if it is not below it.
    pub fn depth_below(&self, zone: &[u8], zone_depth: usize) -> Option<usize> {
        let before = self.depth().checked_sub(zone_depth)?;
        (self.lower()[self.start(before)..] == *zone).then_some(before)
    }
}

impl From<&Name> for WireName {
    fn from(name: &Name) -> Self {
        // A `Name` is a name, so it can be read; the root stands in for what cannot be.
        Self::read(name.wire()).unwrap_or(Self {
            bytes: [0; MAX_NAME],
            length: 1,
            starts: [0; MAX_LABELS + 1],
            count: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_and_printed_in_lower_case() {
        for (text, printed) in [("Web.Default", "web.default."), ("a.b.", "a.b."), (".", "."), ("", ".")] {
            assert_eq!(Name::parse(text).unwrap().to_string(), printed);
        }
        let long = vec!["x".repeat(63); 4].join(".");
        for bad in ["a..b", ".a", &"x".repeat(64), &long] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
        assert!(Name::parse(&long[2..]).is_some());
    }

    #[test]
    fn a_name_in_a_message_knows_its_labels_and_what_it_is_below() {
        let zone = Name::parse("cluster.local").unwrap();
        let name = Name::parse("web.default.svc.cluster.local").unwrap();
        let wire = WireName::read(&name.wire().to_ascii_uppercase()).unwrap();
        assert_eq!(wire.lower(), name.wire());
        assert_eq!(
            (wire.depth(), wire.label(0), wire.label(4), wire.label(5)),
            (5, &b"web"[..], &b"local"[..], &b""[..])
        );
        assert_eq!(wire.depth_below(zone.wire(), 2), Some(3));
        assert_eq!(wire.depth_below(name.wire(), 5), Some(0));
        assert_eq!(WireName::from(&zone).depth_below(name.wire(), 5), None);
        assert_eq!(WireName::from(&Name::parse("xcluster.local").unwrap()).depth_below(zone.wire(), 2), None);
    }

    #[test]
    fn what_ends_too_early_or_is_too_long_or_points_elsewhere_is_no_name() {
        let mut long: Vec<u8> = [&[1, b'a'][..]; 127].concat();
        long.push(0);
        assert_eq!(WireName::read(&long).unwrap().depth(), 127);
        let too_long = [&[1, b'a'][..], &long].concat();
        for bad in [&b""[..], b"\x03we", b"\x03web", b"\xc0\x0c", b"\x40", &too_long] {
            assert!(WireName::read(bad).is_none(), "{bad:?}");
        }
    }
}

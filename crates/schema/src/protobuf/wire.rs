//! The protobuf encoding itself (protobuf documentation, "Encoding"): fields of a message, read and written. Knows
//! nothing of what they mean.

use super::Error;

/// What follows a tag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of a message.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of all fields in `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field: its number and what it holds.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Payload<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or(Error::Impossible("field number"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Cut)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            // Groups (3 and 4) are in no message of Kubernetes.
            _ => return Err(Error::Impossible("wire type")),
        };
        Ok(Some((number, payload)))
    }

    /// Numbers that stand without tags, as in a packed list.
    pub(crate) fn packed(&mut self) -> Result<Option<u64>, Error> {
        if self.0.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Error::Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Error::Cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::Impossible("number"))
    }
}

/// A message being written.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// The bytes.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn raw_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// A number or a boolean; negative numbers as their two's complement in 64 bits.
    pub(crate) fn varint(&mut self, field: u32, n: u64) {
        self.raw_varint(u64::from(field) << 3);
        self.raw_varint(n);
    }

    /// A floating-point number of 64 bits.
    pub(crate) fn double(&mut self, field: u32, n: f64) {
        self.raw_varint(u64::from(field) << 3 | 1);
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    /// Bytes or text.
    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.raw_varint(u64::from(field) << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message inside.
    pub(crate) fn message(&mut self, field: u32, message: Message) {
        self.bytes(field, &message.0);
    }
}

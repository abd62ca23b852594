//! How a family of types is held: flat tables that refer to each other by number, so that recursion costs nothing
//! and all built-in types take a few hundred kilobytes. The build script writes them, the crate reads them.
//! Never interprets a schema: that is the builder's.

/// Stands for "nothing" where a number could be.
pub const NONE: u32 = u32::MAX;

/// What a single JSON value that is no object and no list must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// Any string.
    String,
    /// A string that is base64.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Float,
    /// A whole number of 32 bits, or a string.
    IntOrString,
    /// A quantity: a string or a number.
    Quantity,
}

/// By the number that stands for each in the bytes.
pub const SCALARS: [Scalar; 10] = [
    Scalar::String,
    Scalar::Bytes,
    Scalar::Time,
    Scalar::MicroTime,
    Scalar::Boolean,
    Scalar::Int32,
    Scalar::Int64,
    Scalar::Float,
    Scalar::IntOrString,
    Scalar::Quantity,
];

/// Whose a list's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// The list is one value.
    Atomic,
    /// Entries are themselves their identity.
    Set,
    /// Entries are objects known by some of their fields: the number of the key tuple.
    Map(u32),
}

/// One type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// An object with declared fields.
    Struct { def: u32, atomic: bool },
    /// An object whose keys are data.
    Map { value: u32, atomic: bool },
    /// A list.
    List { item: u32, kind: ListKind },
    /// An object of a type, or a list of something (or `NONE`), or any other JSON value.
    Either { object: u32, item: u32 },
    /// A single value.
    Scalar(Scalar),
    /// Any JSON value, kept as it is.
    Any,
}

/// The fields of an object type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Def {
    /// Name of the definition; empty for one written inline.
    pub name: u32,
    /// Whether undeclared fields are kept.
    pub open: bool,
    /// First of its fields, which are sorted by name.
    pub start: u32,
    /// Number of its fields.
    pub len: u32,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// JSON name.
    pub name: u32,
    /// Its type.
    pub node: u32,
    /// See the constants below.
    pub flags: u32,
    /// `x-kubernetes-patch-merge-key`, or `NONE`.
    pub merge_key: u32,
    /// The default as JSON text, or `NONE`.
    pub default: u32,
    /// Where it stands in protobuf: its number, behind those of the messages that JSON has inline (`PATH_BITS`
    /// each). 0 where it stands nowhere.
    pub path: u32,
}

/// Patch strategy `merge`.
pub const MERGE: u32 = 1;
/// Patch strategy `retainKeys`.
pub const RETAIN_KEYS: u32 = 2;
/// Patch strategy `replace`.
pub const REPLACE: u32 = 4;
/// The field must be there.
pub const REQUIRED: u32 = 8;
/// `null` is a value of the field.
pub const NULLABLE: u32 = 16;
/// Its zero value says something else than its absence.
pub const ZERO_TELLS: u32 = 32;

/// Bits of one number in a field's protobuf path.
pub const PATH_BITS: u32 = 10;
/// How many numbers a path can hold.
#[allow(dead_code, reason = "only the build script asks")]
pub const PATH_DEPTH: usize = 3;

/// A kind and the type that describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindEntry {
    /// `apps/v1`.
    pub api_version: u32,
    /// `Deployment`.
    pub kind: u32,
    /// Its type.
    pub node: u32,
}

/// A family of types.
#[derive(Debug, Default, PartialEq)]
pub struct Arena {
    pub pool: Box<str>,
    pub ends: Box<[u32]>,
    pub nodes: Box<[Node]>,
    pub defs: Box<[Def]>,
    pub fields: Box<[Field]>,
    pub keys: Box<[Box<[u32]>]>,
    pub kinds: Box<[KindEntry]>,
}

impl Arena {
    /// The text of a symbol.
    pub fn text(&self, symbol: u32) -> &str {
        let at = symbol as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.pool[start as usize..self.ends[at] as usize]
    }

    /// The tables from bytes that the build script wrote; `None` if they are cut or wrong.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let len = r.number()? as usize;
        let pool = std::str::from_utf8(r.0.get(..len)?).ok()?.into();
        r.0 = &r.0[len..];
        let mut end = 0;
        let ends = r.many(|r| {
            end += r.number()?;
            Some(end)
        })?;
        let keys = r.many(|r| r.many(Reader::number))?;
        let nodes = r.many(Reader::node)?;
        let defs = r.many(|r| {
            Some(Def { name: r.number()?, open: r.number()? == 1, start: r.number()?, len: r.number()? })
        })?;
        let fields = r.many(|r| {
            Some(Field {
                name: r.number()?,
                node: r.number()?,
                flags: r.number()?,
                merge_key: r.number()?.wrapping_sub(1),
                default: r.number()?.wrapping_sub(1),
                path: r.number()?,
            })
        })?;
        let kinds =
            r.many(|r| Some(KindEntry { api_version: r.number()?, kind: r.number()?, node: r.number()? }))?;
        Some(Self { pool, ends, nodes, defs, fields, keys, kinds })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u32> {
        let (mut n, mut shift) = (0u32, 0);
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            n |= u32::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Box<[T]>> {
        let n = self.number()? as usize;
        let mut out = Vec::with_capacity(n.min(self.0.len()));
        for _ in 0..n {
            out.push(one(self)?);
        }
        Some(out.into())
    }

    fn node(&mut self) -> Option<Node> {
        let (tag, a, b) = (self.number()?, self.number()?, self.number()?);
        Some(match tag {
            0 | 1 => Node::Struct { def: a, atomic: tag == 1 },
            2 | 3 => Node::Map { value: a, atomic: tag == 3 },
            4 => Node::List { item: a, kind: ListKind::Atomic },
            5 => Node::List { item: a, kind: ListKind::Set },
            6 => Node::List { item: a, kind: ListKind::Map(b) },
            7 => Node::Either { object: a, item: b.wrapping_sub(1) },
            8 => Node::Any,
            9 => Node::Scalar(*SCALARS.get(a as usize)?),
            _ => return None,
        })
    }
}

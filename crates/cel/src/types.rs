//! The types of expressions: what the checker computes with, and how messages name them.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything; it is known while evaluating.
    Dyn,
    /// The null.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A whole number of 64 bits without a sign.
    Uint,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `google.protobuf.Duration`.
    Duration,
    /// A list.
    List(Arc<Type>),
    /// A map.
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// A type of a library: `net.IP`, `kubernetes.Quantity`, ….
    Opaque(&'static str),
    /// A type as a value.
    Type,
    /// A type that an overload leaves open.
    Param(char),
}

/// An object with declared fields.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// How messages name it.
    pub name: String,
    /// Its fields, by the names that expressions use.
    pub fields: BTreeMap<String, Type>,
    /// Whether it may have any others.
    pub open: bool,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.fields == other.fields
    }
}

impl ObjectType {
    /// An object with these fields.
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Type)>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), fields: fields.into_iter().collect(), open: false })
    }

    /// An object that may have any fields.
    pub fn open(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), fields: BTreeMap::new(), open: true })
    }

    /// The type of a field, where it may have it.
    pub(crate) fn field(&self, name: &str) -> Option<&Type> {
        self.fields.get(name).or(self.open.then_some(&Type::Dyn))
    }
}

impl Type {
    /// A list of something.
    pub fn list(entry: Type) -> Self {
        Self::List(Arc::new(entry))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    /// A value that may be absent.
    pub fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Param(_))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(entry) => write!(f, "list({entry})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Type => f.write_str("type"),
            Self::Param(_) => f.write_str("dyn"),
        }
    }
}

/// Types that overloads left open, as far as they are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bindings(Vec<(char, Type)>);

impl Bindings {
    /// Whether a value of type `given` may stand where `wanted` is asked for; learns what `wanted` leaves open.
    pub(crate) fn accepts(&mut self, wanted: &Type, given: &Type) -> bool {
        match (wanted, given) {
            (Type::Param(name), given) => match self.0.iter().position(|(n, _)| n == name) {
                None => {
                    self.0.push((*name, given.clone()));
                    true
                }
                Some(at) => {
                    let bound = self.0[at].1.clone();
                    if bound.is_dyn() {
                        self.0[at].1 = given.clone();
                        return true;
                    }
                    let ok = Self::default().accepts(&bound, given) || Self::default().accepts(given, &bound);
                    if ok && matches!(bound, Type::Null) {
                        self.0[at].1 = given.clone();
                    }
                    ok
                }
            },
            (Type::Dyn, _) | (_, Type::Dyn | Type::Param(_)) => true,
            // What may be absent in the language is nullable here.
            (
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Opaque(_),
                Type::Null,
            )
            | (
                Type::Null,
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Opaque(_),
            ) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.accepts(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.accepts(a, c) && self.accepts(b, d),
            (a, b) => a == b,
        }
    }

    /// A type with what was learned put in; what is still open is anything.
    pub(crate) fn apply(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(name) => self.0.iter().find(|(n, _)| n == name).map_or(Type::Dyn, |(_, t)| t.clone()),
            Type::List(entry) => Type::list(self.apply(entry)),
            Type::Optional(value) => Type::optional(self.apply(value)),
            Type::Map(key, value) => Type::map(self.apply(key), self.apply(value)),
            other => other.clone(),
        }
    }
}

/// The type of what is either of two.
pub(crate) fn join(a: &Type, b: &Type) -> Type {
    if a == b {
        return a.clone();
    }
    match (a, b) {
        // Of an empty list nothing is known yet.
        (Type::Param(_), known) | (known, Type::Param(_)) => known.clone(),
        (Type::List(a), Type::List(b)) => Type::list(join(a, b)),
        (Type::Map(a, b), Type::Map(c, d)) => Type::map(join(a, c), join(b, d)),
        (Type::Optional(a), Type::Optional(b)) => Type::optional(join(a, b)),
        (Type::Null, Type::Object(_) | Type::Timestamp | Type::Duration) => b.clone(),
        (Type::Object(_) | Type::Timestamp | Type::Duration, Type::Null) => a.clone(),
        _ => Type::Dyn,
    }
}

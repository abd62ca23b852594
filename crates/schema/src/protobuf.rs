//! Kubernetes' protobuf (`application/vnd.kubernetes.protobuf`) from and to the JSON form of an object, by the types of
//! the built-in kinds and the numbers of their fields. Knows no kind by hand, and says nothing about whether an object
//! is valid: its JSON form goes the same way as any other.

mod decode;
mod encode;
pub(crate) mod wire;

use crate::types::{PATH_BITS, Shape, Struct, Type, TypeRef, Types};
pub use decode::decode;
pub use encode::encode;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with; a `runtime.Unknown` follows.
const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may be nested: enough for any object, and too little to exhaust a stack.
const MAX_DEPTH: usize = 96;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin as it must.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It ends within a field.
    #[error("the protobuf message is cut off")]
    Cut,
    /// A number or a tag that cannot be.
    #[error("the protobuf message has an impossible {0}")]
    Impossible(&'static str),
    /// Something else stands where the field's value should.
    #[error("{field}: proto: wrong wireType")]
    WireType {
        /// JSON name of the field.
        field: String,
    },
    /// What stands there cannot be a value of the field.
    #[error("{field}: {what}")]
    Value {
        /// JSON name of the field.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// A kind that is not spoken in protobuf.
    #[error("no kind {kind:?} is registered for version {api_version:?} in protobuf")]
    Kind {
        /// `apps/v1`.
        api_version: String,
        /// `Deployment`.
        kind: String,
    },
    /// `contentEncoding` of the envelope.
    #[error("the content encoding {0:?} is not known")]
    ContentEncoding(String),
    /// More messages in each other than any object has.
    #[error("the protobuf message is nested too deep")]
    Depth,
}

/// Whether objects of a kind can be said in protobuf: built-in kinds can, custom ones cannot.
pub fn speaks(api_version: &str, kind: &str) -> bool {
    Root::of(api_version, kind).is_some()
}

/// What an envelope holds.
enum Root {
    Object(TypeRef),
    /// A list of a kind: `ListMeta` and items.
    List {
        metadata: TypeRef,
        item: TypeRef,
    },
}

impl Root {
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        let object = match (api_version, kind) {
            // Registered in every group.
            (_, "DeleteOptions") => Types::of("policy/v1", "Eviction")?.child("deleteOptions"),
            // Every kind has its metadata in the same place.
            ("meta.k8s.io/v1", "PartialObjectMetadata") => Types::of("v1", "Namespace"),
            _ => Types::of(api_version, kind),
        };
        if let Some(ty) = object {
            return spoken(&ty).then_some(Self::Object(ty));
        }
        let Self::Object(item) = Self::of(api_version, kind.strip_suffix("List")?)? else { return None };
        let metadata = Types::of("v1", "Status")?.child("metadata")?;
        Some(Self::List { metadata, item })
    }
}

/// Whether any field of the type has a number.
fn spoken(ty: &TypeRef) -> bool {
    as_struct(ty.as_type()).is_some_and(|s| s.fields().any(|f| f.path() != 0))
}

fn as_struct(ty: Type<'_>) -> Option<Struct<'_>> {
    match ty.shape() {
        Shape::Struct(s) => Some(s),
        _ => None,
    }
}

/// The step below `above` on the way to `path`; `None` if `path` does not lie below.
fn step(path: u32, above: u32) -> Option<u32> {
    let mut path = path;
    while path != 0 {
        if path >> PATH_BITS == above {
            return Some(path);
        }
        path >>= PATH_BITS;
    }
    None
}

/// Numbers of the fields of messages that JSON writes as single values.
mod numbers {
    /// `Time`, `MicroTime`.
    pub const SECONDS: u32 = 1;
    pub const NANOS: u32 = 2;
    /// `IntOrString`.
    pub const TYPE: u32 = 1;
    pub const INT: u32 = 2;
    pub const STR: u32 = 3;
    /// The only field of `Quantity`, `RawExtension`, `FieldsV1`, `JSON`, and of lists that stand in maps.
    pub const ONLY: u32 = 1;
    /// An entry of a map.
    pub const KEY: u32 = 1;
    pub const VALUE: u32 = 2;
    /// `JSONSchemaPropsOrBool`.
    pub const ALLOWS: u32 = 1;
    pub const ALLOWED: u32 = 2;
    /// `JSONSchemaPropsOrArray`, `JSONSchemaPropsOrStringArray`.
    pub const SCHEMA: u32 = 1;
    pub const ITEMS: u32 = 2;
    /// A list of a kind.
    pub const LIST_METADATA: u32 = 1;
    pub const LIST_ITEMS: u32 = 2;
    /// `runtime.Unknown`, and its `TypeMeta`.
    pub const TYPE_META: u32 = 1;
    pub const RAW: u32 = 2;
    pub const CONTENT_ENCODING: u32 = 3;
    pub const CONTENT_TYPE: u32 = 4;
    pub const API_VERSION: u32 = 1;
    pub const KIND: u32 = 2;
}

#[cfg(test)]
mod tests;

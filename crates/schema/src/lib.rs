//! Type schemas of the Kubernetes API and the pure algorithms that work on them: decoding a body, checking it
//! against its type, the three kinds of patch, server-side apply, and the OpenAPI documents. Nothing here reads a
//! clock, a disk or a socket.

pub mod apply;
pub mod conform;
mod definitions;
pub mod field_set;
pub mod openapi;
pub mod parse;
pub mod patch;
pub mod protobuf;
pub mod strategic;
mod trail;
pub mod types;

pub use conform::{Mismatch, Unknown, conform};
pub use parse::{Duplicate, ParseError, Parsed, parse_json, parse_yaml};
pub use patch::PatchError;
pub use types::{TypeRef, Types};

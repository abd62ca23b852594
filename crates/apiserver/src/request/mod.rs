//! What a request asks for: path, query, body and the representation that the client accepts, parsed at the edge into
//! types that the registry works with. Decides nothing about objects.

pub(crate) mod body;
pub(crate) mod negotiate;
pub(crate) mod options;
pub(crate) mod path;

pub(crate) use negotiate::{Form, Negotiated};
pub(crate) use options::{DeleteOptions, ListOptions, Query, WriteOptions};
pub(crate) use path::{RequestInfo, Target, Verb};

//! The core as its users see it: objects in, decisions out.
#![allow(missing_docs, clippy::unwrap_used)]

mod explain;
mod filters;
mod objects;
mod preemption;
mod reference;
mod same_as_reference;
mod scores;
mod volumes;

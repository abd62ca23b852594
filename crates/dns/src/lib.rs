//! Cluster DNS: answers from an index of names, by the Kubernetes DNS-based service discovery specification, version 1.1.0.
//! It knows nothing of the Kubernetes API: it takes plain records.

mod answer;
mod forward;
mod index;
mod model;
mod server;

pub use index::DnsIndex;
pub use model::*;
pub use server::{DnsServer, serve};

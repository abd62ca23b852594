//! Cluster DNS: answers from an index of names, by the Kubernetes DNS-based service discovery specification, version 1.1.0;
//! zones for strangers; and everybody else's names, asked and remembered. It knows nothing of the Kubernetes API: it takes
//! plain records.

mod answer;
mod forward;
mod index;
mod limits;
mod metrics;
mod model;
mod name;
#[doc(hidden)]
pub mod parsers;
mod responder;
mod server;
mod wire;

pub use index::DnsIndex;
pub use metrics::Metrics;
pub use model::*;
pub use server::{DnsServer, Zones, serve};

//! The Kubernetes API over HTTP: identity, admission, the generic registry, discovery, watch, streaming to nodes.
//!
//! [`ApiServer::start`] reads the state from a store; then [`ApiServer::service_for`] serves clients of the same process
//! and [`ApiServer::serve`] those who come over TLS. All of them get the same API.

mod admission;
mod aggregation;
pub mod audit;
mod cache;
mod component_status;
mod config;
mod custom;
mod discovery;
mod dispatch;
mod flow_control;
mod health;
mod hooks;
pub mod identity;
mod metrics;
mod pipeline;
mod registry;
mod remote;
mod request;
mod resource_metrics;
mod response;
mod serve;
mod server;
mod service;
mod streaming;
mod webhook;

pub use config::{Config, FrontProxy, Limits, LostNodes, Version};
pub use hooks::leases::FENCED;
pub use identity::{Fence, Identity};
pub use registry::{Clock, Random};
pub use response::Body;
pub use server::ApiServer;
pub use service::InProcess;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("{step}: {source}")]
    Store {
        /// What was being done.
        step: &'static str,
        /// What the store said.
        #[source]
        source: orlop_store::Error,
    },
    /// The configuration does not make sense.
    #[error("configuration: {0}")]
    Config(String),
    /// An object that every cluster has could not be made.
    #[error("making {what}: {why}")]
    Default {
        /// Which object.
        what: String,
        /// What the API said.
        why: String,
    },
    /// Accepting connections failed.
    #[error("accepting connections")]
    Accept(#[source] std::io::Error),
}

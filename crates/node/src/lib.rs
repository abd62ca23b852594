//! The node agent: pod workers, probes, volumes, status, streaming endpoints.
//!
//! [`Agent::run`] registers the node and keeps its pods as the API wants them. It reaches state through a Kubernetes client
//! alone, containers through [`orlop_runtime::ContainerRuntime`], addresses through [`PodNetwork`].

pub mod networks;
pub mod peers;
pub mod policies;
pub mod services;
pub mod streaming;

mod admission;
mod agent;
mod back_off;
mod capacity;
mod claims;
mod config;
mod dispatch;
mod env;
mod error;
mod events;
pub mod eviction;
mod handler;
mod image_gc;
mod image_pull;
mod local_volumes;
mod metrics;
mod node_object;
mod objects;
mod plan;
mod pod;
mod pod_files;
mod pod_network;
mod pod_state;
mod probes;
mod registration;
mod resize;
mod resolv_conf;
mod resources;
mod security;
mod status;
mod tokens;
mod volumes;
mod worker;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_api;

pub use agent::{Agent, ContainerHandle, PodHandle, run};
pub use config::NodeConfig;
pub use error::Error;
pub use image_gc::ImageGcConfig;
pub use pod_network::{PodNetwork, RunningSandbox};

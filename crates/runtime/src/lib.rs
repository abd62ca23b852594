//! Images, snapshots, sandboxes, containers and the shim: Orlop's OCI runtime. It knows nothing of Pods.
//!
//! [`Runtime`] is what the node agent uses; its shape is that of the Kubernetes CRI, so that containerd or CRI-O can
//! stand in for it later. Each sandbox has one shim process (the same binary re-executed, see [`shim`]), which outlives
//! the agent; the agent finds shims again through the files on disk.

mod adopt;
pub mod cgroup;
mod container;
mod container_lifecycle;
mod device_filter;
pub mod image;
pub mod layout;
pub mod log_writer;
mod migration;
pub mod oci_spec;
pub mod protocol;
pub mod records;
pub mod runtime;
mod sandbox;
mod sandbox_lifecycle;
pub mod seccomp;
pub mod service;
mod session;
pub mod shim;
mod shim_client;
pub mod user;

pub use protocol::LogLimits;
pub use runtime::{Runtime, RuntimeConfig, Snapshots};
pub use service::*;

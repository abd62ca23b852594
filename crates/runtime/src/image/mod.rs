//! Images: references, the registry, archives, the content-addressed store, and root file systems for containers.
//!
//! [`ImageStore`] is the whole from outside: it implements [`crate::Images`] for the agent and hands containers their
//! configuration and root file system. Nothing in here starts a process or knows a container's spec.

pub mod build;
pub mod config;
pub mod content;
pub mod control;
pub mod digest;
pub mod import;
pub mod index;
pub mod inherit;
pub mod layer;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod remove_tree;
pub mod snapshot;
pub mod store;
pub mod tar_stream;
pub mod unpack;

pub use build::{BuildOptions, build_from_directory};
pub use config::ImageConfig;
pub use digest::Digest;
pub use reference::Reference;
pub use snapshot::RootfsMount;
pub use store::{ImageStore, StoreOptions};

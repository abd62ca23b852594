//! Which node a pod goes to: a pure core ([`snapshot::Snapshot::decide`]: a snapshot in, a decision with its reasons out) and a
//! thin loop that feeds it and binds. Names follow the Kubernetes scheduling framework.

pub mod config;
pub mod decision;
pub mod explain;
pub mod matcher;
pub mod nodes;
pub mod plugin;
pub mod preemption;
pub mod profile;
pub mod shape;
pub mod snapshot;
pub mod strategy;
pub mod volume_limits;
pub mod volumes;
pub mod workloads;
pub mod world;

mod acts;
mod check;
mod counters;
mod feed;
mod hints;
mod queue;
mod scheduler;
mod view;

pub use scheduler::{run, run_sharing, run_with};

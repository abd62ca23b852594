//! Which node a pod goes to: a pure core ([`decide`](core::decide): an immutable snapshot in, a decision with its reasons out) and
//! a thin loop that feeds it and binds. Names follow the Kubernetes scheduling framework.

pub mod core;
pub mod filter;
pub mod score;
pub mod snapshot;

mod line;
mod scheduler;

pub use scheduler::run;

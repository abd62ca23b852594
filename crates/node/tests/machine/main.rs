//! Pods on the real kernel: agent, runtime, network and API server in one process. Needs root and busybox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod cluster;
mod pods;
mod volumes;

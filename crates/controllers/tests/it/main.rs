//! The controllers against the API server itself, in one process, with simulated nodes.

mod cluster;
mod daemon_sets;
mod deployments;
mod endpoints;
mod garbage;
mod jobs;
mod namespaces;
mod nodes;
mod replica_sets;
mod replication_controllers;
mod scheduling;

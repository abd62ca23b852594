//! The controllers against the API server itself, in one process, with simulated nodes.

mod autoscalers;
mod balancer;
mod cluster;
mod cron_jobs;
mod daemon_sets;
mod deployments;
mod disruption;
mod endpoints;
mod garbage;
mod jobs;
mod namespaces;
mod networks;
mod nodes;
mod replica_sets;
mod replication_controllers;
mod scheduling;
mod stateful_sets;
mod volumes;

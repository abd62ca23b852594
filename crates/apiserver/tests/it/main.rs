//! The API as clients see it, over a store in memory.

// What these tests set up must be there; a panic says where it was not.
#![allow(clippy::unwrap_used)]

mod admission;
mod aggregation;
mod audit;
mod certificates;
mod components;
mod custom;
mod devices;
mod discovery;
mod fences;
mod flow_control;
mod limits;
mod mutating;
mod networks;
mod nodes;
mod objects;
mod pod_parts;
mod pods;
mod protobuf;
mod rbac;
mod resource_metrics;
mod services;
mod support;
mod tls;
mod tokens;
mod versions;
mod watches;
mod webhook;

//! The pod network in real network namespaces: one acts as the machine, others as pods and as clients outside. Nothing of
//! the machine that runs the tests is touched. Needs root.

#![allow(clippy::unwrap_used)] // what cannot be set up fails the test

mod announce;
mod family;
mod links;
mod mesh;
mod model;
mod overlays;
mod policies;
mod services;
mod world;

//! Containers on the real kernel, as the agent sees them. Needs root and busybox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod confinement;
mod folder_images;
mod images;
mod lifecycle;
mod machine;
mod namespaces;
mod resources;
mod streams;
mod survival;

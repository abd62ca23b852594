//! Images through the front door: pulled from real and from lying registries, imported from archives, kept through
//! crashes, mounted as root file systems.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod archives;
mod controlling;
mod fake;
mod fixture;
mod keeping;
mod pulling;

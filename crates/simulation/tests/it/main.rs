//! Worlds as their users see them, and the proof.

// What these tests set up must be there; a panic says where it was not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod seeds;
mod violations;
mod worlds;

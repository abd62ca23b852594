//! The fuller node is better: load is packed, and empty nodes can go.

use super::{MAX, Strategy, Use, mean};

/// See the module.
#[derive(Debug)]
pub struct MostAllocated;

impl Strategy for MostAllocated {
    fn name(&self) -> &'static str {
        "MostAllocated"
    }

    fn score(&self, uses: &[Use]) -> i64 {
        mean(uses, |u| u.requested.min(u.offered) * MAX / u.offered)
    }
}

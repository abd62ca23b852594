//! The emptier node is better: load spreads.

use super::{MAX, Strategy, Use, mean};

/// See the module.
#[derive(Debug)]
pub struct LeastAllocated;

impl Strategy for LeastAllocated {
    fn name(&self) -> &'static str {
        "LeastAllocated"
    }

    fn score(&self, uses: &[Use]) -> i64 {
        mean(uses, |u| (u.offered - u.requested).max(0) * MAX / u.offered)
    }
}

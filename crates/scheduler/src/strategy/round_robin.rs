//! Every node that fits has its turn, one after the other.

use super::{Strategy, Use};

/// See the module.
#[derive(Debug)]
pub struct RoundRobin;

impl Strategy for RoundRobin {
    fn name(&self) -> &'static str {
        "RoundRobin"
    }

    fn score(&self, _: &[Use]) -> i64 {
        0
    }

    fn in_turn(&self) -> bool {
        true
    }
}

//! The node whose resources are used evenly is better: no processor is left over where memory is gone.

use super::{MAX, Strategy, Use};

/// See the module.
#[derive(Debug)]
pub struct Balanced;

impl Strategy for Balanced {
    fn name(&self) -> &'static str {
        "Balanced"
    }

    fn score(&self, uses: &[Use]) -> i64 {
        balance(uses)
    }

    fn assumes_requests(&self) -> bool {
        false
    }
}

/// [`MAX`] where all resources are used to the same share, less by their standard deviation.
pub fn balance(uses: &[Use]) -> i64 {
    let share = |u: &Use| (u.requested as f64 / u.offered as f64).min(1.0);
    let deviation = match uses {
        [] | [_] => 0.0,
        [a, b] => (share(a) - share(b)).abs() / 2.0,
        many => {
            let count = many.len() as f64;
            let mean = many.iter().map(share).sum::<f64>() / count;
            (many.iter().map(|u| (share(u) - mean).powi(2)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX as f64) as i64
}

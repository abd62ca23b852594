//! What a node is worth at which utilization is said by a line of points.

use super::{MAX, Strategy, Use};

/// A point of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utilization {
    /// Per cent.
    pub utilization: i64,
    /// From 0 to 10.
    pub score: i64,
}

/// See the module.
#[derive(Debug)]
pub struct RequestedToCapacity {
    /// By utilization, the lowest first; scores from 0 to [`MAX`].
    points: Vec<(i64, i64)>,
}

impl Default for RequestedToCapacity {
    /// The fuller the better.
    fn default() -> Self {
        let end = |utilization, score| Utilization { utilization, score };
        Self::new(vec![end(0, 0), end(100, 10)])
    }
}

impl RequestedToCapacity {
    /// A line through points, the lowest utilization first.
    pub fn new(shape: Vec<Utilization>) -> Self {
        Self { points: shape.iter().map(|p| (p.utilization, p.score * MAX / 10)).collect() }
    }

    fn at(&self, utilization: i64) -> i64 {
        let mut before: Option<(i64, i64)> = None;
        for (x, y) in &self.points {
            if utilization <= *x {
                return match before {
                    None => *y,
                    Some((x0, y0)) => y0 + (y - y0) * (utilization - x0) / (x - x0),
                };
            }
            before = Some((*x, *y));
        }
        before.map_or(0, |(_, y)| y)
    }
}

impl Strategy for RequestedToCapacity {
    fn name(&self) -> &'static str {
        "RequestedToCapacity"
    }

    fn score(&self, uses: &[Use]) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for u in uses {
            let utilization = if u.requested > u.offered { 100 } else { u.requested * 100 / u.offered };
            let score = self.at(utilization);
            // What scores nothing does not pull down the mean of the others.
            if score > 0 {
                sum += score * u.weight;
                weights += u.weight;
            }
        }
        if weights == 0 { 0 } else { (sum as f64 / weights as f64).round() as i64 }
    }
}

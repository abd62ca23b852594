//! Strategies: how nodes are compared by their resources. An operator picks one by name; `docs/scheduling.md` shows how to write
//! one. A strategy is pure: it sees amounts and answers with a number.

mod balanced;
mod least_allocated;
mod most_allocated;
mod requested_to_capacity;
mod round_robin;

pub use balanced::{Balanced, balance};
pub use least_allocated::LeastAllocated;
pub use most_allocated::MostAllocated;
pub use requested_to_capacity::{RequestedToCapacity, Utilization};
pub use round_robin::RoundRobin;

use std::{fmt::Debug, sync::Arc};

/// The best score.
pub const MAX: i64 = 100;

/// One resource of a node as it would be with the pod on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// What is asked for, the pod's part included.
    pub requested: i64,
    /// What the node offers; never zero.
    pub offered: i64,
    /// How much it counts beside the others.
    pub weight: i64,
}

/// How nodes are compared by their resources.
pub trait Strategy: Debug + Send + Sync {
    /// The name by which an operator picks it.
    fn name(&self) -> &'static str;

    /// How good a node is, from 0 to [`MAX`], with the pod on it.
    fn score(&self, uses: &[Use]) -> i64;

    /// Whether nodes take turns, whatever their scores.
    fn in_turn(&self) -> bool {
        false
    }

    /// Whether a pod that asks for nothing counts with what containers are assumed to use.
    fn assumes_requests(&self) -> bool {
        true
    }
}

/// All names that [`by_name`] knows.
pub const NAMES: [&str; 5] =
    ["RoundRobin", "LeastAllocated", "MostAllocated", "Balanced", "RequestedToCapacity"];

/// The strategy of a name. `RequestedToCapacityRatio` is Kubernetes' name of the last one.
pub fn by_name(name: &str) -> Option<Arc<dyn Strategy>> {
    Some(match name {
        "RoundRobin" => Arc::new(RoundRobin),
        "LeastAllocated" => Arc::new(LeastAllocated),
        "MostAllocated" => Arc::new(MostAllocated),
        "Balanced" => Arc::new(Balanced),
        "RequestedToCapacity" | "RequestedToCapacityRatio" => Arc::new(RequestedToCapacity::default()),
        _ => return None,
    })
}

/// The mean of a score of each resource, by weight.
fn mean(uses: &[Use], score: impl Fn(&Use) -> i64) -> i64 {
    let weights: i64 = uses.iter().map(|u| u.weight).sum();
    let sum: i64 = uses.iter().map(|u| score(u) * u.weight).sum();
    if weights == 0 { 0 } else { sum / weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(pairs: &[(i64, i64)]) -> Vec<Use> {
        pairs
            .iter()
            .map(|(requested, offered)| Use { requested: *requested, offered: *offered, weight: 1 })
            .collect()
    }

    #[test]
    fn each_strategy_likes_what_its_name_says() {
        let (empty, full, skewed) =
            (uses(&[(10, 100), (10, 100)]), uses(&[(90, 100), (90, 100)]), uses(&[(90, 100), (10, 100)]));
        for (name, scores) in [
            ("RoundRobin", [0, 0, 0]),
            ("LeastAllocated", [90, 10, 50]),
            ("MostAllocated", [10, 90, 50]),
            ("Balanced", [100, 100, 60]),
            ("RequestedToCapacity", [10, 90, 50]),
        ] {
            let strategy = by_name(name).unwrap();
            assert_eq!([&empty, &full, &skewed].map(|u| strategy.score(u)), scores, "{name}");
            assert_eq!((strategy.name(), strategy.in_turn()), (name, name == "RoundRobin"));
        }
        assert!(by_name("Random").is_none());
        assert!(NAMES.iter().all(|n| by_name(n).is_some_and(|s| s.name() == *n)));
    }

    #[test]
    fn weights_count_and_too_much_is_no_good() {
        let weighed =
            [Use { requested: 50, offered: 100, weight: 3 }, Use { requested: 0, offered: 10, weight: 1 }];
        assert_eq!(LeastAllocated.score(&weighed), (50 * 3 + 100) / 4);
        assert_eq!(LeastAllocated.score(&uses(&[(200, 100)])), 0);
        assert_eq!(MostAllocated.score(&uses(&[(200, 100)])), 100);
        assert_eq!(LeastAllocated.score(&[]), 0);
    }

    #[test]
    fn a_shape_of_utilization_bends_the_score() {
        let shape = |points: &[(i64, i64)]| {
            RequestedToCapacity::new(
                points.iter().map(|(u, s)| Utilization { utilization: *u, score: *s }).collect(),
            )
        };
        // Bin packing up to 80%, and away from what is fuller.
        let bend = shape(&[(0, 0), (80, 10), (100, 2)]);
        for (requested, want) in [(0, 0), (40, 50), (80, 100), (90, 60), (100, 20), (120, 20)] {
            assert_eq!(bend.score(&uses(&[(requested, 100)])), want, "{requested}");
        }
    }
}

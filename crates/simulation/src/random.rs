//! Numbers that look random and follow from a seed (SplitMix64). It never asks the machine for any.

use std::time::Duration;

/// A sequence of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// The hash of a text (FNV-1a): the same in every process, which std's hashers do not promise.
#[must_use]
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Random {
    /// The sequence of `seed` for one purpose: what one purpose draws changes nothing for another.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut sequence = Self(seed ^ hash(purpose));
        sequence.draw();
        sequence
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw().checked_rem(end).unwrap_or_default()
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True in `of_thousand` of 1,000 draws.
    pub fn chance(&mut self, of_thousand: u32) -> bool {
        self.below(1000) < u64::from(of_thousand)
    }

    /// A time from `first` to `last`, in whole milliseconds.
    pub fn time(&mut self, first: Duration, last: Duration) -> Duration {
        Duration::from_millis(self.between(millis(first), millis(last)))
    }

    /// One of several; `None` of none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.below(all.len() as u64);
        all.get(usize::try_from(at).unwrap_or_default())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_purpose_give_the_same_numbers_again_and_others_give_others() {
        let numbers = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            (0..8).map(|_| random.draw()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, "faults"), numbers(1, "faults"));
        assert_ne!(numbers(1, "faults"), numbers(2, "faults"));
        assert_ne!(numbers(1, "faults"), numbers(1, "uids"));
    }

    #[test]
    fn draws_stay_in_their_ranges_and_reach_both_ends() {
        let mut random = Random::new(7, "ranges");
        let drawn: std::collections::BTreeSet<u64> = (0..1000).map(|_| random.between(3, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        let often = (0..10_000).filter(|_| random.chance(100)).count();
        assert!((800..1200).contains(&often), "{often}");
        assert_eq!(random.below(0), 0);
    }
}

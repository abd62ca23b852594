//! How often pods in one place ended lately, so that one that ends again and again is replaced less and less often. Kept in memory
//! only: a process that starts anew begins without pauses.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::{collections::HashMap, time::Duration};

const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// The endings by owner (its uid) and place (a node, an ordinal).
pub(crate) struct Endings {
    /// The pause is doubled each time up to this, and forgotten after twice as long.
    longest: SignedDuration,
    last: Mutex<HashMap<(String, String), (Timestamp, SignedDuration)>>,
}

impl Endings {
    /// None so far.
    pub(crate) fn up_to(longest: SignedDuration) -> Self {
        Self { longest, last: Mutex::default() }
    }

    /// How long a pod that ended there still has to wait for its successor.
    pub(crate) fn pause(&self, owner: &str, place: &str, now: Timestamp) -> Option<Duration> {
        let (at, pause) = *self.last.lock().get(&(owner.to_string(), place.to_string()))?;
        let left = pause - now.duration_since(at);
        (left > SignedDuration::ZERO).then(|| left.unsigned_abs())
    }

    /// A pod there has ended, and is about to be replaced.
    pub(crate) fn note(&self, owner: &str, place: &str, now: Timestamp) {
        let mut last = self.last.lock();
        last.retain(|_, (at, _)| now.duration_since(*at) <= self.longest * 2);
        let entry = last.entry((owner.to_string(), place.to_string()));
        let entry = entry
            .and_modify(|(_, pause)| *pause = (*pause * 2).min(self.longest))
            .or_insert((now, FIRST_PAUSE));
        entry.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_is_forgotten_after_a_quiet_time() {
        let endings = Endings::up_to(SignedDuration::from_secs(4));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let pause = |now| endings.pause("set", "n1", at(now)).map_or(0, |p| p.as_secs());
        assert_eq!(pause(0), 0);
        for (now, want) in [(0, 1), (2, 2), (5, 4), (10, 4), (30, 1)] {
            endings.note("set", "n1", at(now));
            assert_eq!(pause(now), want, "at {now}");
        }
        assert_eq!(endings.pause("set", "n2", at(30)), None);
    }
}

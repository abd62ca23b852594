//! The crash-loop back-off of containers and image pulls: doubling from a first delay to a last, forgotten after twice
//! the last without a failure (client-go `flowcontrol.Backoff`). Time is handed in.

use jiff::Timestamp;
use std::time::Duration;

/// First delay of restarts and pulls.
pub(crate) const FIRST: Duration = Duration::from_secs(10);
/// Longest delay of restarts and pulls.
pub(crate) const LAST: Duration = Duration::from_secs(300);

/// The back-off of one container or one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BackOff {
    delay: Option<Duration>,
    updated: Option<Timestamp>,
}

impl BackOff {
    /// A back-off that has already failed `times` times: what an adopted container starts with.
    pub fn after_failures(times: u32, at: Timestamp) -> Self {
        let mut backoff = Self::default();
        for _ in 0..times.min(16) {
            backoff.next(at);
        }
        backoff
    }

    fn expired(&self, event: Timestamp) -> bool {
        self.updated.is_none_or(|updated| elapsed(updated, event) > LAST * 2)
    }

    /// The current delay and when it is over, if something that failed at `event` must still wait at `now`.
    pub fn waiting(&self, event: Timestamp, now: Timestamp) -> Option<(Duration, Timestamp)> {
        let delay = self.delay?;
        if self.expired(event) {
            return None;
        }
        let until = event + delay;
        (now < until).then_some((delay, until))
    }

    /// Takes note of a try at `now`: the next one waits longer.
    pub fn next(&mut self, now: Timestamp) {
        self.delay = Some(match self.delay {
            Some(delay) if !self.expired(now) => (delay * 2).min(LAST),
            _ => FIRST,
        });
        self.updated = Some(now);
    }
}

/// Time from `from` to `to`, zero if it is negative.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_first_restart_comes_at_once_and_later_ones_wait_ever_longer() {
        let mut backoff = BackOff::default();
        let mut now = at(1000);
        let mut delays = Vec::new();
        for _ in 0..8 {
            let crashed = now;
            if let Some((delay, until)) = backoff.waiting(crashed, now) {
                delays.push(delay.as_secs());
                now = until;
            } else {
                delays.push(0);
            }
            backoff.next(now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_make_it_forget() {
        let mut backoff = BackOff::after_failures(6, at(0));
        assert!(backoff.waiting(at(100), at(101)).is_some());
        assert!(backoff.waiting(at(601), at(602)).is_none());
        backoff.next(at(602));
        assert_eq!(backoff.waiting(at(603), at(604)).map(|(d, _)| d), Some(FIRST));
    }

    #[test]
    fn waiting_ends_when_the_delay_since_the_failure_is_over() {
        let backoff = BackOff::after_failures(1, at(0));
        assert_eq!(backoff.waiting(at(5), at(14)), Some((FIRST, at(15))));
        assert_eq!(backoff.waiting(at(5), at(15)), None);
    }
}

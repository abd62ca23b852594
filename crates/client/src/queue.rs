//! The work queue of a controller: each key at most once, never worked on twice at a time, retried with back-off.

use crate::informer::Key;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    /// When each delayed key is due: one entry a key, however often it is asked for.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl State {
    /// The earliest time asked for counts.
    fn delay(&mut self, key: Key, at: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.delayed.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    fn take_due(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.delayed.pop_first() else { return };
            self.due.remove(&key);
            if self.queued.insert(key.clone()) && !self.running.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

/// See the module. Clones share one queue.
#[derive(Clone, Default)]
pub struct Queue {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

impl Queue {
    /// Asks for work on a key.
    pub fn add(&self, key: Key) {
        let mut state = self.state.lock();
        if state.queued.insert(key.clone()) && !state.running.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Asks for work on a key after a while. Of several such wishes for one key the earliest counts.
    pub fn add_after(&self, key: Key, delay: Duration) {
        self.state.lock().delay(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// The next key to work on. Give it back with [`Queue::done`].
    pub async fn next(&self) -> Key {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                state.take_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on a key; what was asked for meanwhile is worked on next. `failed` asks for another try with back-off.
    pub fn done(&self, key: Key, failed: bool) {
        let mut state = self.state.lock();
        state.running.remove(&key);
        if failed {
            let failures = state.failures.entry(key.clone()).or_default();
            let delay = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
            *failures += 1;
            state.delay(key.clone(), Instant::now() + delay);
        } else {
            state.failures.remove(&key);
        }
        if state.queued.contains(&key) {
            state.ready.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_however_often_it_is_asked_for() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(queue.next().await, key("b"));
        let empty = tokio::time::timeout(Duration::from_secs(5), queue.next()).await;
        assert!(empty.is_err(), "nothing else was asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_asked_for_while_it_is_worked_on_comes_again_afterwards() {
        let queue = Queue::default();
        queue.add(key("a"));
        let a = queue.next().await;
        queue.add(key("a"));
        let early = tokio::time::timeout(Duration::from_secs(5), queue.next()).await;
        assert!(early.is_err(), "never twice at a time");
        queue.done(a, false);
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts_and_only_it() {
        let queue = Queue::default();
        for seconds in [30, 5, 60, 5] {
            queue.add_after(key("a"), Duration::from_secs(seconds));
        }
        let start = Instant::now();
        let a = queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(a, false);
        let later = tokio::time::timeout(Duration::from_secs(600), queue.next()).await;
        assert!(later.is_err(), "one wish, one turn");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off() {
        let queue = Queue::default();
        queue.add(key("a"));
        let start = Instant::now();
        for _ in 0..4 {
            let a = queue.next().await;
            queue.done(a, true);
        }
        queue.next().await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(5 + 10 + 20 + 40), "{waited:?}");
    }
}

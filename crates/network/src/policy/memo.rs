//! What the index remembers while it is in use: numbers that make names, and sets that are expensive to find out.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

/// Gives each key a number that no other key has or had.
pub(super) struct Numbers<K> {
    known: HashMap<K, u32>,
    used: HashSet<K>,
    last: u32,
}

impl<K: Clone + Eq + Hash> Numbers<K> {
    pub fn new() -> Self {
        Self { known: HashMap::new(), used: HashSet::new(), last: 0 }
    }

    /// The key's number.
    pub fn of(&mut self, key: &K) -> u32 {
        self.used.insert(key.clone());
        if let Some(number) = self.known.get(key) {
            return *number;
        }
        self.last += 1;
        self.known.insert(key.clone(), self.last);
        self.last
    }

    /// Forgets those that were not asked for since the last time.
    pub fn sweep(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|key, _| used.contains(key));
    }
}

/// What was found out for keys that are in use.
pub(super) struct Memo<K, V> {
    numbers: Numbers<K>,
    pub values: HashMap<K, V>,
    /// What was true of those that must be found out again: if it still is, it is the same object.
    pub before: HashMap<K, V>,
}

impl<K: Clone + Eq + Hash, V> Memo<K, V> {
    pub fn new() -> Self {
        Self { numbers: Numbers::new(), values: HashMap::new(), before: HashMap::new() }
    }

    /// The key's number.
    pub fn number(&mut self, key: &K) -> u32 {
        self.numbers.of(key)
    }

    /// Has what was found out for some keys found out again.
    pub fn forget(&mut self, touched: impl Fn(&K) -> bool) {
        let keys: Vec<K> = self.values.keys().filter(|key| touched(key)).cloned().collect();
        for key in keys {
            if let Some(value) = self.values.remove(&key) {
                self.before.insert(key, value);
            }
        }
    }

    /// Forgets what is about keys whose number was not asked for since the last time.
    pub fn sweep(&mut self) {
        self.numbers.sweep();
        let known = &self.numbers.known;
        self.values.retain(|key, _| known.contains_key(key));
        self.before.clear();
    }
}

/// What was there before, if it is the same.
pub(super) fn same_or_new<T: PartialEq>(before: Arc<T>, now: T) -> Arc<T> {
    if *before == now { before } else { Arc::new(now) }
}

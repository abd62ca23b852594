//! The live objects of one kind and the recent events about them. Readers share objects and events; a watcher holds only
//! where in the ring it stands, so that it costs nothing while it is slow. It never talks to the store.

use super::object::{Format, Object};
use orlop_api::Kind;
use orlop_store::{Change, Revision};
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Events of a kind are kept for resumption up to this many, …
const RING_EVENTS: usize = 16_384;
/// … this many bytes of objects, …
const RING_BYTES: usize = 32 << 20;
/// … and this long, but never fewer than [`RING_LEAST`].
const RING_AGE: Duration = Duration::from_secs(180);
const RING_LEAST: usize = 64;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// It was not there before.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the event carries its last state.
    Deleted,
}

impl EventKind {
    /// The `type` of a watch event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub kind: EventKind,
    pub object: Arc<Object>,
    /// What selectors saw before.
    pub previous: Option<Arc<Object>>,
    pub revision: Revision,
    at: Instant,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    /// The last revision that changed an object of the kind.
    changed: Revision,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// The number of the ring's first event, counted from the start of the process.
    first: u64,
    /// All events after this revision are in the ring.
    floor: Revision,
    /// Counts refills: a watcher of an older epoch must list anew.
    epoch: u64,
}

/// Under which the objects of a kind lie in the store: `/registry/GROUP/RESOURCE/`.
pub(crate) fn key_prefix(group: &str, plural: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{plural}/")
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct KindCache {
    /// The kind as it is stored.
    pub kind: Arc<Kind>,
    /// Whether objects of other versions stay as they are: who converts them cannot be asked here.
    keeps_versions: bool,
    /// The kind is gone, or its cache was replaced.
    closed: AtomicBool,
    /// `/registry/GROUP/RESOURCE/`.
    pub key_prefix: String,
    /// How a served object begins.
    pub body_prefix: String,
    state: RwLock<State>,
    signal: watch::Sender<u64>,
}

/// A place in the ring, from which a watcher goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    next: u64,
    epoch: u64,
}

/// The cursor's events are gone: the watcher fell behind, or the cache was filled anew.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// The oldest revision that a watch may start from.
    pub oldest: Revision,
}

/// Some or all objects, as they were together.
pub(crate) struct Snapshot {
    pub objects: Vec<Arc<Object>>,
    /// The last revision that changed the kind.
    pub changed: Revision,
    /// Where a watch that continues from here starts.
    pub cursor: Cursor,
}

impl KindCache {
    pub(crate) fn new(kind: Arc<Kind>) -> Self {
        Self::with_versions(kind, false)
    }

    /// A cache that, where `keeps_versions` says so, leaves objects in the version that they were written in.
    pub(crate) fn with_versions(kind: Arc<Kind>, keeps_versions: bool) -> Self {
        let key_prefix = key_prefix(&kind.group, &kind.plural);
        let body_prefix = super::codec::prefix(&kind);
        Self {
            kind,
            keeps_versions,
            closed: AtomicBool::new(false),
            key_prefix,
            body_prefix,
            state: RwLock::default(),
            signal: watch::Sender::new(0),
        }
    }

    /// Ends the watches: nothing feeds this cache any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.publish();
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The store's key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.kind.namespaced() {
            format!("{}{namespace}/{name}", self.key_prefix)
        } else {
            format!("{}{name}", self.key_prefix)
        }
    }

    /// Reads an entry of the store as an object of this kind.
    pub(crate) fn read(&self, entry: &orlop_store::Entry) -> Option<Object> {
        let format =
            Format { kind: &self.kind, prefix: &self.body_prefix, keeps_versions: self.keeps_versions };
        Object::read(&format, self.key_prefix.len() as u16, entry)
    }

    /// Replaces everything by what the store holds at `revision`. Watchers end.
    pub(crate) fn fill(&self, objects: Vec<Object>, revision: Revision) {
        let mut state = self.state.write();
        state.objects = objects.into_iter().map(|o| (o.key.clone(), Arc::new(o))).collect();
        state.changed = revision;
        state.first += state.ring.len() as u64;
        state.ring.clear();
        state.ring_bytes = 0;
        state.floor = revision;
        state.epoch += 1;
        drop(state);
        self.signal.send_modify(|n| *n += 1);
    }

    /// Takes in a change from the store.
    pub(crate) fn apply(&self, change: &Change, now: Instant) {
        let revision = change.entry.modified;
        let new = if change.deleted {
            None
        } else {
            let Some(object) = self.read(&change.entry) else {
                tracing::error!(key = %change.entry.key, "a value in the store is not an object; it is not shown");
                return;
            };
            Some(Arc::new(object))
        };
        let mut state = self.state.write();
        let previous = match &new {
            Some(object) => state.objects.insert(object.key.clone(), object.clone()),
            None => state.objects.remove(&change.entry.key),
        };
        state.changed = revision;
        let event = match (new, previous) {
            (Some(object), None) => {
                Event { kind: EventKind::Added, object, previous: None, revision, at: now }
            }
            (Some(object), previous) => {
                Event { kind: EventKind::Modified, object, previous, revision, at: now }
            }
            (None, Some(previous)) => {
                let object = Arc::new(previous.deleted(revision));
                Event { kind: EventKind::Deleted, object, previous: Some(previous), revision, at: now }
            }
            (None, None) => return,
        };
        state.push(event, now);
    }

    /// Tells watchers that [`KindCache::apply`] was called.
    pub(crate) fn publish(&self) {
        self.signal.send_modify(|n| *n += 1);
    }

    /// Forgets events that are too old to resume from.
    pub(crate) fn trim(&self, now: Instant) {
        self.state.write().trim(now);
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Objects whose key starts with `prefix` and sorts after `start_after`, at most `limit` (0: all) of those that `keep`.
    pub(crate) fn snapshot(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        keep: impl Fn(&Object) -> bool,
    ) -> Snapshot {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let start = match start_after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(prefix),
        };
        let state = self.state.read();
        let objects = state
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, object)| keep(object))
            .map(|(_, object)| object.clone())
            .take(limit)
            .collect();
        Snapshot { objects, changed: state.changed, cursor: state.end() }
    }

    /// How many keys start with `prefix` and sort after `after`.
    pub(crate) fn count_after(&self, prefix: &str, after: &str) -> usize {
        // No key has a character beyond this one.
        let end = format!("{prefix}\u{10ffff}");
        let range = (Bound::Excluded(after), Bound::Excluded(end.as_str()));
        self.state.read().objects.range::<str, _>(range).count()
    }

    /// The last revision that changed the kind.
    pub(crate) fn changed(&self) -> Revision {
        self.state.read().changed
    }

    /// Where a watch for events after `revision` starts.
    pub(crate) fn cursor_after(&self, revision: Revision) -> Result<Cursor, Gone> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(Gone { oldest: state.floor });
        }
        let skip = state.ring.partition_point(|e| e.revision <= revision) as u64;
        Ok(Cursor { next: state.first + skip, epoch: state.epoch })
    }

    /// Puts the next events, at most `limit` and no more than one beyond so many `bytes` of objects, into `out` and moves the
    /// cursor behind them. Tells whether those were all.
    pub(crate) fn events(
        &self,
        cursor: &mut Cursor,
        limit: usize,
        bytes: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<bool, Gone> {
        let state = self.state.read();
        if cursor.epoch != state.epoch || cursor.next < state.first {
            return Err(Gone { oldest: state.floor });
        }
        let skip = (cursor.next - state.first) as usize;
        let mut taken = 0;
        for event in state.ring.iter().skip(skip).take(limit) {
            out.push(event.clone());
            cursor.next += 1;
            taken += event.object.size();
            if taken >= bytes {
                break;
            }
        }
        Ok(cursor.next == state.end().next)
    }

    /// Changes whenever there may be new events.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.signal.subscribe()
    }

    /// How many watchers there are.
    pub(crate) fn watchers(&self) -> usize {
        self.signal.receiver_count()
    }
}

impl State {
    fn end(&self) -> Cursor {
        Cursor { next: self.first + self.ring.len() as u64, epoch: self.epoch }
    }

    fn push(&mut self, event: Event, now: Instant) {
        self.ring_bytes += event.object.size();
        self.ring.push_back(Arc::new(event));
        self.trim(now);
    }

    fn trim(&mut self, now: Instant) {
        while self.ring.len() > RING_LEAST {
            let Some(oldest) = self.ring.front() else { break };
            let full = self.ring.len() > RING_EVENTS || self.ring_bytes > RING_BYTES;
            if !full && now.saturating_duration_since(oldest.at) < RING_AGE {
                break;
            }
            self.floor = oldest.revision;
            self.ring_bytes -= oldest.object.size();
            self.ring.pop_front();
            self.first += 1;
        }
    }
}

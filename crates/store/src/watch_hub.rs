//! Tells watchers that something under their prefix has happened.
//!
//! The history is the queue: a watcher holds only where it stands, and the hub notes the first revision that it has not
//! seen. So an event is shared by all who watch it, a slow watcher costs nothing and blocks nobody, and one that falls
//! behind further than history goes learns so. The hub never holds events and never waits for a watcher.

use crate::{Error, Revision, Watch, WatchBatch};
use futures::{Stream, task::AtomicWaker};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// How many batches a watcher takes from history at once.
const TAKE: usize = 64;

/// Where watchers read what happened.
pub(crate) trait History: Send + Sync + 'static {
    /// Puts the changes under `prefix` from revision `from` on into `out`, at most about `limit` batches. Returns the last
    /// revision looked at and the newest there is.
    fn changes(
        &self,
        prefix: &str,
        from: Revision,
        limit: usize,
        out: &mut VecDeque<Arc<WatchBatch>>,
    ) -> Result<(Revision, Revision), Error>;
}

/// All watchers of a store.
#[derive(Debug, Default)]
pub(crate) struct WatchHub {
    slots: RwLock<Vec<Arc<Slot>>>,
    closed: AtomicBool,
}

/// What the hub and one watcher share.
#[derive(Debug)]
struct Slot {
    prefix: Box<str>,
    standing: Mutex<Standing>,
    waker: AtomicWaker,
}

/// Where a watcher stands.
#[derive(Debug, Default)]
struct Standing {
    /// It has looked at everything up to here. That may be more than has been published.
    seen: Revision,
    /// The first revision of interest after that, and the last one known.
    pending: Option<(Revision, Revision)>,
}

impl Standing {
    /// Something of interest happened, first at `first` and last at `last`.
    fn note(&mut self, first: Revision, last: Revision) {
        if last > self.seen {
            let first = self.pending.map_or(first, |(known, _)| known);
            self.pending = Some((first.max(Revision(self.seen.0 + 1)), last));
        }
    }

    /// The watcher has looked at everything up to `to`.
    fn look(&mut self, to: Revision) {
        self.seen = self.seen.max(to);
        if let Some((first, last)) = self.pending.take() {
            self.note(first, last);
        }
    }
}

impl WatchHub {
    /// Wakes those who watch a key of these batches. They must be readable in the history already.
    pub(crate) fn publish(&self, batches: &[Arc<WatchBatch>]) {
        // Woken when no lock is held: what a waker does is its owner's business.
        let mut wakers = Vec::new();
        for slot in self.slots.read().iter() {
            let concerns = |batch: &&Arc<WatchBatch>| {
                batch.changes.iter().any(|c| c.entry.key.starts_with(&*slot.prefix))
            };
            let Some(first) = batches.iter().find(concerns) else { continue };
            let last = batches.iter().rfind(concerns).unwrap_or(first);
            slot.standing.lock().note(first.revision, last.revision);
            wakers.extend(slot.waker.take());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends every watch once it has delivered what there is.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let wakers: Vec<_> = self.slots.read().iter().filter_map(|slot| slot.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A watch of `prefix` after the revision `after`.
    pub(crate) fn watch<H: History>(
        self: &Arc<Self>,
        history: Arc<H>,
        prefix: &str,
        after: Revision,
    ) -> Watch {
        let slot =
            Arc::new(Slot { prefix: prefix.into(), standing: Mutex::default(), waker: AtomicWaker::new() });
        self.slots.write().push(slot.clone());
        Box::pin(Watcher {
            hub: self.clone(),
            history,
            slot,
            resume: Some(Revision(after.0 + 1)),
            ready: VecDeque::new(),
            ended: false,
        })
    }
}

struct Watcher<H> {
    hub: Arc<WatchHub>,
    history: Arc<H>,
    slot: Arc<Slot>,
    /// Where to go on reading, if the last look did not reach the newest revision.
    resume: Option<Revision>,
    ready: VecDeque<Arc<WatchBatch>>,
    ended: bool,
}

impl<H: History> Stream for Watcher<H> {
    type Item = Result<Arc<WatchBatch>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(batch) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            this.slot.waker.register(cx.waker());
            let closed = this.hub.closed.load(Ordering::Acquire);
            let from = match this.resume.take() {
                Some(from) => from,
                None => match this.slot.standing.lock().pending {
                    Some((first, _)) => first,
                    None if closed => {
                        this.ended = true;
                        return Poll::Ready(Some(Err(Error::Closed)));
                    }
                    None => return Poll::Pending,
                },
            };
            match this.history.changes(&this.slot.prefix, from, TAKE, &mut this.ready) {
                Ok((looked, newest)) => {
                    this.slot.standing.lock().look(looked);
                    this.resume = (looked < newest).then_some(Revision(looked.0 + 1));
                }
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl<H> Drop for Watcher<H> {
    fn drop(&mut self) {
        self.hub.slots.write().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(seen: u64, pending: Option<(u64, u64)>) -> (Revision, Option<(Revision, Revision)>) {
        (Revision(seen), pending.map(|(a, b)| (Revision(a), Revision(b))))
    }

    #[test]
    fn a_watcher_is_told_of_each_revision_once_however_looks_and_news_interleave() {
        enum Step {
            News(u64, u64),
            Look(u64),
        }
        use Step::{Look, News};
        let cases: &[(&[Step], _)] = &[
            (&[News(3, 5)], standing(0, Some((3, 5)))),
            (&[News(3, 5), News(8, 9)], standing(0, Some((3, 9)))),
            (&[News(3, 5), Look(5)], standing(5, None)),
            (&[News(3, 5), Look(4)], standing(4, Some((5, 5)))),
            // The watcher reads what is applied before it is published.
            (&[Look(5), News(3, 5)], standing(5, None)),
            (&[Look(4), News(3, 5)], standing(4, Some((5, 5)))),
            // Quiet for long: where it stands is where something of interest happened, not where it last looked.
            (&[Look(1), News(900, 900)], standing(1, Some((900, 900)))),
            (&[News(2, 2), Look(2), News(900, 901)], standing(2, Some((900, 901)))),
        ];
        for (i, (steps, expected)) in cases.iter().enumerate() {
            let mut standing = Standing::default();
            for step in *steps {
                match step {
                    News(first, last) => standing.note(Revision(*first), Revision(*last)),
                    Look(to) => standing.look(Revision(*to)),
                }
            }
            assert_eq!((standing.seen, standing.pending), *expected, "case {i}");
        }
    }
}

//! A watch on etcd that outlives the members it is read from: whatever breaks, it goes on after what it has told.
//!
//! It reads all keys of etcd, not only those under its prefix, and tells of revisions that changed nothing there by a batch
//! without changes: so whoever waits for a revision sees it pass, whoever wrote it. (etcd's own progress notifications may
//! overtake events before 3.4.25, so they are of no use here.)

use super::{
    Shared,
    link::Moved,
    translate::{self, Gone},
    wire::{Event, WatchCreateRequest, WatchRequest, WatchResponse},
};
use crate::{Error, Revision, Watch, WatchBatch};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tonic::Streaming;

/// Batches that wait for who watches. One who falls further behind is read for again from history, when they get there.
const AHEAD: usize = 1024;
/// Before a watch that broke is opened again.
const PAUSE: Duration = Duration::from_millis(100);

type Item = Result<Arc<WatchBatch>, Error>;

/// Starts a watch of `prefix` after the revision `after`, which can be read.
pub(super) fn start(shared: Arc<Shared>, prefix: &str, after: Revision) -> Watch {
    let (tell, told) = mpsc::channel(AHEAD);
    let watcher = Watcher { shared, tell, fold: Fold::new(prefix, after) };
    tokio::spawn(watcher.run());
    stream::unfold(told, |mut told| async { told.recv().await.map(|item| (item, told)) }).boxed()
}

struct Watcher {
    shared: Arc<Shared>,
    tell: mpsc::Sender<Item>,
    fold: Fold,
}

/// Why reading from one member ended.
enum End {
    /// Open the watch again.
    Broken,
    /// Whoever watches is behind: open it again when they have taken this.
    Behind(Arc<WatchBatch>),
    /// Whoever watches is told, and that was all.
    Failed(Error),
}

impl Watcher {
    async fn run(mut self) {
        let (closing, dropped) = (self.shared.closing.clone(), self.tell.clone());
        tokio::select! {
            biased;
            () = dropped.closed() => {}
            () = closing.cancelled() => {
                let _ = dropped.send(Err(Error::Closed)).await;
            }
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            let end = match self.shared.link.watch(self.fold.request()).await {
                Ok((messages, moved)) => self.read(messages, moved).await,
                Err(Error::Unreachable { .. }) => End::Broken,
                Err(error) => End::Failed(error),
            };
            match end {
                End::Broken => tokio::time::sleep(PAUSE).await,
                End::Behind(batch) => {
                    if self.tell.send(Ok(batch)).await.is_err() {
                        return;
                    }
                }
                End::Failed(error) => {
                    let _ = self.tell.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    async fn read(&mut self, mut messages: Streaming<WatchResponse>, mut moved: Moved) -> End {
        self.fold.begin();
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                () = moved.wait() => return End::Broken,
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return End::Broken,
                Err(status) => {
                    self.shared.link.leave(moved.member(), status.message());
                    return End::Broken;
                }
            };
            if response.canceled && response.compact_revision == 0 {
                self.shared.link.leave(moved.member(), &response.cancel_reason);
                return End::Broken;
            }
            let batches = match self.fold.take(response) {
                Ok(batches) => batches,
                Err(Lost::Compacted { oldest }) => {
                    return End::Failed(Error::Compacted { requested: self.fold.told, oldest });
                }
                Err(Lost::Previous) => {
                    return End::Failed(self.shared.compacted(self.fold.told).await);
                }
            };
            for batch in batches {
                let revision = batch.revision;
                match self.tell.try_send(Ok(batch)) {
                    Ok(()) => self.fold.told = revision,
                    Err(mpsc::error::TrySendError::Full(Ok(batch))) => {
                        self.fold.told = revision;
                        return End::Behind(batch);
                    }
                    // Nobody listens any more; `run` sees it too.
                    Err(_) => return End::Failed(Error::Closed),
                }
            }
        }
    }
}

/// What can no longer be told.
#[derive(Debug, PartialEq, Eq)]
enum Lost {
    /// etcd has ended the watch.
    Compacted { oldest: Revision },
    /// What was there before a change is gone.
    Previous,
}

/// Makes batches of what etcd sends. It asks again for the last revision that it has told, and skips it: so etcd refuses
/// where that one has been compacted, with deletions of which nothing is left.
struct Fold {
    prefix: String,
    told: Revision,
    /// Of a message that comes in fragments.
    events: Vec<Event>,
}

impl Fold {
    fn new(prefix: &str, after: Revision) -> Self {
        Self { prefix: prefix.to_string(), told: after, events: Vec::new() }
    }

    fn request(&self) -> WatchRequest {
        let all = Bytes::from_static(b"\0");
        let start_revision = translate::number(self.told).max(1);
        let create = WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision,
            prev_kv: true,
            fragment: true,
        };
        WatchRequest { create: Some(create) }
    }

    /// A new stream begins: what the last one left half said is said again.
    fn begin(&mut self) {
        self.events.clear();
    }

    fn take(&mut self, response: WatchResponse) -> Result<Vec<Arc<WatchBatch>>, Lost> {
        if response.canceled {
            return Err(Lost::Compacted { oldest: translate::revision(response.compact_revision) });
        }
        self.events.extend(response.events);
        if response.fragment {
            return Ok(Vec::new());
        }
        let mut batches: Vec<WatchBatch> = Vec::new();
        for event in std::mem::take(&mut self.events) {
            let at = event.kv.as_ref().map(|kv| translate::revision(kv.mod_revision)).unwrap_or_default();
            if at <= self.told {
                continue;
            }
            if batches.last().is_none_or(|batch| batch.revision != at) {
                batches.push(WatchBatch { revision: at, changes: Vec::new() });
            }
            let concerned = event.kv.as_ref().is_some_and(|kv| kv.key.starts_with(self.prefix.as_bytes()));
            if concerned
                && let Some(change) = translate::change(event).map_err(|Gone| Lost::Previous)?
                && let Some(batch) = batches.last_mut()
            {
                batch.changes.push(change);
            }
        }
        Ok(batches.into_iter().map(Arc::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::KeyValue, *};

    fn put(key: &str, at: i64) -> Event {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let kv = KeyValue { key, create_revision: at, mod_revision: at, version: 1, value: Bytes::new() };
        Event { kind: 0, kv: Some(kv), prev_kv: None }
    }

    fn message(events: Vec<Event>, fragment: bool) -> WatchResponse {
        WatchResponse { events, fragment, ..WatchResponse::default() }
    }

    fn shown(batches: &[Arc<WatchBatch>]) -> Vec<(u64, Vec<&str>)> {
        batches.iter().map(|b| (b.revision.0, b.changes.iter().map(|c| &*c.entry.key).collect())).collect()
    }

    #[test]
    fn events_become_one_batch_a_revision_and_others_only_tell_that_it_passed() {
        let mut fold = Fold::new("/s/", Revision(4));
        assert_eq!(fold.request().create.unwrap().start_revision, 4);
        let events = vec![put("/s/told", 4), put("/s/b", 5), put("/s/a", 5), put("/t/x", 6), put("/s/c", 7)];
        let batches = fold.take(message(events, false)).unwrap();
        assert_eq!(shown(&batches), [(5, vec!["/s/b", "/s/a"]), (6, vec![]), (7, vec!["/s/c"])]);
    }

    #[test]
    fn fragments_are_put_together_and_those_of_a_broken_stream_forgotten() {
        let mut fold = Fold::new("/s/", Revision(4));
        assert!(fold.take(message(vec![put("/s/a", 5)], true)).unwrap().is_empty());
        fold.begin();
        assert!(fold.take(message(vec![put("/s/a", 5)], true)).unwrap().is_empty());
        let batches = fold.take(message(vec![put("/s/b", 5)], false)).unwrap();
        assert_eq!(shown(&batches), [(5, vec!["/s/a", "/s/b"])]);
    }

    #[test]
    fn a_compacted_watch_and_a_change_of_something_forgotten_end_it() {
        let mut fold = Fold::new("/s/", Revision(4));
        let canceled = WatchResponse { canceled: true, compact_revision: 9, ..WatchResponse::default() };
        assert_eq!(fold.take(canceled), Err(Lost::Compacted { oldest: Revision(9) }));
        let mut update = put("/s/a", 5);
        update.kv.as_mut().unwrap().create_revision = 2;
        assert_eq!(fold.take(message(vec![update], false)), Err(Lost::Previous));
    }
}

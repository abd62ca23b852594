//! Watches: a stream of events, one JSON document a line (Kubernetes documentation, "API Concepts", "Efficient detection
//! of changes"). A watcher holds a place in the kind's ring and nothing else; each batch of events is one chunk.

use super::{
    Registry, Resource, Versions,
    selection::Selection,
    table::{self, Shape},
};
use crate::{
    cache::{
        kind_cache::{Cursor, Event, EventKind, Gone},
        object::Object,
    },
    request::ListOptions,
};
use bytes::Bytes;
use futures::Stream;
use orlop_api::Status;
use orlop_store::Revision;
use serde_json::json;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How many events are looked at in one go.
const BATCH: usize = 256;
/// A chunk is sent when it is this large.
const CHUNK: usize = 64 << 10;
/// How often somebody who asked for bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(60);
/// Watches without a timeout end after this to twice this, so that they spread.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1800);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A running watch.
struct Watcher {
    registry: Arc<Registry>,
    resource: Arc<Resource>,
    selection: Selection,
    shape: Shape,
    bookmarks: bool,
    signal: watch::Receiver<u64>,
    cursor: Cursor,
    /// Events up to here are not shown: the client knows them, or they have not happened yet.
    start: Revision,
    /// What the initial objects show.
    initial_revision: Revision,
    /// Objects that are there already and must be shown first.
    initial: VecDeque<Arc<Object>>,
    /// Whether the end of the initial objects must be told.
    tell_initial_end: bool,
    columns_told: bool,
    /// Events whose objects must be converted before they are shown.
    pending: Vec<Change>,
    deadline: Instant,
    next_bookmark: Instant,
    stop: CancellationToken,
    ended: bool,
}

/// An event about stored objects, as the stored form lets it be seen.
struct Change {
    kind: EventKind,
    object: Arc<Object>,
    /// What was selected before, in the event's revision; only where the selection looks at shown fields.
    before: Option<Arc<Object>>,
}

impl Registry {
    /// Starts a watch.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        selection: Selection,
        options: &ListOptions,
        shape: Shape,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = Result<Bytes, BoxError>> + Send + use<>, Status> {
        let cache = &resource.cache;
        let signal = cache.subscribe();
        let wanted = options.resource_version.unwrap_or(0);
        // Without a version, or with 0, a watch starts with what is there; `sendInitialEvents` decides if it is given.
        let initially = options.send_initial_events.unwrap_or(wanted == 0);
        let mut gone = None;
        let mut initial_revision = Revision(0);
        let (initial, cursor, start) = if initially {
            match options.resource_version {
                None => self.catch_up().await?,
                Some(version) => self.wait_fresh(Revision(version)).await?,
            }
            // Read before the snapshot: the snapshot shows at least this.
            let applied = self.caches.applied();
            let shown = cache.snapshot(&selection.prefix, None, 0, |o| selection.selects(o));
            initial_revision = applied.max(shown.changed);
            (shown.objects.into(), shown.cursor, Revision(0))
        } else if wanted == 0 {
            self.catch_up().await?;
            let shown = cache.snapshot(&selection.prefix, None, 1, |_| false);
            (VecDeque::new(), shown.cursor, Revision(0))
        } else if self.wait_fresh(Revision(wanted)).await.is_err() {
            // It will not come: the state was moved or restored since. Who begins anew finds out what there is.
            gone = Some(expired(wanted, self.caches.applied()));
            let shown = cache.snapshot(&selection.prefix, None, 1, |_| false);
            (VecDeque::new(), shown.cursor, Revision(0))
        } else {
            match cache.cursor_after(Revision(wanted)) {
                Ok(cursor) => (VecDeque::new(), cursor, Revision(wanted)),
                Err(Gone { oldest }) => {
                    gone = Some(expired(wanted, oldest));
                    let shown = cache.snapshot(&selection.prefix, None, 1, |_| false);
                    (VecDeque::new(), shown.cursor, Revision(0))
                }
            }
        };
        let now = Instant::now();
        let timeout = options.timeout.unwrap_or_else(|| {
            let beyond = LEAST_TIMEOUT.as_millis() as u64;
            LEAST_TIMEOUT + Duration::from_millis((self.random)() as u64 % beyond)
        });
        let watcher = Watcher {
            registry: self.clone(),
            resource: resource.clone(),
            selection,
            shape,
            bookmarks: options.bookmarks,
            signal,
            cursor,
            start,
            initial_revision,
            initial,
            tell_initial_end: options.send_initial_events == Some(true) && options.bookmarks,
            columns_told: false,
            pending: Vec::new(),
            deadline: now + timeout,
            next_bookmark: now + BOOKMARK,
            stop,
            ended: false,
        };
        Ok(futures::stream::unfold((watcher, gone), |(mut watcher, gone)| async move {
            if watcher.ended {
                return None;
            }
            let chunk = match gone {
                Some(status) => {
                    watcher.ended = true;
                    Some(error_line(&status))
                }
                None => watcher.next().await,
            };
            chunk.map(|chunk| (Ok(chunk), (watcher, None)))
        }))
    }
}

/// What a watcher is told whose events are gone.
fn expired(wanted: u64, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {wanted} ({oldest})"))
}

fn error_line(status: &Status) -> Bytes {
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status.to_json()).into()
}

impl Watcher {
    /// The next chunk, or `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        loop {
            self.take_initial(&mut out);
            if let Err(status) = self.convert(&mut out).await {
                return self.broken(out, &status);
            }
            if self.initial.is_empty() {
                // Read first: everything up to here is in the ring when the ring is read.
                let applied = self.registry.caches.applied();
                if self.tell_initial_end {
                    self.tell_initial_end = false;
                    self.bookmark(self.initial_revision, true, &mut out);
                }
                let caught_up = match self.take_events(&mut out) {
                    Ok(caught_up) => caught_up,
                    Err(Gone { oldest }) => {
                        let status = expired(self.start.0, oldest);
                        return self.broken(out, &status);
                    }
                };
                if let Err(status) = self.convert(&mut out).await {
                    return self.broken(out, &status);
                }
                if caught_up && self.bookmarks && Instant::now() >= self.next_bookmark {
                    self.bookmark(applied, false, &mut out);
                }
                if !caught_up && out.is_empty() {
                    continue;
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            if self.resource.cache.is_closed() || self.resource.is_retired() || !self.wait().await {
                return None;
            }
        }
    }

    /// The end of a watch that cannot go on.
    fn broken(&mut self, mut out: Vec<u8>, status: &Status) -> Option<Bytes> {
        out.extend_from_slice(&error_line(status));
        self.ended = true;
        Some(out.into())
    }

    /// Appends what had to be converted first.
    async fn convert(&mut self, out: &mut Vec<u8>) -> Result<(), Status> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = self.pending.drain(..).collect();
        let stored = changes.iter().flat_map(|c| [Some(c.object.clone()), c.before.clone()]).flatten();
        let mut shown = self.resource.show(stored.collect()).await?.into_iter();
        for change in changes {
            let Some(object) = shown.next() else { break };
            let before = change.before.and_then(|_| shown.next());
            if !self.selection.looks_at_shown() {
                self.write(change.kind, &object, out);
                continue;
            }
            let selects = |object: &Object| self.selection.selects_shown(&self.resource, object);
            let was = before.filter(|before| selects(before));
            let is = change.kind != EventKind::Deleted && selects(&object);
            match (was, is) {
                (None, false) => {}
                (None, true) => self.write(EventKind::Added, &object, out),
                (Some(_), true) => self.write(EventKind::Modified, &object, out),
                (Some(last), false) => self.write(EventKind::Deleted, &last, out),
            }
        }
        Ok(())
    }

    /// Waits until there may be something to tell; false when the watch is over.
    async fn wait(&mut self) -> bool {
        let bookmark = if self.bookmarks { self.next_bookmark } else { self.deadline };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            changed = self.signal.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(self.deadline) => false,
            () = tokio::time::sleep_until(bookmark) => true,
        }
    }

    fn take_initial(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK && self.pending.len() < BATCH {
            let Some(object) = self.initial.pop_front() else { break };
            self.line(EventKind::Added, &object, None, out);
        }
    }

    /// Appends what is new; false where there is more.
    fn take_events(&mut self, out: &mut Vec<u8>) -> Result<bool, Gone> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        self.signal.mark_unchanged();
        let all = self.resource.cache.events(&mut self.cursor, BATCH, CHUNK, &mut events)?;
        for event in events {
            if event.revision <= self.start {
                continue;
            }
            match self.selection.sees(&event) {
                // It left the selection: what is shown is its last state in it, with the revision that took it away.
                Some(EventKind::Deleted) if event.kind != EventKind::Deleted => {
                    let Some(previous) = &event.previous else { continue };
                    let last = Arc::new(previous.deleted(event.revision));
                    self.line(EventKind::Deleted, &last, Some(previous), out);
                }
                Some(kind) => {
                    let seen = event.previous.as_ref().filter(|_| kind != EventKind::Added);
                    self.line(kind, &event.object, seen, out);
                }
                None => {}
            }
        }
        Ok(all)
    }

    /// Tells an event now, or after conversion. `previous` is what was selected before.
    fn line(
        &mut self,
        kind: EventKind,
        object: &Arc<Object>,
        previous: Option<&Arc<Object>>,
        out: &mut Vec<u8>,
    ) {
        match self.resource.versions {
            Versions::Stored => self.write(kind, object, out),
            _ => {
                let previous = previous.filter(|_| self.selection.looks_at_shown());
                let before = previous.map(|p| Arc::new(p.deleted(object.revision)));
                self.pending.push(Change { kind, object: object.clone(), before });
            }
        }
    }

    fn write(&mut self, kind: EventKind, object: &Object, out: &mut Vec<u8>) {
        out.reserve(object.size() + 40);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.name().as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        table::event(&self.resource.kind, object, self.shape, !self.columns_told, out);
        self.columns_told = true;
        out.extend_from_slice(b"}\n");
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool, out: &mut Vec<u8>) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        let kind = &self.resource.kind;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let meta = self.shape.meta.api_version();
        let object = match self.shape.form {
            crate::request::Form::Whole => {
                json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
            }
            crate::request::Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": meta, "metadata": metadata})
            }
            crate::request::Form::Table => json!({
                "kind": "Table", "apiVersion": meta, "columnDefinitions": null,
                "metadata": {"resourceVersion": revision.to_string()},
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": meta, "metadata": metadata,
                }}],
            }),
        };
        out.extend_from_slice(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").as_bytes());
    }
}

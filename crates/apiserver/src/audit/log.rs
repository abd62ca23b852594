//! Writes the audit log, in a thread of its own, and hands its lines to the webhook. What waits to be written is bounded: a request waits a moment for room, and what
//! finds none is dropped, counted and complained about. Never decides what is written.

use super::{Destination, event::Entry, rotation::Aside, webhook::Outbox};
use crate::{metrics::AuditCounters, registry::Clock};
use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel},
    oneshot,
};

/// How long a request waits for room.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How much may wait to be written, in KiB.
const ROOM: usize = 64 << 10;
/// How long the end of the server waits for what is not written yet.
const LAST: Duration = Duration::from_secs(5);

enum Message {
    Entry(Box<Entry>, OwnedSemaphorePermit),
    Flush(oneshot::Sender<()>),
}

/// The way to the thread that writes.
pub(super) struct Log {
    messages: UnboundedSender<Message>,
    outbox: Option<Outbox>,
    room: Arc<Semaphore>,
    counters: AuditCounters,
}

/// How much of the room an entry takes.
fn share(entry: &Entry) -> u32 {
    u32::try_from((entry.size() >> 10).clamp(1, ROOM)).unwrap_or(u32::MAX)
}

impl Log {
    pub(super) fn open(
        destination: Option<Destination>,
        outbox: Option<Outbox>,
        clock: Clock,
        counters: AuditCounters,
    ) -> io::Result<Self> {
        let (messages, received) = unbounded_channel();
        let to = To::open(destination, clock)?;
        let mut writer = Writer { to, outbox: outbox.clone(), counters: counters.clone(), failing: false };
        std::thread::Builder::new().name("audit-log".into()).spawn(move || writer.run(received))?;
        Ok(Self { messages, outbox, room: Arc::new(Semaphore::new(ROOM)), counters })
    }

    fn pass(&self, entry: Entry, room: OwnedSemaphorePermit) {
        self.counters.events.inc();
        if self.messages.send(Message::Entry(Box::new(entry), room)).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        self.counters.lost();
        tracing::error!("an audit event was dropped: the log is not written as fast as requests come");
    }

    /// Hands over an entry, waiting a moment for room.
    pub(super) async fn write(&self, entry: Entry) {
        let share = share(&entry);
        if let Ok(room) = self.room.clone().try_acquire_many_owned(share) {
            return self.pass(entry, room);
        }
        match tokio::time::timeout(PATIENCE, self.room.clone().acquire_many_owned(share)).await {
            Ok(Ok(room)) => self.pass(entry, room),
            _ => self.lose(),
        }
    }

    /// Hands over an entry where nothing can wait.
    pub(super) fn write_or_defer(&self, entry: Entry) {
        match self.room.clone().try_acquire_many_owned(share(&entry)) {
            Ok(room) => self.pass(entry, room),
            Err(_) => self.lose(),
        }
    }

    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.messages.send(Message::Flush(done)).is_ok() {
            let _ = tokio::time::timeout(LAST, wait).await;
        }
        if let Some(outbox) = &self.outbox {
            let _ = tokio::time::timeout(LAST, outbox.flush()).await;
        }
    }
}

enum To {
    Nowhere,
    Stdout(BufWriter<io::Stdout>),
    File(Box<Aside>),
}

impl To {
    fn open(destination: Option<Destination>, clock: Clock) -> io::Result<Self> {
        Ok(match destination {
            None => Self::Nowhere,
            Some(Destination::Stdout) => Self::Stdout(BufWriter::new(io::stdout())),
            Some(Destination::File { path, rotation }) => {
                Self::File(Box::new(Aside::open(path, rotation, clock)?))
            }
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout(out) => out.write_all(line),
            Self::File(file) => file.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

struct Writer {
    to: To,
    outbox: Option<Outbox>,
    counters: AuditCounters,
    failing: bool,
}

impl Writer {
    fn run(&mut self, mut messages: UnboundedReceiver<Message>) {
        while let Some(mut message) = messages.blocking_recv() {
            loop {
                match message {
                    Message::Entry(entry, room) => {
                        let line = entry.line();
                        let outcome = self.to.write(&line);
                        self.report(outcome);
                        if let Some(outbox) = &self.outbox {
                            outbox.put(&line);
                        }
                        drop(room);
                    }
                    Message::Flush(done) => {
                        let outcome = self.to.flush();
                        self.report(outcome);
                        let _ = done.send(());
                    }
                }
                message = match messages.try_recv() {
                    Ok(next) => next,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                };
            }
            // Nothing waits: what was written should be seen.
            let outcome = self.to.flush();
            self.report(outcome);
        }
    }

    /// Complains once when writing begins to fail, and counts each failure.
    fn report(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.counters.lost();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "writing the audit log failed");
                }
            }
        }
    }
}

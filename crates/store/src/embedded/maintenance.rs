//! The store's housekeeping, on a thread of its own: compacts history by the policy, writes checkpoints, and keeps the
//! next log segment ready. Nothing here is needed for a commit to succeed while there is space.

use super::{Shared, checkpoint, folder::Folder};
use crate::Error;
use parking_lot::{Condvar, Mutex};
use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How many revisions are forgotten at once, while commits wait.
const FORGET: usize = 512;
/// After a failed checkpoint the next one is tried so much later.
const RETRY: Duration = Duration::from_secs(30);

/// Tells the maintenance thread what happens.
#[derive(Default)]
pub(crate) struct Signal {
    told: Mutex<Told>,
    wake: Condvar,
}

#[derive(Default)]
struct Told {
    stop: bool,
    /// History has been compacted by hand, or the log has grown by a segment.
    work: bool,
}

impl Signal {
    /// Ends the thread soon, also in the middle of a checkpoint.
    pub(crate) fn stop(&self) {
        self.told.lock().stop = true;
        self.wake.notify_one();
    }

    /// Asks for a round before the next one is due.
    pub(crate) fn nudge(&self) {
        self.told.lock().work = true;
        self.wake.notify_one();
    }

    fn stopping(&self) -> bool {
        self.told.lock().stop
    }

    /// Waits for work, a stop or the time; false on a stop.
    fn wait(&self, time: Duration) -> bool {
        let mut told = self.told.lock();
        if !told.stop && !told.work {
            self.wake.wait_for(&mut told, time);
        }
        told.work = false;
        !told.stop
    }
}

/// Starts the maintenance thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    signal: Arc<Signal>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("store-upkeep".into()).spawn(move || {
        let mut upkeep = Upkeep { shared, folder, signal, retry_at: None, spare_failed: false };
        loop {
            upkeep.round();
            if !upkeep.signal.wait(upkeep.shared.options.maintenance_interval) {
                break;
            }
        }
    })
}

struct Upkeep {
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    signal: Arc<Signal>,
    retry_at: Option<Instant>,
    spare_failed: bool,
}

impl Upkeep {
    fn round(&mut self) {
        self.prepare_spare();
        compact(&self.shared);
        if self.checkpoint_is_due() {
            self.checkpoint();
        }
    }

    fn prepare_spare(&mut self) {
        let prepared = self.folder.prepare_spare();
        if let (Err(error), false) = (&prepared, self.spare_failed) {
            tracing::warn!(%error, "no further log segment can be made: writes will fail when this one is full");
        }
        self.spare_failed = prepared.is_err();
    }

    fn checkpoint_is_due(&self) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let floor = self.shared.state.read().floor();
        let (last, size) = self.folder.checkpoint().unwrap_or_default();
        let worth = self.shared.options.checkpoint_bytes.max(size);
        floor > last && self.folder.reclaimable(floor) >= worth
    }

    fn checkpoint(&mut self) {
        let started = Instant::now();
        match checkpoint::write(&self.folder, &self.shared.state, || self.signal.stopping()) {
            Ok(Some(revision)) => {
                self.retry_at = None;
                tracing::debug!(%revision, took = ?started.elapsed(), "wrote a checkpoint");
            }
            Ok(None) => {}
            Err(Error::Closed) => {}
            Err(error) => {
                self.retry_at = Some(started + RETRY);
                tracing::warn!(%error, "no checkpoint could be written: the log keeps growing");
            }
        }
    }
}

/// Raises the floor as the policy asks and forgets what is below it, a little at a time.
fn compact(shared: &Shared) {
    let options = &shared.options;
    let floor = shared.state.read().floor_by(&options.retention, options.now());
    // Cannot be in the future: the newest revision only grows.
    let _ = shared.state.write().compact(floor);
    loop {
        let forgotten = shared.state.write().forget(FORGET);
        if forgotten.is_empty() {
            break;
        }
    }
}

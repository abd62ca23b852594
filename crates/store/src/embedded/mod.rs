//! The embedded backend: everything in memory, every commit in a log on disk, checkpoints so that the log stays short.
//!
//! Reads and watches never touch the disk. One committer thread decides transactions in order, writes a group of them
//! into the log with one sync, makes them visible, tells the watchers, and only then acknowledges. A maintenance thread
//! compacts history, writes checkpoints and keeps the next log segment ready.
//!
//! Values are shared with whoever reads or watches, never copied: a cache above the store costs no second copy.

mod checkpoint;
mod committer;
mod folder;
pub(crate) mod frame;
mod log;
mod maintenance;
mod recovery;
pub(crate) mod state;

pub use state::Retention;

use crate::{
    Commit, Error, Page, Revision, Store, Txn, Watch, WatchBatch,
    watch_hub::{History, WatchHub},
};
use folder::{Folder, failed};
use parking_lot::{Mutex, RwLock};
use state::State;
use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

/// Tells the time; handed in so that simulations can have their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Log segments are no smaller than this.
const MIN_SEGMENT: u64 = 4096;

/// How an embedded store behaves.
#[derive(Clone)]
pub struct Options {
    /// How much history is kept.
    pub retention: Retention,
    /// The size of a log segment. A larger transaction gets a larger one.
    pub segment_bytes: u64,
    /// A checkpoint is written when at least this much of the log (and no less than the last checkpoint's size) would
    /// become superfluous by it.
    pub checkpoint_bytes: u64,
    /// How often history is compacted and checkpoints are considered.
    pub maintenance_interval: Duration,
    /// What time it is; only ages of history depend on it.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            segment_bytes: 16 << 20,
            checkpoint_bytes: 48 << 20,
            maintenance_interval: Duration::from_secs(1),
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl Options {
    /// Milliseconds since the epoch.
    fn now(&self) -> u64 {
        let since = (self.clock)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What readers, the committer and maintenance share.
struct Shared {
    state: RwLock<State>,
    hub: Arc<WatchHub>,
    options: Options,
}

impl Shared {
    fn new(state: State, options: Options) -> Arc<Self> {
        Arc::new(Self { state: RwLock::new(state), hub: Arc::default(), options })
    }

    /// Makes durable changes visible and tells the watchers.
    fn publish(&self, batches: &[Arc<WatchBatch>], time: u64) {
        self.state.write().apply(batches, time);
        self.hub.publish(batches);
    }
}

impl History for Shared {
    fn changes(
        &self,
        prefix: &str,
        from: Revision,
        limit: usize,
        out: &mut VecDeque<Arc<WatchBatch>>,
    ) -> Result<(Revision, Revision), Error> {
        let state = self.state.read();
        let looked = state.changes(prefix, from, limit, out)?;
        Ok((looked, state.newest()))
    }
}

/// The embedded store. Dropping it finishes what is being committed and ends the watches.
pub struct Embedded {
    shared: Arc<Shared>,
    journal: Journal,
}

/// Where commits go.
enum Journal {
    /// Nowhere: they are applied by the caller, one at a time.
    Memory(Mutex<()>),
    /// To the committer thread and its log.
    Disk(Disk),
}

struct Disk {
    folder: Arc<Folder>,
    queue: Arc<committer::Queue>,
    upkeep: Arc<maintenance::Signal>,
    threads: Vec<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in the folder `path`, making it where there is none. Blocks while it reads the state.
    ///
    /// Fails with [`Error::InUse`] if another process has it open, [`Error::Format`] if another version wrote it, and
    /// [`Error::Corrupt`] if it is damaged.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let folder = Folder::open(path.as_ref(), options.segment_bytes.max(MIN_SEGMENT))?;
        let (state, log) = recovery::recover(&folder, &options.retention, options.now())?;
        let shared = Shared::new(state, options);
        let queue = Arc::new(committer::Queue::default());
        let upkeep = Arc::new(maintenance::Signal::default());
        let fail = failed("starting a thread");
        let nudge = {
            let (shared, folder, upkeep) = (shared.clone(), folder.clone(), upkeep.clone());
            move || {
                if folder.wants_spare() || shared.state.read().is_heavy(&shared.options.retention) {
                    upkeep.nudge();
                }
            }
        };
        let mut threads =
            vec![maintenance::start(shared.clone(), folder.clone(), upkeep.clone()).map_err(&fail)?];
        match committer::start(shared.clone(), queue.clone(), log, nudge) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                upkeep.stop();
                return Err(fail(error));
            }
        }
        Ok(Self { shared, journal: Journal::Disk(Disk { folder, queue, upkeep, threads }) })
    }

    /// Makes a store in a folder that holds none: these entries, as of `revision`, without any history. It is there whole, or not
    /// at all.
    ///
    /// Fails with [`Error::Occupied`] where there is one already.
    pub fn restore(
        path: impl AsRef<Path>,
        revision: Revision,
        entries: Vec<crate::Entry>,
    ) -> Result<(), Error> {
        let folder = Folder::open(path.as_ref(), MIN_SEGMENT)?;
        if folder.checkpoint().is_some() || !folder.segments().is_empty() {
            return Err(Error::Occupied { path: path.as_ref().into() });
        }
        let state = RwLock::new(State::restore(revision, entries));
        checkpoint::write(&folder, &state, || false).map(|_| ())
    }

    /// A store without a disk under it, gone when dropped; for tests and simulations. It starts no thread, so what happens
    /// depends on the order of calls alone.
    pub fn in_memory() -> Self {
        Self::in_memory_with(Options::default())
    }

    /// As [`Embedded::in_memory`], with its own retention and clock.
    pub fn in_memory_with(options: Options) -> Self {
        Self { shared: Shared::new(State::default(), options), journal: Journal::Memory(Mutex::new(())) }
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<crate::Entry>, Revision), Error> {
        let state = self.shared.state.read();
        Ok((state.get(key), state.newest()))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut attempts = 0;
        'again: loop {
            let mut listing = self.shared.state.read().listing(prefix, start_after, at, limit)?;
            loop {
                // Steps let the committer in between; a newest listing that history ran away from is taken in one.
                let step = if attempts < 3 { state::LIST_STEP } else { usize::MAX };
                let done = self.shared.state.read().list(&mut listing, step);
                match done {
                    Ok(true) => return Ok(listing.into_page()),
                    Ok(false) => tokio::task::yield_now().await,
                    Err(Error::Compacted { .. }) if at.is_none() => {
                        attempts += 1;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        state::check(&txn)?;
        match &self.journal {
            Journal::Disk(disk) => disk.queue.commit(txn).await,
            Journal::Memory(turn) => {
                let _turn = turn.lock();
                let (commit, batches) = {
                    let state = self.shared.state.read();
                    let mut draft = state.draft();
                    (draft.decide(&txn), draft.into_batches())
                };
                self.shared.publish(&batches, self.shared.options.now());
                let mut state = self.shared.state.write();
                let floor = state.floor_by(&self.shared.options.retention, self.shared.options.now());
                state.compact(floor)?;
                let forgotten = state.forget(usize::MAX);
                drop(state);
                drop(forgotten);
                Ok(commit)
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        {
            let state = self.shared.state.read();
            if after < state.floor() {
                return Err(Error::Compacted { requested: after, oldest: state.floor() });
            }
            if after > state.newest() {
                return Err(Error::Future { requested: after, newest: state.newest() });
            }
        }
        Ok(self.shared.hub.watch(self.shared.clone(), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        match &self.journal {
            Journal::Disk(disk) => {
                disk.queue.compact(revision).await?;
                disk.upkeep.nudge();
                Ok(())
            }
            Journal::Memory(_) => {
                let mut state = self.shared.state.write();
                state.compact(revision)?;
                let forgotten = state.forget(usize::MAX);
                drop(state);
                drop(forgotten);
                Ok(())
            }
        }
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.state.read().newest())
    }

    async fn size(&self) -> Result<u64, Error> {
        match &self.journal {
            Journal::Memory(_) => Ok(0),
            Journal::Disk(disk) => Ok(disk.folder.size()),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Journal::Disk(disk) = &mut self.journal {
            disk.queue.close();
            disk.upkeep.stop();
            for thread in disk.threads.drain(..) {
                let _ = thread.join(); // one that panicked has said so already
            }
        }
        self.shared.hub.close();
    }
}

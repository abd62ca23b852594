//! The committer: one thread that decides transactions in the order they came, a group at a time.
//!
//! While one group is being made durable the next one gathers, so the busier the store, the more transactions share a
//! sync. Everything of a group becomes visible, and the watchers are told, before any of it is acknowledged.

use super::{Shared, folder::failed, frame, log::Log, state::State};
use crate::{Commit, Error, Op, Revision, Txn};
use parking_lot::{Condvar, Mutex};
use std::{collections::VecDeque, io, sync::Arc, thread};
use tokio::sync::oneshot;

/// A group takes no further transaction when it weighs this much: a limit on how long the first one waits.
const GROUP_BYTES: usize = 4 << 20;
/// A buffer that a huge transaction has grown is not kept beyond this.
const BUFFER_BYTES: usize = 1 << 20;

/// Asked of the committer.
enum Job {
    Commit(Txn, oneshot::Sender<Result<Commit, Error>>),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
}

impl Job {
    fn bytes(&self) -> usize {
        let of = |op: &Op| match op {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        };
        match self {
            Self::Commit(txn, _) => txn.ops.iter().map(of).sum(),
            Self::Compact(..) => 0,
        }
    }
}

/// What waits for the committer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// Hands a transaction over; it must have passed [`super::state::check`].
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let (done, answer) = oneshot::channel();
        self.push(Job::Commit(txn, done))?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Raises the floor.
    pub(crate) async fn compact(&self, to: Revision) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.push(Job::Compact(to, done))?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Lets the committer end once it has done what waits.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    fn push(&self, job: Job) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::Closed);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// The next group; `None` when the queue is closed and empty.
    fn next(&self) -> Option<Vec<Job>> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            self.wake.wait(&mut waiting);
        }
        let mut group = Vec::with_capacity(waiting.jobs.len());
        let mut bytes = 0;
        while let Some(job) = waiting.jobs.front() {
            bytes += job.bytes();
            if bytes > GROUP_BYTES && !group.is_empty() {
                break;
            }
            group.extend(waiting.jobs.pop_front());
        }
        Some(group)
    }
}

/// Refuses what waits when the committer ends, however it ends.
struct CloseOnExit(Arc<Queue>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        waiting.jobs.clear();
    }
}

/// Starts the committer thread. `nudge` is called after each group that wrote something.
pub(crate) fn start(
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    log: Log,
    nudge: impl Fn() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("store-commit".into()).spawn(move || {
        let _close = CloseOnExit(queue.clone());
        let mut committer = Committer { shared, log, buffer: Vec::new() };
        while let Some(group) = queue.next() {
            if committer.group(group) {
                nudge();
            }
        }
    })
}

struct Committer {
    shared: Arc<Shared>,
    log: Log,
    buffer: Vec<u8>,
}

impl Committer {
    /// Decides a group, makes it durable, visible and known, and acknowledges it. True if anything was written.
    fn group(&mut self, group: Vec<Job>) -> bool {
        let now = self.shared.options.now();
        let (decided, batches, first, floor) = {
            let state = self.shared.state.read();
            let mut draft = state.draft();
            let mut floor = state.floor();
            let decided: Vec<_> = group
                .iter()
                .map(|job| match job {
                    Job::Commit(txn, _) => Ok(draft.decide(txn)),
                    Job::Compact(to, _) if *to > draft.newest() => {
                        Err(Error::Future { requested: *to, newest: draft.newest() })
                    }
                    Job::Compact(to, _) => {
                        floor = floor.max(*to);
                        Ok(Commit::Done(*to))
                    }
                })
                .collect();
            let raised = (floor > state.floor()).then_some(floor);
            (decided, draft.into_batches(), Revision(state.newest().0 + 1), raised)
        };
        let mut outcome = Ok(());
        let writes = !batches.is_empty() || floor.is_some();
        if writes {
            // The floor of the policy is recorded along the way; that of this group only with its transactions.
            let recorded = floor.unwrap_or_else(|| self.shared.state.read().floor());
            frame::encode(&mut self.buffer, first, &batches, now, recorded);
            outcome = self.log.append(&mut self.buffer, first).map_err(failed("appending to the log"));
            if self.buffer.capacity() > BUFFER_BYTES {
                self.buffer = Vec::new();
            }
        }
        match outcome {
            Ok(()) => {
                self.shared.publish(&batches, now);
                if let Some(floor) = floor {
                    // Cannot be in the future: it was compared with what has just been applied.
                    let _ = self.shared.state.write().compact(floor);
                }
                for (job, decided) in group.into_iter().zip(decided) {
                    acknowledge(job, decided);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a group of transactions could not be made durable");
                let state = self.shared.state.read();
                for job in group {
                    let answer = refused(&state, &job, &error);
                    acknowledge(job, answer);
                }
            }
        }
        writes
    }
}

/// The answer to a job whose group could not be written: what needs no writing is still answered.
fn refused(state: &State, job: &Job, error: &Error) -> Result<Commit, Error> {
    match job {
        Job::Commit(txn, _) => {
            let mut draft = state.draft();
            let decided = draft.decide(txn);
            if draft.into_batches().is_empty() { Ok(decided) } else { Err(error.clone()) }
        }
        Job::Compact(to, _) if *to <= state.floor() => Ok(Commit::Done(*to)),
        Job::Compact(..) => Err(error.clone()),
    }
}

/// Sends an answer; whoever no longer waits for it does not get it.
fn acknowledge(job: Job, answer: Result<Commit, Error>) {
    match job {
        Job::Commit(_, done) => {
            let _ = done.send(answer);
        }
        Job::Compact(_, done) => {
            let _ = done.send(answer.map(|_| ()));
        }
    }
}

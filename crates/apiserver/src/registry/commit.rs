//! Brings transactions to the store and waits until the caches have them, so that whoever wrote reads what they wrote.

use super::{Plan, Registry};
use crate::Identity;
use orlop_api::Status;
use orlop_store::{Commit, Condition, Error, Expect, Revision};
use std::hash::{DefaultHasher, Hash, Hasher};
use tokio::sync::{Mutex, MutexGuard};

/// What became of a plan.
pub(crate) enum Outcome {
    /// It is durable, and the caches have it.
    Done(Revision),
    /// Somebody else was first; the caches are up to date now, so trying again makes sense.
    Conflict,
}

/// How often a write is tried again when others interfere. Losers take turns, so this many mean that something is wrong.
pub(crate) const TRIES: usize = 100;

/// Turns of those who write the same object: who lost once waits until the other losers are through, so that nobody loses
/// for ever. Objects share turns by hash.
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..64).map(|_| Mutex::new(())).collect())
    }
}

impl Turns {
    /// Waits for one's turn to write `key`.
    pub(crate) async fn enter(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.0[hasher.finish() as usize % self.0.len()].lock().await
    }
}

impl Registry {
    /// Commits a plan of `who`. Where they lead, only as long as they do: whoever took over wrote the fence anew.
    pub(crate) async fn commit(&self, mut plan: Plan, who: &Identity) -> Result<Outcome, Status> {
        if let Some(fence) = &who.fence {
            let expect = Expect::Modified(fence.epoch);
            // The first condition that fails is the one that is told.
            plan.txn.conditions.insert(0, Condition { key: fence.key.clone(), expect });
            plan.wanted.push((fence.key.clone(), Status::unavailable("another server leads now")));
        }
        match self.store.commit(plan.txn).await.map_err(store_error)? {
            Commit::Done(revision) => {
                self.caches.wait(revision).await;
                Ok(Outcome::Done(revision))
            }
            Commit::Conflict { key, .. } => {
                if let Some((_, status)) = plan.wanted.into_iter().find(|(k, _)| *k == key) {
                    return Err(status);
                }
                let newest = self.store.revision().await.map_err(store_error)?;
                self.caches.wait(newest).await;
                Ok(Outcome::Conflict)
            }
        }
    }
}

/// What a client is told when the store fails.
pub(crate) fn store_error(error: Error) -> Status {
    match error {
        Error::Compacted { .. } => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        ),
        Error::Future { .. } => Status::timeout("Too large resource version"),
        Error::NoSpace => {
            let message = "no space left on the disk of the store: nothing was written";
            Status::new(507, "InsufficientStorage", message)
        }
        Error::Quota => Status::new(507, "InsufficientStorage", error.to_string()),
        Error::TooLarge => Status::new(413, "RequestEntityTooLarge", error.to_string()),
        Error::Unreachable { .. } => {
            tracing::warn!(%error, "the store does not answer");
            Status::timeout("the store did not answer: a change may or may not have happened")
        }
        Error::Closed => Status::unavailable("the server is shutting down"),
        other => {
            tracing::error!(error = %other, "the store failed");
            Status::internal("the store failed")
        }
    }
}

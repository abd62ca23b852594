//! The versioned key-value store that holds a cluster's state.
//!
//! Every commit gets the next [`Revision`], cluster-wide. A transaction compares revisions and writes one or more
//! keys, all or nothing, and is acknowledged only when it would survive a crash. A watch starts after a revision and
//! misses nothing, or says that the revision has been compacted. The store knows nothing of kinds: keys are
//! `/registry/GROUP/RESOURCE/[NAMESPACE/]NAME`, values are bytes.

pub mod backup;
pub mod embedded;
pub mod etcd;
pub mod model;
pub mod sealed;
#[cfg(feature = "suite")]
pub mod suite;
mod watch_hub;

pub use embedded::{Embedded, Options, Retention};
pub use etcd::{Endpoints, Etcd, EtcdOptions};
pub use model::{
    Change, Commit, Condition, Entry, Error, Expect, Op, Page, Revision, Txn, Watch, WatchBatch,
};

/// A store of versioned keys. All backends pass the suite in `suite`.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry under `key` as of the newest revision, with that revision.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error>;

    /// The entries whose keys start with `prefix` and sort after `start_after` (if given), in key order, at most
    /// `limit` (0: all), as they were at revision `at` (`None`: the newest).
    ///
    /// Fails with [`Error::Compacted`] for a revision that is gone and [`Error::Future`] for one that is not there yet.
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error>;

    /// Checks the conditions and applies the operations as one; durable when this returns [`Commit::Done`], and visible to
    /// reads and watches before that.
    ///
    /// After [`Error::Backend`], and where the future was dropped, the transaction may or may not have happened, but never
    /// half of it.
    async fn commit(&self, txn: Txn) -> Result<Commit, Error>;

    /// All changes under `prefix` with a revision greater than `after`, in order, without gaps or repetitions, those of one
    /// revision in one batch. A batch without changes tells that everything up to its revision has been told: backends whose
    /// revisions count what is not under the prefix give such batches for them, others need not. Ends with [`Error::Compacted`] when the consumer fell behind further than history is kept, and
    /// with [`Error::Closed`] when the store closes.
    ///
    /// Fails at once with [`Error::Compacted`] or [`Error::Future`] where `after` is no revision that can be read.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// Forgets history before `revision`: reads and watches from before it fail with [`Error::Compacted`]. Nothing happens
    /// where it is forgotten already; a revision that is not there yet is [`Error::Future`].
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, Error>;

    /// Whether others write to it too, so that what this process has seen may not be all there is.
    fn is_shared(&self) -> bool {
        false
    }

    /// Bytes that the state takes on disk.
    async fn size(&self) -> Result<u64, Error>;
}

//! What every backend must do, as tests over a fresh store each.
//!
//! A backend's tests call [`crate::store_suite!`] with a function that makes a store; [`model`] adds random operations
//! checked against a simple model. Revisions are compared with the one that the store starts at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // it is all tests

pub mod model;
mod reads;
mod transactions;
mod watches;

pub use reads::*;
pub use transactions::*;
pub use watches::*;

use crate::{Commit, Entry, Op, Revision, Store, Txn, Watch, WatchBatch};
use bytes::Bytes;
use futures::StreamExt;
use std::{sync::Arc, time::Duration};

/// Long enough for any single step on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes one test of every promise: `store_suite!(fresh)` where `fresh` is an `async fn() -> (Arc<dyn Store>, Guard)`; the
/// guard, whatever it is, lives as long as the test.
#[macro_export]
macro_rules! store_suite {
    ($fresh:path) => {
        $crate::store_suite!(@each $fresh:
            absent_keys_read_as_nothing,
            a_key_has_the_revisions_of_its_creation_and_of_its_last_write,
            a_key_created_again_is_new,
            an_empty_value_is_a_value,
            values_are_bytes_and_may_be_large,
            a_prefix_is_a_plain_string_prefix,
            pages_follow_each_other_without_gap_or_overlap,
            a_listing_shows_any_kept_revision,
            pages_of_one_revision_agree_while_others_write,
            many_keys_are_listed_in_order,
            only_what_changes_something_takes_a_revision,
            conditions_hold_or_nothing_is_written,
            a_conflict_names_the_first_condition_that_failed,
            several_keys_change_in_one_revision_or_not_at_all,
            bad_transactions_are_refused,
            one_of_many_concurrent_creations_wins,
            concurrent_increments_are_all_counted,
            a_watch_tells_all_that_happens_in_order,
            a_watch_sees_only_its_prefix,
            a_watch_resumes_after_any_kept_revision,
            a_watch_outside_of_history_says_so,
            a_watch_that_keeps_up_survives_compaction,
            compaction_keeps_what_is_there,
            a_watcher_that_does_not_read_holds_nobody_up,
            many_watchers_see_the_same,
        );
    };
    (@each $fresh:path: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (store, _guard) = $fresh().await;
                $crate::suite::$name(store).await;
            }
        )*
    };
}

/// Puts a value without a condition.
pub(crate) async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    done(store.commit(writes(&[(key, Some(value))])).await.expect("put"))
}

/// Deletes without a condition.
pub(crate) async fn delete(store: &dyn Store, key: &str) -> Revision {
    done(store.commit(writes(&[(key, None)])).await.expect("delete"))
}

/// An unconditional transaction of puts and deletions.
pub(crate) fn writes(writes: &[(&str, Option<&str>)]) -> Txn {
    let op = |(key, value): &(&str, Option<&str>)| match value {
        Some(value) => Op::Put((*key).into(), Bytes::copy_from_slice(value.as_bytes())),
        None => Op::Delete((*key).into()),
    };
    Txn { conditions: Vec::new(), ops: writes.iter().map(op).collect() }
}

pub(crate) fn done(commit: Commit) -> Revision {
    match commit {
        Commit::Done(revision) => revision,
        conflict => panic!("unexpected {conflict:?}"),
    }
}

pub(crate) fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|e| &*e.key).collect()
}

/// The next batch of a watch, which must come.
pub(crate) async fn next(watch: &mut Watch) -> Arc<WatchBatch> {
    tokio::time::timeout(PATIENCE, told(watch)).await.expect("nothing came").expect("the watch failed")
}

/// The next batch with changes; those without only tell that a revision has passed.
pub(crate) async fn told(watch: &mut Watch) -> Result<Arc<WatchBatch>, crate::Error> {
    loop {
        let batch = watch.next().await.expect("the watch ended")?;
        if !batch.changes.is_empty() {
            return Ok(batch);
        }
    }
}

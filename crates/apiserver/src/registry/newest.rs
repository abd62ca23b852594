//! The newest revision of a store that others write to as well: those who ask while one question is under way share the next.

use orlop_store::{Error, Revision, Store};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// See the module.
#[derive(Default)]
pub(crate) struct Newest {
    /// Who asks gets a number.
    asked: AtomicU64,
    /// The last number that had been given when the last question was asked, and its answer.
    answered: Mutex<(u64, Revision)>,
}

impl Newest {
    /// A revision that was the newest at some moment after this was called.
    pub(crate) async fn after_now(&self, store: &dyn Store) -> Result<Revision, Error> {
        let own = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut answered = self.answered.lock().await;
        if answered.0 >= own {
            return Ok(answered.1);
        }
        let asked = self.asked.load(Ordering::Acquire);
        let revision = store.revision().await?;
        *answered = (asked, revision);
        Ok(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use orlop_store::{Commit, Embedded, Txn};

    #[tokio::test]
    async fn what_was_written_before_the_question_is_in_the_answer() {
        let (store, newest) = (Embedded::in_memory(), Newest::default());
        for i in 0..10 {
            let written = store.commit(Txn::create(format!("/k{i}"), Bytes::new())).await.expect("written");
            let Commit::Done(written) = written else { panic!("taken") };
            let asking = (0..4).map(|_| newest.after_now(&store));
            for answer in futures::future::join_all(asking).await {
                assert!(answer.expect("answered") >= written);
            }
        }
    }
}

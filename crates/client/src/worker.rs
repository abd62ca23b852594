//! The loop around a reconciler: takes keys from a queue, works on several at a time, retries what failed.

use crate::{Key, Queue};
use futures::FutureExt;
use std::{fmt::Display, panic::AssertUnwindSafe, sync::Arc};

/// The time of day, handed in so that tests and simulations have their own.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Runs `workers` loops until dropped. A reconciler must be idempotent; when it fails or panics, its key is tried again with
/// back-off.
pub async fn run_workers<F, R, E>(name: &'static str, queue: Queue, workers: usize, reconcile: F)
where
    F: Fn(Key) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let work = async || {
        loop {
            let key = queue.next().await;
            let failed = match AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    tracing::debug!(controller = name, %key, %error, "will try again");
                    true
                }
                Err(_) => {
                    tracing::error!(controller = name, %key, "reconciler panicked; will try again");
                    true
                }
            };
            queue.done(key, failed);
        }
    };
    futures::future::join_all((0..workers).map(|_| work())).await;
}

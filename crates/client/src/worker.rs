//! The loop around a reconciler: takes keys from a queue, works on several at a time, retries what failed.

use crate::{Key, Queue};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{fmt::Display, panic::AssertUnwindSafe, sync::Arc};

/// The time of day, handed in so that tests and simulations have their own.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Runs all of them side by side until the last has ended. Only those that were woken are polled: of many that wait for different
/// things, one that goes on costs nothing for the others.
pub async fn run_all<'a>(all: impl IntoIterator<Item = BoxFuture<'a, ()>>) {
    let mut running: FuturesUnordered<_> = all.into_iter().collect();
    while running.next().await.is_some() {}
}

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
    let mut working: FuturesUnordered<_> = (0..workers).map(|_| work()).collect();
    while working.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering},
        task::Poll,
        time::Duration,
    };

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_not_polled_when_something_else_goes_on() {
        let polls = AtomicU32::new(0);
        let waiting = poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        });
        let busy = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all = run_all([waiting.boxed(), busy.boxed()]);
        assert!(tokio::time::timeout(Duration::from_secs(1), all).await.is_err(), "one never ends");
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }
}

//! Processes that can be killed at any await and are started anew: each is a future that is dropped as it stands, and everything that
//! it had on its way to the server with it.

use crate::line::Life;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::task::JoinHandle;

/// Makes the future of a process, which lives this life.
pub(crate) type Program = Arc<dyn Fn(Life) -> BoxFuture<'static, ()> + Send + Sync>;

/// Polls that never run out.
const FOR_EVER: u64 = u64::MAX;

struct Shared {
    life: Mutex<Life>,
    /// How often the process is still polled before it dies.
    polls: AtomicU64,
    /// How long it is away after that.
    away: Mutex<Duration>,
    died: AtomicU64,
}

/// A process that is started again when it was killed.
pub(crate) struct Process {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Process {
    pub(crate) fn start(program: Program) -> Self {
        let shared = Arc::new(Shared {
            life: Mutex::default(),
            polls: AtomicU64::new(FOR_EVER),
            away: Mutex::new(Duration::ZERO),
            died: AtomicU64::new(0),
        });
        Self { task: tokio::spawn(supervise(shared.clone(), program)), shared }
    }

    /// Lets it die when it has been polled this often (0: now), and come back after `away`.
    pub(crate) fn kill_after(&self, polls: u64, away: Duration) {
        *self.shared.away.lock() = away;
        if polls == 0 {
            self.shared.life.lock().ended.cancel();
        } else {
            self.shared.polls.store(polls, Ordering::Relaxed);
        }
    }

    /// How often it has died.
    pub(crate) fn died(&self) -> u64 {
        self.shared.died.load(Ordering::Relaxed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.life.lock().ended.cancel();
        self.task.abort();
    }
}

async fn supervise(shared: Arc<Shared>, program: Program) {
    loop {
        let life = Life::default();
        *shared.life.lock() = life.clone();
        shared.polls.store(FOR_EVER, Ordering::Relaxed);
        {
            let mut work = pin!(program(life.clone()));
            let counted = poll_fn(|cx| match shared.polls.load(Ordering::Relaxed) {
                0 => Poll::Ready(()),
                FOR_EVER => work.as_mut().poll(cx),
                left => {
                    shared.polls.store(left - 1, Ordering::Relaxed);
                    work.as_mut().poll(cx)
                }
            });
            tokio::select! {
                biased;
                () = life.ended.cancelled() => {}
                () = counted => {}
            }
            life.ended.cancel();
        }
        shared.died.fetch_add(1, Ordering::Relaxed);
        let away = *shared.away.lock();
        tokio::time::sleep(away).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test(start_paused = true)]
    async fn a_process_dies_between_two_awaits_and_begins_anew() {
        let (begun, steps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (b, s) = (begun.clone(), steps.clone());
        let program: Program = Arc::new(move |_| {
            let (begun, steps) = (b.clone(), s.clone());
            Box::pin(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let process = Process::start(program);
        tokio::time::sleep(Duration::from_millis(3500)).await;
        assert_eq!((begun.load(Ordering::Relaxed), steps.load(Ordering::Relaxed)), (1, 3));
        process.kill_after(1, Duration::from_secs(10));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(steps.load(Ordering::Relaxed), 4, "one more step, then it is away");
        assert_eq!(process.died(), 1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }
}

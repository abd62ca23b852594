//! The audit log for somebody else: its lines go out many at a time, as `EventList`s of audit.k8s.io/v1 (kube-apiserver's
//! `--audit-webhook-*` in batch mode). Nobody waits for it: what waits to be sent is bounded in lines and in bytes, and what
//! finds no room or cannot be delivered is counted as lost. Knows nothing of addresses and certificates.

use crate::metrics::AuditCounters;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How much may wait to be delivered, in KiB.
const ROOM: usize = 64 << 10;
/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a delivery is tried, with pauses that grow by half.
const TRIES: u32 = 5;

/// Why something was not delivered.
#[derive(Debug)]
pub struct Undelivered {
    /// In words.
    pub why: String,
    /// Whether it may work later.
    pub passing: bool,
}

/// Whoever gets the lines.
pub trait Receiver: Send + Sync {
    /// Delivers an `EventList` as JSON.
    fn deliver(&self, list: Bytes) -> BoxFuture<'_, Result<(), Undelivered>>;
}

/// How lines are gathered and sent.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// How many lines may wait.
    pub buffer: usize,
    /// How many lines go out together.
    pub most: usize,
    /// How long the first of them waits for others.
    pub wait: Duration,
    /// How many batches go out in a second on average; none is held back where there is no limit.
    pub per_second: Option<f64>,
    /// How many may go out at once.
    pub burst: usize,
    /// How long a failed delivery pauses at first.
    pub pause: Duration,
}

/// A receiver, and how it is served.
#[derive(Clone)]
pub struct Webhook {
    /// Who gets the lines.
    pub receiver: Arc<dyn Receiver>,
    /// How they are gathered.
    pub batches: Batches,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("batches", &self.batches).finish_non_exhaustive()
    }
}

enum Message {
    Line(Vec<u8>, OwnedSemaphorePermit),
    Flush(oneshot::Sender<()>),
}

/// The way to the task that sends.
#[derive(Clone)]
pub(super) struct Outbox {
    messages: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    counters: AuditCounters,
}

impl Outbox {
    /// Starts the task, which ends with the last outbox.
    pub(super) fn open(webhook: Webhook, counters: AuditCounters) -> Self {
        let (messages, received) = mpsc::channel(webhook.batches.buffer.max(1));
        let sender = Sender { webhook, counters: counters.clone(), tokens: Tokens::full() };
        tokio::spawn(sender.run(received));
        Self { messages, room: Arc::new(Semaphore::new(ROOM)), counters }
    }

    /// Puts a line in, if there is room.
    pub(super) fn put(&self, line: &[u8]) {
        let share = u32::try_from((line.len() >> 10).clamp(1, ROOM)).unwrap_or(u32::MAX);
        let put = self.room.clone().try_acquire_many_owned(share).is_ok_and(|room| {
            let line = line.trim_ascii_end().to_vec();
            self.messages.try_send(Message::Line(line, room)).is_ok()
        });
        if !put {
            self.counters.undelivered(1);
            tracing::error!(
                "an audit event was dropped: the webhook does not take them as fast as requests come"
            );
        }
    }

    /// Tells the sender, when all before it was delivered or given up.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.messages.send(Message::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// What went in together.
#[derive(Default)]
struct Batch {
    lines: Vec<Vec<u8>>,
    room: Vec<OwnedSemaphorePermit>,
    flushed: Option<oneshot::Sender<()>>,
    last: bool,
}

impl Batch {
    /// Takes a message; tells whether more may follow.
    fn take(&mut self, message: Option<Message>, most: usize) -> bool {
        match message {
            Some(Message::Line(line, room)) => {
                self.lines.push(line);
                self.room.push(room);
                self.lines.len() < most
            }
            Some(Message::Flush(done)) => {
                self.flushed = Some(done);
                false
            }
            None => {
                self.last = true;
                false
            }
        }
    }

    fn list(&self) -> Bytes {
        let mut out =
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        out.extend(self.lines.join(&b','));
        out.extend(b"]}");
        out.into()
    }
}

struct Sender {
    webhook: Webhook,
    counters: AuditCounters,
    tokens: Tokens,
}

impl Sender {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let batches = self.webhook.batches;
        let mut under_way = JoinSet::new();
        loop {
            let mut batch = gather(&mut messages, batches).await;
            while under_way.try_join_next().is_some() {}
            let (flushed, ends) = (batch.flushed.take(), batch.last);
            if !batch.lines.is_empty() {
                while under_way.len() >= batches.burst.max(1) {
                    under_way.join_next().await;
                }
                self.tokens.take(batches).await;
                under_way.spawn(deliver(self.webhook.clone(), self.counters.clone(), batch));
            }
            if flushed.is_some() || ends {
                while under_way.join_next().await.is_some() {}
            }
            if let Some(done) = flushed {
                let _ = done.send(());
            }
            if ends {
                return;
            }
        }
    }
}

/// Waits for a line, then for others to go with it.
async fn gather(messages: &mut mpsc::Receiver<Message>, batches: Batches) -> Batch {
    let mut batch = Batch::default();
    if !batch.take(messages.recv().await, batches.most) {
        return batch;
    }
    let until = Instant::now() + batches.wait;
    while let Ok(message) = timeout_at(until, messages.recv()).await {
        if !batch.take(message, batches.most) {
            break;
        }
    }
    batch
}

async fn deliver(webhook: Webhook, counters: AuditCounters, batch: Batch) {
    let list = batch.list();
    let mut pause = webhook.batches.pause;
    for tried in 1..=TRIES {
        let answer = timeout(PATIENCE, webhook.receiver.deliver(list.clone())).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Undelivered {
                why: format!("no answer within {} seconds", PATIENCE.as_secs()),
                passing: true,
            })
        });
        match answer {
            Ok(()) => return,
            Err(Undelivered { why, passing }) if tried == TRIES || !passing => {
                counters.undelivered(batch.lines.len() as u64);
                tracing::error!(why, events = batch.lines.len(), "audit events could not be delivered");
                return;
            }
            Err(_) => {
                sleep(pause).await;
                pause = pause.mul_f64(1.5);
            }
        }
    }
}

/// How many batches may go out now: as many as a bucket holds that is filled steadily.
struct Tokens {
    there: Option<f64>,
    at: Instant,
}

impl Tokens {
    fn full() -> Self {
        Self { there: None, at: Instant::now() }
    }

    /// Waits for one.
    async fn take(&mut self, batches: Batches) {
        let Some(per_second) = batches.per_second.filter(|n| *n > 0.0) else { return };
        let most = batches.burst.max(1) as f64;
        let now = Instant::now();
        let there = self.there.map_or(most, |n| (n + (now - self.at).as_secs_f64() * per_second).min(most));
        self.at = now;
        if there < 1.0 {
            let wait = Duration::from_secs_f64(((1.0 - there) / per_second).min(3600.0));
            sleep(wait).await;
            (self.there, self.at) = (Some(0.0), now + wait);
        } else {
            self.there = Some(there - 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use serde_json::Value;

    /// Keeps what it gets, and fails as often as it is told to.
    #[derive(Default)]
    struct Kept {
        lists: Mutex<Vec<(Duration, Vec<i64>)>>,
        failures: Mutex<Vec<bool>>,
        began: Mutex<Option<Instant>>,
    }

    impl Receiver for Kept {
        fn deliver(&self, list: Bytes) -> BoxFuture<'_, Result<(), Undelivered>> {
            Box::pin(async move {
                if let Some(passing) = self.failures.lock().pop() {
                    return Err(Undelivered { why: "no".into(), passing });
                }
                let list: Value = serde_json::from_slice(&list).unwrap();
                assert_eq!(
                    (&list["kind"], &list["apiVersion"]),
                    (&"EventList".into(), &"audit.k8s.io/v1".into())
                );
                let items =
                    list["items"].as_array().unwrap().iter().map(|i| i["n"].as_i64().unwrap()).collect();
                let began = *self.began.lock().get_or_insert_with(Instant::now);
                self.lists.lock().push((began.elapsed(), items));
                Ok(())
            })
        }
    }

    const BATCHES: Batches = Batches {
        buffer: 100,
        most: 3,
        wait: Duration::from_secs(30),
        per_second: None,
        burst: 15,
        pause: Duration::from_secs(10),
    };

    fn outbox(batches: Batches, failures: &[bool]) -> (Arc<Kept>, Outbox, AuditCounters) {
        let kept = Arc::new(Kept { failures: Mutex::new(failures.to_vec()), ..Kept::default() });
        *kept.began.lock() = Some(Instant::now());
        let counters = AuditCounters::default();
        let outbox = Outbox::open(Webhook { receiver: kept.clone(), batches }, counters.clone());
        (kept, outbox, counters)
    }

    fn put(outbox: &Outbox, numbers: impl IntoIterator<Item = i64>) {
        numbers.into_iter().for_each(|n| outbox.put(format!("{{\"n\":{n}}}\n").as_bytes()));
    }

    fn lists(kept: &Kept) -> Vec<(u64, Vec<i64>)> {
        kept.lists.lock().iter().map(|(at, list)| (at.as_secs(), list.clone())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn lines_go_out_when_they_are_many_or_have_waited() {
        let (kept, outbox, _) = outbox(BATCHES, &[]);
        put(&outbox, 0..4);
        sleep(Duration::from_secs(31)).await;
        assert_eq!(lists(&kept), [(0, vec![0, 1, 2]), (30, vec![3])]);
        put(&outbox, 4..5);
        outbox.flush().await;
        assert_eq!(lists(&kept)[2], (31, vec![4]), "the end of the server waits for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_fails_is_tried_again_while_that_may_help() {
        let (kept, outbox, counters) = outbox(BATCHES, &[true, true]);
        put(&outbox, 0..3);
        outbox.flush().await;
        assert_eq!(lists(&kept), [(25, vec![0, 1, 2])], "after 10 and after 15 seconds");
        kept.failures.lock().push(false);
        put(&outbox, 0..2);
        outbox.flush().await;
        assert_eq!((lists(&kept).len(), counters.lost_to_the_webhook()), (1, 2));
        kept.failures.lock().extend([true; 5]);
        put(&outbox, 0..1);
        outbox.flush().await;
        assert_eq!((lists(&kept).len(), counters.lost_to_the_webhook()), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_lost_and_nobody_waits() {
        let (kept, outbox, counters) = outbox(Batches { buffer: 10, ..BATCHES }, &[]);
        put(&outbox, 0..25);
        assert_eq!(counters.lost_to_the_webhook(), 15);
        outbox.flush().await;
        assert_eq!(lists(&kept).iter().map(|(_, list)| list.len()).sum::<usize>(), 10);
        let large = vec![b' '; 80 << 20];
        outbox.put(&large);
        outbox.put(b"{\"n\":1}");
        assert_eq!(counters.lost_to_the_webhook(), 16, "one line fills all the room that there is");
    }

    #[tokio::test(start_paused = true)]
    async fn batches_go_out_at_their_rate() {
        let batches = Batches { most: 1, per_second: Some(0.5), burst: 2, ..BATCHES };
        let (kept, outbox, _) = outbox(batches, &[]);
        put(&outbox, 0..5);
        outbox.flush().await;
        let times: Vec<u64> = lists(&kept).iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 0, 2, 4, 6]);
    }
}

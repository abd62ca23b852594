//! A priority level at work: how many requests hold a seat, and who waits for one. Flows of requests wait in queues of their own
//! (by shuffle sharding, Kubernetes documentation, "API Priority and Fairness"), which take turns, so that no flow starves another.

use super::shares::Bounds;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Where requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub queues: u64,
    /// Out of how many queues a flow takes the shortest.
    pub hand: usize,
    /// Requests that may wait in one queue.
    pub length: usize,
}

/// How a level is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub bounds: Bounds,
    /// Without it nobody waits: who finds no seat is turned away.
    pub queuing: Option<Queuing>,
}

/// Why there was no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All seats are taken, and here nobody waits.
    NoSeat,
    /// The queue is full.
    QueueFull,
    /// It took too long.
    TimedOut,
}

/// What a level is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// What its shares are worth; 0 for an exempt level.
    pub nominal: usize,
    /// The seats that it has now.
    pub seats: usize,
    pub executing: usize,
    pub waiting: usize,
    /// Since the server started.
    pub dispatched: u64,
    pub rejected: u64,
}

struct Waiter {
    number: u64,
    seat: oneshot::Sender<Seat>,
}

#[derive(Default)]
struct State {
    /// `None` for an exempt level.
    limit: Option<Limit>,
    seats: usize,
    executing: usize,
    waiting: usize,
    /// The most that was executing and waiting since somebody asked.
    high: usize,
    dispatched: u64,
    rejected: u64,
    next: u64,
    /// Those that are not empty.
    queues: HashMap<u64, VecDeque<Waiter>>,
    /// The queues of `queues`, in the order of their turns.
    turns: VecDeque<u64>,
}

/// A priority level.
#[derive(Default)]
pub(super) struct Level {
    state: Mutex<State>,
}

/// The right to be worked on, as long as it lives.
pub(crate) struct Seat {
    /// `None` when it was taken back before anybody sat.
    level: Option<Arc<Level>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.level.take() {
            level.leave();
        }
    }
}

/// Takes who no longer waits out of the queue, however the waiting ended.
struct Waiting<'a> {
    level: &'a Level,
    queue: u64,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.level.state.lock().forget(self.queue, self.number);
    }
}

/// The queues that a flow may wait in: `hand` different ones of `queues`, dealt from its hash.
fn hand(mut hash: u64, queuing: Queuing) -> Vec<u64> {
    let mut dealt: Vec<u64> = Vec::with_capacity(queuing.hand);
    for taken in 0..queuing.hand.min(usize::try_from(queuing.queues).unwrap_or(usize::MAX)) {
        let left = queuing.queues - taken as u64;
        let mut card = hash % left;
        hash /= left;
        // The card is one of those that are left: skip what has been dealt, in order.
        let at = dealt.iter().position(|d| {
            let before = card < *d;
            card += u64::from(!before);
            before
        });
        dealt.insert(at.unwrap_or(dealt.len()), card);
    }
    dealt
}

impl State {
    fn note_demand(&mut self) {
        self.high = self.high.max(self.executing + self.waiting);
    }

    fn sit(&mut self) {
        self.executing += 1;
        self.dispatched += 1;
    }

    /// The shortest queue of a flow's hand, or `None` where that is full.
    fn queue_for(&self, hash: u64, queuing: Queuing) -> Option<u64> {
        let length = |queue: &u64| self.queues.get(queue).map_or(0, VecDeque::len);
        let shortest = hand(hash, queuing).into_iter().min_by_key(length)?;
        (length(&shortest) < queuing.length).then_some(shortest)
    }

    fn enqueue(&mut self, queue: u64) -> (u64, oneshot::Receiver<Seat>) {
        let (seat, taken) = oneshot::channel();
        self.next += 1;
        let number = self.next;
        let waiters = self.queues.entry(queue).or_default();
        if waiters.is_empty() {
            self.turns.push_back(queue);
        }
        waiters.push_back(Waiter { number, seat });
        self.waiting += 1;
        (number, taken)
    }

    fn forget(&mut self, queue: u64, number: u64) {
        let Some(waiters) = self.queues.get_mut(&queue) else { return };
        let Some(at) = waiters.iter().position(|w| w.number == number) else { return };
        waiters.remove(at);
        self.waiting -= 1;
        if waiters.is_empty() {
            self.queues.remove(&queue);
            self.turns.retain(|turn| *turn != queue);
        }
    }

    /// Who is next: the first of the queue whose turn it is.
    fn next(&mut self) -> Option<Waiter> {
        let queue = self.turns.pop_front()?;
        let waiters = self.queues.get_mut(&queue)?;
        let waiter = waiters.pop_front()?;
        self.waiting -= 1;
        if waiters.is_empty() {
            self.queues.remove(&queue);
        } else {
            self.turns.push_back(queue);
        }
        Some(waiter)
    }

    fn is_free(&self) -> bool {
        self.limit.is_none() || self.executing < self.seats
    }

    /// Gives free seats to those who wait.
    fn dispatch(&mut self, level: &Arc<Level>) {
        while self.waiting > 0 && self.is_free() {
            let Some(waiter) = self.next() else { return };
            self.sit();
            if let Err(mut refused) = waiter.seat.send(Seat { level: Some(level.clone()) }) {
                // Nobody waits for it any more; dropped as it is it would lock the level again.
                refused.level = None;
                self.executing -= 1;
                self.dispatched -= 1;
            }
        }
    }
}

impl Level {
    /// Changes how it is limited. It keeps its seats, within the new bounds.
    pub(super) fn configure(self: &Arc<Self>, limit: Option<Limit>) {
        let mut state = self.state.lock();
        let before = state.limit.map(|l| l.bounds);
        let bounds = limit.map_or_else(Bounds::default, |l| l.bounds);
        if before != Some(bounds) {
            state.seats = bounds.nominal;
        }
        state.limit = limit;
        state.dispatch(self);
    }

    /// Gives it another number of seats.
    pub(super) fn resize(self: &Arc<Self>, seats: usize) {
        let mut state = self.state.lock();
        state.seats = seats;
        state.dispatch(self);
    }

    /// The most that was wanted at once since it was asked last.
    pub(super) fn take_high(&self) -> usize {
        let mut state = self.state.lock();
        std::mem::replace(&mut state.high, 0).max(state.executing + state.waiting)
    }

    /// What it is doing.
    pub(super) fn figures(&self) -> Figures {
        let state = self.state.lock();
        Figures {
            nominal: state.limit.map_or(0, |l| l.bounds.nominal),
            seats: state.seats,
            executing: state.executing,
            waiting: state.waiting,
            dispatched: state.dispatched,
            rejected: state.rejected,
        }
    }

    /// A seat for a request of the flow with that hash; waits for one where the level lets it.
    pub(super) async fn enter(self: &Arc<Self>, flow: u64, patience: Duration) -> Result<Seat, Refusal> {
        let (waiting, taken) = {
            let mut state = self.state.lock();
            if state.is_free() && state.waiting == 0 {
                state.sit();
                state.note_demand();
                return Ok(Seat { level: Some(self.clone()) });
            }
            let queuing = state.limit.and_then(|l| l.queuing);
            let refusal = if queuing.is_none() { Refusal::NoSeat } else { Refusal::QueueFull };
            let Some(queue) = queuing.and_then(|q| state.queue_for(flow, q)) else {
                state.rejected += 1;
                state.high = state.high.max(state.executing + state.waiting + 1);
                return Err(refusal);
            };
            let (number, taken) = state.enqueue(queue);
            state.note_demand();
            (Waiting { level: self, queue, number }, taken)
        };
        let seat = tokio::time::timeout(patience, taken).await;
        drop(waiting);
        if let Ok(Ok(seat)) = seat {
            return Ok(seat);
        }
        self.state.lock().rejected += 1;
        Err(Refusal::TimedOut)
    }

    fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.executing -= 1;
        state.dispatch(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn level(seats: usize, queuing: Option<Queuing>) -> Arc<Level> {
        let level = Arc::new(Level::default());
        level
            .configure(Some(Limit { bounds: Bounds { nominal: seats, least: seats, most: seats }, queuing }));
        level
    }

    fn queues(queues: u64, hand: usize, length: usize) -> Option<Queuing> {
        Some(Queuing { queues, hand, length })
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_seat_is_turned_away_where_nobody_waits() {
        let level = level(1, None);
        let seat = level.enter(1, PATIENCE).await.ok().unwrap();
        assert_eq!(level.enter(1, PATIENCE).await.err(), Some(Refusal::NoSeat));
        drop(seat);
        assert!(level.enter(1, PATIENCE).await.is_ok());
        let figures = level.figures();
        assert_eq!((figures.dispatched, figures.rejected, figures.executing), (2, 1, 0));
        assert_eq!(level.take_high(), 2, "who was turned away wanted a seat too");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_seat_that_becomes_free_and_not_for_ever() {
        let level = level(1, queues(8, 1, 1));
        let seat = level.enter(1, PATIENCE).await.ok().unwrap();
        let waiting = tokio::spawn({
            let level = level.clone();
            async move { level.enter(1, PATIENCE).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert_eq!(level.enter(1, PATIENCE).await.err(), Some(Refusal::QueueFull));
        drop(seat);
        assert!(waiting.await.unwrap());
        let _seat = level.enter(1, PATIENCE).await.ok().unwrap();
        assert_eq!(level.enter(1, PATIENCE).await.err(), Some(Refusal::TimedOut));
        assert_eq!(level.figures().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn flows_take_turns_however_much_one_of_them_asks() {
        let level = level(1, queues(64, 1, 50));
        let seat = level.enter(0, PATIENCE).await.ok().unwrap();
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut asked = Vec::new();
        for flow in [1, 1, 1, 1, 2, 2] {
            let (level, told) = (level.clone(), told.clone());
            asked.push(tokio::spawn(async move {
                let seat = level.enter(flow, PATIENCE).await.ok().unwrap();
                told.send(flow).unwrap();
                drop(seat);
            }));
            tokio::task::yield_now().await;
        }
        drop((seat, told));
        let mut seen = Vec::new();
        while let Some(flow) = order.recv().await {
            seen.push(flow);
        }
        assert_eq!(seen, [1, 2, 1, 2, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_takes_no_seat_along() {
        let level = level(1, queues(1, 1, 50));
        let seat = level.enter(0, PATIENCE).await.ok().unwrap();
        let gone = tokio::spawn({
            let level = level.clone();
            async move { level.enter(0, PATIENCE).await.is_ok() }
        });
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        assert_eq!(level.figures().waiting, 0);
        drop(seat);
        assert_eq!(level.figures().executing, 0);
        level.resize(0);
        assert_eq!(level.enter(0, Duration::from_millis(1)).await.err(), Some(Refusal::TimedOut));
        level.configure(None);
        assert!(level.enter(0, PATIENCE).await.is_ok(), "nothing limits an exempt level");
    }

    proptest! {
        #[test]
        fn a_hand_holds_different_queues(hash: u64, queues in 1u64..300, size in 1usize..10) {
            let size = size.min(queues as usize);
            let dealt = hand(hash, Queuing { queues, hand: size, length: 1 });
            prop_assert_eq!(dealt.len(), size);
            prop_assert!(dealt.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(dealt.iter().all(|d| *d < queues));
        }
    }
}

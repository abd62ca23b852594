//! What may go wrong between a client and the API server, and how often. It decides by draws from the seed, and does nothing.

use crate::random::Random;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// How often what goes wrong. Chances are of a thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A request, its answer, and each piece of a watch take up to this long on their way.
    pub latency: Duration,
    /// A piece of a watch takes up to [`Faults::lag`].
    pub lags: u32,
    /// How long a piece of a watch may take that is late.
    pub lag: Duration,
    /// A watch breaks at a piece.
    pub breaks: u32,
    /// A request is refused (429, 500, 503, no connection) before the server sees it.
    pub refuses: u32,
    /// A request is answered by an error after it was done.
    pub loses: u32,
    /// Somebody else writes the object just before it is written.
    pub interferes: u32,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// The server never sees it; the number says which error the client gets.
    Refused(u64),
    /// It is done, but the client gets an error.
    Lost(u64),
}

/// Draws what goes wrong.
pub(crate) struct Chances {
    faults: Mutex<Arc<Faults>>,
    random: Mutex<Random>,
}

impl Chances {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self { faults: Mutex::new(Arc::new(faults)), random: Mutex::new(Random::new(seed, "faults")) }
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.faults.lock() = Arc::new(faults);
    }

    fn now(&self) -> Arc<Faults> {
        self.faults.lock().clone()
    }

    pub(crate) fn fate(&self) -> Fate {
        let (faults, mut random) = (self.now(), self.random.lock());
        if random.chance(faults.refuses) {
            Fate::Refused(random.draw())
        } else if random.chance(faults.loses) {
            Fate::Lost(random.draw())
        } else {
            Fate::Answered
        }
    }

    /// How long something takes on its way.
    pub(crate) fn latency(&self) -> Duration {
        self.random.lock().time(Duration::ZERO, self.now().latency)
    }

    /// How long a piece of a watch takes on its way; `None` if the watch breaks there.
    pub(crate) fn piece(&self) -> Option<Duration> {
        let (faults, mut random) = (self.now(), self.random.lock());
        if random.chance(faults.breaks) {
            return None;
        }
        let most = if random.chance(faults.lags) { faults.lag } else { faults.latency };
        Some(random.time(Duration::ZERO, most))
    }

    pub(crate) fn interferes(&self) -> bool {
        let faults = self.now();
        self.random.lock().chance(faults.interferes)
    }
}

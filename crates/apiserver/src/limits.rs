//! How many requests are worked on at the same time, so that a flood of them costs memory and time within bounds. The
//! cluster's own parts have a share of their own.

use crate::{config::Limits, identity::Identity};
use orlop_api::Status;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request waits for its turn before it is turned away.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct InFlight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    system: Arc<Semaphore>,
}

impl InFlight {
    pub(crate) fn new(limits: &Limits) -> Self {
        let share = |n| Arc::new(Semaphore::new(n));
        Self { reads: share(limits.reads), writes: share(limits.writes), system: share(limits.system) }
    }

    /// A turn, or 429.
    pub(crate) async fn enter(&self, who: &Identity, reads: bool) -> Result<OwnedSemaphorePermit, Status> {
        let share = match (who.is_system(), reads) {
            (true, _) => &self.system,
            (false, true) => &self.reads,
            (false, false) => &self.writes,
        };
        if let Ok(permit) = share.clone().try_acquire_owned() {
            return Ok(permit);
        }
        match tokio::time::timeout(PATIENCE, share.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Status::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_users_is_turned_away_and_starves_no_node() {
        let limits = Limits { reads: 1, writes: 1, system: 1, ..Limits::default() };
        let in_flight = InFlight::new(&limits);
        let user = Identity::new("jane", &[]);
        let node = Identity::new("system:node:a", &["system:nodes"]);
        let held = in_flight.enter(&user, true).await.unwrap();
        assert_eq!(in_flight.enter(&user, true).await.unwrap_err().code, 429);
        drop(in_flight.enter(&user, false).await.unwrap());
        drop(in_flight.enter(&node, true).await.unwrap());
        drop(held);
        drop(in_flight.enter(&user, true).await.unwrap());
    }
}

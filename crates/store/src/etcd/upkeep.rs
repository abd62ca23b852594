//! Keeps etcd's history short: it has no bound of its own. Every server does it; whoever is later finds it done.

use super::Shared;
use std::time::Duration;

/// Compacts to where history stood `retention` ago, again and again. Never ends.
pub(super) async fn compact_every(shared: &Shared, retention: Option<Duration>) {
    let Some(retention) = retention else { return std::future::pending().await };
    let mut then = None;
    loop {
        let now = match shared.newest().await {
            Ok(revision) => Some(revision),
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the revision to compact to later");
                None
            }
        };
        if let Some(then) = then.take()
            && let Err(error) = shared.compact(then).await
        {
            tracing::warn!(%error, revision = %then, "history could not be compacted; trying again later");
        }
        then = now;
        tokio::time::sleep(retention).await;
    }
}

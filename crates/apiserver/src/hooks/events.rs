//! Event: kept for a while only.

use crate::registry::Registry;
use jiff::{SignedDuration, Timestamp};
use orlop_store::Txn;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often it is looked for old Events.
const EVERY: Duration = Duration::from_secs(60);

/// Starts the task that deletes Events older than `ttl`.
pub(crate) fn start_expiry(registry: &Arc<Registry>, ttl: Duration, stop: CancellationToken) {
    let registry = registry.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY.min(ttl));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => expire(&registry, ttl).await,
            }
        }
    });
}

async fn expire(registry: &Registry, ttl: Duration) {
    let Some(resource) = registry.find("", "v1", "events") else { return };
    let Ok(ttl) = SignedDuration::try_from(ttl) else { return };
    let now = registry.now();
    let all = resource.cache.snapshot(&resource.cache.key_prefix, None, 0, |_| true).objects;
    for object in all {
        let old = last_seen(&object.value()).is_some_and(|seen| now.duration_since(seen) > ttl);
        if old
            && let Err(error) = registry.store.commit(Txn::delete(object.key.clone(), object.revision)).await
        {
            tracing::warn!(%error, "an old Event could not be deleted");
            return;
        }
    }
}

/// When the Event last happened.
fn last_seen(event: &Value) -> Option<Timestamp> {
    ["/metadata/creationTimestamp", "/lastTimestamp", "/series/lastObservedTime", "/deprecatedLastTimestamp"]
        .iter()
        .filter_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_as_old_as_its_last_occurrence() {
        let event = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T01:00:00Z",
        });
        assert_eq!(last_seen(&event), "2026-01-01T01:00:00Z".parse().ok());
    }
}

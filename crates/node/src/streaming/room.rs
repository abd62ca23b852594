//! How many bytes of a client may wait for those who read them slowly: all that hold bytes of one connection share one room,
//! and whoever brings more waits, and with it the client. Queues bound the number of messages, this bounds their size.

use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one connection that may wait. A message may be 32 MiB, as for the kubelet.
pub const SIZE: usize = 40 << 20;

/// The room of one connection.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

struct Held {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// An empty one.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(SIZE)))
    }

    /// The same bytes, which take their place until they are dropped; waits until there is one.
    pub async fn hold(&self, bytes: Bytes) -> Bytes {
        let place = bytes.len().min(SIZE) as u32;
        match self.0.clone().acquire_many_owned(place).await {
            Ok(place) => Bytes::from_owner(Held { bytes, _place: place }),
            // Nobody closes it.
            Err(_) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn whoever_brings_more_than_there_is_room_for_waits_until_something_was_read() {
        let room = Room::new();
        let half = Bytes::from(vec![7; SIZE / 2]);
        let first = room.hold(half.clone()).await;
        let second = room.hold(half.clone()).await.slice(1..);
        assert_eq!((first.len(), second[0]), (SIZE / 2, 7));
        let third = tokio::time::timeout(Duration::from_secs(1), room.hold(half.clone()));
        assert!(third.await.is_err());
        drop(first);
        let third = tokio::time::timeout(Duration::from_secs(1), room.hold(half));
        assert!(third.await.is_ok());
    }
}

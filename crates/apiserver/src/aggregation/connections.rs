//! Connections to an aggregated server, kept for the next request: a handshake costs more than most questions. Knows nothing of what is
//! said over them.

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How many are kept.
const MOST: usize = 32;
/// How long one is kept that nobody uses: less than servers commonly wait.
const LONGEST: Duration = Duration::from_secs(30);

/// One way to a server.
pub(super) type Sender = SendRequest<Full<Bytes>>;

struct Idle {
    address: String,
    sender: Sender,
    since: Instant,
}

/// Those that wait for a request.
#[derive(Default)]
pub(super) struct Connections {
    idle: Mutex<Vec<Idle>>,
}

impl Connections {
    /// The one that was used last, of those to one of these addresses.
    pub(super) fn take(&self, addresses: &[String]) -> Option<(String, Sender)> {
        let mut idle = self.idle.lock();
        idle.retain(|i| {
            !i.sender.is_closed() && i.since.elapsed() < LONGEST && addresses.contains(&i.address)
        });
        idle.pop().map(|found| (found.address, found.sender))
    }

    /// Keeps one for later, once its answer has been read.
    pub(super) fn keep(self: &Arc<Self>, address: String, mut sender: Sender) {
        // Who waits for an answer that never ends must not hold the others.
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            if let Some(connections) = connections.upgrade() {
                let mut idle = connections.idle.lock();
                if idle.len() >= MOST {
                    idle.remove(0);
                }
                idle.push(Idle { address, sender, since: Instant::now() });
            }
        });
    }
}

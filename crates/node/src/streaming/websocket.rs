//! A WebSocket as two halves: one that reads messages, one that many tasks send through. Keeps it alive, notices when the
//! client is gone, and closes it in order. What messages say is not its concern.

use super::upgrade::Io;
use futures::{SinkExt, StreamExt, stream::SplitStream};
use std::time::Duration;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

/// Longest message that is taken, as by the kubelet.
const LONGEST: usize = 32 << 20;
/// Messages that may wait for a slow client, beside what the kernel buffers; then their writers wait too.
const QUEUE: usize = 4;
/// A client that cannot be written to any more is found out by pings, even while nothing is to be said to it.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long a client may take to answer that the connection is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The other side cannot be written to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// The half that reads.
pub struct Receiver {
    stream: SplitStream<WebSocketStream<Io>>,
    gone: CancellationToken,
}

/// The half that sends. When the last one is dropped the connection is closed.
#[derive(Clone)]
pub struct Sender {
    queue: mpsc::Sender<Message>,
    gone: CancellationToken,
}

/// Makes the halves of an upgraded connection, and the task that writes; it must be run, and ends when the connection is
/// closed.
pub async fn split(io: Io) -> (Receiver, Sender, impl Future<Output = ()> + Send) {
    let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
    let (mut sink, stream) = socket.split();
    let (queue, mut messages) = mpsc::channel::<Message>(QUEUE);
    let gone = CancellationToken::new();
    let (receiver, sender) = (Receiver { stream, gone: gone.clone() }, Sender { queue, gone: gone.clone() });
    let write = async move {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            let message = tokio::select! {
                message = messages.recv() => message,
                _ = ping.tick() => Some(Message::Ping(Default::default())),
                () = gone.cancelled() => return,
            };
            let last = message.is_none();
            let close =
                || Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }));
            let sent = tokio::select! {
                sent = sink.send(message.unwrap_or_else(close)) => sent.is_ok(),
                () = gone.cancelled() => false,
            };
            if !sent {
                gone.cancel();
                return;
            }
            if last {
                break;
            }
        }
        // The receiving half goes on until the client has answered the close: to drop the connection before would
        // throw away what the client has not read yet.
        let answered = tokio::time::timeout(CLOSE_LIMIT, gone.cancelled()).await;
        if answered.is_err() {
            gone.cancel();
        }
    };
    (receiver, sender, write)
}

impl Receiver {
    /// The next message that is not about the connection itself; none when the client has closed it or is gone.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                () = self.gone.cancelled() => None,
            };
            match message {
                Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => return Some(message),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    // Reading on sends the answer to the client's close.
                    let _ = tokio::time::timeout(CLOSE_LIMIT, self.stream.next()).await;
                    self.gone.cancel();
                    return None;
                }
            }
        }
    }

    /// What `work` gives, or nothing if the client is gone before.
    pub async fn or_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.gone.run_until_cancelled(work).await
    }
}

impl Sender {
    /// Queues a message; waits while the client is slow.
    pub async fn send(&self, message: Message) -> Result<(), Gone> {
        self.queue.send(message).await.map_err(|_| Gone)
    }

    /// Is cancelled when the client is gone.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }
}

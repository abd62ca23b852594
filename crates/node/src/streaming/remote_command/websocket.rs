//! Exec and attach over the WebSocket channel protocols.

use super::{
    Start, Verb,
    options::Streams,
    session::{self, Channel, Input, Output},
    status::last_words,
};
use crate::streaming::{
    channels::{ChannelEvent, Protocol},
    room::Room,
    upgrade::Io,
    websocket::{self, Gone, Receiver, Sender},
};
use bytes::Bytes;
use orlop_runtime::TerminalSize;
use tokio::sync::{mpsc, watch};

/// Messages from the client that may wait for a process which does not read. Beyond it the client waits too.
const QUEUE: usize = 64;

struct Channels {
    protocol: Protocol,
    streams: Streams,
    sender: Sender,
}

#[async_trait::async_trait]
impl Output for Channels {
    async fn write(&self, channel: Channel, bytes: Bytes) -> Result<(), Gone> {
        self.sender.send(self.protocol.encode(channel as u8, &bytes)).await
    }
}

impl Channels {
    /// The first message, empty, on the lowest channel that the server writes: the client knows that it is through.
    async fn greet(&self) -> Result<(), Gone> {
        let channel = match self.streams {
            Streams { stdout: true, .. } => Channel::Stdout,
            Streams { stderr: true, .. } => Channel::Stderr,
            _ => Channel::Error,
        };
        self.write(channel, Bytes::new()).await
    }
}

/// Serves one client to the end.
pub async fn serve(io: Io, protocol: &str, verb: Verb, streams: Streams, start: Start) {
    let (receiver, sender, writing) = websocket::split(io).await;
    let protocol = Protocol::of(protocol);
    let gone = sender.gone().clone();
    let (stdin_sender, stdin) = mpsc::channel(QUEUE);
    let (resize_sender, resize) = watch::channel(None);
    let reading = read(receiver, protocol, streams.stdin.then_some(stdin_sender), resize_sender);
    let client = Channels { protocol, streams, sender };
    let command = async move {
        if client.greet().await.is_err() {
            return;
        }
        let outcome = match start.await {
            Ok(session) => session::run(session, Input { stdin, resize, gone }, &client).await,
            Err(e) => Some(Err(e)),
        };
        if let Some(words) = outcome.and_then(|outcome| last_words(protocol.version, verb, &outcome)) {
            let _ = client.write(Channel::Error, words).await;
        }
    };
    tokio::join!(reading, writing, command);
}

/// Hands on what the client sends, until it is gone; then its input ends.
async fn read(
    mut receiver: Receiver,
    protocol: Protocol,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resize: watch::Sender<Option<TerminalSize>>,
) {
    let room = Room::new();
    while let Some(message) = receiver.next().await {
        match protocol.decode(message) {
            Some(ChannelEvent::Data(0, bytes)) if !bytes.is_empty() => {
                if let Some(queue) = &stdin
                    && receiver
                        .or_gone(async { queue.send(room.hold(bytes).await).await })
                        .await
                        .is_none_or(|sent| sent.is_err())
                {
                    stdin = None;
                }
            }
            Some(ChannelEvent::Closed(0)) => stdin = None,
            Some(ChannelEvent::Data(4, bytes)) => {
                if let Some(size) = terminal_size(&bytes) {
                    resize.send_replace(Some(size));
                }
            }
            _ => {}
        }
    }
}

/// Reads `{"Width":80,"Height":24}`.
pub fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let size: Size = serde_json::from_slice(json).ok()?;
    Some(TerminalSize { width: size.width, height: size.height })
}

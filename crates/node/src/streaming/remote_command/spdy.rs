//! Exec and attach over SPDY, for clients from before WebSockets: each stream of the command is one of the connection.

use super::{
    Start, Verb,
    options::Streams,
    session::{self, Channel, Input, Output},
    status::last_words,
    websocket::terminal_size,
};
use crate::streaming::{
    spdy::{self, Offer, StreamReceiver, StreamSender},
    upgrade::Io,
    websocket::Gone,
};
use bytes::{Bytes, BytesMut};
use orlop_runtime::TerminalSize;
use std::time::Duration;
use tokio::{
    io::split,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// Names of the protocols.
pub const PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// How long the client may take to open its streams.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);

/// Serves one client to the end.
pub async fn serve(io: Io, protocol: &str, verb: Verb, streams: Streams, start: Start) {
    let version = match protocol.split('.').next() {
        Some("v4") => 4,
        Some("v3") => 3,
        Some("v2") => 2,
        _ => 1,
    };
    let (read, write) = split(io);
    spdy::serve(spdy::byte_stream(read), write, async move |mut offers| {
        let opened = Opened::collect(&mut offers, streams, version >= 3);
        let Ok(Some(opened)) = tokio::time::timeout(STREAMS_LIMIT, opened).await else { return };
        opened.run(version, verb, start).await;
    })
    .await;
}

/// The streams of one command.
#[derive(Default)]
struct Opened {
    stdin: Option<StreamReceiver>,
    resize: Option<StreamReceiver>,
    /// By channel number.
    senders: [Option<StreamSender>; 5],
}

impl Opened {
    /// Accepts streams until all that belong to the command are there; none if the client is gone before.
    async fn collect(offers: &mut mpsc::Receiver<Offer>, streams: Streams, resizes: bool) -> Option<Self> {
        let wanted = [
            (Channel::Stdin, "stdin", streams.stdin),
            (Channel::Stdout, "stdout", streams.stdout),
            (Channel::Stderr, "stderr", streams.stderr),
            (Channel::Error, "error", true),
            (Channel::Resize, "resize", streams.tty && resizes),
        ];
        let mut missing = wanted.iter().filter(|w| w.2).count();
        let mut opened = Self::default();
        while missing > 0 {
            let offer = offers.recv().await?;
            let name = offer.headers.get("streamtype").unwrap_or_default();
            let known = wanted.iter().find(|w| w.2 && w.1 == name).map(|w| w.0);
            let Some(channel) = known.filter(|c| opened.senders[*c as usize].is_none()) else {
                offer.refuse().await;
                continue;
            };
            let (receiver, sender) = offer.accept().await.ok()?;
            opened.senders[channel as usize] = Some(sender);
            match channel {
                Channel::Stdin => opened.stdin = Some(receiver),
                Channel::Resize => opened.resize = Some(receiver),
                _ => {}
            }
            missing -= 1;
        }
        Some(opened)
    }

    async fn run(self, version: u8, verb: Verb, start: Start) {
        let (sizes, resize) = watch::channel(None);
        // Without the stream there is nothing to read: the other half is dropped at once.
        let stdin = self.stdin.unwrap_or_else(|| mpsc::channel(1).1);
        let output = Senders(self.senders);
        // If the client is gone this whole future is dropped.
        let input = Input { stdin, resize, gone: CancellationToken::new() };
        let command = async {
            match start.await {
                Ok(session) => session::run(session, input, &output).await,
                Err(e) => Some(Err(e)),
            }
        };
        let resizing = async {
            if let Some(stream) = self.resize {
                read_sizes(stream, sizes).await;
            }
            std::future::pending().await
        };
        let outcome = tokio::select! {
            outcome = command => outcome,
            () = resizing => None,
        };
        if let Some(words) = outcome.and_then(|outcome| last_words(version, verb, &outcome)) {
            let _ = output.write(Channel::Error, words).await;
        }
        for sender in output.0.into_iter().flatten() {
            sender.finish().await;
        }
    }
}

async fn read_sizes(mut stream: StreamReceiver, sizes: watch::Sender<Option<TerminalSize>>) {
    let mut line = BytesMut::new();
    while let Some(bytes) = stream.recv().await {
        line.extend_from_slice(&bytes);
        while let Some(end) = line.iter().position(|b| *b == b'\n') {
            if let Some(size) = terminal_size(&line.split_to(end + 1)) {
                sizes.send_replace(Some(size));
            }
        }
    }
}

struct Senders([Option<StreamSender>; 5]);

#[async_trait::async_trait]
impl Output for Senders {
    async fn write(&self, channel: Channel, bytes: Bytes) -> Result<(), Gone> {
        match &self.0[channel as usize] {
            Some(sender) => sender.send(bytes).await,
            None => Ok(()),
        }
    }
}

//! A SPDY connection: reads frames, hands on the streams that the client opens, and sends what they answer. One stream
//! whose reader is slow holds up the others only when much is waiting for it: SPDY as spoken here has no flow control.

use super::{
    frame::{Decoder, Encoder, Frame, FrameError, GOAWAY_PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM},
    headers::Headers,
};
use crate::streaming::{
    room::Room,
    upgrade::Io,
    websocket::{self, Gone},
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    time::MissedTickBehavior,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::{io::ReaderStream, sync::CancellationToken};

/// Frames that may wait to be sent.
const SEND_QUEUE: usize = 8;
/// Frames that may wait for a stream's reader; of 32 KiB each from kubectl. All streams share one room for their bytes.
const STREAM_QUEUE: usize = 128;
/// Streams that may wait to be accepted.
const OFFERS: usize = 16;
/// Most streams open at a time.
const MOST_STREAMS: usize = 4096;
/// How long a client may take to close its side once ours is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How long the last words to a client that broke the rules may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// A client that cannot be written to any more is found out by pings.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Takes the bytes of a connection.
#[async_trait::async_trait]
pub trait Wire: Send {
    /// Sends; waits while the client is slow.
    async fn send(&mut self, bytes: Bytes) -> Result<(), Gone>;
    /// Says that no more will come.
    async fn close(&mut self);
}

#[async_trait::async_trait]
impl Wire for websocket::Sender {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        websocket::Sender::send(self, Message::Binary(bytes)).await
    }

    async fn close(&mut self) {}
}

#[async_trait::async_trait]
impl Wire for WriteHalf<Io> {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.write_all(&bytes).await.map_err(|_| Gone)?;
        self.flush().await.map_err(|_| Gone)
    }

    async fn close(&mut self) {
        let _ = self.shutdown().await;
    }
}

/// What comes from an upgraded connection, until it ends or fails.
pub fn byte_stream(half: ReadHalf<Io>) -> BoxStream<'static, Bytes> {
    ReaderStream::new(half).take_while(|b| std::future::ready(b.is_ok())).filter_map(async |b| b.ok()).boxed()
}

/// What comes in the messages of a WebSocket.
pub fn websocket_stream(receiver: websocket::Receiver) -> BoxStream<'static, Bytes> {
    futures::stream::unfold(receiver, async |mut receiver| {
        let message = receiver.next().await?;
        Some((message.into_data(), receiver))
    })
    .boxed()
}

/// What both directions of a connection know of its streams.
#[derive(Default)]
struct Shared {
    open: Mutex<HashMap<u32, Open>>,
}

struct Open {
    /// Gone when the client has said that it is done.
    queue: Option<mpsc::Sender<Bytes>>,
    /// Whether our side is done.
    finished: bool,
    /// Is cancelled when the stream is reset or the connection is gone.
    reset: CancellationToken,
}

impl Shared {
    fn update(&self, id: u32, change: impl FnOnce(&mut Open)) {
        let mut open = self.open.lock();
        if let Some(stream) = open.get_mut(&id) {
            change(stream);
            if stream.queue.is_none() && stream.finished {
                open.remove(&id);
            }
        }
    }

    fn reset(&self, id: u32) {
        if let Some(stream) = self.open.lock().remove(&id) {
            stream.reset.cancel();
        }
    }
}

/// A stream that the client wants to open.
pub struct Offer {
    pub id: u32,
    pub headers: Headers,
    receiver: StreamReceiver,
    sender: StreamSender,
}

/// What the client sends on a stream; ends when it is done, or the stream or the connection is gone.
pub type StreamReceiver = mpsc::Receiver<Bytes>;

/// Sends on a stream.
pub struct StreamSender {
    id: u32,
    frames: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
    reset: CancellationToken,
}

impl Offer {
    /// Opens it.
    pub async fn accept(self) -> Result<(StreamReceiver, StreamSender), Gone> {
        let reply = Frame::SynReply { id: self.id, fin: false, headers: Headers::default() };
        self.sender.queue(reply).await?;
        Ok((self.receiver, self.sender))
    }

    /// Refuses it.
    pub async fn refuse(self) {
        let _ = self.sender.queue(Frame::RstStream { id: self.id, status: REFUSED_STREAM }).await;
        self.sender.shared.reset(self.id);
    }
}

impl StreamSender {
    /// Sends a piece; waits while the client is slow.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.queue(Frame::Data { id: self.id, fin: false, bytes }).await
    }

    /// Says that no more will come.
    pub async fn finish(self) {
        let _ = self.queue(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await;
        self.shared.update(self.id, |stream| stream.finished = true);
    }

    /// Is cancelled when the client has reset the stream or is gone.
    pub fn reset(&self) -> &CancellationToken {
        &self.reset
    }

    async fn queue(&self, frame: Frame) -> Result<(), Gone> {
        let sent = self.reset.run_until_cancelled(self.frames.send(frame)).await;
        sent.ok_or(Gone)?.map_err(|_| Gone)
    }
}

/// Serves a connection: hands its streams to `handle`, and closes it when that returns. If the client is gone before, what
/// `handle` does is dropped.
pub async fn serve<F: Future<Output = ()>>(
    input: BoxStream<'static, Bytes>,
    wire: impl Wire,
    handle: impl FnOnce(mpsc::Receiver<Offer>) -> F,
) {
    let (frames, queue) = mpsc::channel(SEND_QUEUE);
    let (offers, offered) = mpsc::channel(OFFERS);
    let connection = Incoming { last: 0, frames, offers, shared: Arc::default(), room: Room::new() };
    let done = CancellationToken::new();
    let handling = async {
        handle(offered).await;
        done.cancel();
        // Writing says when all is sent.
        std::future::pending().await
    };
    let closing = async {
        if write(queue, wire, &done).await.is_ok() {
            // What the client has not read yet would be lost if the connection were dropped now.
            tokio::time::sleep(CLOSE_LIMIT).await;
        }
    };
    tokio::select! {
        () = connection.read(input) => {}
        () = handling => {}
        () = closing => {}
    }
}

/// Sends frames until `done` and all are sent.
async fn write(
    mut queue: mpsc::Receiver<Frame>,
    mut wire: impl Wire,
    done: &CancellationToken,
) -> Result<(), Gone> {
    let mut encoder = Encoder::new().map_err(|_| Gone)?;
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    // A server's pings have even numbers.
    let mut ping_id = 0_u32;
    loop {
        let frame = tokio::select! {
            biased;
            frame = queue.recv() => frame,
            () = done.cancelled() => None,
            _ = ping.tick() => {
                ping_id = ping_id.wrapping_add(2);
                Some(Frame::Ping { id: ping_id })
            }
        };
        let Some(frame) = frame else { break };
        wire.send(encoder.encode(&frame).map_err(|_| Gone)?).await?;
    }
    let last = Frame::GoAway { last_stream: 0, status: 0 };
    wire.send(encoder.encode(&last).map_err(|_| Gone)?).await?;
    wire.close().await;
    Ok(())
}

/// The direction from the client.
struct Incoming {
    /// The highest id that a stream had.
    last: u32,
    frames: mpsc::Sender<Frame>,
    offers: mpsc::Sender<Offer>,
    shared: Arc<Shared>,
    room: Room,
}

impl Incoming {
    /// Reads until the client is gone, or breaks the rules.
    async fn read(mut self, mut input: BoxStream<'static, Bytes>) {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        while let Some(bytes) = input.next().await {
            buffer.extend_from_slice(&bytes);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(frame)) => self.take(frame).await,
                    Ok(None) => break,
                    Err(e) => return self.fail(e).await,
                }
            }
        }
    }

    async fn fail(self, error: FrameError) {
        tracing::debug!(%error, "a SPDY connection broke the rules");
        let away = Frame::GoAway { last_stream: self.last, status: GOAWAY_PROTOCOL_ERROR };
        if self.frames.send(away).await.is_ok() {
            tokio::time::sleep(FAREWELL).await;
        }
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers, .. } => self.open(id, fin, headers).await,
            Frame::Data { id, fin, bytes } => self.data(id, fin, bytes).await,
            Frame::Headers { id, fin: true, .. } => self.shared.update(id, |stream| stream.queue = None),
            Frame::RstStream { id, .. } => self.shared.reset(id),
            // A client's pings have odd numbers; the others are answers to ours.
            Frame::Ping { id } if id % 2 == 1 => self.answer(Frame::Ping { id }).await,
            _ => {}
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) {
        let many = self.shared.open.lock().len() >= MOST_STREAMS;
        if id.is_multiple_of(2) || id <= self.last || many {
            return self.answer(Frame::RstStream { id, status: REFUSED_STREAM }).await;
        }
        self.last = id;
        let (queue, receiver) = mpsc::channel(STREAM_QUEUE);
        let reset = CancellationToken::new();
        let open = Open { queue: (!fin).then_some(queue), finished: false, reset: reset.clone() };
        self.shared.open.lock().insert(id, open);
        let sender = StreamSender { id, frames: self.frames.clone(), shared: self.shared.clone(), reset };
        let _ = self.offers.send(Offer { id, headers, receiver, sender }).await;
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        if id > self.last {
            return self.answer(Frame::RstStream { id, status: INVALID_STREAM }).await;
        }
        let queue = self.shared.open.lock().get(&id).and_then(|stream| stream.queue.clone());
        if let Some(queue) = queue
            && !bytes.is_empty()
        {
            // A stream whose reader has left drops what comes.
            let _ = queue.send(self.room.hold(bytes).await).await;
        }
        if fin {
            self.shared.update(id, |stream| stream.queue = None);
        }
    }

    async fn answer(&self, frame: Frame) {
        let _ = self.frames.send(frame).await;
    }
}

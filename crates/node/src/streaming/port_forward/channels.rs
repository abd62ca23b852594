//! Port-forward over WebSocket channels: of the i-th port, channel 2i carries data and 2i+1 errors; each begins with the
//! port's number in two bytes, the lower one first.

use super::{Destination, ToClient, join};
use crate::streaming::{
    channels::{ChannelEvent, Protocol},
    room::Room,
    upgrade::Io,
    websocket::{self, Gone, Receiver, Sender},
};
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::mpsc;

/// Messages that may wait for a connection which does not take them.
const QUEUE: usize = 64;

#[derive(Clone)]
struct Channel {
    protocol: Protocol,
    sender: Sender,
    number: u8,
}

#[async_trait::async_trait]
impl ToClient for Channel {
    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.sender.send(self.protocol.encode(self.number, &bytes)).await
    }
}

/// Serves one client to the end: opens one connection a port at once, closes when all have ended.
pub async fn serve(io: Io, protocol: &str, ports: &[u16], destination: Destination) {
    let (receiver, sender, writing) = websocket::split(io).await;
    let protocol = Protocol::of(protocol);
    let mut queues = Vec::new();
    let mut connections = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let (queue, from_client) = mpsc::channel(QUEUE);
        queues.push(Some(queue));
        let number = 2 * index as u8;
        let data = Channel { protocol, sender: sender.clone(), number };
        let error = Channel { protocol, sender: sender.clone(), number: number + 1 };
        connections.push(forward(&destination, *port, from_client, data, error));
    }
    let gone = sender.gone().clone();
    drop(sender);
    let forwarding = async move {
        gone.run_until_cancelled(join_all(connections)).await;
    };
    tokio::join!(read(receiver, protocol, queues), writing, forwarding);
}

async fn forward(
    destination: &Destination,
    port: u16,
    from_client: mpsc::Receiver<Bytes>,
    data: Channel,
    error: Channel,
) {
    let number = Bytes::copy_from_slice(&port.to_le_bytes());
    if data.send(number.clone()).await.is_err() || error.send(number).await.is_err() {
        return;
    }
    match destination.connect(port).await {
        Ok(connection) => join(connection, from_client, &data).await,
        Err(words) => {
            let _ = error.send(words.into()).await;
        }
    }
}

async fn read(mut receiver: Receiver, protocol: Protocol, mut queues: Vec<Option<mpsc::Sender<Bytes>>>) {
    let room = Room::new();
    while let Some(message) = receiver.next().await {
        let Some(ChannelEvent::Data(channel, bytes)) = protocol.decode(message) else { continue };
        if channel % 2 != 0 || bytes.is_empty() {
            continue;
        }
        let Some(entry) = queues.get_mut(usize::from(channel / 2)) else { continue };
        if let Some(queue) = entry
            && receiver
                .or_gone(async { queue.send(room.hold(bytes).await).await })
                .await
                .is_none_or(|sent| sent.is_err())
        {
            *entry = None;
        }
    }
}

//! Port-forward over SPDY, as it comes or in the messages of a WebSocket: each forwarded connection is a pair of streams,
//! for data and for errors, with the same request id.

use super::{Destination, ToClient, join};
use crate::streaming::{
    spdy::{self, Offer, StreamReceiver, StreamSender},
    upgrade::Io,
    websocket::{self, Gone},
};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::split,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How long the second stream of a pair may take.
const PAIR_LIMIT: Duration = Duration::from_secs(30);

/// Serves one client over SPDY.
pub async fn serve(io: Io, destination: Destination) {
    let (read, write) = split(io);
    spdy::serve(spdy::byte_stream(read), write, |offers| forward_all(offers, destination)).await;
}

/// Serves one client over SPDY through a WebSocket.
pub async fn serve_tunnel(io: Io, destination: Destination) {
    let (receiver, sender, writing) = websocket::split(io).await;
    let input = spdy::websocket_stream(receiver);
    let serving = spdy::serve(input, sender, |offers| forward_all(offers, destination));
    tokio::join!(serving, writing);
}

/// What a stream's headers say it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Purpose {
    request: String,
    port: u16,
    data: bool,
}

impl Purpose {
    fn of(offer: &Offer) -> Option<Self> {
        let data = match offer.headers.get("streamtype")? {
            "data" => true,
            "error" => false,
            _ => return None,
        };
        let port = offer.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        // The oldest clients give no id, but open the data stream right after the error stream.
        let request = match offer.headers.get("requestid") {
            Some(id) => id.into(),
            None if data => offer.id.saturating_sub(2).to_string(),
            None => offer.id.to_string(),
        };
        Some(Self { request, port, data })
    }
}

/// A pair of streams, as far as it is there.
struct Pair {
    port: u16,
    data: Option<(StreamReceiver, StreamSender)>,
    error: Option<StreamSender>,
    due: Instant,
}

async fn forward_all(mut offers: mpsc::Receiver<Offer>, destination: Destination) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let due = pairs.values().map(|p| p.due).min();
        let overdue = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let offer = tokio::select! {
            offer = offers.recv() => offer,
            Some(()) = running.next() => continue,
            () = overdue => {
                for (request, pair) in pairs.extract_if(|_, p| p.due <= Instant::now()) {
                    running.push(futures::future::Either::Left(give_up(request, pair)));
                }
                continue;
            }
        };
        let Some(offer) = offer else { return };
        let Some(purpose) = Purpose::of(&offer) else {
            offer.refuse().await;
            continue;
        };
        let due = Instant::now() + PAIR_LIMIT;
        let pair = pairs.entry(purpose.request.clone()).or_insert(Pair {
            port: purpose.port,
            data: None,
            error: None,
            due,
        });
        let taken = if purpose.data { pair.data.is_some() } else { pair.error.is_some() };
        if taken {
            offer.refuse().await;
            continue;
        }
        let Ok((receiver, sender)) = offer.accept().await else { continue };
        if purpose.data {
            pair.data = Some((receiver, sender));
        } else {
            pair.error = Some(sender);
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair { port, data: Some(data), error: Some(error), .. }) =
                pairs.remove(&purpose.request)
        {
            running.push(futures::future::Either::Right(forward(destination.clone(), port, data, error)));
        }
    }
}

struct Data<'a>(&'a StreamSender);

#[async_trait::async_trait]
impl ToClient for Data<'_> {
    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(bytes).await
    }
}

async fn forward(
    destination: Destination,
    port: u16,
    (from_client, data): (StreamReceiver, StreamSender),
    error: StreamSender,
) {
    let reset = data.reset().clone();
    let connected = async {
        match destination.connect(port).await {
            Ok(connection) => join(connection, from_client, &Data(&data)).await,
            Err(words) => {
                let _ = error.send(words.into()).await;
            }
        }
    };
    reset.run_until_cancelled(connected).await;
    data.finish().await;
    error.finish().await;
}

async fn give_up(request: String, pair: Pair) {
    if let Some(error) = pair.error {
        let words = format!("timed out waiting for streams of request {request}");
        let _ = error.send(words.into()).await;
        error.finish().await;
    }
    if let Some((_, data)) = pair.data {
        data.finish().await;
    }
}

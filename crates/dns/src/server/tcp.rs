//! Connections: questions may follow each other without waiting, answers come as they are ready (RFC 7766).

use super::Service;
use crate::responder::{Door, Origin, Step};
use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Mutex, Semaphore},
    time::timeout,
};

/// A client that asks nothing for so long is left, as is one that does not take its answers.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at one time, and of one address; further ones are closed.
const MAX_CONNECTIONS: usize = 512;
const MAX_OF_ONE: usize = 64;
/// Questions of one connection that wait for others at one time; then no more are read.
const MAX_WAITING: usize = 64;
/// After running out of file descriptors, say.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections each address has.
type Counts = Rc<RefCell<HashMap<IpAddr, usize>>>;

/// Answers until the listener is gone.
pub(super) async fn serve(listener: TcpListener, door: Door, service: Arc<Service>) {
    let (places, counts) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Counts::default());
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (Ok(place), Some(one)) = (places.clone().try_acquire_owned(), OneOf::new(&counts, from.ip()))
        else {
            continue;
        };
        let service = service.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(stream, from, door, service).await {
                tracing::debug!(%error, %from, "a DNS connection ended");
            }
            drop((place, one));
        });
    }
}

/// One of an address's connections.
struct OneOf(Counts, IpAddr);

impl OneOf {
    fn new(counts: &Counts, address: IpAddr) -> Option<Self> {
        let mut all = counts.borrow_mut();
        let count = all.entry(address).or_default();
        (*count < MAX_OF_ONE).then(|| {
            *count += 1;
            Self(counts.clone(), address)
        })
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let mut all = self.0.borrow_mut();
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    from: SocketAddr,
    door: Door,
    service: Arc<Service>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, writer) = (BufReader::new(reader), Arc::new(Mutex::new(writer)));
    let (waiting, mut packet, mut out) = (Arc::new(Semaphore::new(MAX_WAITING)), Vec::new(), Vec::new());
    loop {
        let read = timeout(IDLE, async {
            let length = reader.read_u16().await?;
            packet.resize(length.into(), 0);
            reader.read_exact(&mut packet).await
        });
        match read.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
        let origin = Origin { door, from, tcp: true, at: Instant::now() };
        match service.responder.respond(&packet, &origin, None, &mut out) {
            Step::Reply => send(&writer, &out).await?,
            // Who does not speak DNS has nothing to say here.
            Step::Drop => break,
            Step::Ask { name, kind } => {
                let Ok(place) = waiting.clone().acquire_owned().await else { break };
                let (service, writer, packet) = (service.clone(), writer.clone(), packet.clone());
                tokio::task::spawn_local(async move {
                    if let Some(reply) = service.ask(&packet, &origin, &name, kind).await {
                        let _ = send(&writer, &reply).await;
                    }
                    drop(place);
                });
            }
        }
    }
    // What was asked before the client stopped asking is still answered.
    let _ = waiting.acquire_many(MAX_WAITING as u32).await;
    Ok(())
}

async fn send(writer: &Mutex<OwnedWriteHalf>, reply: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
    let message = [&length.to_be_bytes()[..], reply].concat();
    let mut writer = writer.lock().await;
    timeout(IDLE, writer.write_all(&message))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

//! Listens on UDP and TCP. All answering is done by one thread of its own, so that nothing else in the process holds up names,
//! and names hold up nothing else.

mod batch;
mod tcp;
mod udp;

use crate::{
    DnsConfig, DnsIndex, Error,
    forward::Forwarder,
    index::Addresses,
    limits::{Clients, Limiter},
    metrics::Metrics,
    responder::{Door, Origin, Responder, Step},
};
use std::{io, net::SocketAddr, sync::Arc, time::Instant};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, oneshot},
    task::LocalSet,
};

/// Packets that wait for somebody else's answer at one time; further ones fail at once.
const MAX_WAITING: usize = 4096;
/// What the kernel may hold for us while we are busy, in bytes.
const RECEIVE_BUFFER: usize = 2 << 20;

/// The zones that are answered.
#[derive(Clone)]
pub struct Zones {
    /// The cluster's.
    pub cluster: Arc<DnsIndex>,
    /// One below it, of the networks that people make.
    pub below: Option<Arc<DnsIndex>>,
    /// Those for strangers.
    pub exported: Vec<Arc<DnsIndex>>,
}

impl From<Arc<DnsIndex>> for Zones {
    fn from(cluster: Arc<DnsIndex>) -> Self {
        Self { cluster, below: None, exported: vec![] }
    }
}

/// A server that has its sockets but does not answer yet.
pub struct DnsServer {
    zones: Zones,
    udp: Vec<(Door, std::net::UdpSocket)>,
    tcp: Vec<(Door, std::net::TcpListener)>,
    forwarder: Arc<Forwarder>,
    metrics: Arc<Metrics>,
    config: DnsConfig,
}

impl DnsServer {
    /// Binds the sockets.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Domain`] of a stub.
    pub fn bind(config: DnsConfig, zones: impl Into<Zones>) -> Result<Self, Error> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        let cluster = config.listen.iter().map(|address| (Door::Cluster, *address));
        let exported = config.export_listen.iter().map(|address| (Door::Exported, *address));
        for (door, address) in cluster.chain(exported) {
            let failed = |source| Error::Listen { address, source };
            let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
            // With port 0, TCP takes the port that UDP was given.
            let bound = socket.local_addr().map_err(failed)?;
            let listener = std::net::TcpListener::bind(bound).map_err(failed)?;
            socket.set_nonblocking(true).and_then(|()| listener.set_nonblocking(true)).map_err(failed)?;
            // With the kernel's own, smaller buffer names are found too.
            let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &RECEIVE_BUFFER);
            udp.push((door, socket));
            tcp.push((door, listener));
        }
        let mut zones: Zones = zones.into();
        zones.exported.sort_by_key(|zone| std::cmp::Reverse(zone.depth));
        let metrics = Arc::new(Metrics::new(zones.cluster.domain()));
        let own: Vec<SocketAddr> = udp.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect();
        let (upstreams, stubs) = (config.upstreams.clone(), config.stubs.clone());
        let forwarder =
            Arc::new(Forwarder::new(upstreams, stubs, &own, config.cache_bytes, metrics.clone())?);
        Ok(Self { zones, udp, tcp, forwarder, metrics, config })
    }

    /// The addresses it listens on, those for strangers last.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Answers until `shutdown` resolves, or this is dropped.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::Stopped`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let outcome = runtime.and_then(|runtime| {
                    LocalSet::new().block_on(&runtime, async move {
                        tokio::select! {
                            outcome = self.answer() => outcome,
                            // Asked to stop, or nobody is interested any more.
                            _ = stopped => Ok(()),
                        }
                    })
                });
                let _ = ended.send(outcome);
            })
            .map_err(Error::Start)?;
        tokio::select! {
            () = shutdown => {
                drop(stop);
                Ok(())
            }
            outcome = end => match outcome {
                Ok(Err(error)) => Err(Error::Start(error)),
                // It has no end of its own, so its thread panicked.
                _ => Err(Error::Stopped),
            }
        }
    }

    /// Runs until dropped.
    async fn answer(self) -> io::Result<()> {
        let now = Instant::now();
        let at = |wanted| {
            let all = self.udp.iter().filter(move |(door, _)| *door == wanted);
            Addresses::of(all.filter_map(|(_, socket)| socket.local_addr().ok()).map(|address| address.ip()))
        };
        let responder = Responder {
            servers: at(Door::Cluster),
            export_servers: at(Door::Exported),
            cluster: self.zones.cluster,
            below: self.zones.below,
            exported: self.zones.exported,
            own_ranges: self.config.own_ranges,
            clients: Clients::new(self.config.clients),
            limiter: Limiter::new(now),
            forwarder: self.forwarder.clone(),
            metrics: self.metrics,
            ttl: self.config.ttl,
            turn: Default::default(),
        };
        let service = Arc::new(Service { responder, waiting: Arc::new(Semaphore::new(MAX_WAITING)) });
        let mut all = tokio::task::JoinSet::new();
        for (door, socket) in self.udp {
            all.spawn_local(udp::serve(UdpSocket::from_std(socket)?, door, service.clone()));
        }
        for (door, listener) in self.tcp {
            all.spawn_local(tcp::serve(TcpListener::from_std(listener)?, door, service.clone()));
        }
        match all.join_next().await {
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(())) => Err(io::Error::other("a socket is gone")),
            None => std::future::pending().await,
        }
    }
}

/// Binds and answers until `shutdown` resolves.
///
/// # Errors
/// As [`DnsServer::bind`] and [`DnsServer::run`].
pub async fn serve(
    zones: impl Into<Zones>,
    config: DnsConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    DnsServer::bind(config, zones)?.run(shutdown).await
}

/// What all sockets share.
struct Service {
    responder: Responder,
    waiting: Arc<Semaphore>,
}

impl Service {
    /// Answers a packet for which somebody else must be asked.
    async fn ask(
        &self,
        packet: &[u8],
        origin: &Origin,
        name: &crate::name::Name,
        kind: u16,
    ) -> Option<Vec<u8>> {
        let heard = match self.waiting.try_acquire() {
            Ok(_place) => self.responder.forwarder.ask(name, kind).await,
            Err(_) => None,
        };
        let mut out = Vec::new();
        match self.responder.respond(packet, origin, Some(heard), &mut out) {
            Step::Reply => Some(out),
            Step::Drop | Step::Ask { .. } => None,
        }
    }
}

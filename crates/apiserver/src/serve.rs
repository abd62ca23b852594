//! Connections from outside: TLS, HTTP/1.1 and HTTP/2, and an orderly end. When the server stops, watches end, requests
//! are finished, and only then connections close.

use crate::{
    ApiServer, Error, Identity,
    identity::{EXPIRED_NODES, removed_node},
    pipeline::{NodePeer, Peer},
};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How the user of a node's certificate begins, and its group.
const NODE: &str = "system:node:";
const NODES: &str = "system:nodes";
/// How long a client may take to say hello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the connection of a node lasts that came to renew its certificate: the next one shows the new one.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often it is looked whether a node that is connected has been removed.
const NODE_LOOK: Duration = Duration::from_secs(5);
/// Bytes of the head of a request. A selector of a thousand names must fit.
const HEAD: usize = 256 << 10;
/// Streams of one HTTP/2 connection at the same time, as in Kubernetes.
const STREAMS: u32 = 250;

impl ApiServer {
    /// Serves the API on a listener until `shutdown`. Returns when all connections are closed.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let acceptor = TlsAcceptor::from(tls);
        let (held, mut released) = tokio::sync::mpsc::channel::<()>(1);
        loop {
            let (stream, address) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if is_of_one_connection(&error) => continue,
                    Err(error) if is_exhaustion(&error) => {
                        tracing::warn!(%error, "cannot accept connections for now");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    Err(error) => return Err(Error::Accept(error)),
                },
            };
            let (server, acceptor, held) = (self.clone(), acceptor.clone(), held.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let _held = held;
                if let Err(error) = server.connection(stream, acceptor, shutdown).await {
                    tracing::debug!(%address, %error, "a connection ended");
                }
            });
        }
        drop(listener);
        self.stop.cancel();
        drop(held);
        // Nobody sends: this returns when the last connection has let go of its end.
        if tokio::time::timeout(DRAIN, released.recv()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        if let Some(auditor) = &self.auditor {
            auditor.flush().await;
        }
        Ok(())
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        shutdown: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        let mut longest = None;
        let mut node = None;
        let peer = match stream.get_ref().1.peer_certificates().and_then(|c| c.first()) {
            Some(certificate) => {
                let (user, groups) = orlop_pki::tls::identity(certificate)?;
                let mut groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                let name = user.strip_prefix(NODE).filter(|_| groups.contains(&NODES)).map(str::to_string);
                if orlop_pki::tls::is_over(certificate, self.registry.now().as_second()) {
                    // Only nodes get as far as this.
                    groups = vec![EXPIRED_NODES];
                    longest = Some(RENEWAL);
                }
                let who = Arc::new(Identity::new(user, &groups));
                match name {
                    Some(name) => {
                        let issued = orlop_pki::tls::issued_at(certificate);
                        let shown = Arc::new(NodePeer { who, name, issued });
                        node = Some(shown.clone());
                        Peer::Node(shown)
                    }
                    None => Peer::Certificate(who),
                }
            }
            None => Peer::Stranger,
        };
        let registry = self.registry.clone();
        let from = stream.get_ref().0.peer_addr().ok().map(|address| address.ip());
        let service = service_fn(move |request| {
            let (server, peer) = (self.clone(), peer.clone());
            async move { Ok::<_, Infallible>(server.respond(request, peer, from).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(60))
            .max_buf_size(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .adaptive_window(true);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(connection);
        let over = async {
            match longest {
                Some(longest) => tokio::time::sleep(longest).await,
                None => std::future::pending().await,
            }
        };
        let removed = async {
            let Some(node) = node else { return std::future::pending().await };
            loop {
                // Time enough to be told why.
                tokio::time::sleep(NODE_LOOK).await;
                if removed_node::is_refused(&registry, &node) {
                    break;
                }
            }
        };
        tokio::select! {
            // What such a node still watches is not its business any more: the connection ends without waiting for that.
            () = removed => Ok(()),
            ended = connection.as_mut() => ended,
            () = over => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }
}

/// Errors of `accept` that concern only the connection that was to be accepted (accept(2)).
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether the process or the machine has no more files or memory for now: EMFILE, ENFILE, ENOBUFS, ENOMEM.
fn is_exhaustion(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

//! `/portForward`: TCP connections into a pod, over WebSocket channels or SPDY streams. Which of the two is settled in
//! `channels` and `streams`; here are the connection itself and the words when it fails.

mod channels;
mod streams;

use super::{
    request::Query,
    response::{Body, Refusal},
    server::Context,
    target::Target,
    upgrade::{self, Transport},
    websocket::Gone,
};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_runtime::ContainerRuntime;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// The protocol over SPDY, and how it is called when SPDY goes through a WebSocket.
const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Most bytes in one message to the client.
const BLOCK: usize = 32 << 10;

/// Where connections go.
#[derive(Clone)]
struct Destination {
    runtime: Arc<dyn ContainerRuntime>,
    sandbox: String,
    pod: String,
    uid: String,
}

impl Destination {
    /// Opens a connection; the error is for the client.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        self.runtime.port_forward(&self.sandbox, port).await.map_err(|error| {
            let mut words =
                format!("error forwarding port {port} to pod {}, uid {}: {error}", self.pod, self.uid);
            let mut cause = std::error::Error::source(&error);
            while let Some(e) = cause {
                words = format!("{words}: {e}");
                cause = e.source();
            }
            words
        })
    }
}

/// Forwards ports.
pub fn serve(
    context: &Arc<Context>,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let pod = target.pod(&*context.pods)?;
    let sandbox = pod
        .sandbox_id
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("pod {:?} is not running", target.pod)))?;
    let destination = Destination {
        runtime: context.pods.runtime().clone(),
        sandbox,
        pod: target.pod.clone(),
        uid: pod.pod.metadata.uid.clone().unwrap_or_default(),
    };
    let transport = Transport::of(request.headers())?;
    let tunnel_and_channels = [&[TUNNEL_PROTOCOL], super::channels::PORT_FORWARD].concat();
    let names = match transport {
        Transport::WebSocket => &tunnel_and_channels[..],
        Transport::Spdy => &[SPDY_PROTOCOL],
    };
    let accepted = upgrade::accept(request, transport, names)?;
    let channels = transport == Transport::WebSocket && accepted.protocol != TUNNEL_PROTOCOL;
    // Streams name their ports themselves.
    let ports = if channels { ports(query)? } else { Vec::new() };
    context.spawn(async move {
        let io = match accepted.stream.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(e) => return tracing::debug!(error = %e, "upgrade of a stream failed"),
        };
        match transport {
            Transport::WebSocket if channels => {
                channels::serve(io, accepted.protocol, &ports, destination).await;
            }
            Transport::WebSocket => streams::serve_tunnel(io, destination).await,
            Transport::Spdy => streams::serve(io, destination).await,
        }
    });
    Ok(accepted.response)
}

/// The ports in `port` or `ports`, each of which may hold several with commas between.
fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let values = query.all("port").chain(query.all("ports")).flat_map(|v| v.split(','));
    let parse = |text: &str| match text.trim().parse::<u16>() {
        Ok(0) | Err(_) => Err(Refusal::bad_request(format!("unable to parse {text:?} as a port"))),
        Ok(port) => Ok(port),
    };
    let ports: Vec<u16> = values.map(parse).collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(Refusal::bad_request("query parameter \"port\" is required")),
        // Each has two channels, which are numbered in one byte.
        1..=127 => Ok(ports),
        _ => Err(Refusal::bad_request("too many ports")),
    }
}

/// Takes what a connection brings to the client, and waits while the client is slow.
#[async_trait::async_trait]
trait ToClient: Send + Sync {
    async fn send(&self, bytes: Bytes) -> Result<(), Gone>;
}

/// Joins a connection to a client. Ends when the pod has said all, or the client is gone; that the client has said all is
/// passed on to the pod, which may still answer.
async fn join(connection: TcpStream, mut from_client: mpsc::Receiver<Bytes>, to_client: &dyn ToClient) {
    let (mut read, mut write) = connection.into_split();
    let inward = async {
        while let Some(bytes) = from_client.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let outward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BLOCK);
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if to_client.send(buffer.split().freeze()).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(outward);
    tokio::select! {
        () = &mut outward => {}
        () = inward => outward.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_one_by_one_or_with_commas() {
        let parse = |q| ports(&Query::parse(q)).map_err(|r| r.status.as_u16());
        assert_eq!(parse("port=80&port=8080"), Ok(vec![80, 8080]));
        assert_eq!(parse("ports=80,81"), Ok(vec![80, 81]));
        for bad in ["", "port=", "port=0", "port=65536", "port=http", "ports=80,"] {
            assert_eq!(parse(bad), Err(400), "{bad}");
        }
    }
}

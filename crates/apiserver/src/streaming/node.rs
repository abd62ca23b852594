//! Connections to the HTTPS endpoint of a node, which is shaped like a kubelet's.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use orlop_api::{
    Status,
    object::{int, list, text},
};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting to a node may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The way to nodes.
pub(crate) struct Nodes {
    tls: Option<Arc<ClientConfig>>,
}

/// Where a node listens.
fn endpoint(node: &Value) -> Option<SocketAddr> {
    let addresses = list(node, "/status/addresses");
    let of = |kind: &str| {
        addresses
            .iter()
            .filter(|a| text(a, "/type") == kind)
            .find_map(|a| text(a, "/address").parse::<IpAddr>().ok())
    };
    let address = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname"))?;
    let port =
        int(node, "/status/daemonEndpoints/kubeletEndpoint/Port").and_then(|p| u16::try_from(p).ok())?;
    Some(SocketAddr::new(address, port)).filter(|a| a.port() != 0)
}

impl Nodes {
    pub(crate) fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        // Upgrades are of HTTP/1.1.
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        });
        Self { tls }
    }

    /// Sends a request to a node. `request` has a path for a URI.
    pub(crate) async fn send(
        &self,
        node: &Value,
        mut request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, Status> {
        let name = text(node, "/metadata/name");
        let unreachable = |why: String| {
            Status::new(
                500,
                "InternalError",
                format!("Internal error occurred: error dialing backend: node {name:?}: {why}"),
            )
        };
        let tls = self
            .tls
            .as_ref()
            .ok_or_else(|| Status::unavailable("this server has no credentials for nodes"))?;
        let address = endpoint(node).ok_or_else(|| unreachable("it does not say where it listens".into()))?;
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let server = ServerName::IpAddress(address.ip().into());
            TlsConnector::from(tls.clone()).connect(server, stream).await
        };
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| unreachable(format!("dial tcp {address}: i/o timeout")))?
            .map_err(|e| unreachable(format!("dial tcp {address}: {e}")))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        });
        if let Ok(host) = http::HeaderValue::from_str(&address.to_string()) {
            request.headers_mut().insert(http::header::HOST, host);
        }
        sender.send_request(request).await.map_err(|e| unreachable(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_reached_at_its_internal_address() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        }});
        assert_eq!(endpoint(&node), Some("10.0.0.1:10250".parse().unwrap()));
        assert_eq!(endpoint(&json!({"status": {}})), None);
    }
}

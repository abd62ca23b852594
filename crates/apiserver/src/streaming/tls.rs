//! TLS to pods and Services that are proxied. Kubernetes does not check whose certificate they show either.

use orlop_pki::tls;
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Speaks TLS with whoever is at the other end of a connection to `address`.
pub(super) async fn connect(address: IpAddr, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let config = tls::trusting_client_config(&["http/1.1"]).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(config);
    connector.connect(ServerName::from(address), stream).await.map_err(|e| format!("tls: {e}"))
}

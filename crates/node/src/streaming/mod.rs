//! The node's HTTPS endpoint, as the kubelet serves it and the API server proxies it: logs, exec, attach, port-forward,
//! statistics. It reads the agent and the runtime and changes neither.

mod channels;
mod logs;
#[doc(hidden)]
pub mod parsers;
mod port_forward;
mod remote_command;
mod request;
mod resource_metrics;
mod response;
mod room;
mod server;
mod spdy;
mod stats;
mod target;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

pub use target::Pods;

use crate::Error;
use server::Context;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the node's endpoint until `shutdown` is cancelled; then open streams are cut and it returns. `tls` must ask for a client
/// certificate of the cluster's authority; who shows one is let in if it names the group `system:masters`.
///
/// # Errors
/// When the listener has no local address any more. A connection that fails concerns only itself.
pub async fn serve(
    pods: Arc<dyn Pods>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    server::run(Arc::new(Context::new(pods, shutdown)), listener, tls).await
}

//! The node's HTTPS endpoint, as the kubelet serves it and the API server proxies it: logs, exec, attach, port-forward,
//! statistics. It reads the agent and the runtime and changes neither.

mod channels;
mod logs;
mod port_forward;
mod remote_command;
mod request;
mod response;
mod server;
mod spdy;
mod stats;
mod target;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

pub use target::Pods;

use crate::{Agent, Error};
use server::Context;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the node's endpoint until `shutdown` is cancelled, without metrics: see [`Endpoint::serve`].
///
/// # Errors
/// See [`Endpoint::serve`].
pub async fn serve(
    agent: Agent,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    Endpoint::new(Arc::new(agent)).serve(listener, tls, shutdown).await
}

/// The text for `/metrics`.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The endpoint, before it listens.
pub struct Endpoint {
    pods: Arc<dyn Pods>,
    metrics: Option<Metrics>,
}

impl Endpoint {
    /// For the pods of an agent.
    pub fn new(pods: Arc<dyn Pods>) -> Self {
        Self { pods, metrics: None }
    }

    /// Answers `/metrics` with what `metrics` returns (the Prometheus text format).
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Serves until `shutdown` is cancelled; then open streams are cut and it returns. `tls` must ask for a client
    /// certificate of the cluster's authority; who shows one is let in if it names the group `system:masters`.
    ///
    /// # Errors
    /// When the listener has no local address any more. A connection that fails concerns only itself.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let context = Context::new(self.pods, self.metrics, shutdown);
        server::run(Arc::new(context), listener, tls).await
    }
}

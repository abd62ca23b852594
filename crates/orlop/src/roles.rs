//! The roles of a process: tasks of which any that ends unasked ends the process, and what starts and stops them all.

use crate::Error;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// How long requests and workers have to end after a signal.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// The roles that run. Any of them ending unasked ends the server.
#[derive(Default)]
pub(crate) struct Roles {
    running: JoinSet<Result<(), Error>>,
}

impl Roles {
    pub(crate) fn start<E>(
        &mut self,
        name: &'static str,
        role: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.running.spawn(async move { role.await.map_err(Error::at(format!("the {name} ended"))) });
    }

    /// A role that ends only with the process.
    pub(crate) fn start_endless(
        &mut self,
        role: impl Future<Output = ()> + Send + 'static,
        shutdown: &CancellationToken,
    ) -> AbortHandle {
        let shutdown = shutdown.clone();
        self.running.spawn(async move {
            tokio::select! {
                () = role => Err(Error::Configuration("a role ended by itself".into())),
                () = shutdown.cancelled() => Ok(()),
            }
        })
    }

    pub(crate) async fn first_end(&mut self) -> Result<(), Error> {
        match self.running.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(Error::at("running a role")(panic)),
            None => Ok(()),
        }
    }

    pub(crate) async fn all_ends(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}

/// Opens a port.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(Error::at(format!("listening on {address}")))
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

//! The few things that a pod worker asks of the node's network. It makes no link itself.

use k8s_openapi::api::core::v1::Pod;
use orlop_network::{Error, PodAddress, PodLink};
use std::{net::IpAddr, path::PathBuf};

/// A sandbox that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningSandbox {
    /// Its id.
    pub id: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Whether containers of it were started.
    pub has_containers: bool,
}

/// Links pods. [`orlop_network::Network`] is the real one.
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives a pod its address, link and host ports; the same again for an id that has them.
    async fn attach(&self, link: PodLink) -> Result<PodAddress, Error>;
    /// Takes them away; no error if there are none.
    async fn detach(&self, id: &str) -> Result<(), Error>;
    /// Detaches all but these.
    async fn retain(&self, ids: &[String]) -> Result<(), Error>;
    /// Puts the policies of a pod in force for the addresses that its sandbox was given; nothing in it starts before.
    async fn protect(&self, _pod: &Pod, _sandbox: &str, _addresses: &[IpAddr]) -> Result<(), Error> {
        Ok(())
    }
    /// These run since before this agent did: what they are connected to stays.
    fn adopt(&self, _sandboxes: Vec<RunningSandbox>) {}
    /// Waits until a sandbox is connected to the networks that its pod asks for; nothing in it starts before.
    ///
    /// # Errors
    /// Where it is not after a while: it is to be asked again.
    async fn connected(&self, _pod: &Pod, _sandbox: &str) -> Result<(), Error> {
        Ok(())
    }
    /// What it has to say at the node's `/metrics` (Prometheus text format).
    async fn metrics(&self) -> String {
        String::new()
    }
}

#[async_trait::async_trait]
impl PodNetwork for orlop_network::Network {
    async fn attach(&self, link: PodLink) -> Result<PodAddress, Error> {
        orlop_network::Network::attach(self, link).await
    }

    async fn detach(&self, id: &str) -> Result<(), Error> {
        orlop_network::Network::detach(self, id).await
    }

    async fn retain(&self, ids: &[String]) -> Result<(), Error> {
        orlop_network::Network::retain(self, ids).await
    }
}

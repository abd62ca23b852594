//! Keeps a worker's certificates: renews each well before it ends, or as soon as the machine wakes up after that, and exchanges it
//! in all connections to come. A node whose client certificate is over renews it with the old one: the API server lets it ask for
//! that and nothing else, as long as the node has not been removed from the cluster.

use crate::{
    Error,
    join::{self, Refusal},
    layout::Layout,
    membership::{client_file, serving_file},
};
use kube::Client;
use orlop_pki::{
    Credential, Rotating,
    node_credential::{self, Validity},
};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// How often it is looked whether one is due, by the clock on the wall: it goes on while a machine sleeps.
const LOOK: Duration = Duration::from_secs(15);

/// A worker's certificates in use.
pub(crate) struct Certificates {
    node: String,
    address: IpAddr,
    /// Where in the time for renewals this node's are, 0 to 1.
    spread: f64,
    client: Kept,
    serving: Kept,
}

struct Kept {
    file: PathBuf,
    credential: Credential,
    used: Rotating,
}

impl Kept {
    fn new(file: PathBuf, credential: Credential) -> Result<Self, Error> {
        let used = Rotating::new(&credential).map_err(Error::at("reading the node's certificate"))?;
        Ok(Self { file, credential, used })
    }

    fn exchange(&mut self, new: Credential) -> Result<(), Error> {
        node_credential::write(&self.file, &new).map_err(Error::at("writing the node's certificate"))?;
        self.used.set(&new).map_err(Error::at("reading the node's certificate"))?;
        self.credential = new;
        Ok(())
    }

    fn validity(&self) -> Result<Validity, Error> {
        Validity::of(&self.credential).map_err(Error::at("reading the node's certificate"))
    }
}

impl Certificates {
    pub(crate) fn new(
        layout: &Layout,
        node: &str,
        address: IpAddr,
        client: Credential,
        serving: Credential,
    ) -> Result<Self, Error> {
        let spread = node.bytes().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into())) % 1000;
        Ok(Self {
            node: node.to_string(),
            address,
            spread: f64::from(spread) / 1000.0,
            client: Kept::new(client_file(layout), client)?,
            serving: Kept::new(serving_file(layout), serving)?,
        })
    }

    /// The client certificate in use.
    pub(crate) fn client(&self) -> Rotating {
        self.client.used.clone()
    }

    /// The serving certificate in use.
    pub(crate) fn serving(&self) -> Rotating {
        self.serving.used.clone()
    }

    /// Whether the node can no longer show who it is, but by its old certificate.
    pub(crate) fn is_over(&self, now: i64) -> Result<bool, Error> {
        Ok(self.client.validity()?.is_over(now))
    }

    /// Takes a new client certificate in.
    pub(crate) fn set_client(&mut self, credential: Credential) -> Result<(), Error> {
        self.client.exchange(credential)
    }

    /// Renews what is due.
    pub(crate) async fn renew(&mut self, client: &Client, now: i64) -> Result<(), Refusal> {
        let never = |e: Error| Refusal::Never(join::in_words(&e));
        if self.client.validity().map_err(never)?.renew_at(self.spread) <= now {
            let was_over = self.is_over(now).map_err(never)?;
            let new = join::client_certificate(client.clone(), &self.node).await?;
            self.client.exchange(new).map_err(never)?;
            tracing::info!(node = self.node, "the node's client certificate was renewed");
            if was_over {
                // The connection is still that of a node whose certificate is over; the server closes it soon.
                return Ok(());
            }
        }
        let names = [self.node.clone()];
        let fits = node_credential::names(&self.serving.credential, &names, &[self.address]);
        if !fits || self.serving.validity().map_err(never)?.renew_at(self.spread) <= now {
            let new = join::serving_certificate(client.clone(), &self.node, &[self.address]).await?;
            self.serving.exchange(new).map_err(never)?;
            tracing::info!(node = self.node, "the node's serving certificate was renewed");
        }
        Ok(())
    }

    /// Renews for ever.
    pub(crate) async fn keep(mut self, client: Client) {
        loop {
            match self.renew(&client, jiff::Timestamp::now().as_second()).await {
                Ok(()) => {}
                Err(Refusal::Later(why)) => tracing::debug!(why, "certificates were not renewed"),
                Err(Refusal::Never(why)) => {
                    tracing::error!(
                        why,
                        "certificates are not renewed: join this machine again before they end"
                    );
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

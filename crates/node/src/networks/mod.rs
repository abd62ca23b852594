//! Carries Networks and NetworkAttachments from the API to this node's kernel, says in each attachment of a pod here what became of
//! it, and tells the node's DNS who is where. How a network is made is in [`orlop_network::overlay`].
//!
//! A pod that asks for networks by annotation waits until it is connected ([`PodNetwork::connected`]); all others are connected and
//! disconnected while they run. Until all was heard of once, and all sandboxes that were there before are known, the kernel is left as
//! it is; so it is while the API is away.

mod catalogue;
mod facts;
#[cfg(test)]
mod tests;

use crate::{
    PodNetwork, RunningSandbox, pod::PodExt as _, pod_state::uid_of_sandbox, policies::ProtectedNetwork,
};
use catalogue::{Catalogue, Made, Statement};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use orlop_api::orlop_v1::{Network, NetworkAttachment, networks_of};
use orlop_client::{Clock, Event, Source, Watcher, api_reason, found};
use orlop_dns::{DnsIndex, ServiceRecord};
use orlop_network::{Error, PodAddress, PodLink, overlay::Overlays};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{BTreeMap, HashSet},
    error::Error as _,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

/// After a first change, how long others are waited for.
const GATHER: Duration = Duration::from_millis(3);
/// After the kernel or the server refused, when it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is put right what others may have changed.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a pod waits for its networks before it is said that it does.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many attachments are written at once.
const AT_ONCE: usize = 8;

/// What the carrier must know of this node.
#[derive(Clone)]
pub struct NetworksConfig {
    /// Its name.
    pub node_name: String,
    /// Where other nodes send packets for its members.
    pub node_address: IpAddr,
    /// What time it is.
    pub clock: Clock,
}

/// The carrier of one node.
pub struct Networks {
    client: Client,
    clock: Clock,
    overlays: Overlays,
    names: Arc<DnsIndex>,
    catalogue: Mutex<Catalogue>,
    /// Sandboxes that ran before this agent did: they wait for nothing.
    running: Mutex<HashSet<String>>,
    /// Something was heard.
    news: Notify,
    /// Something may have to be written.
    to_say: Notify,
    /// Rises whenever the kernel's networks were made.
    made: watch::Sender<u64>,
}

impl Networks {
    /// Prepares to carry. What an earlier run made stays until all is known.
    #[must_use]
    pub fn new(
        client: Client,
        overlays: Overlays,
        names: Arc<DnsIndex>,
        config: NetworksConfig,
    ) -> Arc<Self> {
        let (made, _) = watch::channel(0);
        Arc::new(Self {
            client,
            clock: config.clock,
            overlays,
            names,
            catalogue: Mutex::new(Catalogue::new(config.node_name, config.node_address)),
            running: Mutex::default(),
            news: Notify::new(),
            to_say: Notify::new(),
            made,
        })
    }

    /// Follows networks and attachments until `shutdown` resolves. Lost connections are made again.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = self.follow() => {}
            () = self.carry() => {}
            () = self.say() => {}
            () = shutdown => {}
        }
    }

    async fn follow(&self) {
        let all_networks = Source::of(&Api::<Network>::all(self.client.clone()));
        let all_attachments = Source::of(&Api::<NetworkAttachment>::all(self.client.clone()));
        let networks = Watcher::new(self.client.clone(), all_networks).into_stream();
        let attachments = Watcher::new(self.client.clone(), all_attachments).into_stream();
        let (mut networks, mut attachments) = (pin!(networks.fuse()), pin!(attachments.fuse()));
        loop {
            let heard = tokio::select! {
                event = networks.select_next_some() => event.map(|event| self.catalogue.lock().network(event)),
                event = attachments.select_next_some() => {
                    event.map(|event| self.catalogue.lock().attachment(event))
                }
            };
            match heard {
                Ok(()) => self.news.notify_one(),
                Err(error) => tracing::warn!(%error, "networks cannot be followed; connecting again"),
            }
        }
    }

    /// Brings changes to the kernel and to names, gathered.
    async fn carry(&self) {
        let mut again = tokio::time::interval(AGAIN);
        let mut told = BTreeMap::new();
        let mut retry: Option<Instant> = None;
        loop {
            let due = tokio::select! {
                () = self.news.notified() => {
                    sleep_until(Instant::now() + GATHER).await;
                    false
                }
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => true,
                _ = again.tick() => true,
            };
            let overlays = {
                let mut catalogue = self.catalogue.lock();
                if !catalogue.is_complete() {
                    continue;
                }
                if !catalogue.take_news() && !due {
                    continue;
                }
                self.name(&mut told, catalogue.names());
                catalogue.overlays()
            };
            match self.overlays.apply(&overlays).await {
                Ok(failed) => {
                    let failed: BTreeMap<String, String> =
                        failed.into_iter().map(|(id, error)| (id, chain(&error))).collect();
                    for (member, error) in &failed {
                        tracing::warn!(member, error, "a pod could not be connected to a network");
                    }
                    self.catalogue.lock().made(&overlays, &failed);
                    self.made.send_modify(|times| *times += 1);
                    self.to_say.notify_one();
                    retry = (!failed.is_empty()).then(|| Instant::now() + RETRY);
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "networks are not as they should be; trying again"
                    );
                    retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn name(
        &self,
        told: &mut BTreeMap<(String, String), ServiceRecord>,
        names: BTreeMap<(String, String), ServiceRecord>,
    ) {
        for (network, namespace) in told.keys().filter(|key| !names.contains_key(key)) {
            self.names.remove_service(network, namespace);
        }
        for (key, record) in &names {
            if told.get(key) != Some(record) {
                self.names.set_service(record.clone());
            }
        }
        *told = names;
    }

    /// Writes what became of attachments.
    async fn say(&self) {
        loop {
            self.to_say.notified().await;
            let statements = self.catalogue.lock().statements((self.clock)());
            let written = futures::stream::iter(statements)
                .map(|statement| self.write(statement))
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>()
                .await;
            if let Some(error) = written.into_iter().find_map(Result::err) {
                tracing::warn!(%error, "what became of a pod's network was not written; trying again");
                sleep(RETRY).await;
                self.to_say.notify_one();
            }
        }
    }

    async fn write(&self, statement: Statement) -> Result<(), kube::Error> {
        let Statement { name, uid, status } = statement;
        let api = Api::<NetworkAttachment>::namespaced(self.client.clone(), &name.namespace);
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": status}));
        match found(api.patch_status(&name.name, &PatchParams::default(), &patch).await) {
            Ok(Some(written)) => {
                // The watch says so too, but later.
                self.catalogue.lock().attachment(Event::Apply(written));
                self.news.notify_one();
                Ok(())
            }
            Ok(None) => Ok(()),
            // It is another one by now.
            Err(error) if api_reason(&error) == Some("Conflict") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// These run since before: what they are connected to stays.
    fn adopt(&self, sandboxes: Vec<RunningSandbox>) {
        let mut catalogue = self.catalogue.lock();
        for sandbox in sandboxes {
            catalogue.place(uid_of_sandbox(&sandbox.id), &sandbox.id, sandbox.netns);
            if sandbox.has_containers {
                self.running.lock().insert(sandbox.id);
            }
        }
        catalogue.adopted();
        self.news.notify_one();
    }

    fn place(&self, link: &PodLink) {
        self.catalogue.lock().place(uid_of_sandbox(&link.id), &link.id, link.netns.clone());
        self.news.notify_one();
    }

    fn release(&self, sandbox: &str) {
        self.running.lock().remove(sandbox);
        self.catalogue.lock().release(uid_of_sandbox(sandbox), sandbox);
        self.news.notify_one();
    }

    async fn connected(&self, pod: &Pod, sandbox: &str) -> Result<(), Error> {
        let wanted = networks_of(pod.metadata.annotations.as_ref());
        if wanted.is_empty() || self.running.lock().contains(sandbox) {
            return Ok(());
        }
        let missing = || {
            let catalogue = self.catalogue.lock();
            let is_there =
                |name: &&str| catalogue.outcome(pod.uid(), sandbox, name) == Some(&Made::Connected);
            let network = wanted.iter().copied().find(|name| !is_there(name))?;
            Some((network, catalogue.reason(pod.uid(), sandbox, network)))
        };
        let mut made = self.made.subscribe();
        let all = async { while missing().is_some() && made.changed().await.is_ok() {} };
        let _ = timeout(PATIENCE, all).await;
        match missing() {
            None => Ok(()),
            Some((network, why)) => {
                Err(Error::Config(format!("it is not connected to network {network:?} yet: {why}")))
            }
        }
    }
}

/// How many pods are in which network, for `/metrics` (Prometheus text format).
fn text(counts: &BTreeMap<(String, bool), usize>) -> String {
    const NAME: &str = "orlop_network_members";
    if counts.is_empty() {
        return String::new();
    }
    let head = format!(
        "# HELP {NAME} Pods of this node that are to be in a network of people's making, by whether they are connected\n\
         # TYPE {NAME} gauge\n"
    );
    let lines = counts.iter().map(|((network, connected), pods)| {
        format!("{NAME}{{network=\"{network}\",connected=\"{connected}\"}} {pods}\n")
    });
    std::iter::once(head).chain(lines).collect()
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    }
}

/// The node's network with its policies and the networks that people make.
pub struct ConnectedNetwork {
    /// The pods' own network.
    pub network: ProtectedNetwork,
    /// What connects pods besides.
    pub networks: Arc<Networks>,
}

#[async_trait::async_trait]
impl PodNetwork for ConnectedNetwork {
    async fn attach(&self, link: PodLink) -> Result<PodAddress, Error> {
        let given = self.network.attach(link.clone()).await?;
        self.networks.place(&link);
        Ok(given)
    }

    async fn detach(&self, id: &str) -> Result<(), Error> {
        self.networks.release(id);
        self.network.detach(id).await
    }

    async fn retain(&self, ids: &[String]) -> Result<(), Error> {
        self.network.retain(ids).await
    }

    async fn protect(&self, pod: &Pod, sandbox: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        self.network.protect(pod, sandbox, addresses).await
    }

    fn adopt(&self, sandboxes: Vec<RunningSandbox>) {
        self.networks.adopt(sandboxes);
    }

    async fn connected(&self, pod: &Pod, sandbox: &str) -> Result<(), Error> {
        self.networks.connected(pod, sandbox).await
    }

    async fn metrics(&self) -> String {
        let counts = self.networks.catalogue.lock().counts();
        self.network.metrics().await + &text(&counts)
    }
}

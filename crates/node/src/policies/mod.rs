//! Carries NetworkPolicies from the API to this node's network rules, and answers for a pod that they are in force before
//! anything in it runs. What they mean is in [`orlop_network::policy`].
//!
//! It follows policies, namespaces and all pods of the cluster: others' addresses are what rules are made of. While the API is
//! away, what is known stays in force, for pods that start meanwhile too; before all was heard of once, no pod starts.

mod catalogue;
pub mod facts;
#[cfg(test)]
mod tests;

use crate::{PodNetwork, pod::PodExt as _, pod_state::uid_of_sandbox};
use catalogue::Catalogue;
use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use orlop_network::{Error, Network, PodAddress, PodLink, PolicyCounts, PolicyTable, policy::ObjectName};
use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

/// After a first change, how long others are waited for.
const GATHER: Duration = Duration::from_millis(3);
/// After the kernel refused, when it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the table is still there.
const LOOK: Duration = Duration::from_secs(20);
/// How long a pod waits for the first complete lists before its start fails and is tried again.
const FIRST_LISTS: Duration = Duration::from_secs(10);
/// How long it waits until what is listed was also heard of.
const CATCH_UP: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// The carrier of one node.
pub struct Policies {
    client: Client,
    state: Mutex<State>,
    complete: watch::Sender<bool>,
    news: Notify,
}

struct State {
    catalogue: Catalogue,
    table: PolicyTable,
}

impl State {
    /// Makes the kernel's rules those that are wanted, if they may not be.
    async fn settle(&mut self) -> Result<(), Error> {
        if !self.catalogue.is_complete() || !self.catalogue.has_news() {
            return Ok(());
        }
        let applied = self.table.apply(self.catalogue.rules()).await;
        if applied.is_err() {
            self.catalogue.unsettle();
        }
        applied
    }
}

impl Policies {
    /// Prepares to carry. Rules of an earlier run stay in force until all is known.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn new(client: Client, node: impl Into<String>, instance: &str) -> Result<Arc<Self>, Error> {
        let mut catalogue = Catalogue::new(node.into());
        // Even without any policy the rules of an earlier run must go.
        catalogue.unsettle();
        let state = State { catalogue, table: PolicyTable::open(instance)? };
        let (complete, _) = watch::channel(false);
        Ok(Arc::new(Self { client, state: Mutex::new(state), complete, news: Notify::new() }))
    }

    /// Follows policies, pods and namespaces until `shutdown` resolves. Lost connections are made again.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = self.follow() => {}
            () = self.carry() => {}
            () = shutdown => {}
        }
    }

    async fn follow(&self) {
        let config = watcher::Config::default;
        let client = || self.client.clone();
        let mut policies =
            pin!(watcher(Api::<NetworkPolicy>::all(client()), config()).default_backoff().fuse());
        let mut pods = pin!(watcher(Api::<Pod>::all(client()), config()).default_backoff().fuse());
        let mut namespaces =
            pin!(watcher(Api::<Namespace>::all(client()), config()).default_backoff().fuse());
        loop {
            let heard = tokio::select! {
                event = policies.select_next_some() => match event {
                    Ok(event) => { self.state.lock().await.catalogue.policy(event); Ok(()) }
                    Err(error) => Err(error),
                },
                event = pods.select_next_some() => match event {
                    Ok(event) => { self.state.lock().await.catalogue.pod(event); Ok(()) }
                    Err(error) => Err(error),
                },
                event = namespaces.select_next_some() => match event {
                    Ok(event) => { self.state.lock().await.catalogue.namespace(event); Ok(()) }
                    Err(error) => Err(error),
                },
            };
            match heard {
                Ok(()) => self.news.notify_one(),
                Err(error) => tracing::warn!(%error, "network policies cannot be followed; connecting again"),
            }
        }
    }

    /// Brings changes to the kernel, gathered.
    async fn carry(&self) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = self.news.notified() => {
                    sleep_until(Instant::now() + GATHER).await;
                    self.settle().await;
                }
                _ = look.tick() => {
                    let repaired = self.state.lock().await.table.repair().await;
                    match repaired {
                        Ok(false) => {}
                        Ok(true) => tracing::warn!("somebody removed the policies' rules; they are built again"),
                        Err(error) => tracing::error!(%error, "the policies' rules cannot be looked after"),
                    }
                }
            }
        }
    }

    async fn settle(&self) {
        let mut state = self.state.lock().await;
        match state.settle().await {
            Ok(()) => {
                let complete = state.catalogue.is_complete();
                self.complete.send_if_modified(|known| std::mem::replace(known, complete) != complete);
            }
            Err(error) => {
                tracing::error!(%error, "network policies are not in force as they should be; trying again");
                drop(state);
                sleep(RETRY).await;
                self.news.notify_one();
            }
        }
    }

    /// Puts the policies of a pod in force for its addresses, and its addresses into the rules of others on this node. When this
    /// returns, all that was written before the pod was bound holds.
    ///
    /// # Errors
    /// While policies are not known yet, or the kernel refuses. Nothing of the pod may start then.
    pub async fn protect(&self, pod: &Pod, sandbox: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        let mut complete = self.complete.subscribe();
        let known = timeout(FIRST_LISTS, complete.wait_for(|known| *known)).await;
        if !matches!(known, Ok(Ok(_))) {
            return Err(Error::Config("the network policies of the cluster are not known yet".into()));
        }
        drop(known);
        self.catch_up(pod).await?;
        let mut state = self.state.lock().await;
        state.catalogue.place(pod, sandbox, addresses);
        state.settle().await
    }

    /// Forgets the addresses of a sandbox that has none any more.
    pub async fn release(&self, sandbox: &str) {
        self.state.lock().await.catalogue.unplace(uid_of_sandbox(sandbox), sandbox);
        self.news.notify_one();
    }

    /// Waits until the policies of a pod's namespace are known that were there when the pod was last written: they come by another
    /// watch than the pod did.
    async fn catch_up(&self, pod: &Pod) -> Result<(), Error> {
        let namespace = pod.namespace();
        let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default();
        if let Some(version) = &pod.metadata.resource_version {
            params = params.at(version).matching(kube::api::VersionMatch::NotOlderThan);
        }
        let begun = Instant::now();
        while begun.elapsed() < CATCH_UP {
            let listed = match timeout(CATCH_UP, api.list(&params)).await {
                Ok(Ok(listed)) => listed,
                Ok(Err(error)) => {
                    tracing::warn!(%error, pod = pod.name(), "a pod starts with the network policies that are known");
                    return Ok(());
                }
                Err(_) => {
                    tracing::warn!(pod = pod.name(), "a pod starts with the network policies that are known");
                    return Ok(());
                }
            };
            let versions: BTreeMap<ObjectName, String> = listed
                .items
                .into_iter()
                .filter_map(|policy| {
                    let metadata = policy.metadata;
                    let name = ObjectName { namespace: metadata.namespace?, name: metadata.name? };
                    Some((name, metadata.resource_version.unwrap_or_default()))
                })
                .collect();
            if self.state.lock().await.catalogue.knows(namespace, &versions) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        Err(Error::Config(format!("the network policies of namespace {namespace:?} are not known yet")))
    }

    /// What was let through and what not, for `/metrics` (Prometheus text format).
    pub async fn metrics(&self) -> String {
        match self.state.lock().await.table.counts().await {
            Ok(counts) => text(&counts),
            Err(error) => {
                tracing::warn!(%error, "the counters of network policies cannot be read");
                String::new()
            }
        }
    }
}

fn text(counts: &PolicyCounts) -> String {
    const NAME: &str = "orlop_network_policy_packets_total";
    if counts.is_empty() {
        return String::new();
    }
    let mut lines: Vec<String> = counts
        .iter()
        .map(|(of, packets)| {
            let verdict = if of.allowed { "allowed" } else { "denied" };
            let (namespace, policy) = (&of.policy.namespace, &of.policy.name);
            format!(
                "{NAME}{{namespace=\"{namespace}\",policy=\"{policy}\",direction=\"{}\",verdict=\"{verdict}\"}} {packets}",
                of.direction.name()
            )
        })
        .collect();
    lines.sort_unstable();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# HELP {NAME} Packets that a network policy of a pod here let through (they open a connection), or that no policy did which \
         selects the pod\n# TYPE {NAME} counter\n{}",
        lines.join("\n")
    );
    text
}

/// The node's network with its policies.
pub struct ProtectedNetwork {
    /// What links pods.
    pub network: Arc<Network>,
    /// What keeps policies in force.
    pub policies: Arc<Policies>,
}

#[async_trait::async_trait]
impl PodNetwork for ProtectedNetwork {
    async fn attach(&self, link: PodLink) -> Result<PodAddress, Error> {
        self.network.attach(link).await
    }

    async fn detach(&self, id: &str) -> Result<(), Error> {
        self.network.detach(id).await?;
        self.policies.release(id).await;
        Ok(())
    }

    async fn retain(&self, ids: &[String]) -> Result<(), Error> {
        self.network.retain(ids).await
    }

    async fn protect(&self, pod: &Pod, sandbox: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        self.policies.protect(pod, sandbox, addresses).await
    }

    async fn metrics(&self) -> String {
        self.policies.metrics().await
    }
}

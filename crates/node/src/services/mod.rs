//! Carries Services and EndpointSlices from the API to this node's network rules, to the cluster's DNS and to exported zones, and
//! to those who ask for load balancers' addresses and health. It makes no rule and answers no query itself.

mod catalogue;
mod cluster_dns;
mod endpoint_selection;
mod exported_dns;
mod facts;
mod health;
#[cfg(test)]
mod names_tests;
mod naming;
#[cfg(test)]
mod tests;

use catalogue::{Catalogue, HealthCheck, News};
use futures::{Stream, StreamExt};
use health::HealthServers;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client};
use orlop_client::{Event, Source, Watcher};
use orlop_dns::DnsIndex;
use orlop_network::{Network, ServicePort};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// After a first change, how long others are waited for: a rollout changes many slices at once.
const GATHER: Duration = Duration::from_millis(3);
/// After the network refused, when it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the carriers must know of this node.
#[derive(Clone, Debug)]
pub struct ServicesConfig {
    /// Name of this node: endpoints on it are local.
    pub node_name: String,
}

/// Where names are told.
#[derive(Clone)]
pub struct Names {
    /// The cluster's zone.
    pub cluster: Arc<DnsIndex>,
    /// Zones for strangers.
    pub exported: Vec<ExportedZone>,
}

/// A zone that strangers may ask.
#[derive(Clone)]
pub struct ExportedZone {
    /// Its names.
    pub index: Arc<DnsIndex>,
    /// The namespace that it shows, all of it that does not object. Without one, it shows what asks for it in any namespace.
    pub namespace: Option<String>,
}

/// Follows Services and EndpointSlices until `shutdown` resolves. Lost connections are made again. The rules in force stay
/// until both kinds were listed in full.
pub async fn run(
    client: Client,
    network: Arc<Network>,
    names: Names,
    config: ServicesConfig,
    shutdown: impl Future<Output = ()> + Send,
) {
    let all_services = Source::of(&Api::<Service>::all(client.clone()));
    let all_slices = Source::of(&Api::<EndpointSlice>::all(client.clone()));
    let all_nodes = Source::of(&Api::<Node>::all(client.clone()));
    let services = Watcher::new(client.clone(), all_services).into_stream();
    let slices = Watcher::new(client.clone(), all_slices).into_stream();
    let nodes = Watcher::new(client, all_nodes).into_stream();
    let health = Arc::new(parking_lot::Mutex::new(HealthServers::default()));
    let apply = |ports, outward: Outward| {
        let (network, health) = (network.clone(), health.clone());
        async move {
            network.apply_services(ports).await?;
            // Neighbours hear of an address when its rules are there.
            health.lock().set(outward.health_checks);
            network.announce(outward.announced).await
        }
    };
    let heard = Heard { services, slices, nodes };
    let carry = follow(heard, apply, &names, config.node_name);
    tokio::select! {
        () = carry => {}
        () = shutdown => {}
    }
}

/// What is followed.
struct Heard<Services, Slices, Nodes> {
    services: Services,
    slices: Slices,
    nodes: Nodes,
}

/// What others ask this node for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outward {
    /// By port.
    health_checks: BTreeMap<u16, HealthCheck>,
    /// Addresses that this node answers for on its link.
    announced: BTreeSet<IpAddr>,
}

/// Carries until the streams end.
async fn follow<E: Display, F: Display, Applied: Future<Output = Result<(), F>>>(
    heard: Heard<
        impl Stream<Item = Result<Event<Service>, E>>,
        impl Stream<Item = Result<Event<EndpointSlice>, E>>,
        impl Stream<Item = Result<Event<Node>, E>>,
    >,
    apply: impl Fn(Vec<ServicePort>, Outward) -> Applied,
    names: &Names,
    node_name: String,
) {
    let (mut services, mut slices) = (pin!(heard.services.fuse()), pin!(heard.slices.fuse()));
    let mut nodes = pin!(heard.nodes.fuse());
    let mut outward = Outward::default();
    let mut catalogue = Catalogue::new(node_name);
    let mut due: Option<Instant> = None;
    // Even without any Service the rules of an earlier run must go.
    let mut unapplied = true;
    loop {
        let heard = tokio::select! {
            event = services.select_next_some() => event.map(|event| catalogue.service(event)),
            event = slices.select_next_some() => event.map(|event| catalogue.slice(event)),
            event = nodes.select_next_some() => event.map(|event| catalogue.node(event)),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                let news = catalogue.news();
                let before = std::mem::replace(
                    &mut outward,
                    Outward { health_checks: catalogue.health_checks(), announced: catalogue.announced() },
                );
                let to_apply = std::mem::take(&mut unapplied) || news.ports_changed || outward != before;
                tell_dns(names, news);
                if to_apply && let Err(error) = apply(catalogue.ports(), outward.clone()).await {
                    tracing::error!(%error, "Services are not carried as they should be; trying again");
                    unapplied = true;
                    due = Some(Instant::now() + RETRY);
                }
                Ok(())
            }
            else => return,
        };
        match heard {
            Ok(()) => {
                if catalogue.is_complete() && (unapplied || catalogue.has_news()) {
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            Err(error) => tracing::warn!(%error, "Services cannot be followed; connecting again"),
        }
    }
}

fn tell_dns(names: &Names, news: News) {
    for (record, exported) in news.set {
        for zone in &names.exported {
            let shown = exported.as_ref().filter(|exported| match &zone.namespace {
                Some(namespace) => *namespace == record.namespace && exported.wanted != Some(false),
                None => exported.wanted == Some(true),
            });
            match shown {
                Some(exported) => zone.index.set_service(exported.record.clone()),
                None => zone.forget(&record.namespace, &record.name),
            }
        }
        names.cluster.set_service(record);
    }
    for name in news.removed {
        names.cluster.remove_service(&name.namespace, &name.name);
        for zone in &names.exported {
            zone.forget(&name.namespace, &name.name);
        }
    }
}

impl ExportedZone {
    fn forget(&self, namespace: &str, name: &str) {
        // A zone of one namespace knows names without it: those of others are not its.
        if self.namespace.as_deref().is_none_or(|only| only == namespace) {
            self.index.remove_service(namespace, name);
        }
    }
}

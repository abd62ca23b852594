//! Carries Services and EndpointSlices from the API to this node's network rules and to the cluster's DNS. It makes no rule
//! and answers no query itself.

mod catalogue;
mod cluster_dns;
mod endpoint_selection;
mod facts;
#[cfg(test)]
mod tests;

use catalogue::{Catalogue, News};
use futures::{Stream, StreamExt};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use orlop_dns::DnsIndex;
use orlop_network::{Network, ServicePort};
use std::{fmt::Display, pin::pin, sync::Arc, time::Duration};
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

/// Follows Services and EndpointSlices until `shutdown` resolves. Lost connections are made again. The rules in force stay
/// until both kinds were listed in full.
pub async fn run(
    client: Client,
    network: Arc<Network>,
    dns: Arc<DnsIndex>,
    config: ServicesConfig,
    shutdown: impl Future<Output = ()> + Send,
) {
    let watch = || watcher::Config::default();
    let services = watcher(Api::<Service>::all(client.clone()), watch()).default_backoff();
    let slices = watcher(Api::<EndpointSlice>::all(client), watch()).default_backoff();
    let apply = |ports| {
        let network = network.clone();
        async move { network.apply_services(ports).await }
    };
    let carry = follow(services, slices, apply, &dns, config.node_name);
    tokio::select! {
        () = carry => {}
        () = shutdown => {}
    }
}

/// Carries until both streams end.
async fn follow<E: Display, F: Display, Applied: Future<Output = Result<(), F>>>(
    services: impl Stream<Item = Result<Event<Service>, E>>,
    slices: impl Stream<Item = Result<Event<EndpointSlice>, E>>,
    apply: impl Fn(Vec<ServicePort>) -> Applied,
    dns: &DnsIndex,
    node_name: String,
) {
    let (mut services, mut slices) = (pin!(services.fuse()), pin!(slices.fuse()));
    let mut catalogue = Catalogue::new(node_name);
    let mut due: Option<Instant> = None;
    // Even without any Service the rules of an earlier run must go.
    let mut unapplied = true;
    loop {
        let heard = tokio::select! {
            event = services.select_next_some() => event.map(|event| catalogue.service(event)),
            event = slices.select_next_some() => event.map(|event| catalogue.slice(event)),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                let news = catalogue.news();
                let to_apply = std::mem::take(&mut unapplied) || news.ports_changed;
                tell_dns(dns, news);
                if to_apply && let Err(error) = apply(catalogue.ports()).await {
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

fn tell_dns(dns: &DnsIndex, news: News) {
    for record in news.set {
        dns.set_service(record);
    }
    for name in news.removed {
        dns.remove_service(&name.namespace, &name.name);
    }
}

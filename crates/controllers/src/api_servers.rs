//! The endpoints of the Service `kubernetes` where there are several API servers: those whose Lease is renewed. Each server keeps
//! its own Lease ([`keep_lease`]); who leads writes the endpoints. Whether a Lease is renewed is judged by when it was seen to
//! change, never by another machine's clock.

use k8s_openapi::{
    api::coordination::v1::Lease, api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use orlop_client::Clock;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tokio::time::{Instant, sleep};

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kubernetes";
/// The label and the value of the Leases.
const LABEL: (&str, &str) = ("orlop.dev/component", "server");
/// Between renewals, between looks, and after which a server that has not renewed its Lease is none.
const RENEW: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(7);
const FIELD_MANAGER: &str = "orlop-api-servers";

/// Keeps the Lease of the server `name` at `address` renewed, until dropped.
pub async fn keep_lease(client: Client, clock: Clock, name: String, address: SocketAddr) {
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    let lease = lease_name(&name);
    loop {
        let wanted = Lease {
            metadata: ObjectMeta {
                name: Some(lease.clone()),
                labels: Some([(LABEL.0.to_string(), LABEL.1.to_string())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(address.to_string()),
                lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
                renew_time: Some(MicroTime((clock)())),
                ..LeaseSpec::default()
            }),
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if let Err(error) = api.patch(&lease, &params, &Patch::Apply(&wanted)).await {
            tracing::debug!(%error, "the server's Lease was not renewed");
        }
        sleep(RENEW).await;
    }
}

/// Gives the Lease back: the server is no endpoint any more.
pub async fn drop_lease(client: Client, name: &str) {
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    if let Err(error) = api.delete(&lease_name(name), &DeleteParams::default()).await {
        tracing::debug!(%error, "the server's Lease was not given back");
    }
}

fn lease_name(server: &str) -> String {
    format!("orlop-server-{server}")
}

/// What has been seen of the Leases: by name the version and since when it is that.
#[derive(Default)]
struct Seen(BTreeMap<String, (Option<String>, Instant)>);

impl Seen {
    /// The addresses of the servers that live.
    fn living(&mut self, leases: &[Lease], now: Instant) -> BTreeSet<SocketAddr> {
        self.0.retain(|name, _| leases.iter().any(|lease| lease.name_any() == *name));
        let mut living = BTreeSet::new();
        for lease in leases {
            let version = lease.resource_version();
            let seen = self.0.entry(lease.name_any()).or_insert_with(|| (version.clone(), now));
            if seen.0 != version {
                *seen = (version, now);
            }
            let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref());
            if now.duration_since(seen.1) < LASTS
                && let Some(address) = holder.and_then(|h| h.parse().ok())
            {
                living.insert(address);
            }
        }
        living
    }
}

/// Keeps the endpoints those of the servers that live, until dropped.
pub async fn run_api_servers(client: Client, ipv4: bool) {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let (mut seen, mut published) = (Seen::default(), BTreeSet::new());
    loop {
        match leases.list(&params).await {
            Ok(list) => {
                let living = seen.living(&list.items, Instant::now());
                if living != published && !living.is_empty() {
                    match publish(&client, &living, ipv4).await {
                        Ok(()) => published = living,
                        Err(error) => tracing::warn!(%error, "the endpoints of the API were not written"),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the Leases of servers cannot be read"),
        }
        sleep(LOOK).await;
    }
}

/// The Endpoints and the EndpointSlice of the Service.
fn objects(servers: &BTreeSet<SocketAddr>, ipv4: bool) -> [Value; 2] {
    let of_family = || servers.iter().filter(move |s| s.is_ipv4() == ipv4);
    let mut ports: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
    for server in of_family() {
        ports.entry(server.port()).or_default().push(json!({"ip": server.ip()}));
    }
    let port = |number: &u16| json!([{"name": "https", "port": number, "protocol": "TCP"}]);
    let subsets: Vec<Value> = ports
        .iter()
        .map(|(number, addresses)| json!({"addresses": addresses, "ports": port(number)}))
        .collect();
    // A slice has one set of ports: that of most servers.
    let common =
        ports.iter().max_by_key(|(_, addresses)| addresses.len()).map_or(6443, |(number, _)| *number);
    let endpoints: Vec<Value> = of_family()
        .filter(|s| s.port() == common)
        .map(|s| json!({"addresses": [s.ip()], "conditions": {"ready": true}}))
        .collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
            "metadata": {"name": SERVICE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": if ipv4 { "IPv4" } else { "IPv6" },
            "endpoints": endpoints, "ports": port(&common),
        }),
    ]
}

async fn publish(client: &Client, servers: &BTreeSet<SocketAddr>, ipv4: bool) -> Result<(), kube::Error> {
    let kinds = [("", "v1", "Endpoints"), ("discovery.k8s.io", "v1", "EndpointSlice")];
    for ((group, version, kind), object) in kinds.into_iter().zip(objects(servers, ipv4)) {
        let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        resource.plural = format!("{}{}", kind.to_lowercase(), if kind.ends_with('s') { "" } else { "s" });
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), "default", &resource);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(SERVICE, &params, &Patch::Apply(&object)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, version: &str, address: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": version}, "spec": {"holderIdentity": address}}))
        .expect("a lease")
    }

    #[test]
    fn a_server_lives_as_long_as_its_lease_changes() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let shown =
            |living: BTreeSet<SocketAddr>| living.iter().map(|s| s.ip().to_string()).collect::<Vec<_>>();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, b) = (lease("a", "1", "10.0.0.1:6443"), lease("b", "2", "10.0.0.2:6443"));
        assert_eq!(shown(seen.living(&[a.clone(), b.clone()], at(0))), ["10.0.0.1", "10.0.0.2"]);
        let renewed = lease("a", "3", "10.0.0.1:6443");
        assert_eq!(shown(seen.living(&[renewed.clone(), b.clone()], at(6))), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(shown(seen.living(&[renewed, b], at(8))), ["10.0.0.1"]);
        assert_eq!(shown(seen.living(&[a], at(9))), ["10.0.0.1"]);
    }

    #[test]
    fn all_living_servers_are_endpoints() {
        let servers = ["10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:7443", "[fd00::1]:6443"];
        let servers = servers.iter().map(|s| s.parse().expect("an address")).collect();
        let [endpoints, slice] = objects(&servers, true);
        assert_eq!(endpoints["subsets"].as_array().map(Vec::len), Some(2));
        assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2));
        assert_eq!(slice["ports"][0]["port"], 6443);
    }
}

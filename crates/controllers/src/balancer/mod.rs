//! The cluster's own load balancer: gives Services of type LoadBalancer addresses of a pool, and says which node answers for them.
//! It sends no packet; nodes read from the Service what they are to do.

mod pool;

pub use pool::Pool;

use crate::Error;
use k8s_openapi::api::{
    core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceStatus},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_api::balancer::{ANNOUNCER, ASKED, CLASS};
use orlop_client::{Clock, EventType, Informer, Key, Queue, Recorder, found, run_workers};
use serde_json::json;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A node with this label takes no traffic of load balancers (Kubernetes documentation, "Well-Known Labels").
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

struct Balancer {
    client: Client,
    recorder: Recorder,
    pool: Pool,
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    nodes: Arc<Informer<Node>>,
}

/// Runs until dropped.
pub async fn run_balancer(client: Client, clock: Clock, pool: Pool) {
    let recorder = Recorder::new(client.clone(), "service-controller", None, clock);
    let balancer = Balancer {
        client: client.clone(),
        recorder,
        pool,
        services: Arc::default(),
        slices: Arc::default(),
        nodes: Arc::default(),
    };
    let queue = Queue::default();
    let (on_service, services) = (queue.clone(), balancer.services.clone());
    balancer.services.on_change(move |old, new| {
        let balanced =
            |s: Option<&Arc<Service>>| s.is_some_and(|s| is_balanced(s) || !addresses(s).is_empty());
        if let Some(service) = new.or(old)
            && (balanced(old) || balanced(new))
        {
            on_service.add(Key::of(&**service));
        }
        // An address may have become free: those that wait for one try again.
        if old.is_some_and(|old| {
            !addresses(old).is_empty() && new.is_none_or(|new| addresses(new) != addresses(old))
        }) {
            for waiting in services.all().iter().filter(|s| is_balanced(s) && addresses(s).is_empty()) {
                on_service.add(Key::of(&**waiting));
            }
        }
    });
    let (on_slice, services) = (queue.clone(), balancer.services.clone());
    balancer.slices.on_change(move |old, new| {
        let Some(slice) = new.or(old) else { return };
        let Some(name) = slice.labels().get(SERVICE_NAME) else { return };
        let namespace = slice.namespace().unwrap_or_default();
        if services.get(&namespace, name).is_some_and(|s| is_balanced(&s)) {
            on_slice.add(Key::new(namespace, name));
        }
    });
    let (on_node, services) = (queue.clone(), balancer.services.clone());
    balancer.nodes.on_change(move |old, new| {
        if old.is_some_and(|node| is_usable(node)) != new.is_some_and(|node| is_usable(node)) {
            for service in services.all().iter().filter(|s| is_balanced(s)) {
                on_node.add(Key::of(&**service));
            }
        }
    });
    let watch = async {
        tokio::join!(
            balancer.services.clone().run(Api::all(client.clone())),
            balancer.slices.clone().run(Api::all(client.clone())),
            balancer.nodes.clone().run(Api::all(client.clone())),
        )
    };
    let work = async {
        balancer.services.synced().await;
        balancer.slices.synced().await;
        balancer.nodes.synced().await;
        // One at a time: no address is given twice.
        run_workers("balancer", queue.clone(), 1, |key| balancer.reconcile(key)).await;
    };
    tokio::join!(watch, work);
}

fn is_balanced(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer")
        && spec.and_then(|s| s.load_balancer_class.as_deref()).is_none_or(|class| class == CLASS)
        && service.metadata.deletion_timestamp.is_none()
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|s| s.ingress.as_deref()).unwrap_or_default();
    ingress.iter().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

fn is_usable(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        && !node.labels().contains_key(EXCLUDED)
        && node.metadata.deletion_timestamp.is_none()
}

/// What a Service asks for by its annotation or the field that came before it.
fn asked(service: &Service) -> Result<Vec<IpAddr>, String> {
    let text = service.annotations().get(ASKED).map(String::as_str);
    let field = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref());
    let text = text.or(field).unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|_| format!("{part:?} is not an IP address"))).collect()
}

impl Balancer {
    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(()) };
        if !is_balanced(&service) {
            return self.let_go(&service).await;
        }
        let has = addresses(&service);
        let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
        let families: Vec<bool> = families.iter().map(|family| family == "IPv4").collect();
        let taken = self.taken(&service);
        let given = asked(&service).and_then(|asked| self.pool.addresses(&families, &asked, &has, &taken));
        let wanted = match given {
            Ok(wanted) => wanted,
            // What cannot be had is no reason to lose what is there.
            Err(why) => {
                let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
                self.recorder.event(&*service, EventType::Warning, "SyncLoadBalancerFailed", &message);
                has.iter().copied().filter(|a| self.pool.contains(*a) && !taken.contains(a)).collect()
            }
        };
        let service = if wanted == has {
            service
        } else {
            if !wanted.is_empty() {
                self.recorder.event(
                    &*service,
                    EventType::Normal,
                    "EnsuringLoadBalancer",
                    "Ensuring load balancer",
                );
            }
            let Some(written) = self.write_addresses(&service, &wanted).await? else { return Ok(()) };
            if !wanted.is_empty() {
                self.recorder.event(
                    &*written,
                    EventType::Normal,
                    "EnsuredLoadBalancer",
                    "Ensured load balancer",
                );
            }
            written
        };
        let node = if wanted.is_empty() { None } else { self.announcer(&service) };
        self.write_announcer(&service, node).await
    }

    /// Addresses that other Services have.
    fn taken(&self, but: &Service) -> BTreeSet<IpAddr> {
        let others = self.services.all().into_iter().filter(|s| s.uid() != but.uid());
        others
            .flat_map(|service| addresses(&service))
            .filter(|address| self.pool.contains(*address))
            .collect()
    }

    /// A Service that is none of ours any more keeps nothing of the pool.
    async fn let_go(&self, service: &Arc<Service>) -> Result<(), Error> {
        let balanced = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
        let was_ours = service.annotations().contains_key(ANNOUNCER) || !balanced;
        if !was_ours || service.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.write_announcer(service, None).await?;
        let Some(service) = self.services.get(&service.namespace().unwrap_or_default(), &service.name_any())
        else {
            return Ok(());
        };
        let has = addresses(&service);
        let kept: Vec<IpAddr> = has.iter().copied().filter(|address| !self.pool.contains(*address)).collect();
        if kept == has {
            return Ok(());
        }
        self.write_addresses(&service, &kept).await.map(drop)
    }

    /// The node that answers: of local policy one that has ready endpoints.
    fn announcer(&self, service: &Service) -> Option<String> {
        let local = service.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
        let with_endpoints: BTreeSet<String> =
            if local { self.nodes_with_endpoints(service) } else { BTreeSet::new() };
        let nodes: Vec<String> = self
            .nodes
            .all()
            .iter()
            .filter(|node| is_usable(node))
            .map(|node| node.name_any())
            .filter(|name| !local || with_endpoints.contains(name))
            .collect();
        let name = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
        pool::announcer(&name, nodes.iter().map(String::as_str)).map(str::to_owned)
    }

    fn nodes_with_endpoints(&self, service: &Service) -> BTreeSet<String> {
        let namespace = service.namespace().unwrap_or_default();
        let name = service.name_any();
        let slices = self.slices.in_namespace(&namespace);
        let ours = slices.iter().filter(|slice| slice.labels().get(SERVICE_NAME) == Some(&name));
        ours.flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
            .filter_map(|e| e.node_name.clone())
            .collect()
    }

    /// `None`: the Service is gone.
    async fn write_addresses(
        &self,
        service: &Service,
        addresses: &[IpAddr],
    ) -> Result<Option<Arc<Service>>, Error> {
        let ingress: Vec<LoadBalancerIngress> = addresses
            .iter()
            .map(|ip| LoadBalancerIngress {
                ip: Some(ip.to_string()),
                ip_mode: Some("VIP".into()),
                ..LoadBalancerIngress::default()
            })
            .collect();
        let mut changed = service.clone();
        let status = changed.status.get_or_insert_with(ServiceStatus::default);
        status.load_balancer = Some(LoadBalancerStatus { ingress: (!ingress.is_empty()).then_some(ingress) });
        let api = Api::<Service>::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        let written = found(api.replace_status(&service.name_any(), &Default::default(), &changed).await)
            .map_err(Error::at("writing the addresses of a load balancer"))?;
        Ok(written.map(|written| {
            self.services.observe(written.clone());
            Arc::new(written)
        }))
    }

    async fn write_announcer(&self, service: &Service, node: Option<String>) -> Result<(), Error> {
        if service.annotations().get(ANNOUNCER) == node.as_ref() {
            return Ok(());
        }
        let api = Api::<Service>::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": service.uid(), "annotations": {ANNOUNCER: node}}});
        let params = PatchParams { field_manager: Some("orlop-balancer".into()), ..PatchParams::default() };
        let written = found(api.patch(&service.name_any(), &params, &Patch::Merge(patch)).await)
            .map_err(Error::at("saying which node answers for a load balancer"))?;
        if let Some(written) = written {
            self.services.observe(written);
        }
        Ok(())
    }
}

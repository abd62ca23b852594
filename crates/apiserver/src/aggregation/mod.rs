//! The aggregation layer (Kubernetes documentation, "Kubernetes API Aggregation Layer"): follows APIServices, sees whether the servers
//! behind them can be used, and hands requests for their group-versions to them. Level-triggered: every round compares what is registered
//! with what is known. What is asked of another server is between it and the client.

mod availability;
mod call;
mod proxy;
mod published;
mod registration;

use crate::{
    ApiServer, Config, Identity,
    registry::{Resource, WriteContext, metadata},
    remote::{self, Trust},
    request::WriteOptions,
};
use arc_swap::ArcSwap;
use availability::Available;
use futures::future::join_all;
use orlop_api::object::{flag, int, text};
use orlop_pki::Credential;
pub(crate) use published::Published;
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

const GROUP: &str = "apiregistration.k8s.io";
/// How long what was found out about a server holds, if nothing changes.
const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait after a failed check; doubled with each.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// Changes that come this close together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);

/// A group-version that another server serves.
pub(crate) struct Route {
    namespace: String,
    service: String,
    port: i64,
    tls: Result<Arc<ClientConfig>, String>,
    available: Available,
    published: Published,
}

type Routes = BTreeMap<(String, String), Arc<Route>>;

/// What other servers serve.
pub(crate) struct Aggregator {
    routes: ArcSwap<Routes>,
    credential: Option<Credential>,
    /// Told when this server serves other kinds than before.
    pub(crate) kinds_changed: Notify,
}

impl Aggregator {
    pub(crate) fn new(config: &Config) -> Self {
        let credential = config.front_proxy.as_ref().map(|proxy| proxy.credential.clone());
        Self { routes: ArcSwap::default(), credential, kinds_changed: Notify::new() }
    }

    /// The way to a group-version, if another server serves it.
    pub(crate) fn route(&self, group: &str, version: &str) -> Option<Arc<Route>> {
        let routes = self.routes.load();
        if routes.is_empty() {
            return None;
        }
        routes.get(&(group.to_string(), version.to_string())).cloned()
    }

    /// What discovery says of them all, best first.
    pub(crate) fn published(&self) -> Vec<Published> {
        let mut all: Vec<Published> = self.routes.load().values().map(|r| r.published.clone()).collect();
        all.sort_by(|a, b| (b.priority, &a.group).cmp(&(a.priority, &b.group)));
        all
    }
}

/// How the server itself writes.
fn context() -> WriteContext {
    let options = WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() };
    WriteContext { options, who: Arc::new(Identity::new("system:apiserver", &["system:masters"])) }
}

/// What a check looks at besides the other server itself.
#[derive(PartialEq)]
struct Inputs {
    spec: Value,
    service: Option<Value>,
    slices: Vec<Value>,
}

/// What is known of an APIService.
struct Known {
    inputs: Inputs,
    route: Arc<Route>,
    check_at: Instant,
    failures: u32,
}

/// Who follows the APIServices.
pub(crate) struct Manager {
    server: Weak<ApiServer>,
    services: Arc<Resource>,
    known: BTreeMap<String, Known>,
}

impl Manager {
    /// Starts the task that follows.
    pub(crate) fn start(server: &Arc<ApiServer>) {
        let registry = &server.registry;
        let find = |group, plural| registry.find(group, "v1", plural);
        let (Some(own), Some(services), Some(slices)) =
            (find(GROUP, "apiservices"), find("", "services"), find("discovery.k8s.io", "endpointslices"))
        else {
            return;
        };
        let mut manager = Self { server: Arc::downgrade(server), services: own, known: BTreeMap::new() };
        let mut changes = [&manager.services, &services, &slices].map(|r| r.cache.subscribe());
        let (stop, aggregator) = (server.stop.clone(), server.aggregator.clone());
        tokio::spawn(async move {
            let (mut first, mut kinds) = (true, true);
            loop {
                let Some(server) = manager.server.upgrade() else { return };
                if kinds {
                    registration::reconcile(&server, &manager.services, first).await;
                    first = false;
                }
                let next = manager.round(&server).await;
                drop(server);
                let follows = !manager.known.is_empty();
                let [own, services, slices] = &mut changes;
                kinds = tokio::select! {
                    () = stop.cancelled() => return,
                    () = aggregator.kinds_changed.notified() => true,
                    changed = own.changed() => if changed.is_err() { return } else { false },
                    _ = services.changed(), if follows => false,
                    _ = slices.changed(), if follows => false,
                    () = tokio::time::sleep_until(next), if follows => false,
                };
                tokio::time::sleep(SETTLE).await;
            }
        });
    }

    /// Makes what is known what is registered. Tells when to look again.
    async fn round(&mut self, server: &Arc<ApiServer>) -> Instant {
        let all = self.services.cache.snapshot(&self.services.cache.key_prefix, None, 0, |_| true).objects;
        let remote: Vec<Value> = all
            .iter()
            .map(|object| object.value())
            .filter(|s| s.pointer("/spec/service").is_some_and(Value::is_object) && !metadata::is_deleting(s))
            .collect();
        self.known.retain(|name, _| remote.iter().any(|s| text(s, "/metadata/name") == name));
        let now = Instant::now();
        let due = remote.iter().filter_map(|object| {
            let name = text(object, "/metadata/name");
            let inputs = inputs(server, object);
            let known = self.known.get(name);
            let same = known.is_some_and(|known| known.inputs == inputs && now < known.check_at);
            (!same).then(|| (name.to_string(), inputs, known.map(|k| k.route.clone())))
        });
        let checks = due.map(|(name, inputs, before)| async move {
            let route = check(server, &inputs, before.as_deref()).await;
            (name, inputs, route)
        });
        for (name, inputs, route) in join_all(checks.collect::<Vec<_>>()).await {
            let failures = match self.known.get(&name) {
                _ if route.available.is() => 0,
                Some(known) if known.inputs == inputs => known.failures + 1,
                _ => 1,
            };
            let wait = if failures == 0 { CHECK_AGAIN } else { TRY_AGAIN * 2u32.pow(failures.min(7) - 1) };
            let known = Known {
                inputs,
                route: Arc::new(route),
                check_at: Instant::now() + wait.min(CHECK_AGAIN),
                failures,
            };
            self.known.insert(name, known);
        }
        self.publish(server);
        for (name, known) in &self.known {
            registration::tell(server, &self.services, name, &known.route.available).await;
        }
        self.known.values().map(|known| known.check_at).min().unwrap_or(now + CHECK_AGAIN)
    }

    /// Serves by what is known, and says so in discovery.
    fn publish(&self, server: &Arc<ApiServer>) {
        let before = server.aggregator.published();
        let key = |route: &Route| (route.published.group.clone(), route.published.version.clone());
        let routes: Routes =
            self.known.values().map(|known| (key(&known.route), known.route.clone())).collect();
        server.aggregator.routes.store(Arc::new(routes));
        if server.aggregator.published() != before {
            server.publish();
        }
    }
}

fn inputs(server: &ApiServer, object: &Value) -> Inputs {
    let reference = &object["spec"]["service"];
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    let services = server.registry.find("", "v1", "services");
    let service = services.and_then(|services| services.get(namespace, name).ok()).map(|s| s.value());
    Inputs {
        spec: object["spec"].clone(),
        service,
        slices: remote::slices(&server.registry, namespace, name),
    }
}

/// Looks whether the other server can be used, and what it serves.
async fn check(server: &ApiServer, inputs: &Inputs, before: Option<&Route>) -> Route {
    let spec = &inputs.spec;
    let credential = server.aggregator.credential.as_ref();
    let trust = if flag(spec, "/insecureSkipTLSVerify") {
        Trust::Anybody
    } else {
        Trust::Bundle(text(spec, "/caBundle"))
    };
    let (group, version) = (text(spec, "/group").to_string(), text(spec, "/version").to_string());
    let mut route = Route {
        namespace: text(spec, "/service/namespace").into(),
        service: text(spec, "/service/name").into(),
        port: int(spec, "/service/port").unwrap_or(443),
        tls: remote::tls(trust, credential).map(Arc::new),
        available: Available::passed(),
        published: Published {
            priority: (
                int(spec, "/groupPriorityMinimum").unwrap_or_default(),
                int(spec, "/versionPriority").unwrap_or_default(),
            ),
            current: false,
            resources: before.map(|r| r.published.resources.clone()).unwrap_or_default(),
            openapi: None,
            group,
            version,
        },
    };
    if let Some(obstacle) = availability::obstacle(&spec["service"], inputs.service.as_ref(), &inputs.slices)
    {
        route.available = obstacle;
        return route;
    }
    let path = format!("/apis/{}/{}", route.published.group, route.published.version);
    let registry = &server.registry;
    let trusted = match route.tls.clone() {
        Ok(tls) => call::ask(registry, &route, tls.clone(), &path).await.map(|document| (tls, document)),
        Err(why) => Err(why),
    };
    match trusted {
        Ok((tls, document)) => {
            let Published { group, version, .. } = &route.published;
            let resources = published::resources(&document, group, version);
            let index = call::ask(registry, &route, tls, "/openapi/v3").await.unwrap_or_default();
            let openapi = published::openapi_hash(&index, group, version);
            (route.published.resources, route.published.openapi) = (resources, openapi);
            route.published.current = true;
        }
        // As in Kubernetes: that a server is there is one thing, whether it is trusted each request finds out.
        Err(_) => {
            let anyhow = match remote::tls(Trust::Anybody, credential) {
                Ok(tls) => call::ask(registry, &route, Arc::new(tls), &path).await.map(drop),
                Err(why) => Err(why),
            };
            if let Err(why) = anyhow {
                route.available = Available::failed_discovery(why);
            }
        }
    }
    route
}

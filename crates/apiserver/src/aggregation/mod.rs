//! The aggregation layer (Kubernetes documentation, "Kubernetes API Aggregation Layer"): follows APIServices, sees whether the servers
//! behind them can be used, and hands requests for their group-versions to them. Level-triggered: every round compares what is registered
//! with what is known; checks run beside, so that a server that does not answer holds up nobody else. What is asked of another server
//! is between it and the client.

mod availability;
mod call;
mod connections;
mod proxy;
mod published;
mod registration;

use crate::{
    ApiServer, Config, Identity,
    registry::{Registry, Resource, WriteContext, metadata},
    remote::{self, Trust},
    request::WriteOptions,
};
use arc_swap::ArcSwap;
use availability::Available;
use connections::Connections;
use orlop_api::object::{flag, int, text};
use orlop_pki::Credential;
use orlop_schema::openapi::Foreign;
pub(crate) use published::Published;
use rustls::ClientConfig;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// How long what was found out about a server holds, if nothing changes.
const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait after a failed check; doubled with each.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// Changes that come this close together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);

/// A group-version that another server serves.
#[derive(Clone)]
pub(crate) struct Route {
    namespace: String,
    service: String,
    port: i64,
    tls: Result<Arc<ClientConfig>, String>,
    connections: Arc<Connections>,
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

    /// The APIServices of other servers, with whether these can be used.
    pub(crate) fn figures(&self) -> Vec<(String, bool)> {
        let routes = self.routes.load();
        routes.iter().map(|((g, v), route)| (format!("{v}.{g}"), route.available.is())).collect()
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

impl Route {
    /// What an APIService's `spec` says. What was found out before holds until something else is.
    fn new(
        spec: &Value,
        credential: Option<&Credential>,
        available: Available,
        before: Option<&Self>,
    ) -> Self {
        let trust = if flag(spec, "/insecureSkipTLSVerify") {
            Trust::Anybody
        } else {
            Trust::Bundle(text(spec, "/caBundle"))
        };
        let priority = |field| int(spec, field).unwrap_or_default();
        Self {
            namespace: text(spec, "/service/namespace").into(),
            service: text(spec, "/service/name").into(),
            port: int(spec, "/service/port").unwrap_or(443),
            tls: remote::tls(trust, credential).map(Arc::new),
            connections: Arc::default(),
            published: Published {
                group: text(spec, "/group").into(),
                version: text(spec, "/version").into(),
                priority: (priority("/groupPriorityMinimum"), priority("/versionPriority")),
                ..before.map(|route| route.published.clone()).unwrap_or_default()
            },
            available,
        }
    }

    fn key(&self) -> (String, String) {
        (self.published.group.clone(), self.published.version.clone())
    }
}

/// What a check looks at besides the other server itself.
#[derive(Clone, PartialEq)]
struct Inputs {
    spec: Value,
    service: Option<Value>,
    slices: Vec<Value>,
}

impl Inputs {
    fn of(registry: &Registry, object: &Value) -> Self {
        let reference = &object["spec"]["service"];
        let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
        let services = registry.find("", "v1", "services");
        let service = services.and_then(|services| services.get(namespace, name).ok()).map(|s| s.value());
        Self { spec: object["spec"].clone(), service, slices: remote::slices(registry, namespace, name) }
    }
}

/// What is known of an APIService.
struct Known {
    inputs: Inputs,
    route: Arc<Route>,
    /// What the last check looked at.
    checked: Option<Inputs>,
    is_being_checked: bool,
    check_at: Instant,
    failures: u32,
}

/// What a check found.
struct Checked {
    name: String,
    inputs: Inputs,
    route: Route,
}

/// Who follows the APIServices.
pub(crate) struct Manager {
    server: Weak<ApiServer>,
    services: Arc<Resource>,
    known: BTreeMap<String, Known>,
    checks: JoinSet<Checked>,
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
        let mut manager = Self {
            server: Arc::downgrade(server),
            services: own,
            known: BTreeMap::new(),
            checks: JoinSet::new(),
        };
        let mut changes = [&manager.services, &services, &slices].map(|r| r.cache.subscribe());
        let (stop, aggregator) = (server.stop.clone(), server.aggregator.clone());
        tokio::spawn(async move {
            let mut first = true;
            loop {
                let Some(server) = manager.server.upgrade() else { return };
                registration::reconcile(&server, &manager.services, first).await;
                first = false;
                let next = manager.round(&server).await;
                drop(server);
                let follows = !manager.known.is_empty();
                let [own, services, slices] = &mut changes;
                let mut found = None;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = aggregator.kinds_changed.notified() => {}
                    changed = own.changed() => if changed.is_err() { return },
                    _ = services.changed(), if follows => {}
                    _ = slices.changed(), if follows => {}
                    Some(checked) = manager.checks.join_next() => found = Some(checked),
                    () = tokio::time::sleep_until(next), if follows => {}
                }
                match found {
                    Some(Ok(checked)) => manager.learn(checked),
                    Some(Err(error)) => tracing::error!(%error, "a check of an aggregated server broke"),
                    None => tokio::time::sleep(SETTLE).await,
                }
            }
        });
    }

    /// Makes what is known what is registered, and begins the checks that are due. Tells when to look again.
    async fn round(&mut self, server: &Arc<ApiServer>) -> Instant {
        let all = self.services.cache.snapshot(&self.services.cache.key_prefix, None, 0, |_| true).objects;
        let remote: Vec<Value> = all
            .iter()
            .map(|object| object.value())
            .filter(|s| s.pointer("/spec/service").is_some_and(Value::is_object) && !metadata::is_deleting(s))
            .collect();
        self.known.retain(|name, _| remote.iter().any(|s| text(s, "/metadata/name") == name));
        let now = Instant::now();
        for object in &remote {
            self.follow(server, object, now);
        }
        self.publish(server);
        for (name, known) in self.known.iter().filter(|(_, known)| known.checked.is_some()) {
            registration::tell(server, &self.services, name, &known.route.available).await;
        }
        let waiting = self.known.values().filter(|known| !known.is_being_checked);
        waiting.map(|known| known.check_at).min().unwrap_or(now + CHECK_AGAIN)
    }

    /// Takes an APIService as it is now, and begins a check of its server if one is due.
    fn follow(&mut self, server: &ApiServer, object: &Value, now: Instant) {
        let name = text(object, "/metadata/name");
        let inputs = Inputs::of(&server.registry, object);
        let credential = server.aggregator.credential.as_ref();
        let known = self.known.entry(name.to_string()).or_insert_with(|| Known {
            // Until it is known better, what was found out before the start holds.
            route: Arc::new(Route::new(&inputs.spec, credential, Available::read(object), None)),
            inputs: inputs.clone(),
            checked: None,
            is_being_checked: false,
            check_at: now,
            failures: 0,
        });
        if known.inputs.spec != inputs.spec {
            let available = known.route.available.clone();
            known.route = Arc::new(Route::new(&inputs.spec, credential, available, Some(&known.route)));
        }
        known.inputs = inputs;
        let is_due = known.checked.as_ref() != Some(&known.inputs) || now >= known.check_at;
        if is_due && !known.is_being_checked {
            known.is_being_checked = true;
            let (name, inputs, route) = (name.to_string(), known.inputs.clone(), (*known.route).clone());
            let registry = server.registry.clone();
            self.checks.spawn(async move {
                let route = check(&registry, &inputs, route).await;
                Checked { name, inputs, route }
            });
        }
    }

    /// Takes what a check found. What has changed since is checked again in the next round.
    fn learn(&mut self, Checked { name, inputs, route }: Checked) {
        let Some(known) = self.known.get_mut(&name) else { return };
        known.is_being_checked = false;
        let is_as_before = known.checked.as_ref() == Some(&inputs);
        known.failures = match route.available.is() {
            true => 0,
            false if is_as_before => known.failures + 1,
            false => 1,
        };
        let wait = match known.failures {
            0 => CHECK_AGAIN,
            failures => CHECK_AGAIN.min(TRY_AGAIN * 2u32.pow(failures.min(8) - 1)),
        };
        known.check_at = Instant::now() + wait;
        if known.inputs.spec == inputs.spec {
            known.route = Arc::new(route);
        }
        known.checked = Some(inputs);
    }

    /// Serves by what is known, and says so in discovery.
    fn publish(&self, server: &Arc<ApiServer>) {
        let before = server.aggregator.published();
        let routes: Routes = self.known.values().map(|k| (k.route.key(), k.route.clone())).collect();
        server.aggregator.routes.store(Arc::new(routes));
        if server.aggregator.published() != before {
            server.publish();
        }
    }
}

/// Looks whether the other server can be used, and what it serves.
async fn check(registry: &Registry, inputs: &Inputs, mut route: Route) -> Route {
    route.published.current = false;
    let reference = &inputs.spec["service"];
    if let Some(obstacle) = availability::obstacle(reference, inputs.service.as_ref(), &inputs.slices) {
        route.available = obstacle;
        return route;
    }
    let Published { group, version, .. } = &route.published;
    let document = match call::ask(registry, &route, &format!("/apis/{group}/{version}")).await {
        Ok(document) => document,
        Err(why) => {
            route.available = Available::failed_discovery(why);
            return route;
        }
    };
    let resources = published::resources(&document, group, version);
    let index = call::ask(registry, &route, "/openapi/v3").await.unwrap_or_default();
    let openapi = published::openapi_hash(&index, group, version);
    let known = route.published.openapi_v2.as_ref().map_or("", |(_, etag)| etag);
    let openapi_v2 = match call::ask_if_not(known, registry, &route, "/openapi/v2").await {
        Ok(Some((document, etag))) => Some((Arc::new(Foreign::new(&document, group, version)), etag)),
        Ok(None) => route.published.openapi_v2.clone(),
        Err(_) => None,
    };
    route.available = Available::passed();
    route.published = Published { current: true, resources, openapi, openapi_v2, ..route.published };
    route
}

//! What makes a Site true: a ConfigMap of its pages and a Deployment that serves them, a status, Events, and a note in a ledger when
//! it goes.

use crate::{
    Error, Result,
    site::{
        Condition, GROUP, SiteStatus,
        v2::{Site, Theme},
    },
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{
        Controller, WatchStreamExt as _,
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
        finalizer::{Event as Final, finalizer},
        reflector::{self, Store},
        utils::Backoff,
        watcher,
    },
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

const MANAGER: &str = "site-operator";
const IMAGE: &str = "e2e.test/busybox:1";

struct Context {
    client: Client,
    recorder: Recorder,
}

/// A store of all sites, kept up to date by a task of its own.
pub(crate) fn follow(client: Client) -> Store<Site> {
    let (store, writer) = reflector::store();
    let sites = watcher(Api::<Site>::all(client), watcher::Config::default().streaming_lists());
    let changes = sites.default_backoff().reflect(writer).applied_objects();
    tokio::spawn(changes.for_each(|change| async {
        if let Err(error) = change {
            eprintln!("watching sites: {error}");
        }
    }));
    store
}

/// Namespace and name of every site in the store.
pub(crate) fn names(store: &Store<Site>) -> Vec<String> {
    let mut names: Vec<String> = store
        .state()
        .iter()
        .map(|site| format!("{}/{}", site.namespace().unwrap_or_default(), site.name_any()))
        .collect();
    names.sort();
    names
}

/// Reconciles until it is told to end.
pub(crate) async fn run(client: Client, pod: String) {
    let reporter = Reporter { controller: MANAGER.into(), instance: Some(pod) };
    let context =
        Arc::new(Context { client: client.clone(), recorder: Recorder::new(client.clone(), reporter) });
    let owned = watcher::Config::default().labels("app.kubernetes.io/managed-by=site-operator");
    Controller::new(Api::<Site>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Deployment>::all(client.clone()), owned.clone())
        .owns(Api::<ConfigMap>::all(client), owned)
        .trigger_backoff(Shortly)
        .shutdown_on_signal()
        .run(reconcile, |_, error, _| again(error), context)
        .for_each(|outcome| async {
            if let Err(error) = outcome {
                eprintln!("{error}");
            }
        })
        .await;
}

/// How long a failed watch waits: kube's own pauses add up to half a minute when a server restarts, too long for a test.
struct Shortly;

impl Iterator for Shortly {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(300))
    }
}

impl Backoff for Shortly {
    fn reset(&mut self) {}
}

/// What `finalizer` and `run` take as an error.
#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

fn again(error: &kube::runtime::finalizer::Error<Failed>) -> Action {
    eprintln!("again, because: {error:?}");
    Action::requeue(Duration::from_secs(1))
}

async fn reconcile(
    site: Arc<Site>,
    context: Arc<Context>,
) -> Result<Action, kube::runtime::finalizer::Error<Failed>> {
    let namespace = site.namespace().unwrap_or_default();
    let sites = Api::<Site>::namespaced(context.client.clone(), &namespace);
    finalizer(&sites, "sites.example.com/ledger", site, |event| async {
        match event {
            Final::Apply(site) => apply(&site, &namespace, &context).await.map_err(Failed::from),
            Final::Cleanup(site) => clean_up(&site, &namespace, &context).await.map_err(Failed::from),
        }
    })
    .await
}

async fn apply(site: &Site, namespace: &str, context: &Context) -> Result<Action> {
    let as_manager = PatchParams::apply(MANAGER).force();
    let name = site.name_any();
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    maps.patch(&name, &as_manager, &Patch::Apply(pages(site)?)).await?;
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), namespace);
    let deployment = deployments.patch(&name, &as_manager, &Patch::Apply(server(site)?)).await?;

    let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default();
    let condition = Condition {
        kind: "Ready".into(),
        status: if ready >= site.spec.replicas { "True" } else { "False" }.into(),
        reason: if ready >= site.spec.replicas { "Served" } else { "Starting" }.into(),
        message: format!("{ready} of {} pods are ready", site.spec.replicas),
    };
    let status = SiteStatus {
        observed_generation: site.metadata.generation,
        replicas: ready,
        selector: Some(format!("site={name}")),
        conditions: vec![condition],
    };
    if site.status.as_ref() != Some(&status) {
        let sites = Api::<Site>::namespaced(context.client.clone(), namespace);
        let said = json!({"apiVersion": format!("{GROUP}/v2"), "kind": "Site", "status": status});
        sites.patch_status(&name, &as_manager, &Patch::Apply(said)).await?;
        tell(site, context, &status.conditions[0].reason, &status.conditions[0].message).await?;
    }
    Ok(Action::await_change())
}

/// Writes into the ledger which site went, and how many pages it had.
async fn clean_up(site: &Site, namespace: &str, context: &Context) -> Result<Action> {
    let name = site.name_any();
    let entry = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ledger"},
        "data": {&name: format!("{} pages", site.spec.pages.len())}});
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    // A manager a site: none takes the entries of others away.
    maps.patch("ledger", &PatchParams::apply(&format!("{MANAGER}-{name}")), &Patch::Apply(entry)).await?;
    tell(site, context, "Removed", "noted in the ledger").await?;
    Ok(Action::await_change())
}

async fn tell(site: &Site, context: &Context, reason: &str, note: &str) -> Result<()> {
    let event = Event {
        type_: EventType::Normal,
        reason: reason.into(),
        note: Some(note.into()),
        action: "Reconcile".into(),
        secondary: None,
    };
    Ok(context.recorder.publish(&event, &site.object_ref(&())).await?)
}

fn metadata(site: &Site) -> Result<Value> {
    Ok(json!({
        "name": site.name_any(),
        "labels": {"site": site.name_any(), "app.kubernetes.io/managed-by": MANAGER},
        "ownerReferences": [site.controller_owner_ref(&()).ok_or("the site was never written")?],
    }))
}

fn pages(site: &Site) -> Result<Value> {
    let mut data = json!(site.spec.pages);
    if site.spec.theme == Theme::Dark {
        data["style.css"] = json!("body { background: black }\n");
    }
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(site)?, "data": data}))
}

fn server(site: &Site) -> Result<Value> {
    let container = json!({
        "name": "web", "image": IMAGE, "command": ["httpd", "-f", "-p", "8080", "-h", "/pages"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": "http"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "pages", "mountPath": "/pages"}],
    });
    let pod = json!({
        "metadata": {"labels": {"site": site.name_any()}},
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "pages", "configMap": {"name": site.name_any()}}],
        },
    });
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(site)?,
        "spec": {"replicas": site.spec.replicas, "selector": {"matchLabels": {"site": site.name_any()}}, "template": pod},
    }))
}

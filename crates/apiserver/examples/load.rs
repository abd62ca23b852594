//! Measures the API: creates, gets, updates and lists of 1 KB objects a second, and watch fan-out, in process and over
//! TLS on loopback, over a store on disk.
//!
//! `cargo run --release -p orlop-apiserver --example load -- [SECONDS] [CLIENTS]`
#![allow(clippy::expect_used, clippy::unwrap_used)]

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_pki::{Authority, CertificateRequest, Credential, Usage, tls};
use orlop_store::embedded::{Embedded, Options};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "load"}}, "data": {"k": "x".repeat(800)},
    }))
    .unwrap()
}

/// Runs `work` in many tasks for a while; prints how often it was done a second.
async fn measure<F>(
    what: &str,
    clients: &[Client],
    seconds: u64,
    tasks: u64,
    work: impl Fn(Api<ConfigMap>, u64, u64) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let api: Api<ConfigMap> = Api::default_namespaced(clients[task as usize % clients.len()].clone());
            let (done, work) = (done.clone(), work.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while Instant::now() < end {
                    work(api.clone(), task, n).await;
                    n += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in running {
        task.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    println!("{what:<28} {rate:>10.0} /s");
}

async fn run(place: &'static str, clients: Vec<Client>, seconds: u64, tasks: u64) {
    let label = |verb: &str| format!("{place} {verb} x{tasks}");
    measure(&label("create"), &clients, seconds, tasks, move |api, task, n| async move {
        api.create(&PostParams::default(), &map(&format!("{place}-{task}-{n}"))).await.unwrap();
    })
    .await;
    measure(&label("get"), &clients, seconds, tasks, move |api, task, _| async move {
        api.get(&format!("{place}-{task}-0")).await.unwrap();
    })
    .await;
    measure(&label("patch"), &clients, seconds, tasks, move |api, task, n| async move {
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        api.patch(&format!("{place}-{task}-0"), &PatchParams::default(), &patch).await.unwrap();
    })
    .await;
    measure(&label("list of 500"), &clients, seconds, 4, move |api, _, _| async move {
        api.list(&ListParams::default().limit(500)).await.unwrap();
    })
    .await;
    let seen = Arc::new(AtomicU64::new(0));
    let watchers: Vec<_> = (0..100)
        .map(|n| {
            let api: Api<ConfigMap> = Api::default_namespaced(clients[n % clients.len()].clone());
            let seen = seen.clone();
            tokio::spawn(async move {
                let params = WatchParams::default().fields(&format!("metadata.name={place}-0-0"));
                let mut events = api.watch(&params, "0").await.unwrap().boxed();
                while let Some(Ok(_)) = events.next().await {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, start) = (seen.load(Ordering::Relaxed), Instant::now());
    measure(&label("patch, 100 watch"), &clients, seconds, 4, move |api, _, n| async move {
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        api.patch(&format!("{place}-0-0"), &PatchParams::default(), &patch).await.unwrap();
    })
    .await;
    let rate = (seen.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
    println!("{:<28} {rate:>10.0} /s", format!("{place} events to 100"));
    watchers.iter().for_each(|w| w.abort());
}

fn client(address: std::net::SocketAddr, credential: &Credential) -> Client {
    let mut config = kube::Config::new(format!("https://{address}").parse().unwrap());
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    config.auth_info.client_certificate_data = Some(encode(&credential.certificate));
    config.auth_info.client_key_data = Some(encode(&credential.key).into());
    config.accept_invalid_certs = true;
    Client::try_from(config).unwrap()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let (seconds, tasks) = (arguments.next().unwrap_or(3), arguments.next().unwrap_or(64));
    let dir = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now().as_second();
    let authority = Authority::open_or_create(&dir.path().join("pki"), now).unwrap();
    let request = |name: &str, group: Option<&str>, usage| CertificateRequest {
        common_name: name.into(),
        organization: group.map(str::to_string),
        dns_names: vec!["localhost".into()],
        addresses: vec!["127.0.0.1".parse().unwrap()],
        usage,
        days: 1,
    };
    let own = authority.issue(&request("kube-apiserver", None, Usage::Both), now).unwrap();
    let admin = authority.issue(&request("admin", Some("system:masters"), Usage::Client), now).unwrap();
    let store = Embedded::open(dir.path().join("store"), Options::default()).unwrap();
    let server = ApiServer::start(Config::new(Arc::new(store))).await.unwrap();
    let config = tls::server_config(&own, authority.certificate(), false, &["h2", "http/1.1"]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.clone().serve(listener, config, CancellationToken::new()));
    let inside = Client::new(server.service_for(Identity::new("admin", &["system:masters"])), "default");
    run("inside", vec![inside], seconds, tasks).await;
    let outside = (0..tasks).map(|_| client(address, &admin)).collect();
    run("tls", outside, seconds, tasks).await;
}

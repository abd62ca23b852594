//! Measures a whole control plane: pods created over TLS as fast as clients can, until the last is bound to a node by the scheduler,
//! with all controllers running. Everything shares this machine's processors: API server with its store on disk, scheduler,
//! controllers, clients, and one that watches for bound pods.
//!
//! `cargo bench -p orlop-controllers --bench binding -- [PODS] [NODES] [CLIENTS]`
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot measure may as well end")]

#[allow(dead_code, reason = "other benches use other parts")]
#[path = "../../apiserver/benches/common/mod.rs"]
mod common;

use common::{Client, Server, runtime};
use orlop_apiserver::{ApiServer, Identity, identity::CONTROLLERS};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// As in the orlop binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
/// In an event of a watch for pods with a node: one was bound.
const ADDED: &[u8] = b"\"type\":\"ADDED\"";

/// Starts the controllers and the scheduler, each as who it is in a real cluster.
fn start_control_loops(api: &Arc<ApiServer>) {
    let client = |user: &str, groups: &[&str]| {
        kube::Client::new(api.service_for(Identity::new(user, groups)), "default")
    };
    let clock: orlop_client::Clock = Arc::new(jiff::Timestamp::now);
    let controllers = client("system:kube-controller-manager", &[CONTROLLERS]);
    tokio::spawn(orlop_controllers::run(controllers, clock.clone(), "-----BEGIN CERTIFICATE-----".into()));
    tokio::spawn(orlop_scheduler::run(client("system:kube-scheduler", &[]), clock));
}

struct Setting {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    clients: usize,
}

impl Setting {
    async fn connect(&self) -> Client {
        Client::connect(self.address, &self.config).await
    }

    /// Sends `requests(i)` for all i below `count`, from all clients side by side.
    async fn send_all(
        &self,
        count: usize,
        requests: impl Fn(usize) -> Vec<(&'static str, String, String)> + Clone + Send + 'static,
    ) {
        let mut tasks = Vec::new();
        for first in 0..self.clients {
            let (mut client, requests, step) = (self.connect().await, requests.clone(), self.clients);
            tasks.push(tokio::spawn(async move {
                for i in (first..count).step_by(step) {
                    for (method, path, body) in requests(i) {
                        client.ask(method, &path, &body).await;
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// Waits until a list has so many items.
    async fn wait_for_items(&self, path: &str, count: usize) {
        let mut client = self.connect().await;
        loop {
            client.ask("GET", path, "").await;
            let text = String::from_utf8_lossy(&client.buffer[..client.filled]).into_owned();
            if text.matches("\"uid\":").count() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run(&self, pods: usize, nodes: usize) {
        self.wait_for_items("/api/v1/namespaces/default/serviceaccounts", 1).await;
        self.send_all(nodes, |i| {
            let (name, node) = node(i);
            let status = format!("/api/v1/nodes/{name}/status");
            vec![("POST", "/api/v1/nodes".into(), node.clone()), ("PUT", status, node)]
        })
        .await;
        let mut watcher = self.connect().await;
        watcher.send("GET", &format!("{PODS_PATH}?watch=true&fieldSelector=spec.nodeName%21%3D"), "").await;
        let bound = tokio::spawn(async move {
            let (mut seen, mut first) = (0, None);
            while seen < pods {
                watcher.fill().await;
                let text = &mut watcher.buffer[..watcher.filled];
                seen += text.windows(ADDED.len()).filter(|w| *w == ADDED).count();
                // The end may hold the beginning of another.
                let keep = text.len().min(ADDED.len() - 1);
                text.copy_within(text.len() - keep.., 0);
                watcher.filled = keep;
                if seen > 0 {
                    first.get_or_insert_with(Instant::now);
                }
            }
            (first.unwrap(), Instant::now())
        });
        let start = Instant::now();
        self.send_all(pods, |i| vec![("POST", PODS_PATH.into(), pod(i))]).await;
        let created = start.elapsed();
        let (first, last) = bound.await.unwrap();
        let rate = |time: Duration| pods as f64 / time.as_secs_f64();
        println!("{pods} pods on {nodes} nodes, {} clients", self.clients);
        println!("created                     {:>10.0} /s", rate(created));
        println!("created and bound           {:>10.0} /s", rate(last - start));
        println!("first bound after           {:>10.1} ms", (first - start).as_secs_f64() * 1e3);
        println!(
            "last bound after its batch  {:>10.1} ms",
            (last - start).saturating_sub(created).as_secs_f64() * 1e3
        );
    }
}

fn node(i: usize) -> (String, String) {
    let name = format!("node-{i:04}");
    let amounts = r#"{"cpu":"32","memory":"128Gi","pods":"110"}"#;
    let node = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}","labels":{{"kubernetes.io/hostname":"{name}","topology.kubernetes.io/zone":"zone-{}"}}}},"status":{{"capacity":{amounts},"allocatable":{amounts},"conditions":[{{"type":"Ready","status":"True","reason":"KubeletReady"}}]}}}}"#,
        i % 5
    );
    (name, node)
}

fn pod(i: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"pod-{i}","labels":{{"app":"app-{}"}}}},"spec":{{"containers":[{{"name":"main","image":"registry.example/app:1","resources":{{"requests":{{"cpu":"100m","memory":"200Mi"}}}}}}]}}}}"#,
        i % 10
    )
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let server = Server::start_with(start_control_loops);
    let setting = Setting { address: server.address, config: server.config.clone(), clients: number(2, 64) };
    runtime().block_on(setting.run(number(0, 10_000), number(1, 1_000)));
    server.stop();
}

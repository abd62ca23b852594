//! A whole control plane in this process, clients that load it, and simulated nodes that say of each pod that it runs.

pub mod scale;
#[allow(dead_code, reason = "other benches use other parts")]
#[path = "../../../apiserver/benches/common/mod.rs"]
mod server;

use http::Request;
use orlop_apiserver::{ApiServer, Identity, identity::CONTROLLERS};
use orlop_client::{Event, Source, Watcher};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
pub use server::{Client, Server, runtime};
use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Semaphore;

pub const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
/// How many writes the simulated nodes make at once.
const WRITES: usize = 64;
/// How often a node says that it lives, as the kubelet does.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Starts the controllers and the scheduler, each as who it is in a real cluster.
pub fn start_control_loops(api: &Arc<ApiServer>) {
    let client = |user: &str, groups: &[&str]| {
        kube::Client::new(api.service_for(Identity::new(user, groups)), "default")
    };
    let clock: orlop_client::Clock = Arc::new(jiff::Timestamp::now);
    let controllers = client("system:kube-controller-manager", &[CONTROLLERS]);
    let scheduler = client("system:kube-scheduler", &[]);
    let caches = orlop_client::Caches::default();
    let (shared, time) = (caches.clone(), clock.clone());
    tokio::spawn(async move {
        orlop_controllers::run_sharing(controllers, time, "-----BEGIN CERTIFICATE-----".into(), &shared)
            .await;
    });
    tokio::spawn(async move {
        orlop_scheduler::run_sharing(scheduler, clock, Default::default(), &caches).await;
    });
}

pub struct Setting {
    pub address: SocketAddr,
    pub config: Arc<rustls::ClientConfig>,
    pub clients: usize,
}

impl Setting {
    pub async fn connect(&self) -> Client {
        Client::connect(self.address, &self.config).await
    }

    /// One of a server.
    pub fn of(server: &Server, clients: usize) -> Self {
        Self { address: server.address, config: server.config.clone(), clients }
    }

    /// Makes nodes, when the control plane is ready.
    pub async fn make_nodes(&self, nodes: usize) {
        self.wait_for_items("/api/v1/namespaces/default/serviceaccounts", 1).await;
        self.send_all(nodes, |i| {
            let (name, node) = node(i);
            let status = format!("/api/v1/nodes/{name}/status");
            vec![("POST", "/api/v1/nodes".into(), node.clone()), ("PUT", status, node)]
        })
        .await;
    }

    /// Sends `requests(i)` for all i below `count`, from all clients side by side.
    pub async fn send_all(
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
    pub async fn wait_for_items(&self, path: &str, count: usize) {
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
}

/// The name of a node, and the node.
pub fn node(i: usize) -> (String, String) {
    let name = format!("node-{i:04}");
    let amounts = r#"{"cpu":"32","memory":"128Gi","pods":"110"}"#;
    let node = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}","labels":{{"kubernetes.io/hostname":"{name}","topology.kubernetes.io/zone":"zone-{}"}}}},"status":{{"capacity":{amounts},"allocatable":{amounts},"conditions":[{{"type":"Ready","status":"True","reason":"KubeletReady"}}]}}}}"#,
        i % 5
    );
    (name, node)
}

/// A pod.
pub fn pod(i: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"pod-{i}","labels":{{"app":"app-{}"}}}},"spec":{{"containers":[{{"name":"main","image":"registry.example/app:1","resources":{{"requests":{{"cpu":"100m","memory":"200Mi"}}}}}}]}}}}"#,
        i % 10
    )
}

/// The simulated nodes, all in one.
pub struct Agents {
    client: kube::Client,
    writes: Arc<Semaphore>,
    /// The uids of the pods that were run.
    ran: Mutex<HashSet<String>>,
}

/// What they read of a pod.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    metadata: SeenMetadata,
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenMetadata {
    uid: String,
    namespace: String,
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct SeenStatus {
    #[serde(default)]
    phase: String,
}

impl Agents {
    pub fn new(api: &Arc<ApiServer>) -> Self {
        let service = api.service_for(Identity::new("admin", &["system:masters"]));
        Self {
            client: kube::Client::new(service, "default"),
            writes: Arc::new(Semaphore::new(WRITES)),
            ran: Mutex::default(),
        }
    }

    /// Waits until so many pods were run.
    pub async fn until_ran(&self, pods: usize) {
        while self.ran.lock().len() < pods {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&self, method: &str, path: String, content: &str, body: &Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        // What went away meanwhile is seen by the watch.
        let _ = self.client.request_text(request).await;
    }

    /// Runs every pod that is bound, ends those of Jobs at once, and lets go of those that are deleted.
    pub async fn run(self: Arc<Self>) {
        let bound = Source::at("/api/v1/pods").fields("spec.nodeName!=");
        let mut watcher = Watcher::new(self.client.clone(), bound);
        loop {
            let Ok(Event::InitApply(object) | Event::Apply(object)) = watcher.next().await else { continue };
            let Ok(pod) = object.decode::<Seen>() else { continue };
            let turn = self.writes.clone().acquire_owned().await;
            let agents = self.clone();
            tokio::spawn(async move {
                agents.look_at(&pod).await;
                drop(turn);
            });
        }
    }

    async fn look_at(&self, pod: &Seen) {
        let SeenMetadata { uid, namespace, name, labels, deletion_timestamp } = &pod.metadata;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        if deletion_timestamp.is_some() {
            self.ask("DELETE", path, "application/json", &json!({"gracePeriodSeconds": 0})).await;
        } else if pod.status.phase == "Pending" {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let of_job = labels.contains_key("batch.kubernetes.io/job-name");
            let (phase, ready) = if of_job { ("Succeeded", "False") } else { ("Running", "True") };
            let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": now});
            let status = json!({"phase": phase, "startTime": now, "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}], "conditions": [condition]});
            let patch = "application/strategic-merge-patch+json";
            self.ask("PATCH", path + "/status", patch, &json!({"status": status})).await;
            self.ran.lock().insert(uid.clone());
        }
    }

    /// Renews the leases of nodes as kubelets do, one after the other.
    pub async fn beat(self: Arc<Self>, nodes: usize) {
        const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        for i in 0..nodes {
            let name = node(i).0;
            let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
            self.ask("POST", LEASES.into(), "application/json", &lease).await;
        }
        let mut ticks = tokio::time::interval(HEARTBEAT / nodes.max(1) as u32);
        for i in (0..nodes).cycle() {
            ticks.tick().await;
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let patch = json!({"spec": {"renewTime": now}});
            let path = format!("{LEASES}/{}", node(i).0);
            self.ask("PATCH", path, "application/merge-patch+json", &patch).await;
        }
    }
}

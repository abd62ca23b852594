//! A cluster in one process: API server over a store in memory, controllers, scheduler, and an agent that plays all nodes. What a
//! pod does stands in its annotation `act`: `unready`, `succeed`, `fail`, `wait` (nothing at all), else it runs and is ready.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use orlop_apiserver::{ApiServer, Config, Identity, identity::CONTROLLERS};
use orlop_client::{Clock, Informer, Key};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

pub const NAMESPACE: &str = "default";
/// Far longer than anything takes on a machine that is not overloaded.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Cluster {
    pub server: Arc<ApiServer>,
    pub client: Client,
    ahead: Arc<AtomicI64>,
    clock: Clock,
    running: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.running.lock().iter().for_each(|(_, task)| task.abort());
        self.server.stop();
    }
}

pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of the kind")
}

/// A pod template with a label, and what its pods do.
pub fn template(app: &str, act: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": {"act": act}},
        "spec": {"containers": [{"name": "main", "image": "image:1", "ports": [{"name": "http", "containerPort": 80}]}]},
    })
}

impl Cluster {
    /// A cluster with some nodes of 110 pods each.
    pub async fn start(nodes: usize) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let offset = ahead.clone();
        let clock: Clock =
            Arc::new(move || Timestamp::now() + SignedDuration::from_secs(offset.load(Ordering::Relaxed)));
        let store = Arc::new(orlop_store::Embedded::in_memory());
        let config = Config { clock: clock.clone(), ..Config::new(store) };
        let server = ApiServer::start(config).await.expect("the API server starts");
        let identity = Identity::new("system:admin", &["system:masters"]);
        let client = Client::new(server.service_for(identity), NAMESPACE);
        let cluster = Self { server, client, ahead, clock, running: Mutex::default() };
        for i in 0..nodes {
            cluster.add_node(&format!("n{i}"), json!({})).await;
        }
        cluster.start_controllers();
        let identity = Identity::new("system:kube-scheduler", &[]);
        let client = Client::new(cluster.server.service_for(identity), NAMESPACE);
        let clock = cluster.clock.clone();
        cluster.spawn("scheduler", orlop_scheduler::run(client, clock));
        cluster.spawn("agent", play_nodes(cluster.client.clone(), cluster.clock.clone()));
        let accounts = cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        cluster.until("the default service account", async || accounts.get("default").await.ok()).await;
        cluster
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.running.lock().push((name, tokio::spawn(task)));
    }

    pub fn start_controllers(&self) {
        let authority = "-----BEGIN CERTIFICATE-----".to_string();
        // With the rights that they have in a real cluster, and no more.
        let identity = Identity::new("system:kube-controller-manager", &[CONTROLLERS]);
        let client = Client::new(self.server.service_for(identity), NAMESPACE);
        self.spawn("controllers", orlop_controllers::run(client, self.clock.clone(), authority));
    }

    /// Ends a part as if its process were killed.
    pub async fn kill(&self, name: &str) {
        let at = self.running.lock().iter().position(|(n, _)| *n == name);
        let (_, task) = self.running.lock().swap_remove(at.expect("it runs"));
        task.abort();
        let _ = task.await;
    }

    /// Puts everybody's clock forward.
    pub fn advance(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    pub async fn add_node(&self, name: &str, labels: Value) {
        let amounts = json!({"cpu": "16", "memory": "64Gi", "pods": "110"});
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {
                "capacity": amounts, "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        });
        let nodes = self.everywhere::<Node>();
        let node: Node = object(node);
        nodes.create(&PostParams::default(), &node).await.expect("a node is made");
        let status = json!({"status": node.status});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("its status");
    }

    /// The API of a kind in the default namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn everywhere<K>(&self) -> Api<K>
    where
        K: Resource<Scope = ClusterResourceScope>,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// Makes an object in the default namespace.
    pub async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api().create(&PostParams::default(), &object::<K>(value)).await.expect("it is made")
    }

    pub async fn patch<K>(&self, name: &str, change: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(change)).await.expect("it is changed")
    }

    pub async fn patch_node(&self, name: &str, change: Value) -> Node {
        let nodes = self.everywhere::<Node>();
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.expect("the node is changed")
    }

    pub async fn delete<K>(&self, name: &str, params: &DeleteParams)
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>().delete(name, params).await.expect("it is deleted");
    }

    /// All objects of a kind in the default namespace whose label `app` is this.
    pub async fn of_app<K>(&self, app: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let selection = ListParams::default().labels(&format!("app={app}"));
        self.api::<K>().list(&selection).await.expect("a list").items
    }

    /// Pods of an app that nobody has deleted.
    pub async fn pods(&self, app: &str) -> Vec<Pod> {
        let pods = self.of_app::<Pod>(app).await;
        pods.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Waits until something is there.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until an object satisfies a test.
    pub async fn until_it<K>(&self, name: &str, what: &str, test: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        let last = Mutex::new(None);
        let look = async || {
            let object = api.get_opt(name).await.expect("an answer")?;
            if test(&object) {
                return Some(object);
            }
            *last.lock() = Some(object);
            None
        };
        match tokio::time::timeout(PATIENCE - Duration::from_secs(5), self.until(what, look)).await {
            Ok(object) => object,
            Err(_) => panic!(
                "waited in vain for {name} {what}: {}",
                serde_json::to_string(&*last.lock()).unwrap_or_default()
            ),
        }
    }

    pub async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        let gone = async || api.get_opt(name).await.expect("an answer").is_none().then_some(());
        self.until(&format!("{name} to be gone"), gone).await;
    }

    /// Waits until an event with this reason, and this in its message, was recorded.
    pub async fn until_event(&self, reason: &str, says: &str) {
        let events = self.api::<k8s_openapi::api::core::v1::Event>();
        let look = async || {
            let all = events.list(&ListParams::default()).await.expect("events").items;
            let fits = |e: &k8s_openapi::api::core::v1::Event| {
                e.reason.as_deref() == Some(reason) && e.message.as_deref().is_some_and(|m| m.contains(says))
            };
            all.iter().any(fits).then_some(())
        };
        self.until(&format!("the event {reason}: {says}"), look).await;
    }

    /// Gives whatever may still happen a while to happen.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Plays the agents of all nodes.
async fn play_nodes(client: Client, clock: Clock) {
    let pods = Arc::<Informer<Pod>>::default();
    let (send, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let again = send.clone();
    pods.on_change(move |_, new| {
        if let Some(pod) = new {
            let _ = send.send(pod.clone());
        }
    });
    let busy = Arc::new(Mutex::new(HashSet::new()));
    let addresses = Arc::new(AtomicU32::new(u32::from(std::net::Ipv4Addr::new(10, 42, 0, 2))));
    let act = async {
        while let Some(pod) = changes.recv().await {
            let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
            if !bound || !busy.lock().insert(Key::of(&*pod)) {
                continue;
            }
            let (client, clock, busy) = (client.clone(), clock.clone(), busy.clone());
            let (pods, addresses, again) = (pods.clone(), addresses.clone(), again.clone());
            tokio::spawn(async move {
                let key = Key::of(&*pod);
                tokio::time::sleep(Duration::from_millis(3)).await;
                // What it is now, until there is nothing to do.
                let mut seen = None;
                while let Some(pod) = pods.get(&key.namespace, &key.name) {
                    seen = pod.resource_version();
                    match play(&client, &clock, &addresses, &pod).await {
                        Some(Played::Wrote(pod)) => pods.observe(*pod),
                        Some(Played::Gone) => pods.forget(&pod),
                        None => break,
                    }
                }
                busy.lock().remove(&key);
                // What came since the last look found somebody busy with it.
                if let Some(pod) = pods.get(&key.namespace, &key.name)
                    && pod.resource_version() != seen
                {
                    let _ = again.send(pod);
                }
            });
        }
    };
    tokio::join!(pods.clone().run(Api::all(client.clone())), act);
}

enum Played {
    Wrote(Box<Pod>),
    Gone,
}

/// One step of a pod's life; `None` where nothing is left to do.
async fn play(client: &Client, clock: &Clock, addresses: &AtomicU32, pod: &Pod) -> Option<Played> {
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace()?);
    let act = pod.annotations().get("act").map(String::as_str).unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        let held = pod.metadata.deletion_grace_period_seconds == Some(0);
        let runs = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Running"));
        if runs && !pod.finalizers().is_empty() && act != "linger" {
            // Whoever holds it learns first how it ended.
            let end = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}});
            let params = PatchParams::default();
            return match api.patch_status(&pod.name_any(), &params, &Patch::Strategic(end)).await {
                Ok(pod) => Some(Played::Wrote(Box::new(pod))),
                Err(_) => Some(Played::Gone),
            };
        }
        if act == "linger" || held {
            return None;
        }
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        return match api.delete(&pod.name_any(), &params).await {
            Ok(either::Either::Left(pod)) => Some(Played::Wrote(Box::new(pod))),
            _ => Some(Played::Gone),
        };
    }
    let (phase, ready, exit) = match act {
        "wait" => return None,
        "unready" => ("Running", "False", None),
        "succeed" => ("Succeeded", "False", Some(0)),
        "fail" => ("Failed", "False", Some(1)),
        _ => ("Running", "True", None),
    };
    let status = pod.status.clone().unwrap_or_default();
    let is_ready = |s: &str| status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == s);
    if status.phase.as_deref() == Some(phase) && is_ready(ready) {
        return None;
    }
    let now = clock();
    let ip = status
        .pod_ip
        .clone()
        .unwrap_or_else(|| std::net::Ipv4Addr::from(addresses.fetch_add(1, Ordering::Relaxed)).to_string());
    let state = match exit {
        Some(code) => {
            json!({"terminated": {"exitCode": code, "finishedAt": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}})
        }
        None => json!({"running": {}}),
    };
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {
        "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": ready,
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}],
        "containerStatuses": [{"name": "main", "image": "image:1", "imageID": "", "ready": ready == "True",
            "restartCount": 0, "state": state}],
    }});
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(pod) => Some(Played::Wrote(Box::new(pod))),
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some(Played::Gone)
        }
    }
}

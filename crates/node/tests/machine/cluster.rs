//! A cluster of one node without controllers and scheduler, in a folder of its own. What it makes in the kernel is gone when the
//! test ends, however it ends.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::{Api, Client, api::PostParams};
use orlop_apiserver::{ApiServer, Identity};
use orlop_network::{Network, NetworkConfig};
use orlop_node::{Agent, NodeConfig};
use orlop_runtime::{
    Images, Runtime, RuntimeConfig,
    image::{
        BuildOptions, ImageConfig, build_from_directory,
        store::{ImageStore, StoreOptions},
    },
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-node-shim-test");

pub struct Cluster {
    pub client: Client,
    pub agent: Option<Agent>,
    running: Option<JoinHandle<()>>,
    api: Arc<ApiServer>,
    images: Arc<ImageStore>,
    runtime_config: RuntimeConfig,
    network_config: NetworkConfig,
    folder: tempfile::TempDir,
}

fn make_busybox(root: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "www"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    std::fs::write(root.join("www/index.html"), "hello\n").unwrap();
}

async fn import_busybox(images: &Arc<ImageStore>, folder: &Path) {
    make_busybox(&folder.join("busybox"));
    let path = folder.join("busybox.tar");
    let config = ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() };
    let options = BuildOptions { config, names: vec!["busybox:1".into()], ..BuildOptions::default() };
    build_from_directory(&folder.join("busybox"), &options, std::fs::File::create(&path).unwrap()).unwrap();
    let archive = tokio::fs::File::open(&path).await.unwrap();
    images.import(Box::pin(archive), None).await.unwrap();
}

impl Cluster {
    pub async fn start() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Tests are processes of their own: the id keeps their ranges apart.
        let id = std::process::id();
        let third = (id % 200) as u8 + number;
        let folder = tempfile::Builder::new().prefix("orlop-node-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let store = Arc::new(orlop_store::Embedded::in_memory());
        let mut config = orlop_apiserver::Config::new(store);
        let key = orlop_pki::ServiceAccountKey::open_or_create(&path("pki")).unwrap();
        config.tokens = Some(Arc::new(key));
        let api = ApiServer::start(config).await.unwrap();
        let images =
            ImageStore::open(StoreOptions { root: path("images"), insecure_registries: vec![] }).unwrap();
        import_busybox(&images, folder.path()).await;
        let instance = format!("t{:x}{number}", id & 0xffff);
        let mut runtime_config = RuntimeConfig::new(path("runtime"), images.clone());
        runtime_config.cgroup_root = format!("orlop-{instance}");
        runtime_config.shim_binary = SHIM.into();
        let network_config = NetworkConfig {
            instance,
            pod_ranges: vec![format!("10.213.{third}.0/24").parse().unwrap()],
            cluster_ranges: vec![format!("10.213.{third}.0/24").parse().unwrap()],
            service_ranges: vec![format!("10.214.{third}.0/24").parse().unwrap()],
            dns_addresses: vec![format!("10.214.{third}.10").parse().unwrap()],
            state_dir: path("network"),
            mtu: None,
        };
        let client =
            Client::new(api.service_for(Identity::new("system:admin", &["system:masters"])), "default");
        let mut cluster =
            Self { client, agent: None, running: None, api, images, runtime_config, network_config, folder };
        let account: k8s_openapi::api::core::v1::ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default", "namespace": "default"}})).unwrap();
        Api::namespaced(cluster.client.clone(), "default")
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
        // What the controllers of a whole cluster would make.
        let authority = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "-"}});
        let authority: ConfigMap = serde_json::from_value(authority).unwrap();
        Api::namespaced(cluster.client.clone(), "default")
            .create(&PostParams::default(), &authority)
            .await
            .unwrap();
        cluster.start_agent().await;
        cluster
    }

    pub async fn start_agent(&mut self) {
        let runtime = reopen(self.runtime_config.clone()).await;
        let network = Network::open(self.network_config.clone()).await.unwrap();
        let mut config = NodeConfig::new("n1", self.folder.path().join("node"), [127, 0, 0, 1].into());
        // Nobody has to go because this machine's disk is full.
        config.eviction.thresholds.clear();
        config.image_gc.high = 1.0;
        config.cluster_dns.clone_from(&self.network_config.dns_addresses);
        let identity = Identity::new("system:node:n1", &["system:nodes"]);
        let client = Client::new(self.api.service_for(identity), "default");
        let agent = Agent::new(config, client, Arc::new(runtime), self.images.clone(), Arc::new(network));
        let run = agent.clone();
        self.running =
            Some(tokio::spawn(async move { Box::pin(run.run(Default::default())).await.unwrap() }));
        self.agent = Some(agent);
    }

    /// Ends the agent at once: nothing is put in order.
    pub async fn kill_agent(&mut self) {
        self.agent = None;
        if let Some(task) = self.running.take() {
            task.abort();
            let _ = task.await;
        }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a pod that is bound to the node already.
    pub async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = "n1".into();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Waits until a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..3000 {
            let pod = self.pods().get_opt(name).await.unwrap();
            last = serde_json::to_value(pod).unwrap();
            if wanted(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        let events = events.list(&Default::default()).await.unwrap();
        let told: Vec<String> = events.items.iter().filter_map(|e| e.message.clone()).collect();
        panic!("{name} is never {what}: {:#}\n{told:#?}", last["status"]);
    }

    pub async fn ready(&self, name: &str) -> Value {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True").await
    }

    pub async fn gone(&self, name: &str) {
        self.until(name, "gone", Value::is_null).await;
    }

    /// What a container has printed.
    pub fn log(&self, pod: &Value, container: &str, attempt: u32) -> String {
        let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
        let folder = format!("default_{}_{}", name.as_str().unwrap(), uid.as_str().unwrap());
        let path = self.path("node/logs/pods").join(folder).join(container).join(format!("{attempt}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_string() + "\n").collect()
    }
}

pub fn condition<'a>(pod: &'a Value, name: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|c| c["type"] == name));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox:1", "command": ["sh", "-c", script]})
}

/// Opens the runtime as soon as the agent that had it is gone.
async fn reopen(config: RuntimeConfig) -> Runtime {
    for _ in 0..500 {
        if let Ok(runtime) = Runtime::open(config.clone()).await {
            return runtime;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Runtime::open(config).await.unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agent = None;
        if let Some(task) = self.running.take() {
            task.abort();
        }
        let (config, network) = (self.runtime_config.clone(), self.network_config.clone());
        let folder = self.folder.path().to_path_buf();
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let removed = Network::remove_all(&network.instance, &network.state_dir).await;
                let destroyed = reopen(config).await.destroy_all().await;
                (destroyed.map_err(|e| e.to_string()), removed.map_err(|e| e.to_string()))
            })
        })
        .join();
        // Volumes of pods that were not deleted.
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points =
            table.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| Path::new(p).starts_with(&folder));
        let left: Vec<&str> = points.collect();
        for point in left.iter().rev() {
            let _ = rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH);
        }
        if !std::thread::panicking() {
            assert_eq!(cleaned.unwrap(), (Ok(()), Ok(())));
        }
    }
}

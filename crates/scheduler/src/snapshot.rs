//! The cluster as the scheduler sees it: what each node offers, what is taken of it, and what a pod asks for. Kept up to date by
//! difference; it never looks anything up.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};
use kube::ResourceExt;
use orlop_api::pod_resources;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Amounts of everything that can run out on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Everything else by name (`nvidia.com/gpu`, `hugepages-2Mi`), in whole units.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list.
    pub fn from_list(list: &pod_resources::Resources) -> Self {
        let mut all = Self::default();
        for (name, amount) in &list.0 {
            match name.as_str() {
                "cpu" => all.milli_cpu = amount.milli_value(),
                "memory" => all.memory = amount.value(),
                "ephemeral-storage" => all.ephemeral_storage = amount.value(),
                "pods" => {}
                _ => {
                    all.extended.insert(name.clone(), amount.value());
                }
            }
        }
        all
    }

    fn add(&mut self, other: &Self, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Empty or 0.0.0.0: all addresses.
    pub address: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn collides(&self, other: &Self) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0" || a == "::";
        self.protocol == other.protocol
            && self.port == other.port
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

/// A pod with what the scheduler needs to know of it worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// Ports of the node that it takes.
    pub host_ports: Vec<HostPort>,
    /// The uid of its controller.
    pub controller: Option<String>,
}

/// What a pod that asks for no processor or memory is taken to use when nodes are compared, as kube-scheduler does: thousandths of
/// a processor, and bytes.
const ASSUMED: (i64, i64) = (100, 200 << 20);

impl PodInfo {
    /// Works out what a pod asks for.
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = pod.spec.as_ref().map(pod_resources::requests).unwrap_or_default();
        let host_ports = pod.spec.as_ref().map(host_ports).unwrap_or_default();
        let mut owners = pod.metadata.owner_references.iter().flatten();
        let controller = owners.find(|o| o.controller == Some(true)).map(|o| o.uid.clone());
        Self { requests: Resources::from_list(&requests), host_ports, controller, pod }
    }

    /// Processor and memory by which nodes are compared: never nothing, so that pods without requests spread too.
    pub fn weight(&self) -> (i64, i64) {
        let or = |asked: i64, assumed: i64| if asked == 0 { assumed } else { asked };
        (or(self.requests.milli_cpu, ASSUMED.0), or(self.requests.memory, ASSUMED.1))
    }

    /// Its spec; an empty one where it has none.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(HostPort {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                address: p.host_ip.clone().unwrap_or_default(),
                port: p.host_port.filter(|p| *p > 0)?,
            })
        })
        .collect()
}

/// A node with what is taken of it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What it offers.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// What its pods ask for.
    pub requested: Resources,
    /// The sum of its pods' [`PodInfo::weight`].
    pub weight: (i64, i64),
    /// How many of its pods each controller has.
    pub of_controller: HashMap<String, usize>,
    /// Its pods by uid.
    pub pods: HashMap<String, PodInfo>,
    /// Whether the Node object is there; pods may be known before their node is.
    pub exists: bool,
}

impl NodeInfo {
    /// Counts a pod in or, with -1, out.
    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        let (cpu, memory) = pod.weight();
        self.weight = (self.weight.0 + sign * cpu, self.weight.1 + sign * memory);
        let Some(controller) = &pod.controller else { return };
        let count = self.of_controller.entry(controller.clone()).or_default();
        *count = count.saturating_add_signed(sign as isize);
        if *count == 0 {
            self.of_controller.remove(controller);
        }
    }

    fn read(&mut self, node: &Node) {
        self.name = node.name_any();
        self.labels = node.labels().clone();
        let spec = node.spec.clone().unwrap_or_default();
        self.taints = spec.taints.unwrap_or_default();
        self.unschedulable = spec.unschedulable.unwrap_or(false);
        let status = node.status.clone().unwrap_or_default();
        let allocatable =
            pod_resources::Resources::of(status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.allocatable = Resources::from_list(&allocatable);
        self.allowed_pods = allocatable.get("pods").value();
        self.exists = true;
    }
}

/// All nodes with their pods.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// Pod uid → node, to find a pod again when only its uid is known.
    placed: HashMap<String, String>,
}

impl Snapshot {
    /// Nodes that exist, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.exists)
    }

    /// Takes in a new or changed node.
    pub fn set_node(&mut self, node: &Node) {
        self.nodes.entry(node.name_any()).or_default().read(node);
    }

    /// Takes out a node; pods that are still bound to it are remembered in case it returns.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.exists = false;
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Puts a pod on a node, or replaces what is known of it.
    pub fn place(&mut self, node: &str, pod: PodInfo) {
        let uid = pod.pod.uid().unwrap_or_default();
        self.remove_pod(&uid);
        let info = self
            .nodes
            .entry(node.to_string())
            .or_insert_with(|| NodeInfo { name: node.into(), ..NodeInfo::default() });
        info.count(&pod, 1);
        info.pods.insert(uid.clone(), pod);
        self.placed.insert(uid, node.to_string());
    }

    /// Takes a pod off its node; says whether it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            if let Some(pod) = info.pods.remove(uid) {
                info.count(&pod, -1);
            }
            if !info.exists && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}

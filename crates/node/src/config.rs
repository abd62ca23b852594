//! What the agent is told about its node and its cluster. It reads no file and no environment itself.

use k8s_openapi::api::core::v1::Taint;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// Configuration of a node agent.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub name: String,
    /// Everything the agent keeps: `pods/UID` (volumes and files of pods) and `logs/pods`.
    pub root_dir: PathBuf,
    /// The folder of persistent volumes that are directories of this node.
    pub volumes_dir: PathBuf,
    /// Address of this node: `status.addresses`, `status.hostIP` of pods, the address of `hostNetwork` pods.
    pub node_ip: IpAddr,
    /// Port of the agent's HTTPS endpoint (`status.daemonEndpoints.kubeletEndpoint`).
    pub kubelet_port: u16,
    /// Addresses of the cluster's DNS, for pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver configuration, for pods with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// Labels of the Node besides the well-known ones that the agent sets.
    pub labels: BTreeMap<String, String>,
    /// Taints that a new Node is registered with.
    pub taints: Vec<Taint>,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Bytes of memory kept back from pods: capacity less this is allocatable.
    pub reserved_memory: u64,
    /// Thousandths of a CPU kept back from pods.
    pub reserved_cpu_millis: u64,
    /// When the node says that it is under pressure.
    pub pressure: PressureThresholds,
}

/// From where on the node reports pressure (the kubelet's `evictionHard` signals).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PressureThresholds {
    /// `MemoryPressure` when less than this many bytes are available.
    pub memory_available: u64,
    /// `DiskPressure` when less than this part (0 to 1) of the file system under `root_dir` is free.
    pub nodefs_available: f64,
    /// `PIDPressure` when less than this part (0 to 1) of the process ids is free.
    pub pid_available: f64,
}

impl Default for PressureThresholds {
    fn default() -> Self {
        Self { memory_available: 100 << 20, nodefs_available: 0.05, pid_available: 0.05 }
    }
}

impl NodeConfig {
    /// A configuration with the usual values for all that has one.
    pub fn new(name: impl Into<String>, root_dir: impl Into<PathBuf>, node_ip: IpAddr) -> Self {
        let root_dir = root_dir.into();
        Self {
            name: name.into(),
            volumes_dir: root_dir.join("volumes"),
            root_dir,
            node_ip,
            kubelet_port: 10250,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            reserved_memory: 0,
            reserved_cpu_millis: 0,
            pressure: PressureThresholds::default(),
        }
    }
}

//! What the agent is told about its node and its cluster. It reads no file and no environment itself.

use crate::{ImageGcConfig, eviction::EvictionConfig};
use k8s_openapi::api::core::v1::Taint;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

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
    /// Its address of the other address family, if pods have both.
    pub second_node_ip: Option<IpAddr>,
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
    /// How long its Lease lasts: it is renewed four times in that time.
    pub lease: Duration,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Bytes of memory kept back from pods: capacity less this is allocatable.
    pub reserved_memory: u64,
    /// Thousandths of a CPU kept back from pods.
    pub reserved_cpu_millis: u64,
    /// The folder of images: its disk is the one that they fill.
    pub images_dir: PathBuf,
    /// When the node is under pressure, and pods have to go.
    pub eviction: EvictionConfig,
    /// When images that nobody uses are removed.
    pub image_gc: ImageGcConfig,
}

impl NodeConfig {
    /// The addresses of this node, the primary one first.
    #[must_use]
    pub fn node_ips(&self) -> Vec<IpAddr> {
        [self.node_ip].into_iter().chain(self.second_node_ip).collect()
    }

    /// A configuration with the usual values for all that has one.
    pub fn new(name: impl Into<String>, root_dir: impl Into<PathBuf>, node_ip: IpAddr) -> Self {
        let root_dir = root_dir.into();
        Self {
            name: name.into(),
            volumes_dir: root_dir.join("volumes"),
            images_dir: root_dir.clone(),
            root_dir,
            node_ip,
            second_node_ip: None,
            kubelet_port: 10250,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            lease: Duration::from_secs(40),
            max_pods: 110,
            reserved_memory: 0,
            reserved_cpu_millis: 0,
            eviction: EvictionConfig::default(),
            image_gc: ImageGcConfig::default(),
        }
    }
}

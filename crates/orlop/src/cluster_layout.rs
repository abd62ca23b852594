//! How the cluster is laid out, as far as all its nodes must know: address ranges, domain, and how pods on different machines
//! reach each other. The server publishes it as the ConfigMap `orlop-cluster` in `kube-system`; workers read it when they start.

use crate::Error;
use clap::Args;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use orlop_network::mesh::{Backend, MeshSettings};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{net::IpAddr, time::Duration};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "orlop-cluster";
const KEY: &str = "layout";
const RETRY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterLayout {
    /// Where the nodes' ranges of pod addresses are from, one a family.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Where ClusterIPs are from.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// The cluster's DNS, on every node.
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The DNS zone.
    pub(crate) cluster_domain: String,
    /// How pods on different machines reach each other.
    pub(crate) mesh: MeshSettings,
    /// After how many seconds of silence a node counts as dead: its Lease lasts as long.
    #[serde(default = "usual_node_seconds")]
    pub(crate) node_seconds: u32,
}

fn usual_node_seconds() -> u32 {
    40
}

/// How pods on different machines reach each other.
#[derive(Args)]
pub(crate) struct MeshArguments {
    /// How packets get from node to node: "direct" (routes; all nodes on one segment), "vxlan", or "auto" (direct to nodes
    /// on the same segment, VXLAN to others)
    #[arg(long, default_value = "auto", value_name = "BACKEND")]
    backend: Backend,
    /// Number of the VXLAN
    #[arg(long, default_value_t = 4097, value_name = "VNI", value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    vxlan_vni: u32,
    /// UDP port of the VXLAN
    #[arg(long, default_value_t = 8472, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    vxlan_port: u16,
}

impl MeshArguments {
    pub(crate) fn settings(&self) -> MeshSettings {
        MeshSettings { backend: self.backend, vni: self.vxlan_vni, port: self.vxlan_port }
    }
}

/// Publishes it, once and until it works; then waits for ever.
pub(crate) async fn publish(client: Client, layout: ClusterLayout) {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {KEY: json!(layout).to_string()},
    });
    let params = PatchParams::apply("orlop").force();
    while let Err(error) = api.patch(NAME, &params, &Patch::Apply(&object)).await {
        tracing::debug!(%error, "the layout of the cluster was not published");
        tokio::time::sleep(RETRY).await;
    }
    std::future::pending().await
}

/// Reads it.
pub(crate) async fn read(client: Client) -> Result<Result<ClusterLayout, Error>, kube::Error> {
    let map = Api::<ConfigMap>::namespaced(client, NAMESPACE).get(NAME).await?;
    let text = map.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
    Ok(serde_json::from_str(&text).map_err(Error::at("reading how the cluster is laid out")))
}

//! The kinds of `orlop.dev/v1` as types, for those who read and write them through a client. Their schemas are in
//! `orlop-schema` (`own_kinds.json`), their rules in [`crate::kinds`].

use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The API group.
pub const GROUP: &str = "orlop.dev";
/// Names the networks, separated by commas, that a pod is connected to as long as it lives. May be changed on a live pod.
pub const NETWORKS_ANNOTATION: &str = "orlop.dev/networks";
/// On an attachment: the network that it leads to.
pub const NETWORK_LABEL: &str = "orlop.dev/network";
/// On an attachment: it was made because the pod's annotation asks for it, and goes when it no longer does.
pub const BY_ANNOTATION_LABEL: &str = "orlop.dev/by-annotation";

/// A network of its own that spans the machines of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it is.
    #[serde(default)]
    pub spec: NetworkSpec,
    /// How it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NetworkStatus>,
}

/// What a network is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// `IPv4`, `IPv6` or both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<String>,
    /// One range for each family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<NetworkSubnet>,
    /// `Isolated` or `Open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// The VXLAN network identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i32>,
}

/// A range of addresses of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSubnet {
    /// The range.
    pub cidr: String,
    /// The nodes' own address there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// How a network is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatus {
    /// How many pods are connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<i32>,
}

/// Connects a pod to a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttachment {
    /// Metadata. The name is `POD.NETWORK`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Which pod and which network.
    #[serde(default)]
    pub spec: NetworkAttachmentSpec,
    /// What the pod's node made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NetworkAttachmentStatus>,
}

/// Which pod is connected to which network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkAttachmentSpec {
    /// The pod, in the same namespace.
    pub pod_name: String,
    /// The network.
    pub network_name: String,
    /// The pod's addresses there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// What the pod's node made of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkAttachmentStatus {
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Where other nodes send packets for the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<String>,
    /// The hardware address of the pod's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// The pod's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The name of the attachment of a pod to a network.
pub fn attachment_name(pod: &str, network: &str) -> String {
    format!("{pod}.{network}")
}

/// The networks that an annotation of a pod names.
pub fn networks_of(annotations: Option<&BTreeMap<String, String>>) -> BTreeSet<&str> {
    let text = annotations.and_then(|all| all.get(NETWORKS_ANNOTATION)).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}

macro_rules! resource {
    ($kind:ident, $plural:literal, $scope:ty) => {
        impl Resource for $kind {
            const API_VERSION: &'static str = "orlop.dev/v1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = stringify!($kind);
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl Metadata for $kind {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Network, "networks", ClusterResourceScope);
resource!(NetworkAttachment, "networkattachments", NamespaceResourceScope);

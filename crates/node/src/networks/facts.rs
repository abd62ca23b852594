//! What a node needs of a Network and a NetworkAttachment, as plain structs. Pure.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use orlop_api::orlop_v1::{Network, NetworkAttachment, NetworkAttachmentStatus};
use std::net::IpAddr;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetworkFacts {
    pub id: u32,
    pub subnets: Vec<(IpNet, IpAddr)>,
    pub open: bool,
}

impl NetworkFacts {
    /// `None` for one without number, which no server stores.
    pub fn of(network: &Network) -> Option<Self> {
        let spec = &network.spec;
        let subnets = spec.subnets.iter().filter_map(|subnet| {
            let range: IpNet = subnet.cidr.parse().ok()?;
            Some((range, subnet.gateway.as_ref()?.parse().ok()?))
        });
        Some(Self {
            id: spec.id.and_then(|id| u32::try_from(id).ok())?,
            subnets: subnets.collect(),
            open: spec.isolation.as_deref() == Some("Open"),
        })
    }
}

/// The name of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AttachmentName {
    pub namespace: String,
    pub name: String,
}

impl AttachmentName {
    pub fn of(attachment: &NetworkAttachment) -> Self {
        Self { namespace: attachment.namespace().unwrap_or_default(), name: attachment.name_any() }
    }
}

/// An attachment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AttachmentFacts {
    pub uid: String,
    pub pod: String,
    pub pod_uid: String,
    pub network: String,
    pub addresses: Vec<IpAddr>,
    pub status: Option<NetworkAttachmentStatus>,
}

impl AttachmentFacts {
    /// `None` for one that connects nobody: it is of no pod, or about to go.
    pub fn of(attachment: NetworkAttachment) -> Option<Self> {
        if attachment.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let owner = attachment.owner_references().iter().find(|owner| owner.kind == "Pod")?;
        let (uid, pod_uid) = (attachment.uid()?, owner.uid.clone());
        Some(Self {
            uid,
            pod_uid,
            pod: attachment.spec.pod_name,
            network: attachment.spec.network_name,
            addresses: attachment.spec.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            status: attachment.status,
        })
    }

    /// Whether its pod is connected.
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().and_then(ready_condition).is_some_and(|ready| ready.status == "True")
    }

    /// The hardware address of a member on another node, and that node's address of the family by which this one is known.
    pub fn elsewhere(&self, node: &str, address: IpAddr) -> Option<([u8; 6], IpAddr)> {
        let status = self.status.as_ref().filter(|_| self.is_ready())?;
        if status.node_name.as_deref().is_none_or(|there| there == node) {
            return None;
        }
        let there = status.node_addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let there = there.into_iter().find(|there| there.is_ipv4() == address.is_ipv4())?;
        Some((mac(status.mac_address.as_deref()?)?, there))
    }
}

/// `Ready`.
pub(super) fn ready_condition(status: &NetworkAttachmentStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

//! Queueing hints: whether something that happened may let a pod in that some plugins kept out. Pure. What surely does not help
//! wakes nobody.

use crate::{
    plugin::{Plugin, Plugins},
    shape::{Shape, spec_of},
    volumes::claims_of,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use orlop_api::{node_affinity, pod_resources, taint};
use std::sync::Arc;

/// Something that happened to the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A node came.
    NodeAdded(Arc<Node>),
    /// A node changed.
    NodeChanged(Arc<Node>, Arc<Node>),
    /// A pod came to a node, or its labels changed there.
    PodPlaced(Arc<Pod>),
    /// A pod left its node, or is on its way out.
    PodLeft(Arc<Pod>),
    /// Claims, volumes or classes changed.
    Storage,
    /// A volume was taken off a node, or what nodes can have attached changed.
    Attachable,
    /// Labels of namespaces, or what belongs together, changed.
    Namespaces,
}

/// What of a node changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeParts {
    pub labels: bool,
    pub taints: bool,
    pub amounts: bool,
}

/// What of a node changed that decisions look at.
pub(crate) fn parts(old: &Node, new: &Node) -> NodeParts {
    let status = |n: &Node| n.status.as_ref().map(|s| s.allocatable.clone().or_else(|| s.capacity.clone()));
    NodeParts {
        labels: old.metadata.labels != new.metadata.labels,
        taints: old.spec != new.spec,
        amounts: status(old) != status(new),
    }
}

impl Happening {
    /// The plugins whose refusals may be gone.
    pub(crate) fn concerns(&self) -> Plugins {
        use Plugin::*;
        let list: &[Plugin] = match self {
            Self::NodeAdded(_) => return Plugins::all(),
            Self::NodeChanged(old, new) => {
                let parts = parts(old, new);
                let mut all = Plugins::default();
                if parts.labels {
                    all = [NodeAffinity, PodTopologySpread, InterPodAffinity, VolumeBinding, VolumeZone]
                        .into_iter()
                        .fold(all, Plugins::with);
                }
                if parts.taints {
                    all = [NodeUnschedulable, TaintToleration, PodTopologySpread]
                        .into_iter()
                        .fold(all, Plugins::with);
                }
                if parts.amounts {
                    all = all.with(NodeResourcesFit);
                }
                return all;
            }
            Self::PodPlaced(_) => &[PodTopologySpread, InterPodAffinity],
            Self::PodLeft(_) => &[
                NodeResourcesFit,
                NodePorts,
                PodTopologySpread,
                InterPodAffinity,
                VolumeRestrictions,
                NodeVolumeLimits,
            ],
            Self::Storage => &[VolumeBinding, VolumeZone, NodeVolumeLimits, VolumeRestrictions],
            Self::Attachable => &[NodeVolumeLimits],
            Self::Namespaces => &[InterPodAffinity],
        };
        list.iter().copied().fold(Plugins::default(), Plugins::with)
    }

    /// Whether a pod that these plugins kept out should be tried again.
    pub(crate) fn helps(&self, pod: &Pod, shape: &Shape, kept_out_by: Plugins) -> bool {
        self.concerns().iter().filter(|p| kept_out_by.has(*p)).any(|plugin| self.may_help(plugin, pod, shape))
    }

    fn may_help(&self, plugin: Plugin, pod: &Pod, shape: &Shape) -> bool {
        match self {
            Self::NodeAdded(node) => node_may_help(plugin, pod, shape, node),
            Self::NodeChanged(_, node) => node_may_help(plugin, pod, shape, node),
            Self::PodLeft(left) => match plugin {
                Plugin::NodePorts => ports_may_help(shape, left),
                Plugin::PodTopologySpread => spread_may_help(shape, left),
                Plugin::NodeVolumeLimits => !claims_of(left).is_empty(),
                _ => true,
            },
            Self::PodPlaced(placed) => match plugin {
                Plugin::PodTopologySpread => spread_may_help(shape, placed),
                _ => !shape.near.is_empty(),
            },
            Self::Storage | Self::Attachable | Self::Namespaces => true,
        }
    }
}

/// Whether what a plugin looks at is as the pod needs it on a node. Unschedulable nodes help nobody that does not tolerate them.
fn node_may_help(plugin: Plugin, pod: &Pod, shape: &Shape, node: &Node) -> bool {
    let spec = node.spec.as_ref();
    match plugin {
        Plugin::NodeUnschedulable => !spec.and_then(|s| s.unschedulable).unwrap_or(false),
        Plugin::TaintToleration => {
            let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
            taint::blocks_scheduling(taints, shape.tolerations()).is_none()
        }
        Plugin::NodeAffinity => node_affinity::allows(spec_of(pod), &node.name_any(), node.labels()),
        Plugin::NodeResourcesFit => {
            let status = node.status.as_ref();
            let offered = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
            let offered = pod_resources::Resources::of(offered);
            let asked = pod_resources::requests(spec_of(pod));
            asked.0.iter().all(|(name, amount)| amount.is_zero() || *amount <= offered.get(name))
        }
        _ => true,
    }
}

fn ports_may_help(shape: &Shape, left: &Pod) -> bool {
    let theirs = spec_of(left).containers.iter().flat_map(|c| c.ports.iter().flatten());
    let mut theirs = theirs.filter_map(|p| p.host_port);
    theirs.any(|port| shape.ports.iter().any(|p| p.port == port))
}

fn spread_may_help(shape: &Shape, other: &Pod) -> bool {
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let spaces = Default::default();
    let mut counted = shape.spread.iter().filter(|c| c.hard).filter_map(|c| c.pods.as_ref());
    counted.any(|p| p.matches(namespace, other.labels(), &spaces))
}

//! What kinds add to the generic registry on the server's side, one file a kind.

mod admission_policies;
pub(crate) mod allocations;
pub(crate) mod bindings;
mod certificates;
pub(crate) mod defaults;
pub(crate) mod events;
mod evictions;
mod jobs;
pub(crate) mod leases;
mod namespaces;
mod network_attachments;
mod networks;
mod nodes;
mod pods;
mod returned;
mod roles;
pub(crate) mod service_account_admission;
mod service_accounts;
mod services;

pub(crate) use allocations::Allocations;
pub(crate) use networks::Networks;

use crate::{
    Config,
    cache::Index,
    custom,
    identity::authorize::Authorization,
    registry::{Hooks, hooks::Plain},
    streaming::Nodes,
};
use orlop_api::{Kind, orlop_v1::GROUP};
use std::sync::Arc;

/// Makes the hooks of each kind.
pub(crate) struct Builder<'a> {
    pub config: &'a Config,
    pub allocations: Arc<Allocations>,
    pub networks: NetworkAllocations,
    pub nodes: Arc<Nodes>,
    pub authorization: Arc<Authorization>,
}

/// What networks and the pods in them hold.
#[derive(Clone)]
pub(crate) struct NetworkAllocations {
    networks: Arc<Networks>,
    addresses: Arc<allocations::Taken>,
}

impl NetworkAllocations {
    pub(crate) fn new(config: &Config) -> Self {
        let services = config.service_ranges.iter().map(|range| ("the range of Services", *range));
        let pods = config.pod_ranges.iter().map(|range| ("a range of pods", *range));
        let mut networks = Networks::new(config.network_pools.clone(), services.chain(pods).collect());
        networks.pod_network = config.pod_network_number.and_then(|number| i32::try_from(number).ok());
        Self { networks: Arc::new(networks), addresses: network_attachments::taken() }
    }

    /// What the cache's feeder keeps up to date.
    pub(crate) fn indexes(&self) -> [Arc<dyn Index>; 2] {
        [self.networks.clone(), self.addresses.clone()]
    }
}

impl Builder<'_> {
    /// The hooks of a kind.
    pub(crate) fn hooks(&self, kind: &Kind) -> Arc<dyn Hooks> {
        match (&*kind.group, &*kind.plural) {
            ("", "namespaces") => Arc::new(namespaces::Namespaces),
            ("", "services") => Arc::new(services::Services {
                allocations: self.allocations.clone(),
                random: self.config.random.clone(),
            }),
            ("", "pods") => Arc::new(pods::Pods { nodes: self.nodes.clone() }),
            ("", "nodes") => Arc::new(nodes::NodeHooks { nodes: self.nodes.clone() }),
            ("", "serviceaccounts") => Arc::new(service_accounts::ServiceAccounts {
                key: self.config.tokens.clone(),
                issuer: self.config.issuer.clone(),
            }),
            ("", "events" | "endpoints") | ("events.k8s.io", "events") => {
                Arc::new(leases::CreatedByUpdate { blindly: true })
            }
            ("coordination.k8s.io", "leases") => Arc::new(leases::Leases),
            ("apiextensions.k8s.io", "customresourcedefinitions") => Arc::new(custom::Definitions),
            ("certificates.k8s.io", _) => Arc::new(certificates::Certificates {
                kind: kind.clone(),
                authorization: self.authorization.clone(),
            }),
            ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
                Arc::new(roles::Roles { kind: kind.clone(), authorization: self.authorization.clone() })
            }
            ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
                Arc::new(roles::Bindings { kind: kind.clone(), authorization: self.authorization.clone() })
            }
            (GROUP, "networks") => Arc::new(networks::NetworkHooks {
                kind: kind.clone(),
                networks: self.networks.networks.clone(),
            }),
            (GROUP, "networkattachments") => Arc::new(network_attachments::NetworkAttachments {
                kind: kind.clone(),
                addresses: self.networks.addresses.clone(),
                random: self.config.random.clone(),
            }),
            ("batch", "jobs") | ("", "replicationcontrollers") => Arc::new(jobs::Orphaning),
            ("", "persistentvolumes" | "persistentvolumeclaims" | "podtemplates" | "resourcequotas")
            | ("storage.k8s.io", _) => Arc::new(returned::Returned),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
                Arc::new(admission_policies::AdmissionPolicies)
            }
            _ => Arc::new(Plain),
        }
    }
}

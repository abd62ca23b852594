//! What kinds add to the generic registry on the server's side, one file a kind.

mod admission_policies;
pub(crate) mod allocations;
pub(crate) mod bindings;
mod certificates;
pub(crate) mod defaults;
pub(crate) mod events;
mod evictions;
mod jobs;
mod leases;
mod namespaces;
mod nodes;
mod pods;
mod returned;
mod roles;
pub(crate) mod service_account_admission;
mod service_accounts;
mod services;

pub(crate) use allocations::Allocations;

use crate::{
    Config, custom,
    identity::authorize::Authorization,
    registry::{Hooks, hooks::Plain},
    streaming::Nodes,
};
use orlop_api::Kind;
use std::sync::Arc;

/// Makes the hooks of each kind.
pub(crate) struct Builder<'a> {
    pub config: &'a Config,
    pub allocations: Arc<Allocations>,
    pub nodes: Arc<Nodes>,
    pub authorization: Arc<Authorization>,
}

impl Builder<'_> {
    /// The hooks of a kind.
    pub(crate) fn hooks(&self, kind: &Kind) -> Arc<dyn Hooks> {
        match (&*kind.group, &*kind.plural) {
            ("", "namespaces") => Arc::new(namespaces::Namespaces),
            ("", "services") => Arc::new(services::Services { allocations: self.allocations.clone() }),
            ("", "pods") => Arc::new(pods::Pods { nodes: self.nodes.clone() }),
            ("", "nodes") => Arc::new(nodes::NodeHooks { nodes: self.nodes.clone() }),
            ("", "serviceaccounts") => Arc::new(service_accounts::ServiceAccounts {
                key: self.config.tokens.clone(),
                issuer: self.config.issuer.clone(),
            }),
            ("", "events" | "endpoints") | ("events.k8s.io", "events") => {
                Arc::new(leases::CreatedByUpdate { blindly: true })
            }
            ("coordination.k8s.io", "leases") => Arc::new(leases::CreatedByUpdate { blindly: false }),
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

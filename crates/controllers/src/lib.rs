//! The control loops that make the cluster what its objects say. One module a controller, each level-triggered: it reads the
//! shared caches, computes the difference to what is wanted, and acts, and can be killed between any two steps. They reach
//! state through the Kubernetes API alone.

mod api_servers;
mod autoscaler;
mod balancer;
mod bootstrap_token;
mod certificate;
mod cluster;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endings;
mod endpoints;
mod ephemeral_volume;
mod garbage;
mod history;
mod job;
mod legacy_token;
mod namespace;
mod network_attachment;
mod node_lifecycle;
mod node_ranges;
mod ownership;
mod pod_control;
mod pod_garbage;
mod pods;
mod replicas;
mod resource_quota;
mod scale;
mod service_account;
mod signers;
mod stateful_set;
mod storage_protection;
mod volume_binder;

pub use api_servers::{drop_lease, keep_lease, run_api_servers};
pub use balancer::{Pool, run_balancer};
pub use cluster::{Cluster, run, run_cluster, run_sharing};
pub use node_ranges::{ClusterRange, NodeRanges, run_node_ranges};
pub use signers::{Keys, run_signers};

/// Why a reconciliation was not finished. It is always tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API failed.
    #[error("{step}")]
    Api {
        /// What was being done.
        step: &'static str,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
    /// The server refused what the object asks for.
    #[error("{0}")]
    Refused(String),
    /// The object cannot be worked with.
    #[error("{0}")]
    Object(String),
}

impl Error {
    /// What the server said, for people.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Api { source, .. } => orlop_client::api_message(source),
            other => other.to_string(),
        }
    }

    /// Names the step of a failed call.
    pub(crate) fn at(step: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Api { step, source }
    }
}

//! ReplicationController (core/v1) as one of the kinds that have so many pods of one template. Its selector is a map, of
//! which an empty one selects nothing, and its status does not count terminating pods.

use super::{Asked, Replicates};
use crate::Cluster;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{
            ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec,
            ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use orlop_client::Informer;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

impl Replicates for ReplicationController {
    const WORKERS_NAME: &'static str = "replicationcontroller";

    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>> {
        &cluster.replication_controllers
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        selector(self.spec.as_ref())
            .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    fn asked(&self) -> Option<Asked<'_>> {
        let spec = self.spec.as_ref()?;
        let match_labels = Some(selector(Some(spec))?.clone());
        Some(Asked {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Cow::Owned(LabelSelector { match_labels, ..LabelSelector::default() }),
            template: spec.template.as_ref(),
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|all| {
            let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            all.into_iter().map(condition).collect()
        });
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: Some(0),
            observed_generation: status.observed_generation,
            conditions,
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let conditions = status.conditions.map(|all| {
            let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            all.into_iter().map(condition).collect()
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        });
    }
}

/// The selector, unless it is empty: such a one would take every pod.
fn selector(spec: Option<&ReplicationControllerSpec>) -> Option<&BTreeMap<String, String>> {
    spec?.selector.as_ref().filter(|s| !s.is_empty())
}

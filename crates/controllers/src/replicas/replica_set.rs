//! ReplicaSet (apps/v1) as one of the kinds that have so many pods of one template.

use super::{Asked, Replicates};
use crate::{Cluster, ownership};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use orlop_client::Informer;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

impl Replicates for ReplicaSet {
    const WORKERS_NAME: &'static str = "replicaset";

    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>> {
        &cluster.replica_sets
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.spec.as_ref().is_some_and(|s| ownership::selects(&s.selector, labels))
    }

    fn asked(&self) -> Option<Asked<'_>> {
        let spec = self.spec.as_ref()?;
        Some(Asked {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Cow::Borrowed(&spec.selector),
            template: spec.template.as_ref(),
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

//! The StatefulSet as a kind whose templates are kept as revisions.

use crate::{Cluster, history::Versioned};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use orlop_client::Informer;
use std::sync::Arc;

impl Versioned for StatefulSet {
    const HASH_LABEL: &'static str = "controller.kubernetes.io/hash";

    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>> {
        &cluster.stateful_sets
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default()
    }

    fn limit(&self) -> Option<usize> {
        usize::try_from(self.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10)).ok()
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0)
    }

    fn set_collisions(&mut self, count: i32) {
        self.status.get_or_insert_default().collision_count = Some(count);
    }
}

//! The DaemonSet as a kind whose templates are kept as revisions.

use super::{HASH_LABEL, plan};
use crate::{
    Cluster, Error,
    history::{self, Versioned},
};
use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::ResourceExt;
use orlop_client::Informer;
use std::sync::Arc;

impl Versioned for DaemonSet {
    const HASH_LABEL: &'static str = HASH_LABEL;

    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>> {
        &cluster.daemon_sets
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default()
    }

    fn limit(&self) -> Option<usize> {
        let limit = self.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        Some(usize::try_from(limit).unwrap_or(0))
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0)
    }

    fn set_collisions(&mut self, count: i32) {
        self.status.get_or_insert_default().collision_count = Some(count);
    }
}

/// Makes sure that the present template is the newest revision, drops those beyond the limit, and returns the present hash.
pub(super) async fn keep(cluster: &Cluster, set: &DaemonSet) -> Result<String, Error> {
    let history = history::keep(cluster, set).await?;
    let pods = cluster.pods.owned_by(&set.uid().unwrap_or_default());
    let in_use = |hash: &str| pods.iter().any(|p| plan::is_updated(p, hash));
    history::forget(cluster, set, &history, |r| in_use(&history::hash_of::<DaemonSet>(r))).await?;
    Ok(history::hash_of::<DaemonSet>(&history.present))
}

//! What a DaemonSet's status says: how many nodes want, have, and can use a daemon pod.

use super::{
    placement,
    plan::{by_node, is_updated},
};
use crate::{Cluster, Error, pods};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::Node,
};
use kube::ResourceExt;
use std::sync::Arc;

/// Writes the status if it changed.
pub(super) async fn write(
    cluster: &Cluster,
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    now: Timestamp,
) -> Result<(), Error> {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let by_node = by_node(&cluster.pods.owned_by(&set.uid().unwrap_or_default()));
    let mut status = DaemonSetStatus {
        collision_count: set.status.as_ref().and_then(|s| s.collision_count),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
        observed_generation: set.metadata.generation,
        updated_number_scheduled: Some(0),
        number_available: Some(0),
        number_unavailable: Some(0),
        ..DaemonSetStatus::default()
    };
    for node in nodes {
        let here: Vec<_> = by_node
            .get(&node.name_any())
            .into_iter()
            .flatten()
            .filter(|p| !pods::is_terminating(p))
            .collect();
        if !placement::fit(&spec.template, node).may_run {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(!here.is_empty());
        status.number_ready += i32::from(here.iter().any(|p| pods::is_ready(p)));
        let available =
            here.iter().any(|p| pods::until_available(p, min_ready, now).is_some_and(|w| w.is_zero()));
        *status.number_available.get_or_insert(0) += i32::from(available);
        *status.number_unavailable.get_or_insert(0) += i32::from(!available);
        *status.updated_number_scheduled.get_or_insert(0) +=
            i32::from(here.iter().any(|p| is_updated(p, hash)));
    }
    let mut old = set.status.clone().unwrap_or_default();
    for field in [&mut old.updated_number_scheduled, &mut old.number_available, &mut old.number_unavailable] {
        field.get_or_insert(0);
    }
    if old != status {
        let mut changed = set.clone();
        changed.status = Some(status);
        cluster.write_status(&cluster.daemon_sets, &changed).await?;
    }
    Ok(())
}

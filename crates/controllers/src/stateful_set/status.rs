//! What a StatefulSet's status says of its pods and revisions. Pure.

use super::{identity, plan};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};
use std::sync::Arc;

/// The status, from the set's pods and the names of its current and its newest revision.
pub(super) fn observed(
    set: &StatefulSet,
    mine: &[Arc<Pod>],
    (current, update): (&str, &str),
    now: Timestamp,
) -> StatefulSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let members = || mine.iter().filter(|p| identity::ordinal_of(set, p).is_some());
    let count = |test: &dyn Fn(&Pod) -> bool| members().filter(|p| test(p)).count() as i32;
    let of = |revision: &str| count(&|p| !pods::is_terminating(p) && identity::revision_of(p) == revision);
    let old = set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: members().count() as i32,
        ready_replicas: Some(count(&plan::is_ready)),
        available_replicas: Some(count(&|p| plan::is_available(p, min_ready, now))),
        current_replicas: Some(of(current)),
        updated_replicas: Some(of(update)),
        current_revision: Some(current.into()),
        update_revision: Some(update.into()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    };
    let rolls = spec.update_strategy.is_none_or(|s| s.type_.as_deref() != Some("OnDelete"));
    let wanted = spec.replicas.unwrap_or(1);
    let complete = [status.updated_replicas, status.ready_replicas, Some(status.replicas)];
    if rolls && complete.iter().all(|n| *n == Some(wanted)) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}

/// A status as we would write it: absent numbers are zero.
pub(super) fn normalized(mut status: StatefulSetStatus) -> StatefulSetStatus {
    for field in [
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.current_replicas,
        &mut status.updated_replicas,
        &mut status.collision_count,
    ] {
        field.get_or_insert(0);
    }
    status
}

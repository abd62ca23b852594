//! The pods of a Job: what makes one, and which index it works on.

use super::{FINALIZER, Indexes, retries, tracking};

use crate::{ownership, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Pods to make.
pub(super) struct Next {
    pub pods: Vec<Pod>,
    /// When further ones may be made.
    pub look_again: Option<SignedDuration>,
}

/// The next `count` pods of a Job, besides those that are active.
pub(super) fn next(
    job: &Job,
    status: &JobStatus,
    active: &[Arc<Pod>],
    mine: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Next {
    let spec = job.spec.clone().unwrap_or_default();
    if spec.completion_mode.as_deref() != Some("Indexed") {
        return Next { pods: vec![pod_for(job, None); count], look_again: None };
    }
    let read = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default());
    let (done, failed) = (read(&status.completed_indexes), read(&status.failed_indexes));
    let mut taken: BTreeSet<i32> = active.iter().filter_map(|p| index_of(p)).collect();
    if spec.pod_replacement_policy.as_deref() == Some("Failed") {
        let stopping = mine.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p));
        taken.extend(stopping.filter_map(|p| index_of(p)));
    }
    let mut next = Next { pods: Vec::new(), look_again: None };
    let waiting = retries::to_replace(&spec, mine, &done, |pod| tracking::verdict(job, pod) == Some(false));
    let free = (0..spec.completions.unwrap_or(0))
        .filter(|i| !done.contains(*i) && !failed.contains(*i) && !taken.contains(i));
    for index in free {
        if next.pods.len() >= count {
            break;
        }
        let before = waiting.get(&index);
        let pause = before.map_or(SignedDuration::ZERO, |failed| retries::pause(&spec, failed, now));
        if pause > SignedDuration::ZERO {
            next.look_again = Some(next.look_again.map_or(pause, |l| l.min(pause)));
            continue;
        }
        let mut pod = pod_for(job, Some(index));
        if spec.backoff_limit_per_index.is_some() {
            let (counted, ignored) = before.map_or((0, 0), |failed| retries::failures_after(&spec, failed));
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(retries::FAILURES.into(), counted.to_string());
            if ignored > 0 {
                annotations.insert(retries::IGNORED.into(), ignored.to_string());
            }
        }
        next.pods.push(pod);
    }
    next
}

/// Of the active pods of a Job with indexes, those that work on none of its indexes, or on one that another works on.
pub(super) fn misplaced(completions: i32, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let mut best: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    let rank =
        |pod: &Pod| (!pods::is_ready(pod), pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.uid());
    for pod in active {
        let Some(index) = index_of(pod).filter(|i| *i < completions) else { continue };
        let first = best.entry(index).or_insert(pod);
        if rank(pod) < rank(first) {
            *first = pod;
        }
    }
    let stays = |pod: &Pod| best.values().any(|b| b.metadata.uid == pod.metadata.uid);
    active.iter().filter(|p| !stays(p)).cloned().collect()
}

/// The index that a pod works on.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

/// The pod for an index, or any pod of a Job without indexes.
fn pod_for(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.clone().unwrap_or_default().template;
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let prefix = index.map_or_else(|| name.clone(), |i| format!("{name}-{i}"));
    let mut pod = pods::from_template(&template, &prefix, &namespace, ownership::controller_reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let Some(index) = index else { return pod };
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.get_or_insert(prefix);
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == variable.name) {
            env.push(variable.clone());
        }
    }
    pod
}

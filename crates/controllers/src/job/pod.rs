//! The pods of a Job: what makes one, and which index it works on.

use super::{FINALIZER, Indexes};
use crate::{ownership, pods};
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};
use kube::ResourceExt;
use std::{collections::BTreeSet, sync::Arc};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The next `count` pods of a Job, besides those that are active.
pub(super) fn next(job: &Job, status: &JobStatus, active: &[Arc<Pod>], count: usize) -> Vec<Pod> {
    let spec = job.spec.clone().unwrap_or_default();
    if spec.completion_mode.as_deref() != Some("Indexed") {
        return vec![pod_for(job, None); count];
    }
    let done = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    let taken: BTreeSet<i32> = active.iter().filter_map(|p| index_of(p)).collect();
    let free = (0..spec.completions.unwrap_or(0)).filter(|i| !done.contains(*i) && !taken.contains(i));
    free.take(count).map(|i| pod_for(job, Some(i))).collect()
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

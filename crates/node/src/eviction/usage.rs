//! What pods use of what is short: memory from their cgroups, disk by looking. Blocks on the disk where it looks there.

use super::{Signal, rank::Usage};
use crate::{NodeConfig, PodHandle, agent::Shared, pod::PodExt, pod_files, volumes};
use k8s_openapi::api::core::v1::Pod;
use orlop_api::{pod_resources::limits, quantity::Quantity};
use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc};

/// What each pod uses of what a signal is about.
pub(super) async fn of_pods(shared: &Arc<Shared>, signal: Signal) -> Vec<Usage> {
    let mut all = Vec::new();
    for handle in shared.handles() {
        let mut containers = BTreeMap::new();
        let mut pids = 0;
        for (name, tries) in &handle.containers {
            let Some(last) = tries.last() else { continue };
            let used = match signal {
                Signal::MemoryAvailable => {
                    shared.runtime.container_stats(&last.id).await.map_or(0, |s| s.memory_working_set)
                }
                Signal::PidAvailable => {
                    pids += shared.runtime.container_stats(&last.id).await.map_or(0, |s| s.pids);
                    continue;
                }
                _ => shared.runtime.container_disk(&last.id).await.unwrap_or(0),
            };
            containers.insert(name.clone(), used);
        }
        let folders = match signal {
            Signal::MemoryAvailable | Signal::PidAvailable => 0,
            _ => on_disk(shared, &handle).await,
        };
        let total = containers.values().sum::<u64>() + folders + pids;
        all.push(Usage { pod: handle.pod.clone(), total, containers });
    }
    all
}

async fn on_disk(shared: &Arc<Shared>, handle: &PodHandle) -> u64 {
    let (root, pod) = (shared.config.root_dir.clone(), handle.pod.clone());
    let look = move || {
        let folders = [volumes::pod_folder(&root, pod.uid()), pod_files::log_folder(&root, &pod)];
        folders.iter().map(|f| size(f)).sum()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(0)
}

/// Bytes on disk of a folder, without what is mounted in it. What vanishes meanwhile does not count.
fn size(folder: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(folder) else { return 0 };
    let mut folders = vec![folder.to_path_buf()];
    let mut total = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

fn bound(pod: &Pod) -> Option<i64> {
    let spec = pod.spec_ref();
    let whole = limits(spec).get("ephemeral-storage");
    // Only where every container has one the sum bounds the pod.
    let all = spec.containers.iter().all(|c| {
        let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        limits.is_some_and(|l| l.contains_key("ephemeral-storage"))
    });
    (all && !whole.is_zero()).then(|| whole.value())
}

/// Whether anything of the pod on disk has a limit.
pub(super) fn is_bounded(pod: &Pod) -> bool {
    let limited = |v: &k8s_openapi::api::core::v1::Volume| {
        let empty = v.empty_dir.as_ref().filter(|e| e.medium.as_deref().unwrap_or_default().is_empty());
        empty.is_some_and(|e| e.size_limit.is_some())
    };
    bound(pod).is_some() || pod.spec_ref().volumes.iter().flatten().any(limited)
}

/// Which limit a pod has passed, in the kubelet's words.
pub(super) fn overfull(config: &NodeConfig, pod: &Pod) -> Option<String> {
    let folder = volumes::pod_folder(&config.root_dir, pod.uid());
    for volume in pod.spec_ref().volumes.iter().flatten() {
        let Some(empty) = volume.empty_dir.as_ref() else { continue };
        let Some(limit) = empty.size_limit.as_ref().map(Quantity::of).filter(|q| !q.is_zero()) else {
            continue;
        };
        if !empty.medium.as_deref().unwrap_or_default().is_empty() {
            // Memory has its size from the start.
            continue;
        }
        let used = size(&folder.join("volumes/kubernetes.io~empty-dir").join(&volume.name));
        if i128::from(used) > i128::from(limit.value()) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit \"{limit}\". ",
                volume.name
            ));
        }
    }
    let limit = bound(pod)?;
    let used = size(&folder) + size(&pod_files::log_folder(&config.root_dir, pod));
    let limit_text = Quantity::from_bytes(limit);
    (i128::from(used) > i128::from(limit)).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit_text}. ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_that_has_grown_past_its_limit_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = NodeConfig::new("n", folder.path(), [127, 0, 0, 1].into());
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "c"}], "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "64Ki"}}]}}))
        .expect("a pod");
        let volume = folder.path().join("pods/u/volumes/kubernetes.io~empty-dir/scratch");
        std::fs::create_dir_all(&volume).expect("made");
        assert!(is_bounded(&pod));
        std::fs::write(volume.join("a"), vec![1; 32 << 10]).expect("written");
        assert_eq!(overfull(&config, &pod), None);
        std::fs::write(volume.join("b"), vec![1; 48 << 10]).expect("written");
        let said = overfull(&config, &pod);
        assert_eq!(
            said.as_deref(),
            Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"64Ki\". ")
        );
    }
}

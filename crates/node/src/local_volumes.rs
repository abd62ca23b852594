//! The directories of this node that are persistent volumes: made when a pod first uses one, removed when the volume is deleted.
//! What is removed is found by the volume's name below the node's own folder, never by a path that somebody wrote.

use crate::{Error, agent::Shared, claims::is_own, volumes::remove_folder, worker::blocking};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_api::local_volume::{FINALIZER, NODE_LABEL};
use orlop_client::{Informer, Key, Queue, Source, found, run_workers};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

/// Held by the control plane while a claim has the volume.
const PROTECTION: &str = "kubernetes.io/pv-protection";

/// Makes the directory of a volume, for everybody to write to, unless it is there. Its name appears with its mode, so a crash in
/// between leaves nothing half made. Blocks on the disk.
pub(crate) fn make(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Pod(format!("{} is no place for a volume", path.display())));
    };
    fs::create_dir_all(folder).map_err(|e| Error::path("making", folder, e))?;
    // Everybody may write in the directories: so nobody but root gets as far as to them.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .map_err(|e| Error::path("changing the mode of", folder, e))?;
    let new = folder.join(format!(".new-{}", name.to_string_lossy()));
    remove_folder(&new)?;
    fs::create_dir(&new).map_err(|e| Error::path("making", &new, e))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o777))
        .map_err(|e| Error::path("changing the mode of", &new, e))?;
    match fs::rename(&new, path) {
        Err(_) if path.is_dir() => remove_folder(&new),
        other => other.map_err(|e| Error::path("making", path, e)),
    }
}

/// Removes the directories of deleted volumes until dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let volumes = Arc::<Informer<PersistentVolume>>::default();
    let queue = Queue::default();
    let on_volume = queue.clone();
    volumes.on_change(move |_, new| {
        if let Some(volume) = new.filter(|v| is_over(v)) {
            on_volume.add(Key::of(&**volume));
        }
    });
    let known = volumes.clone();
    let all = Api::<PersistentVolume>::all(shared.client.clone());
    let of_node = Source::of(&all).labels(format!("{NODE_LABEL}={}", shared.config.name));
    let reconcile = |key: Key| {
        let (shared, volume) = (shared.clone(), known.get("", &key.name));
        async move {
            match volume.filter(|v| is_over(v)) {
                Some(volume) => remove(&shared, &volume).await,
                None => Ok(()),
            }
        }
    };
    tokio::join!(
        volumes.run_selected(shared.client.clone(), of_node),
        run_workers("local-volumes", queue, 1, reconcile),
    );
}

/// Whether a volume is deleted, no claim has it, and only its directory is still there.
fn is_over(volume: &PersistentVolume) -> bool {
    let has = |finalizer: &str| volume.finalizers().iter().any(|f| f == finalizer);
    volume.metadata.deletion_timestamp.is_some() && has(FINALIZER) && !has(PROTECTION)
}

async fn remove(shared: &Shared, volume: &PersistentVolume) -> Result<(), Error> {
    let name = volume.name_any();
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    if policy == Some("Delete") && is_own(volume, &shared.config.volumes_dir) {
        let path = shared.config.volumes_dir.join(&name);
        blocking(move || remove_folder(&path)).await?;
        tracing::info!(volume = name, "the directory of a deleted volume was removed");
    }
    let rest: Vec<&String> = volume.finalizers().iter().filter(|f| *f != FINALIZER).collect();
    let patch =
        json!({"metadata": {"finalizers": rest, "resourceVersion": volume.metadata.resource_version}});
    let api = Api::<PersistentVolume>::all(shared.client.clone());
    found(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .map_err(|e| Error::api("letting go of a volume", e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_directory_is_open_to_all_in_a_folder_that_is_open_to_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, path) = (folder.path().join("volumes"), folder.path().join("volumes/pvc-1"));
        fs::create_dir_all(root.join(".new-pvc-1/half")).expect("what a crash left");
        make(&path).expect("made");
        fs::write(path.join("kept"), "x").expect("written");
        make(&path).expect("it is there");
        assert!(path.join("kept").exists() && !root.join(".new-pvc-1").exists());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&root)), (0o777, 0o700));
    }

    #[test]
    fn a_directory_goes_only_when_the_volume_is_deleted_and_nobody_has_it() {
        let volume = |deleted: Value, finalizers: Value| -> PersistentVolume {
            serde_json::from_value(
                json!({"metadata": {"name": "v", "deletionTimestamp": deleted, "finalizers": finalizers}}),
            )
            .expect("a volume")
        };
        let at = json!("2026-01-01T00:00:00Z");
        assert!(is_over(&volume(at.clone(), json!([FINALIZER, "other"]))));
        assert!(!is_over(&volume(at.clone(), json!([FINALIZER, PROTECTION]))), "a claim has it");
        assert!(!is_over(&volume(Value::Null, json!([FINALIZER]))));
        assert!(!is_over(&volume(at, json!(["other"]))));
    }
}

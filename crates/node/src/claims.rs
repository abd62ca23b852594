//! From the claims that a pod names to what stands on this node: reads claim and volume, checks that they are each other's, and
//! says where the bytes are. It mounts nothing.

use crate::{Error, pod::PodExt};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use kube::{Api, Client, ResourceExt};
use orlop_api::{local_volume, node_affinity::term_matches};
use orlop_client::found;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where the bytes of a claim are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// `hostPath`: whatever the host has there.
    Host(HostPathVolumeSource),
    /// `local`: a folder or device that is there.
    Local(PathBuf),
    /// A directory of the built-in class, which the node makes.
    Own(PathBuf),
}

/// A volume of a pod that stands for a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claimed {
    /// The name of the PersistentVolume.
    pub volume: String,
    pub source: Source,
    /// It is a block device, not a file system.
    pub block: bool,
    pub read_only: bool,
}

impl Claimed {
    /// Where it stands on the host.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Host(host) => Path::new(&host.path),
            Source::Local(path) | Source::Own(path) => path,
        }
    }
}

/// The claims of a pod by the name of the volume in it.
pub(crate) type Claims = BTreeMap<String, Claimed>;

/// The claim that a volume of a pod stands for, and whether it is mounted for reading alone.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some((claim.claim_name.clone(), claim.read_only == Some(true)));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name(), volume.name), false))
}

/// What this node brings to the question.
pub(crate) struct Here<'a> {
    pub node: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// The folder of its own volumes.
    pub folder: &'a Path,
}

/// The claims of a pod. An error says which are not there (yet), in the kubelet's words.
pub(crate) async fn resolve(client: &Client, pod: &Pod, here: &Here<'_>) -> Result<Claims, Error> {
    let mut claims = Claims::new();
    let mut failed: Vec<(String, String)> = Vec::new();
    for volume in pod.spec_ref().volumes.iter().flatten() {
        let Some((claim, read_only)) = claim_name(pod, volume) else { continue };
        match resolve_one(client, pod, volume, &claim, read_only, here).await {
            Ok(claimed) => drop(claims.insert(volume.name.clone(), claimed)),
            Err(error) => {
                let why =
                    format!("error processing PVC {}/{claim}: {}", PodExt::namespace(pod), error.chain());
                failed.push((volume.name.clone(), why));
            }
        }
    }
    if failed.is_empty() {
        return Ok(claims);
    }
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    let whys: Vec<&str> = failed.iter().map(|(_, why)| why.as_str()).collect();
    Err(Error::Pod(format!(
        "Unable to attach or mount volumes: unmounted volumes=[{0}], unattached volumes=[], failed to process volumes=[{0}]: {1}",
        names.join(" "),
        whys.join(", ")
    )))
}

async fn resolve_one(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    name: &str,
    read_only: bool,
    here: &Here<'_>,
) -> Result<Claimed, Error> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), PodExt::namespace(pod));
    let claim = claims.get(name).await.map_err(|e| Error::api("failed to fetch PVC from API server", e))?;
    let volume_name = check_claim(pod, volume, &claim).map_err(Error::Pod)?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let step = || format!("failed to fetch PV {volume_name} from API server");
    let persistent = found(volumes.get(&volume_name).await).map_err(|e| Error::api(step(), e))?;
    let persistent = persistent
        .ok_or_else(|| Error::Pod(format!("{}: persistentvolumes {volume_name:?} not found", step())))?;
    let source = check_volume(&persistent, &claim, here).map_err(Error::Pod)?;
    let block = persistent.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block");
    check_mode(pod, &volume.name, block).map_err(Error::Pod)?;
    Ok(Claimed { volume: volume_name, source, block, read_only })
}

/// Whether a pod may start with a claim; the name of the claim's volume if so.
fn check_claim(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> Result<String, String> {
    if volume.ephemeral.is_some() {
        let owner = claim.owner_references().iter().find(|o| o.controller == Some(true));
        if owner.is_none_or(|o| o.uid != PodExt::uid(pod)) {
            return Err(format!(
                "PVC {0}/{1} was not created for pod {0}/{2} (pod is not owner)",
                PodExt::namespace(pod),
                claim.name_any(),
                pod.name()
            ));
        }
    }
    let begun = pod
        .status
        .as_ref()
        .is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()));
    if claim.metadata.deletion_timestamp.is_some() && !begun {
        return Err("PVC is being deleted".into());
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    name.filter(|_| bound).ok_or_else(|| "PVC is not bound".into())
}

fn check_volume(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    here: &Here<'_>,
) -> Result<Source, String> {
    let name = volume.name_any();
    let spec = volume.spec.clone().unwrap_or_default();
    let reference = spec.claim_ref.ok_or_else(|| format!("PersistentVolume {name:?} has nil ClaimRef"))?;
    let (of_volume, of_claim) = (reference.uid.unwrap_or_default(), claim.uid().unwrap_or_default());
    if of_volume != of_claim {
        return Err(format!(
            "PersistentVolume {name:?} ClaimRef.UID {of_volume:?} does not match pvc.UID {of_claim:?}"
        ));
    }
    let required = spec.node_affinity.and_then(|a| a.required);
    let reaches = required
        .is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, here.node, here.labels)));
    if !reaches {
        return Err(format!("no matching NodeSelectorTerms for volume {name:?} on node {:?}", here.node));
    }
    if let Some(host) = spec.host_path {
        return Ok(Source::Host(host));
    }
    let Some(local) = spec.local else {
        return Err(format!("volume {name:?} is of a kind that is not supported"));
    };
    let path = PathBuf::from(local.path);
    Ok(if is_own(volume, here.folder) { Source::Own(path) } else { Source::Local(path) })
}

/// Whether a volume is a directory that this node makes and removes.
pub(crate) fn is_own(volume: &PersistentVolume, folder: &Path) -> bool {
    let local = volume.spec.as_ref().and_then(|s| s.local.as_ref());
    let provisioner = volume.annotations().get(local_volume::PROVISIONED_BY);
    provisioner.is_some_and(|p| p == local_volume::PROVISIONER)
        && local.is_some_and(|l| Path::new(&l.path) == folder.join(volume.name_any()))
}

/// A device is used as one, a file system is mounted.
fn check_mode(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    for (_, container) in pod.containers() {
        let mounted = container.volume_mounts.iter().flatten().any(|m| m.name == volume);
        let device = container.volume_devices.iter().flatten().any(|d| d.name == volume);
        if mounted && block {
            return Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts"));
        }
        if device && !block {
            return Err(format!(
                "volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "uid": "c"}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound"}});
        more.as_object().into_iter().flatten().for_each(|(k, v)| claim[k] = v.clone());
        serde_json::from_value(claim).expect("a claim")
    }

    fn pod(volume: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}], "volumes": [volume]}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_pod_starts_only_with_a_claim_that_is_bound_and_its_own() {
        let plain = pod(json!({"name": "d", "persistentVolumeClaim": {"claimName": "data"}}));
        let scratch = pod(json!({"name": "d", "ephemeral": {}}));
        let check = |pod: &Pod, more: Value| {
            let volumes = pod.spec_ref().volumes.clone().unwrap_or_default();
            check_claim(pod, &volumes[0], &claim(more))
        };
        assert_eq!(check(&plain, json!({})).as_deref(), Ok("v"));
        assert_eq!(check(&plain, json!({"status": {"phase": "Pending"}})), Err("PVC is not bound".into()));
        let deleted = json!({"metadata": {"name": "data", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(check(&plain, deleted), Err("PVC is being deleted".into()));
        let not_owner = "PVC n/data was not created for pod n/p (pod is not owner)";
        assert_eq!(check(&scratch, json!({})), Err(not_owner.into()));
        let owner = |uid: &str| {
            json!({"metadata": {"name": "data", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}})
        };
        assert_eq!(check(&scratch, owner("u")).as_deref(), Ok("v"));
        assert_eq!(check(&scratch, owner("other")), Err(not_owner.into()));
    }

    #[test]
    fn a_volume_is_used_where_it_is_and_by_the_claim_that_has_it() {
        let labels = [("kubernetes.io/hostname".to_string(), "n1".to_string())].into();
        let here = Here { node: "n1", labels: &labels, folder: Path::new("/data/volumes") };
        let volume = |name: &str, more: Value, annotations: Value| -> PersistentVolume {
            let mut spec = json!({"claimRef": {"uid": "c"}});
            more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
            serde_json::from_value(
                json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}),
            )
            .expect("a volume")
        };
        let made = json!({"pv.kubernetes.io/provisioned-by": "orlop.dev/local"});
        let local = |path: &str| json!({"local": {"path": path}});
        let check = |v: &PersistentVolume| check_volume(v, &claim(json!({})), &here);
        assert_eq!(
            check(&volume("v", local("/data/volumes/v"), made.clone())),
            Ok(Source::Own("/data/volumes/v".into()))
        );
        // Whoever writes such an annotation gets no folder of the node's.
        for (name, path) in [("v", "/etc"), ("v", "/data/volumes/w")] {
            assert_eq!(check(&volume(name, local(path), made.clone())), Ok(Source::Local(path.into())));
        }
        assert_eq!(
            check(&volume("v", local("/data/volumes/v"), json!({}))),
            Ok(Source::Local("/data/volumes/v".into()))
        );
        let elsewhere = json!({"hostPath": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}}});
        assert!(
            check(&volume("v", elsewhere, json!({})))
                .expect_err("elsewhere")
                .contains("no matching NodeSelectorTerms")
        );
        let taken = json!({"hostPath": {"path": "/x"}, "claimRef": {"uid": "other"}});
        assert!(check(&volume("v", taken, json!({}))).expect_err("taken").contains("does not match pvc.UID"));
    }

    #[test]
    fn a_device_is_not_mounted() {
        let plain = pod(json!({"name": "d", "persistentVolumeClaim": {"claimName": "data"}}));
        assert_eq!(check_mode(&plain, "d", false), Ok(()));
        assert_eq!(
            check_mode(&plain, "d", true),
            Err("volume d has volumeMode Block, but is specified in volumeMounts".into())
        );
    }
}

//! What is bound into a container: its volume mounts (parts of volumes too) in an order in which none hides another.

use super::{path, pod_folder, sub_path};
use crate::{Error, claims::Claims, env::expand, pod::PodExt};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use orlop_runtime::{Mount, Propagation};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What the mounts of a container are made from.
pub(crate) struct ContainerMounts<'a> {
    pub root: &'a Path,
    pub pod: &'a Pod,
    pub container: &'a Container,
    /// The container's environment, for `subPathExpr`.
    pub env: &'a BTreeMap<String, String>,
    /// What its claims stand for.
    pub claims: &'a Claims,
    /// Files of the agent's: container path to host path. A volume mounted there goes first.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// The mounts of a container. Blocks on the disk: parts of volumes are bound here.
pub(crate) fn container_mounts(of: &ContainerMounts<'_>) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for (index, wanted) in of.container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(mount(of, index, wanted)?);
    }
    for (container_path, host_path) in &of.files {
        if !mounts.iter().any(|m: &Mount| m.container_path == *container_path) {
            let (host_path, container_path) = (host_path.clone(), container_path.clone());
            mounts.push(Mount { host_path, container_path, ..Mount::default() });
        }
    }
    // A mount would hide those below it that were made before.
    mounts.sort_by_key(|m| m.container_path.components().count());
    Ok(mounts)
}

fn mount(of: &ContainerMounts<'_>, index: usize, wanted: &VolumeMount) -> Result<Mount, Error> {
    let volumes = of.pod.spec_ref().volumes.iter().flatten();
    let volume = volumes
        .into_iter()
        .find(|v| v.name == wanted.name)
        .ok_or_else(|| Error::Pod(format!("no volume named \"{}\"", wanted.name)))?;
    let mut host_path = path(of.root, of.pod, volume, of.claims)?;
    let sub = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (_, Some(expression)) if !expression.is_empty() => Some(expanded(of, expression)?),
        (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
        _ => None,
    };
    if let Some(sub) = sub {
        let target = pod_folder(of.root, of.pod.uid())
            .join("volume-subpaths")
            .join(&volume.name)
            .join(&of.container.name)
            .join(index.to_string());
        sub_path::bind(&host_path, &sub, &target).map_err(|e| {
            Error::Pod(format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {}",
                wanted.name,
                of.container.name,
                e.chain()
            ))
        })?;
        host_path = target;
    } else if !sub_path::exists(&host_path) {
        return Err(Error::Pod(format!(
            "{} of volume \"{}\" does not exist",
            host_path.display(),
            volume.name
        )));
    }
    // What the agent itself writes is not for containers to change.
    let fixed = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.image.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    let fixed = fixed || of.claims.get(&volume.name).is_some_and(|c| c.read_only);
    Ok(Mount {
        host_path,
        container_path: absolute(&wanted.mount_path),
        read_only: fixed || wanted.read_only == Some(true),
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// A `subPathExpr` may refer to variables that there are only.
fn expanded(of: &ContainerMounts<'_>, expression: &str) -> Result<String, Error> {
    let missing = std::cell::Cell::new(false);
    let text = expand(expression, |name| {
        let value = of.env.get(name);
        missing.set(missing.get() || value.is_none());
        value
    });
    if missing.get() {
        return Err(Error::Pod(format!("missing value for a variable in subPathExpr {expression:?}")));
    }
    Ok(text)
}

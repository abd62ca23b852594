//! A pod's volumes on this node: making them, keeping them up to date, taking them away, and where containers find them.

mod atomic_writer;
mod empty_dir;
mod host_path;
mod mounts;
mod ownership;
mod payload;
mod sub_path;

#[cfg(test)]
mod tests;

pub(crate) use empty_dir::is_mount_point;
pub(crate) use mounts::{ContainerMounts, container_mounts};
pub(crate) use payload::{Tokens, references};

use crate::{
    Error,
    claims::{Claims, Source, claim_name},
    env::Objects,
    local_volumes,
    pod::PodExt,
};
use atomic_writer::FilePayload;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What kind of volume it is and where it stands, so far as the agent has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder of the agent's.
    Own { plugin: &'static str, memory: bool },
    /// A path of the host.
    Host(PathBuf),
    /// What a claim stands for.
    Claim,
    /// The files of an image.
    Image,
}

/// Where a volume stands; an error for kinds that there are not.
pub(crate) fn place(volume: &Volume) -> Result<Place, Error> {
    let own = |plugin, memory| Ok(Place::Own { plugin, memory });
    if let Some(empty) = &volume.empty_dir {
        return own("kubernetes.io~empty-dir", empty.medium.as_deref() == Some("Memory"));
    }
    if volume.config_map.is_some() {
        return own("kubernetes.io~configmap", false);
    }
    if volume.secret.is_some() {
        return own("kubernetes.io~secret", true);
    }
    if volume.downward_api.is_some() {
        return own("kubernetes.io~downward-api", false);
    }
    if volume.projected.is_some() {
        return own("kubernetes.io~projected", true);
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return Ok(Place::Claim);
    }
    if volume.image.is_some() {
        return Ok(Place::Image);
    }
    match &volume.host_path {
        Some(host) => Ok(Place::Host(PathBuf::from(&host.path))),
        None => Err(Error::Pod(format!("volume \"{}\" is of a kind that is not supported", volume.name))),
    }
}

/// The folder with all that the agent keeps of a pod.
pub(crate) fn pod_folder(root: &Path, pod_uid: &str) -> PathBuf {
    root.join("pods").join(pod_uid)
}

/// Where a volume stands on the host.
pub(crate) fn path(root: &Path, pod: &Pod, volume: &Volume, claims: &Claims) -> Result<PathBuf, Error> {
    Ok(match place(volume)? {
        Place::Own { plugin, .. } => {
            pod_folder(root, pod.uid()).join("volumes").join(plugin).join(&volume.name)
        }
        Place::Host(path) => path,
        Place::Image => image_folder(root, pod, volume).join("rootfs"),
        Place::Claim => match claims.get(&volume.name) {
            Some(claimed) => claimed.path().to_path_buf(),
            None => return Err(Error::Pod(format!("the claim of volume \"{}\" is not known", volume.name))),
        },
    })
}

/// Below which an image's files are shown.
pub(crate) fn image_folder(root: &Path, pod: &Pod, volume: &Volume) -> PathBuf {
    pod_folder(root, pod.uid()).join("volumes/kubernetes.io~image").join(&volume.name)
}

/// What making volumes needs from outside: fetched beforehand.
pub(crate) struct Ingredients<'a> {
    pub fields: crate::env::FieldContext<'a>,
    pub objects: &'a Objects,
    /// Service-account tokens by volume and path.
    pub tokens: &'a Tokens,
    /// What the pod's claims stand for.
    pub claims: &'a Claims,
    /// Size of memory volumes that have no limit of their own, in bytes.
    pub memory_size: u64,
    pub now: Timestamp,
}

/// Makes all volumes of a pod, or brings them up to date. Blocks on the disk. Names in the error which volume failed.
pub(crate) fn set_up(root: &Path, pod: &Pod, with: &Ingredients<'_>) -> Result<(), Error> {
    let group = pod.spec_ref().security_context.as_ref().and_then(|s| s.fs_group);
    let group = group.and_then(|g| u32::try_from(g).ok());
    for volume in pod.spec_ref().volumes.iter().flatten() {
        set_up_one(root, pod, volume, group, with).map_err(|error| {
            Error::Pod(format!("MountVolume.SetUp failed for volume \"{}\" : {}", volume.name, error.chain()))
        })?;
    }
    Ok(())
}

fn set_up_one(
    root: &Path,
    pod: &Pod,
    volume: &Volume,
    group: Option<u32>,
    with: &Ingredients<'_>,
) -> Result<(), Error> {
    let memory = match place(volume)? {
        Place::Own { memory, .. } => memory,
        Place::Host(_) => return host_path::check(volume.host_path.as_ref()),
        // It was shown beforehand.
        Place::Image => return Ok(()),
        Place::Claim => return set_up_claim(pod, volume, group, with.claims),
    };
    let folder = path(root, pod, volume, with.claims)?;
    if let Some(empty) = &volume.empty_dir {
        return empty_dir::set_up(&folder, empty, group, with.memory_size);
    }
    let files = payload::files(pod, volume, with)?;
    empty_dir::make(&folder, memory.then_some(with.memory_size))?;
    atomic_writer::write(&folder, &files, group, with.now)
}

/// Sees that what a claim stands for is there, and gives it to the pod's group.
fn set_up_claim(pod: &Pod, volume: &Volume, group: Option<u32>, claims: &Claims) -> Result<(), Error> {
    let Some(claimed) = claims.get(&volume.name) else { return Ok(()) };
    match &claimed.source {
        Source::Host(host) => return host_path::check(Some(host)),
        Source::Own(path) => local_volumes::make(path)?,
        Source::Local(path) if claimed.block => return host_path::check_device(path),
        Source::Local(path) if path.exists() => {}
        Source::Local(path) => {
            return Err(Error::Pod(format!("path \"{}\" does not exist", path.display())));
        }
    }
    let read_only = claim_name(pod, volume).is_some_and(|(_, read_only)| read_only);
    let security = pod.spec_ref().security_context.as_ref();
    let policy = security.and_then(|s| s.fs_group_change_policy.as_deref());
    match group.filter(|_| !read_only) {
        Some(group) => ownership::give(claimed.path(), group, policy == Some("OnRootMismatch")),
        None => Ok(()),
    }
}

/// Files of a volume by their path in it.
pub(crate) type Files = BTreeMap<String, FilePayload>;

/// Unmounts all that is mounted under a pod's folder and removes its volumes. Blocks on the disk. Doing it again is no error.
pub(crate) fn tear_down(root: &Path, pod_uid: &str) -> Result<(), Error> {
    let folder = pod_folder(root, pod_uid);
    unmount_under(&folder)?;
    for name in ["volumes", "volume-subpaths"] {
        remove_folder(&folder.join(name))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it, unless it is gone already.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::path("removing", folder, error))
        }
        _ => Ok(()),
    }
}

/// Unmounts everything under a folder, what was mounted last first.
fn unmount_under(folder: &Path) -> Result<(), Error> {
    if !folder.exists() {
        return Ok(());
    }
    let folder = folder.canonicalize().map_err(|e| Error::path("finding", folder, e))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("reading the mount table", e))?;
    for point in mount_points(&table).into_iter().rev().filter(|p| p.starts_with(&folder)) {
        match rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::path("unmounting", &point, error)),
        }
    }
    Ok(())
}

/// The mount points of a mount table (proc(5) `mountinfo`), in its order.
fn mount_points(table: &str) -> Vec<PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Turns `\040` and the like back into characters.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten();
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

//! What stands in configMap, secret, downwardAPI and projected volumes: from objects fetched beforehand to files. Pure.

use super::{Files, Ingredients, atomic_writer::FilePayload};
use crate::{
    Error,
    env::{self, Objects, References},
    pod::PodExt,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecurityContext, Volume, VolumeProjection,
};
use std::collections::BTreeMap;

/// Tokens by volume name and path in the volume.
pub(crate) type Tokens = BTreeMap<(String, String), String>;

const DEFAULT_MODE: i32 = 0o644;

/// The ConfigMaps and Secrets that a pod's volumes hold.
pub(crate) fn references(pod: &Pod) -> References {
    let mut all = References::default();
    for volume in pod.spec_ref().volumes.iter().flatten() {
        all.config_maps.extend(volume.config_map.as_ref().map(|s| s.name.clone()));
        all.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            all.config_maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
            all.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    all
}

/// The files of a volume.
pub(super) fn files(pod: &Pod, volume: &Volume, with: &Ingredients<'_>) -> Result<Files, Error> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let part =
            Part { mode: source.default_mode, items: source.items.as_deref(), optional: source.optional };
        part.config_map(&source.name, pod, with.objects, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let part =
            Part { mode: source.default_mode, items: source.items.as_deref(), optional: source.optional };
        part.secret(source.secret_name.as_deref().unwrap_or_default(), pod, with.objects, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        downward(source.items.as_deref(), source.default_mode, with, &mut files)?;
    } else if let Some(source) = &volume.projected {
        for projection in source.sources.iter().flatten() {
            project(pod, volume, projection, source.default_mode, with, &mut files)?;
        }
    }
    Ok(files)
}

fn project(
    pod: &Pod,
    volume: &Volume,
    projection: &VolumeProjection,
    mode: Option<i32>,
    with: &Ingredients<'_>,
    files: &mut Files,
) -> Result<(), Error> {
    if let Some(source) = &projection.config_map {
        let part = Part { mode, items: source.items.as_deref(), optional: source.optional };
        part.config_map(&source.name, pod, with.objects, files)?;
    } else if let Some(source) = &projection.secret {
        let part = Part { mode, items: source.items.as_deref(), optional: source.optional };
        part.secret(&source.name, pod, with.objects, files)?;
    } else if let Some(source) = &projection.downward_api {
        downward(source.items.as_deref(), mode, with, files)?;
    } else if let Some(source) = &projection.service_account_token {
        let token = with.tokens.get(&(volume.name.clone(), source.path.clone()));
        let token = token.ok_or_else(|| Error::Pod("no token for the service account".into()))?;
        files.insert(source.path.clone(), token_file(pod, token, mode));
    } else {
        return Err(Error::Pod("a projected source of a kind that is not supported".into()));
    }
    Ok(())
}

/// A token is for the pod's users only: those of `fsGroup`, or the one user that all its containers run as.
fn token_file(pod: &Pod, token: &str, mode: Option<i32>) -> FilePayload {
    let group = pod.spec_ref().security_context.as_ref().and_then(|s| s.fs_group);
    let owner = common_user(pod);
    let private = owner.is_some() || group.is_some();
    let mode = if private { 0o600 } else { bits(mode.unwrap_or(DEFAULT_MODE)) };
    FilePayload { content: token.into(), mode, owner: owner.filter(|_| group.is_none()) }
}

/// The user that all containers of a pod run as, if it says so for all and the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec_ref();
    let whole = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let of = |s: Option<&SecurityContext>| s.and_then(|s| s.run_as_user).or(whole);
    let mut users = pod.containers().into_iter().map(|(_, c)| of(c.security_context.as_ref()));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// How one source is laid out.
struct Part<'a> {
    mode: Option<i32>,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
}

impl Part<'_> {
    fn config_map(&self, name: &str, pod: &Pod, objects: &Objects, files: &mut Files) -> Result<(), Error> {
        let Some(map) = objects.config_maps.get(name) else {
            return self.missing(format!("configmap \"{name}\" not found"));
        };
        self.lay_out(&content_of_map(map), &format!("configmap {}/{name}", pod.namespace()), files)
    }

    fn secret(&self, name: &str, pod: &Pod, objects: &Objects, files: &mut Files) -> Result<(), Error> {
        let Some(secret) = objects.secrets.get(name) else {
            return self.missing(format!("secret \"{name}\" not found"));
        };
        self.lay_out(&content_of_secret(secret), &format!("secret {}/{name}", pod.namespace()), files)
    }

    fn missing(&self, why: String) -> Result<(), Error> {
        if self.optional == Some(true) { Ok(()) } else { Err(Error::Pod(why)) }
    }

    fn lay_out(
        &self,
        content: &BTreeMap<String, Vec<u8>>,
        what: &str,
        files: &mut Files,
    ) -> Result<(), Error> {
        let default = bits(self.mode.unwrap_or(DEFAULT_MODE));
        let Some(items) = self.items.filter(|i| !i.is_empty()) else {
            for (key, bytes) in content {
                files.insert(key.clone(), FilePayload { content: bytes.clone(), mode: default, owner: None });
            }
            return Ok(());
        };
        for item in items {
            match content.get(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(default, bits);
                    files
                        .insert(item.path.clone(), FilePayload { content: bytes.clone(), mode, owner: None });
                }
                None if self.optional == Some(true) => {}
                None => {
                    return Err(Error::Pod(format!(
                        "references non-existent config key: {} in {what}",
                        item.key
                    )));
                }
            }
        }
        Ok(())
    }
}

fn content_of_map(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn content_of_secret(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn downward(
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    with: &Ingredients<'_>,
    files: &mut Files,
) -> Result<(), Error> {
    for item in items.into_iter().flatten() {
        let content = if let Some(wanted) = &item.field_ref {
            env::field(&with.fields, &wanted.field_path)
        } else if let Some(wanted) = &item.resource_field_ref {
            env::resource(&with.fields, None, wanted)
        } else {
            Err(format!("{} has neither a field nor a resource", item.path))
        };
        let content = content.map_err(Error::Pod)?.into_bytes();
        let mode = bits(item.mode.or(mode).unwrap_or(DEFAULT_MODE));
        files.insert(item.path.clone(), FilePayload { content, mode, owner: None });
    }
    Ok(())
}

fn bits(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}

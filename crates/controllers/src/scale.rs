//! The size of an object of whatever kind, through its `scale` subresource.

use crate::{Cluster, Error};
use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
    discovery,
};
use orlop_client::{api_reason, found};
use serde_json::json;

/// A kind that is served, in one namespace.
pub(crate) struct Scaled {
    api: Api<DynamicObject>,
    resource: ApiResource,
}

/// Why a kind cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// `apiVersion` is none.
    #[error("{0}")]
    Version(String),
    /// The kind is not served.
    #[error("no matches for kind \"{kind}\" in group \"{group}\"")]
    Kind {
        /// Its kind.
        kind: String,
        /// Its group.
        group: String,
    },
}

/// Looks for a kind.
pub(crate) async fn find(
    cluster: &Cluster,
    namespace: &str,
    api_version: &str,
    kind: &str,
) -> Result<Scaled, Unknown> {
    let parts: Vec<&str> = api_version.split('/').collect();
    let (group, version) = match parts[..] {
        [version] => ("", version),
        [group, version] => (group, version),
        _ => return Err(Unknown::Version(format!("unexpected GroupVersion string: {api_version}"))),
    };
    let gvk = GroupVersionKind::gvk(group, version, kind);
    match discovery::pinned_kind(&cluster.client, &gvk).await {
        Ok((resource, _)) => {
            let api = Api::namespaced_with(cluster.client.clone(), namespace, &resource);
            Ok(Scaled { api, resource })
        }
        Err(_) => Err(Unknown::Kind { kind: kind.into(), group: group.into() }),
    }
}

impl Scaled {
    /// `RESOURCE.GROUP`, as messages name it.
    pub(crate) fn resource(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }

    /// The size of an object; `None` where there is no such object, or it has no size.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Scale>, kube::Error> {
        found(self.api.get_scale(name).await)
    }

    /// Whether there is an object of that name at all.
    pub(crate) async fn exists(&self, name: &str) -> Result<bool, Error> {
        match self.api.get_metadata(name).await {
            Ok(_) => Ok(true),
            Err(error) if api_reason(&error) == Some("NotFound") => Ok(false),
            Err(error) => Err(Error::at("looking for an owner")(error)),
        }
    }

    /// Changes the size, if nobody has since it was read.
    pub(crate) async fn set(&self, name: &str, read: &Scale, replicas: i32) -> Result<Scale, kube::Error> {
        let version = &read.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
        self.api.patch_scale(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }
}

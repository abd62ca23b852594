//! What the API server serves, for controllers that work on every kind.

use kube::{Client, api::ApiResource};

/// What is served, as far as it is known.
#[derive(Default)]
pub(crate) struct Served {
    /// In the preferred version of their group.
    pub resources: Vec<Deletable>,
    /// Group-versions that could not be asked for: those of an aggregated server that is not there.
    pub failed: Vec<(String, kube::Error)>,
}

/// A resource whose objects can be listed and deleted.
pub(crate) struct Deletable {
    pub resource: ApiResource,
    pub namespaced: bool,
    /// Whether they can be watched too: those of an aggregated server perhaps not.
    pub watchable: bool,
}

/// All resources whose objects can be listed and deleted.
pub(crate) async fn deletable(client: &Client) -> Result<Served, kube::Error> {
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    let core = client.list_core_api_resources("v1").await?;
    collect(&mut all, "", "v1", &core.resources);
    for group in client.list_api_groups().await?.groups {
        let Some(version) = group.preferred_version.or_else(|| group.versions.first().cloned()) else {
            continue;
        };
        match client.list_api_group_resources(&version.group_version).await {
            Ok(served) => collect(&mut all, &group.name, &version.version, &served.resources),
            Err(error) => failed.push((version.group_version, error)),
        }
    }
    Ok(Served { resources: all, failed })
}

fn collect(
    all: &mut Vec<Deletable>,
    group: &str,
    version: &str,
    served: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource],
) {
    let able = |verbs: &[String]| ["list", "delete"].iter().all(|v| verbs.iter().any(|s| s == v));
    for resource in served.iter().filter(|r| !r.name.contains('/') && able(&r.verbs)) {
        let api_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        let described = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
        };
        let watchable = resource.verbs.iter().any(|verb| verb == "watch");
        all.push(Deletable { resource: described, namespaced: resource.namespaced, watchable });
    }
}

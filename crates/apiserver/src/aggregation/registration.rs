//! The APIServices of what this server serves itself: one for each group-version, as Kubernetes lists them. Those of built-in groups are
//! made at the start and then left alone; those of custom resources come and go with their definitions.

use super::{availability::Available, context};
use crate::{
    ApiServer,
    discovery::priority,
    registry::{Part, Resource, metadata::format_time, schema::Body, update::Change},
    request::DeleteOptions,
};
use futures::future::join_all;
use orlop_api::{Status, object::text};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// A group and a version.
type GroupVersion = (String, String);

fn object((group, version): &GroupVersion, custom: bool) -> Value {
    let (of_group, of_version) = priority(group, version);
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {MANAGED: if custom { "true" } else { "onstart" }},
        },
        "spec": {
            "group": group, "version": version,
            "groupPriorityMinimum": of_group, "versionPriority": of_version,
        },
    })
}

/// What is served here: of built-in kinds, and of custom ones.
fn served(server: &ApiServer) -> (BTreeSet<GroupVersion>, BTreeSet<GroupVersion>) {
    let (mut built_in, mut custom) = (BTreeSet::new(), BTreeSet::new());
    for resource in server.registry.resources() {
        let version = (resource.kind.group.to_string(), resource.kind.version.to_string());
        if resource.schema.is_some() {
            custom.insert(version)
        } else {
            built_in.insert(version)
        };
    }
    let described =
        crate::identity::reviews::described().into_iter().chain(crate::resource_metrics::described());
    built_in.extend(described.map(|d| (d.group, d.version)));
    custom.retain(|version| !built_in.contains(version));
    // The group of APIServices is not listed among them.
    built_in.retain(|(group, _)| group != super::GROUP);
    (built_in, custom)
}

/// Makes the APIServices of what is served here, those of built-in groups only where `first` says so; what is registered for another
/// server stays so. Says of all that are no other server's that they are available.
pub(super) async fn reconcile(server: &Arc<ApiServer>, services: &Arc<Resource>, first: bool) {
    let (built_in, custom) = served(server);
    let wanted =
        built_in.iter().filter(|_| first).map(|v| (v, false)).chain(custom.iter().map(|v| (v, true)));
    join_all(wanted.map(|(version, is_custom)| ensure(server, services, version, is_custom))).await;
    let all = services.cache.snapshot(&services.cache.key_prefix, None, 0, |_| true).objects;
    for object in all.iter().map(|o| o.value()) {
        if object.pointer("/spec/service").is_some_and(Value::is_object) {
            continue;
        }
        let version = (text(&object, "/spec/group").to_string(), text(&object, "/spec/version").to_string());
        let name = text(&object, "/metadata/name");
        let is_managed = object.pointer("/metadata/labels").is_some_and(|labels| labels[MANAGED] == "true");
        if is_managed && !custom.contains(&version) {
            remove(server, services, name).await;
        } else {
            tell(server, services, name, &Available::local()).await;
        }
    }
}

/// Makes the APIService of a group-version that is served here. That of a definition is also corrected.
async fn ensure(server: &ApiServer, services: &Arc<Resource>, version: &GroupVersion, custom: bool) {
    let name = format!("{}.{}", version.1, version.0);
    let wanted = object(version, custom);
    let written = match services.get("", &name) {
        Err(_) => {
            let body = Body { value: wanted, duplicates: Vec::new() };
            server.registry.create(services, "", body, &context()).await
        }
        Ok(existing) => {
            let existing = existing.value();
            let is_ours =
                existing.pointer("/metadata/labels").is_some_and(|labels| labels[MANAGED] == "true");
            if !is_ours || existing["spec"] == wanted["spec"] {
                return;
            }
            let correct = |_: &_, old: &Value| {
                let mut object = old.clone();
                object["spec"] = wanted["spec"].clone();
                Ok(Change { object, warnings: Vec::new(), managed: false })
            };
            server.registry.modify(services, Part::Whole, ("", &name), &context(), correct).await
        }
    };
    match written {
        Ok(_) | Err(Status { reason: "AlreadyExists", .. } | Status { code: 404, .. }) => {}
        Err(status) => tracing::warn!(name, error = %status.message, "an APIService could not be written"),
    }
}

async fn remove(server: &ApiServer, services: &Arc<Resource>, name: &str) {
    let options = DeleteOptions::default();
    match server.registry.delete(services, ("", name), &options, &context().who).await {
        Ok(_) | Err(Status { code: 404, .. }) => {}
        Err(status) => {
            tracing::warn!(name, error = %status.message, "an APIService of a deleted definition stays");
        }
    }
}

/// Writes the condition of an APIService, if it is another one.
pub(super) async fn tell(server: &ApiServer, services: &Arc<Resource>, name: &str, available: &Available) {
    let now = format_time(server.registry.now());
    let Ok(current) = services.get("", name) else { return };
    let current = current.value();
    if current.get("status") == Some(&available.written_into(current.get("status"), &now)) {
        return;
    }
    let written = server
        .registry
        .modify(services, Part::Status, ("", name), &context(), |_, old| {
            let mut object = old.clone();
            object["status"] = available.written_into(old.get("status"), &now);
            Ok(Change { object, warnings: Vec::new(), managed: false })
        })
        .await;
    match written {
        Ok(_) | Err(Status { code: 404, .. }) => {}
        Err(status) => {
            tracing::warn!(name, error = %status.message, "the status of an APIService was not written")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_version_has_the_name_and_place_that_kubernetes_gives_it() {
        let core = object(&("".into(), "v1".into()), false);
        assert_eq!(
            (&core["metadata"]["name"], &core["spec"]["groupPriorityMinimum"]),
            (&json!("v1."), &json!(18_000))
        );
        let custom = object(&("example.com".into(), "v2".into()), true);
        assert_eq!(custom["metadata"]["labels"][MANAGED], "true");
        assert_eq!(custom["spec"]["versionPriority"], 100);
    }
}

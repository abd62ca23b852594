//! The APIServices of what this server serves itself: one for each group-version, as Kubernetes lists them. Those of built-in groups are
//! made at the start and then left alone; those of custom resources come and go with their definitions.

use super::{availability::Available, context};
use crate::{
    ApiServer,
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

/// Priorities of built-in groups, as Kubernetes has them: the group's, then that of its version `v1`.
fn priority(group: &str, version: &str) -> (i64, i64) {
    let of_group = match group {
        "" => 18_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        _ => 1_000,
    };
    let of_version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        (_, "v1") => 15,
        _ => 9,
    };
    if of_group == 1_000 { (of_group, 100) } else { (of_group, of_version) }
}

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

/// Makes the APIServices of what is served here; of built-in groups only where `first` says so. Who was there before stays as it is.
pub(super) async fn reconcile(server: &Arc<ApiServer>, services: &Arc<Resource>, first: bool) {
    let (built_in, custom) = served(server);
    let wanted =
        built_in.iter().filter(|_| first).map(|v| (v, false)).chain(custom.iter().map(|v| (v, true)));
    join_all(wanted.map(|(version, is_custom)| ensure(server, services, version, is_custom))).await;
    let all =
        services.cache.snapshot(&services.cache.key_prefix, None, 0, |o| o.label(MANAGED) == Some("true"));
    for gone in all.objects.iter().map(|o| o.value()) {
        let version = (text(&gone, "/spec/group").to_string(), text(&gone, "/spec/version").to_string());
        if custom.contains(&version) || gone.pointer("/spec/service").is_some_and(|s| !s.is_null()) {
            continue;
        }
        let name = text(&gone, "/metadata/name");
        let options = DeleteOptions::default();
        if let Err(status) = server.registry.delete(services, ("", name), &options, &context().who).await
            && status.code != 404
        {
            tracing::warn!(name, error = %status.message, "an APIService of a deleted definition stays");
        }
    }
}

async fn ensure(server: &ApiServer, services: &Arc<Resource>, version: &GroupVersion, custom: bool) {
    let name = format!("{}.{}", version.1, version.0);
    if services.get("", &name).is_ok() {
        return;
    }
    let body = Body { value: object(version, custom), duplicates: Vec::new() };
    match server.registry.create(services, "", body, &context()).await {
        Ok(_) => tell(server, services, &name, &Available::local()).await,
        Err(Status { reason: "AlreadyExists", .. }) => {}
        Err(status) => tracing::warn!(name, error = %status.message, "an APIService could not be made"),
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

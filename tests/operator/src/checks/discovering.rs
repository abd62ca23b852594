//! Discovery, and objects of kinds that are known only by what discovery says.

use super::ensure;
use crate::Result;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{self, Discovery, Scope, verbs},
};
use serde_json::json;

pub(super) async fn check(client: Client, namespace: &str) -> Result<()> {
    let version = client.apiserver_version().await?;
    ensure!(version.major == "1" && version.minor == "36", "version {}.{}", version.major, version.minor);
    let one_by_one = Discovery::new(client.clone()).run().await?;
    let at_once = Discovery::new(client.clone()).run_aggregated().await?;
    let kinds = |found: &Discovery| {
        let mut kinds: Vec<String> = found
            .groups()
            .flat_map(|group| {
                group.versions().flat_map(|version| group.versioned_resources(version)).collect::<Vec<_>>()
            })
            .map(|(kind, can)| {
                format!(
                    "{}/{} {} {:?} {:?}",
                    kind.group, kind.version, kind.plural, can.scope, can.operations
                )
            })
            .collect();
        kinds.sort();
        kinds
    };
    let (slow, quick) = (kinds(&one_by_one), kinds(&at_once));
    ensure!(slow == quick, "one by one: {slow:?}\nat once: {quick:?}");
    ensure!(slow.len() > 50, "{} kinds", slow.len());

    let apps = discovery::group(&client, "apps").await?;
    let (deployments, can) = apps.recommended_kind("Deployment").ok_or("no Deployment")?;
    ensure!(
        can.scope == Scope::Namespaced && can.supports_operation(verbs::WATCH),
        "Deployments can {can:?}"
    );
    ensure!(
        can.subresources.iter().any(|(sub, _)| sub.plural == "scale"),
        "of Deployments: {:?}",
        can.subresources
    );
    let (nodes, can) = discovery::pinned_kind(&client, &GroupVersionKind::gvk("", "v1", "Node")).await?;
    ensure!(can.scope == Scope::Cluster, "Nodes are {:?}", can.scope);
    let nodes = Api::<DynamicObject>::all_with(client.clone(), &nodes)
        .list(&kube::api::ListParams::default())
        .await?;
    ensure!(nodes.items.len() == 1, "{} nodes", nodes.items.len());

    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &deployments);
    let object = DynamicObject::new("dynamic", &deployments).within(namespace).data(json!({"spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
    }}));
    let made = api.create(&PostParams::default(), &object).await?;
    ensure!(made.data["spec"]["strategy"]["type"] == "RollingUpdate", "not defaulted: {}", made.data);
    let apply = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"minReadySeconds": 3}});
    let applied = api.patch("dynamic", &PatchParams::apply("check"), &Patch::Apply(apply)).await?;
    ensure!(applied.data["spec"]["minReadySeconds"] == 3, "not applied: {}", applied.data);
    ensure!(
        one_by_one.resolve_object(&applied).is_some_and(|(kind, _)| kind.plural == "deployments"),
        "not known"
    );
    ensure!(applied.namespace().as_deref() == Some(namespace), "in another namespace");
    Ok(())
}

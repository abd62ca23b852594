//! Aggregated ClusterRoles: a role with an aggregation rule holds the rules of all roles that it selects (Kubernetes
//! documentation, "Using RBAC Authorization", "Aggregated ClusterRoles"). The rules are written into the role itself, so that
//! whoever reads it sees what it allows.

use crate::{Cluster, Error};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_api::selector::Selector;
use orlop_client::{Informer, Key, Queue, run_workers};
use serde_json::json;
use std::sync::Arc;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_change = queue.clone();
    let roles = cluster.cluster_roles.clone();
    cluster.cluster_roles.on_change(move |_, _| {
        for role in roles.all().iter().filter(|r| r.aggregation_rule.is_some()) {
            on_change.add(Key::new("", role.name_any()));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        run_workers("clusterrole-aggregation", queue, 1, |key: Key| reconcile(&cluster, key)).await;
    })
}

/// The rules that `role` should hold.
fn aggregated(role: &ClusterRole, all: &Informer<ClusterRole>) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut others: Vec<Arc<ClusterRole>> =
        all.all().into_iter().filter(|other| other.name_any() != role.name_any()).collect();
    others.sort_by_key(|other| other.name_any());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // The API refuses a selector that cannot be read.
        let Ok(selector) = Selector::of(Some(selector)) else { continue };
        for other in others.iter().filter(|o| selector.matches_labels(o.metadata.labels.as_ref())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(role) = cluster.cluster_roles.get("", &key.name) else { return Ok(()) };
    let Some(rules) = aggregated(&role, &cluster.cluster_roles) else { return Ok(()) };
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(());
    }
    let api: Api<ClusterRole> = Api::all(cluster.client.clone());
    let patch = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": key.name}, "rules": rules,
    });
    let written = api
        .patch(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch))
        .await
        .map_err(Error::at("writing aggregated rules"))?;
    cluster.cluster_roles.observe(written);
    Ok(())
}

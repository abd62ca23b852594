//! ResourceQuota: counts what a namespace uses when a quota is new or asks for something else, and now and then, to be sure. In
//! between the API server keeps the numbers, in the transactions of the objects themselves; it alone refuses (Kubernetes
//! documentation, "Resource Quotas").

use crate::{
    Cluster, Error,
    discovery::{self, Deletable},
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{
    Api,
    api::{DynamicObject, ListParams, PostParams},
};
use orlop_api::{quantity::Quantity, quota};
use orlop_client::{Informer, Key, Queue, found, run_workers};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often all quotas are counted anew.
const AGAIN: Duration = Duration::from_secs(60);

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let quotas = Arc::<Informer<ResourceQuota>>::default();
    let on_quota = queue.clone();
    quotas.on_change(move |_, new| {
        if let Some(quota) = new.filter(|q| !is_counted(q)) {
            on_quota.add(Key::of(&**quota));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key: Key| reconcile(&cluster, key);
        let again = async {
            loop {
                tokio::time::sleep(AGAIN).await;
                quotas.all().iter().for_each(|q| queue.add(Key::of(&**q)));
            }
        };
        tokio::join!(
            quotas.clone().run(Api::all(cluster.client.clone())),
            run_workers("resourcequota", queue.clone(), 2, reconcile),
            again,
        );
    })
}

/// Whether the status speaks of all that the spec limits.
fn is_counted(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
    let Some(status) = &quota.status else { return hard.is_none() };
    let used = status.used.as_ref();
    status.hard.as_ref() == hard
        && hard.is_none_or(|h| h.keys().all(|k| used.is_some_and(|u| u.contains_key(k))))
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let api = cluster.api::<ResourceQuota>(&key.namespace);
    // The quota is read before what is counted: whatever is charged in between makes the write below a conflict.
    let Some(typed) = found(api.get(&key.name).await).map_err(Error::at("reading a resource quota"))? else {
        return Ok(());
    };
    let quota = serde_json::to_value(&typed).map_err(|e| Error::Object(e.to_string()))?;
    let hard = quota::amounts(&quota, "/spec/hard");
    let used = count(cluster, &key.namespace, &quota, &hard).await?;
    let print = |amounts: &BTreeMap<String, Quantity>| -> Value {
        amounts
            .iter()
            .map(|(k, v)| (k.clone(), json!(v.to_string())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let status = json!({"hard": print(&hard), "used": print(&used)});
    if quota.get("status") == Some(&status) {
        return Ok(());
    }
    let mut counted = quota;
    counted["status"] = status;
    let counted: ResourceQuota = serde_json::from_value(counted).map_err(|e| Error::Object(e.to_string()))?;
    api.replace_status(&key.name, &PostParams::default(), &counted)
        .await
        .map_err(Error::at("writing the usage of a resource quota"))?;
    Ok(())
}

/// What the objects of a namespace use of what a quota limits.
async fn count(
    cluster: &Cluster,
    namespace: &str,
    quota: &Value,
    hard: &BTreeMap<String, Quantity>,
) -> Result<BTreeMap<String, Quantity>, Error> {
    let mut used: BTreeMap<String, Quantity> = hard.keys().map(|k| (k.clone(), Quantity::ZERO)).collect();
    let mut kinds: Vec<(String, String)> = hard.keys().filter_map(|name| quota::counted_kind(name)).collect();
    kinds.sort();
    kinds.dedup();
    let served = discovery::deletable(&cluster.client).await.map_err(Error::at("asking what is served"))?;
    for (group, plural) in kinds {
        let is_meant =
            |d: &&Deletable| d.namespaced && d.resource.group == group && d.resource.plural == plural;
        let Some(Deletable { resource, .. }) = served.resources.iter().find(is_meant) else { continue };
        let api = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), namespace, resource);
        let objects = api.list(&ListParams::default()).await.map_err(Error::at("listing what is counted"))?;
        for object in objects {
            let object = serde_json::to_value(&object).map_err(|e| Error::Object(e.to_string()))?;
            if quota::selects(quota, &group, &plural, &object) {
                let usage = quota::usage(&group, &plural, &object);
                used.iter_mut().for_each(|(name, amount)| *amount += usage.get(name));
            }
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_counted_when_its_status_speaks_of_all_that_it_limits() {
        let of = |value: Value| is_counted(&serde_json::from_value(value).unwrap());
        let hard = json!({"pods": "1"});
        assert!(!of(json!({"spec": {"hard": hard}})));
        assert!(!of(json!({"spec": {"hard": hard}, "status": {"hard": hard}})));
        assert!(!of(
            json!({"spec": {"hard": {"pods": "2"}}, "status": {"hard": hard, "used": {"pods": "0"}}})
        ));
        assert!(of(json!({"spec": {"hard": hard}, "status": {"hard": hard, "used": {"pods": "0"}}})));
    }
}

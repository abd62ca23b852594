//! ServiceAccount `default` in every namespace, and the ConfigMap `kube-root-ca.crt` by which pods trust the API server
//! (Kubernetes documentation, "Managing Service Accounts").

use crate::{Cluster, Error};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use orlop_client::{Informer, Key, Queue, Source, api_reason, found, run_workers};
use serde_json::json;
use std::sync::Arc;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";

/// Registers with the caches; the future does the work. `authority` is the certificate (PEM) to publish.
pub(crate) fn start(cluster: &Cluster, authority: String) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_namespace = queue.clone();
    cluster.namespaces.on_change(move |_, new| {
        if let Some(namespace) = new {
            on_namespace.add(Key::new("", namespace.name_any()));
        }
    });
    let on_account = queue.clone();
    cluster.service_accounts.on_change(move |old, new| {
        if let (Some(account), None) = (old, new)
            && account.name_any() == ACCOUNT
        {
            on_account.add(Key::new("", account.namespace().unwrap_or_default()));
        }
    });
    let maps = Arc::<Informer<ConfigMap>>::default();
    let on_map = queue.clone();
    maps.on_change(move |old, new| {
        // What was taken away or changed is put right.
        if let Some(map) = old.and(new.or(old)) {
            on_map.add(Key::new("", map.namespace().unwrap_or_default()));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key: Key| reconcile(&cluster, &authority, key);
        let all = Api::<ConfigMap>::all(cluster.client.clone());
        let only = Source::of(&all).fields(format!("metadata.name={ROOT_CA}"));
        tokio::join!(
            maps.clone().run_selected(cluster.client.clone(), only),
            run_workers("serviceaccount", queue.clone(), 2, reconcile)
        );
    })
}

async fn reconcile(cluster: &Cluster, authority: &str, key: Key) -> Result<(), Error> {
    let Some(namespace) = cluster.namespaces.get("", &key.name) else { return Ok(()) };
    if is_terminating(&namespace) {
        return Ok(());
    }
    let name = &key.name;
    if cluster.service_accounts.get(name, ACCOUNT).is_none() {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(ACCOUNT.into());
        match cluster.api::<ServiceAccount>(name).create(&PostParams::default(), &account).await {
            Ok(account) => cluster.service_accounts.observe(account),
            Err(error) if api_reason(&error) == Some("AlreadyExists") => {}
            Err(error) => return Err(Error::at("creating the default service account")(error)),
        }
    }
    let api = cluster.api::<ConfigMap>(name);
    let there =
        found(api.get(ROOT_CA).await).map_err(Error::at("reading the root certificate's ConfigMap"))?;
    let right = |m: &ConfigMap| m.data.as_ref().and_then(|d| d.get("ca.crt")).is_some_and(|v| v == authority);
    match there {
        Some(map) if right(&map) => {}
        Some(_) => {
            let patch = json!({"data": {"ca.crt": authority}});
            api.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(Error::at("mending the root certificate's ConfigMap"))?;
        }
        None => {
            let mut map = ConfigMap::default();
            map.metadata.name = Some(ROOT_CA.into());
            let about = "Contains a CA bundle that can be used to verify the API server when using internal endpoints.";
            map.metadata.annotations =
                Some([("kubernetes.io/description".to_string(), about.to_string())].into());
            map.data = Some([("ca.crt".to_string(), authority.to_string())].into());
            api.create(&PostParams::default(), &map)
                .await
                .map_err(Error::at("publishing the root certificate"))?;
        }
    }
    Ok(())
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

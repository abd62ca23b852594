//! ConfigMaps and Secrets that pods of this node use: one watch for each such object while anybody uses it, and none for all
//! others. It decides nothing about what stands in them.

use crate::env::{Objects, References};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, core::NamespaceResourceScope};
use orlop_client::{Source, Watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
};
use tokio::sync::watch;

/// Called with a pod's uid when something it uses has changed.
pub(crate) type Changed = Arc<dyn Fn(&str) + Send + Sync>;

/// Namespace and name.
type Name = (String, String);

/// See the module.
pub(crate) struct ObjectCache {
    config_maps: Watches<ConfigMap>,
    secrets: Watches<Secret>,
}

impl ObjectCache {
    pub fn new(client: Client, changed: Changed) -> Self {
        Self {
            config_maps: Watches::new(client.clone(), changed.clone()),
            secrets: Watches::new(client, changed),
        }
    }

    /// Says which objects a pod uses from now on; all that it used before and does not any more is let go.
    pub fn using(&self, namespace: &str, pod_uid: &str, references: &References) {
        self.config_maps.using(namespace, pod_uid, &references.config_maps);
        self.secrets.using(namespace, pod_uid, &references.secrets);
    }

    /// The objects of a namespace by these names, so far as they exist. Waits until that is known.
    pub async fn get(&self, namespace: &str, references: &References) -> Objects {
        let (config_maps, secrets) = tokio::join!(
            self.config_maps.get(namespace, &references.config_maps),
            self.secrets.get(namespace, &references.secrets)
        );
        Objects { config_maps, secrets }
    }
}

/// What is known of an object: nothing yet, or whether and how it exists.
type Seen<K> = Option<Option<Arc<K>>>;

struct Watched<K> {
    seen: watch::Receiver<Seen<K>>,
    users: BTreeSet<String>,
    task: tokio::task::AbortHandle,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watches<K> {
    client: Client,
    changed: Changed,
    watched: Arc<Mutex<HashMap<Name, Watched<K>>>>,
}

impl<K> Watches<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    fn new(client: Client, changed: Changed) -> Self {
        Self { client, changed, watched: Arc::default() }
    }

    fn using(&self, namespace: &str, pod_uid: &str, names: &BTreeSet<String>) {
        let mut watched = self.watched.lock();
        for entry in watched.iter_mut().filter(|((ns, name), _)| ns == namespace && !names.contains(name)) {
            entry.1.users.remove(pod_uid);
        }
        for name in names {
            let key = (namespace.to_string(), name.clone());
            let entry = watched.entry(key.clone()).or_insert_with(|| self.start(key));
            entry.users.insert(pod_uid.into());
        }
        watched.retain(|_, w| !w.users.is_empty());
    }

    fn start(&self, key: Name) -> Watched<K> {
        let (send, seen) = watch::channel(None);
        let api = Api::<K>::namespaced(self.client.clone(), &key.0);
        let (watched, changed) = (Arc::downgrade(&self.watched), self.changed.clone());
        let task = tokio::spawn(async move {
            let mut news =
                std::pin::pin!(Watcher::follow_one::<K>(api.clone().into_client(), Source::of(&api), &key.1));
            while let Some(item) = news.next().await {
                let Ok(object) = item else { continue };
                let first = send.borrow().is_none();
                send.send_replace(Some(object.map(Arc::new)));
                let Some(watched) = watched.upgrade().filter(|_| !first) else { continue };
                let users = watched.lock().get(&key).map(|w| w.users.clone()).unwrap_or_default();
                users.iter().for_each(|uid| changed(uid));
            }
        });
        Watched { seen, users: BTreeSet::new(), task: task.abort_handle() }
    }

    async fn get(&self, namespace: &str, names: &BTreeSet<String>) -> BTreeMap<String, Arc<K>> {
        let mut found = BTreeMap::new();
        for name in names {
            let key = (namespace.to_string(), name.clone());
            let seen = self.watched.lock().get(&key).map(|w| w.seen.clone());
            let Some(mut seen) = seen else { continue };
            if let Ok(object) = seen.wait_for(Option::is_some).await
                && let Some(Some(object)) = object.as_ref()
            {
                found.insert(name.clone(), object.clone());
            }
        }
        found
    }
}

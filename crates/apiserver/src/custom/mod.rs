//! Custom resources on the server's side: follows CustomResourceDefinitions, decides which names each gets, serves what they
//! define, and empties those that are deleted. Level-triggered: every round compares what is defined with what is served.
//! What is pure about it is in `orlop-custom`.

mod conversion;
mod hooks;
mod install;

pub(crate) use hooks::Definitions;

use crate::{
    ApiServer, Identity,
    cache::object::Object,
    registry::{Part, Registry, Resource, WriteContext, metadata, update::Change},
    request::{DeleteOptions, WriteOptions},
};
use install::Installed;
use orlop_api::Status;
use orlop_custom::names::{self, Taken};
use orlop_store::Revision;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

/// How long to wait before looking again at objects that are still being deleted.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// A definition as it was seen last.
struct Seen {
    revision: Revision,
    value: Value,
}

/// Who follows the definitions.
pub(crate) struct Manager {
    server: Weak<ApiServer>,
    /// Kinds that are always served.
    built_in: Vec<Arc<Resource>>,
    seen: BTreeMap<String, Seen>,
    installed: BTreeMap<String, Installed>,
}

/// How the server itself writes.
fn context() -> WriteContext {
    let options = WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() };
    WriteContext { options, who: Arc::new(Identity::new("system:apiserver", &["system:masters"])) }
}

impl Manager {
    /// Serves what is defined already, and starts the task that follows.
    pub(crate) async fn start(server: &Arc<ApiServer>) {
        let Some(definitions) = server.registry.find(GROUP, "v1", PLURAL) else { return };
        let mut manager = Self {
            server: Arc::downgrade(server),
            built_in: server.registry.resources(),
            seen: BTreeMap::new(),
            installed: BTreeMap::new(),
        };
        let mut signal = definitions.cache.subscribe();
        let mut again = manager.round(server, &definitions).await;
        let stop = server.stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = signal.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(LOOK_AGAIN), if again => {}
                }
                let Some(server) = manager.server.upgrade() else { return };
                again = manager.round(&server, &definitions).await;
            }
        });
    }

    /// Makes what is served what is defined. Tells whether something remains to be done.
    async fn round(&mut self, server: &Arc<ApiServer>, definitions: &Arc<Resource>) -> bool {
        self.look(definitions);
        let now = server.registry.now();
        let mut changed = self.remove_gone(server).await;
        let mut again = false;
        let names: Vec<String> = self.seen.keys().cloned().collect();
        for name in names {
            let taken = self.taken(&name);
            let Some(seen) = self.seen.get_mut(&name) else { continue };
            let status = names::status(&seen.value, &taken, now);
            let different = seen.value.get("status") != Some(&status);
            seen.value["status"] = status;
            let definition = seen.value.clone();
            let mut replaced = None;
            // It is served before it is said to be.
            match Installed::of(&server.registry, &definition, self.installed.get(&name)) {
                Some(Ok(new)) => {
                    let before = self.installed.remove(&name);
                    new.open(&server.registry.caches, before.as_ref()).await;
                    replaced = before;
                    self.installed.insert(name.clone(), new);
                    changed = true;
                }
                Some(Err(())) => {
                    if let Some(old) = self.installed.remove(&name) {
                        old.close(&server.registry.caches).await;
                        changed = true;
                    }
                }
                None => {}
            }
            if changed {
                self.serve(server);
                changed = false;
            }
            // Only now: who is sent away comes back at once.
            if let Some((before, now)) = replaced.zip(self.installed.get(&name)) {
                before.retire(now);
            }
            if different {
                again |= tell(&server.registry, definitions, &name, &taken).await.is_err();
            }
            if metadata::is_deleting(&definition) {
                if let Some(installed) = self.installed.get(&name) {
                    installed.hooks.terminate();
                }
                again |= !self.empty(&server.registry, definitions, &name).await;
            }
        }
        if changed {
            self.serve(server);
        }
        again
    }

    /// Takes in what changed.
    fn look(&mut self, definitions: &Resource) {
        let all = definitions.cache.snapshot(&definitions.cache.key_prefix, None, 0, |_| true).objects;
        self.seen.retain(|name, _| all.iter().any(|o| o.name() == name));
        for object in all {
            let same = self.seen.get(object.name()).is_some_and(|s| s.revision == object.revision);
            if !same {
                let seen = Seen { revision: object.revision, value: object.value() };
                self.seen.insert(object.name().to_string(), seen);
            }
        }
    }

    async fn remove_gone(&mut self, server: &Arc<ApiServer>) -> bool {
        let gone: Vec<String> =
            self.installed.keys().filter(|name| !self.seen.contains_key(*name)).cloned().collect();
        for name in &gone {
            if let Some(old) = self.installed.remove(name) {
                self.serve(server);
                old.close(&server.registry.caches).await;
            }
        }
        !gone.is_empty()
    }

    /// The names that others in the group of a definition have.
    fn taken(&self, name: &str) -> Taken {
        let group = |definition: &Value| definition.pointer("/spec/group").cloned();
        let mut taken = Taken::default();
        let Some(mine) = self.seen.get(name).map(|s| group(&s.value)) else { return taken };
        for (other, seen) in &self.seen {
            if other != name && group(&seen.value) == mine {
                taken.add(&seen.value);
            }
        }
        for built_in in self.built_in.iter().filter(|r| mine.as_ref().is_some_and(|g| *g == *r.kind.group)) {
            taken.resources.insert(built_in.kind.plural.to_string());
            taken.kinds.insert(built_in.kind.kind.to_string());
        }
        taken
    }

    fn serve(&self, server: &ApiServer) {
        let custom = self.installed.values().flat_map(|i| i.resources.iter().cloned());
        server.serve_kinds(self.built_in.iter().cloned().chain(custom).collect());
    }

    /// Deletes all objects of a definition that is deleted, then lets it go. True when nothing is left to be done.
    async fn empty(&self, registry: &Registry, definitions: &Resource, name: &str) -> bool {
        if let Some(resource) = self.installed.get(name).and_then(|i| i.resources.first()) {
            let objects: Vec<Arc<Object>> =
                resource.cache.snapshot(&resource.cache.key_prefix, None, 0, |_| true).objects;
            let options = DeleteOptions::default();
            for object in &objects {
                let at = (object.namespace(), object.name());
                if let Err(status) = registry.delete(resource, at, &options, &context().who).await
                    && status.code != 404
                {
                    tracing::warn!(error = %status.message, name, "an object of a deleted definition stays");
                }
            }
            if resource.cache.len() > 0 {
                return false;
            }
        }
        let released = registry
            .modify(definitions, Part::System("finalize"), ("", name), &context(), |_, old| {
                let mut object = old.clone();
                if let Some(finalizers) =
                    object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut)
                {
                    finalizers.retain(|f| f != orlop_custom::definition::FINALIZER);
                }
                Ok(Change { object, warnings: Vec::new(), managed: false })
            })
            .await;
        matches!(released, Ok(_) | Err(Status { code: 404, .. }))
    }
}

/// Writes the conditions and accepted names of a definition.
async fn tell(registry: &Registry, definitions: &Resource, name: &str, taken: &Taken) -> Result<(), Status> {
    let now = registry.now();
    let written = registry
        .modify(definitions, Part::System("status"), ("", name), &context(), |_, old| {
            let mut object = old.clone();
            object["status"] = names::status(old, taken, now);
            Ok(Change { object, warnings: Vec::new(), managed: false })
        })
        .await;
    match written {
        Ok(_) | Err(Status { code: 404, .. }) => Ok(()),
        Err(status) => {
            tracing::warn!(error = %status.message, name, "the status of a definition could not be written");
            Err(status)
        }
    }
}

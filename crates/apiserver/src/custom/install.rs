//! What a definition makes the server serve: a resource for each served version, all over one cache.

use super::{conversion::Webhook, hooks::CustomResources};
use crate::{
    cache::{Caches, codec, kind_cache::KindCache},
    registry::{Hooks, Registry, Resource, Versions, versions::Converter},
};
use orlop_api::{
    Kind,
    object::{condition, flag, list, text},
};
use serde_json::Value;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// What is served of a definition.
pub(crate) struct Installed {
    /// Tells what it was made of.
    fingerprint: u64,
    pub resources: Vec<Arc<Resource>>,
    pub hooks: Arc<CustomResources>,
    cache: Arc<KindCache>,
}

fn fingerprint(definition: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for pointer in ["/spec", "/status/acceptedNames", "/metadata/uid"] {
        definition.pointer(pointer).map(Value::to_string).hash(&mut hasher);
    }
    hasher.finish()
}

impl Installed {
    /// What is to be served now: something new, nothing any more (`Err`), or what is served already (`None`).
    pub(crate) fn of(
        registry: &Arc<Registry>,
        definition: &Value,
        before: Option<&Self>,
    ) -> Option<Result<Self, ()>> {
        if condition(definition, "Established") != "True" {
            return before.map(|_| Err(()));
        }
        let fingerprint = fingerprint(definition);
        if before.is_some_and(|b| b.fingerprint == fingerprint) {
            return None;
        }
        let versions = list(definition, "/spec/versions");
        let stored = versions.iter().find(|v| flag(v, "/storage"))?;
        let stored = orlop_custom::build(definition, stored);
        let mut kind = Kind::clone(&stored.kind);
        // Whatever any version selects by, the cache knows of each object.
        for field in versions.iter().flat_map(|v| list(v, "/selectableFields")) {
            let path = text(field, "/jsonPath").trim_start_matches('.').to_string();
            if !kind.selectable_fields.iter().any(|f| *f == path) {
                kind.selectable_fields.push(path.into());
            }
        }
        let asked = text(definition, "/spec/conversion/strategy") == "Webhook";
        let cache = Arc::new(KindCache::with_versions(Arc::new(kind), asked));
        let converter = asked.then(|| Arc::new(Webhook::new(registry, definition)) as Arc<dyn Converter>);
        let hooks = Arc::new(CustomResources::default());
        let resources = versions.iter().filter(|v| flag(v, "/served")).map(|version| {
            let served = orlop_custom::build(definition, version);
            let versions = match &converter {
                Some(converter) => Versions::Asked(converter.clone()),
                None if flag(version, "/storage") => Versions::Stored,
                None => Versions::Renamed,
            };
            Arc::new(Resource {
                body_prefix: codec::prefix(&served.kind),
                kind: served.kind,
                cache: cache.clone(),
                versions,
                hooks: hooks.clone() as Arc<dyn Hooks>,
                types: Some(served.types),
                schema: Some(served.schema),
                warning: served.warning,
            })
        });
        Some(Ok(Self { fingerprint, resources: resources.collect(), hooks, cache }))
    }

    /// Starts to keep its objects.
    pub(crate) async fn open(&self, caches: &Caches) {
        caches.add(self.cache.clone()).await;
    }

    /// Ends its watches.
    pub(crate) async fn close(self, caches: &Caches) {
        caches.remove(&self.cache.kind.group, &self.cache.kind.plural).await;
    }
}

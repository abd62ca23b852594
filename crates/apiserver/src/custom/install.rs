//! What a definition makes the server serve: a resource for each served version, all over one cache.

use super::{conversion::Webhook, hooks::CustomResources};
use crate::{
    cache::{Caches, codec, kind_cache::KindCache},
    registry::{Hooks, Registry, Resource, Versions, versions::Converter},
};
use orlop_api::object::{condition, flag, list, text};
use serde_json::Value;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// What is served of a definition.
pub(crate) struct Installed {
    /// Tells what it was made of.
    fingerprint: u64,
    /// Tells what the cache was made of.
    stored: u64,
    pub resources: Vec<Arc<Resource>>,
    /// What each of the resources shows objects by.
    shown: Vec<u64>,
    pub hooks: Arc<CustomResources>,
    cache: Arc<KindCache>,
}

fn fingerprint<'a>(parts: impl IntoIterator<Item = Option<&'a Value>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.into_iter().for_each(|part| part.map(Value::to_string).hash(&mut hasher));
    hasher.finish()
}

/// The stored version, selectable by whatever any version is selectable by: the cache must know that of each object.
fn stored_version(versions: &[Value], at: &Value) -> Value {
    let mut fields: Vec<Value> = Vec::new();
    for field in
        list(at, "/selectableFields").iter().chain(versions.iter().flat_map(|v| list(v, "/selectableFields")))
    {
        if !fields.iter().any(|f| text(f, "/jsonPath") == text(field, "/jsonPath")) {
            fields.push(field.clone());
        }
    }
    let mut stored = at.clone();
    if !fields.is_empty() {
        stored["selectableFields"] = fields.into();
    }
    stored
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
        let part = |pointer: &str| definition.pointer(pointer);
        let about = [
            "/status/acceptedNames/kind",
            "/status/acceptedNames/plural",
            "/spec/conversion",
            "/metadata/uid",
        ];
        let whole = fingerprint(["/spec", "/status/acceptedNames", "/metadata/uid"].map(part));
        if before.is_some_and(|b| b.fingerprint == whole) {
            return None;
        }
        let versions = list(definition, "/spec/versions");
        let stored = versions.iter().find(|v| flag(v, "/storage"))?;
        let stored = stored_version(versions, stored);
        let asked = text(definition, "/spec/conversion/strategy") == "Webhook";
        let of_cache = fingerprint(about.map(part).into_iter().chain([Some(&stored)]));
        // What does not touch how objects are kept leaves them, and who watches them, alone.
        let kept = before.filter(|b| b.stored == of_cache);
        let cache = kept.map_or_else(
            || Arc::new(KindCache::with_versions(orlop_custom::build(definition, &stored).kind, asked)),
            |b| b.cache.clone(),
        );
        let converter = asked.then(|| Arc::new(Webhook::new(registry, definition)) as Arc<dyn Converter>);
        let hooks = kept.map_or_else(Arc::default, |b| b.hooks.clone());
        let served: Vec<&Value> = versions.iter().filter(|v| flag(v, "/served")).collect();
        let shown = served.iter().map(|v| fingerprint(about.map(part).into_iter().chain([Some(*v)])));
        let resources = served.iter().map(|version| {
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
                retired: false.into(),
            })
        });
        let (resources, shown) = (resources.collect(), shown.collect());
        Some(Ok(Self { fingerprint: whole, stored: of_cache, resources, shown, hooks, cache }))
    }

    /// Starts to keep its objects, where its predecessor has not done so already.
    pub(crate) async fn open(&self, caches: &Caches, before: Option<&Self>) {
        if before.is_none_or(|b| !Arc::ptr_eq(&b.cache, &self.cache)) {
            caches.add(self.cache.clone()).await;
        }
    }

    /// Ends the watches of those versions that its successor shows otherwise, or not at all.
    pub(crate) fn retire(&self, successor: &Self) {
        for (resource, shown) in self.resources.iter().zip(&self.shown) {
            if !successor.shown.contains(shown) {
                resource.retire();
            }
        }
    }

    /// Ends its watches.
    pub(crate) async fn close(self, caches: &Caches) {
        caches.remove(&self.cache.kind.group, &self.cache.kind.plural).await;
    }
}

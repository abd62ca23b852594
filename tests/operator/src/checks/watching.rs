//! Watches, watchers and reflectors: paged and streamed initial lists, bookmarks, changes in order.

use super::{config_map, ensure};
use crate::Result;
use futures::{Stream, StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _, predicates,
        reflector::{self, ObjectRef},
        wait::{Condition, await_condition, conditions},
        watcher::{self, Event, watch_object, watcher},
    },
};
use serde_json::json;
use std::collections::BTreeSet;

const COUNT: usize = 25;

pub(super) async fn check(client: Client, namespace: &str) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    for number in 0..COUNT {
        let mut map = config_map(&format!("m{number:02}"), &[("number", &number.to_string())]);
        map.labels_mut().insert("watched".into(), "yes".into());
        maps.create(&PostParams::default(), &map).await?;
    }
    let config = watcher::Config::default().labels("watched=yes");
    for (how, config) in [
        ("paged", config.clone().page_size(10)),
        ("streamed", config.clone().streaming_lists()),
        ("from the cache", config.clone().any_semantic()),
        ("without bookmarks", config.clone().disable_bookmarks()),
    ] {
        changes(&maps, how, watcher(maps.clone(), config)).await?;
    }
    let metadata = Api::<PartialObjectMeta<ConfigMap>>::namespaced(maps.clone().into_client(), namespace);
    changes(&maps, "metadata", watcher(metadata, config.clone())).await?;
    one_object(&maps).await?;
    reflected(&maps, config).await?;
    raw(&maps).await
}

/// A watcher gives all there is, and then each change once and in order.
async fn changes<K: kube::Resource>(
    maps: &Api<ConfigMap>,
    how: &str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
) -> Result<()> {
    pin_mut!(events);
    let mut seen = BTreeSet::new();
    loop {
        match events.try_next().await?.ok_or("the watcher ended")? {
            Event::Init => ensure!(seen.is_empty(), "{how}: begun twice"),
            Event::InitApply(map) => {
                ensure!(seen.insert(map.name_any()), "{how}: {} came twice", map.name_any())
            }
            Event::InitDone => break,
            _ => return Err(format!("{how}: a change came before the list was done").into()),
        }
    }
    ensure!(seen.len() == COUNT, "{how}: the list has {} objects", seen.len());

    let change = |text: &str| Patch::Merge(json!({"data": {"changed": text}}));
    let other = Patch::Merge(json!({"metadata": {"labels": {"watched": "no"}}}));
    let back = Patch::Merge(json!({"metadata": {"labels": {"watched": "yes"}}}));
    let parameters = PatchParams::default();
    maps.patch("m03", &parameters, &change(how)).await?;
    maps.patch("m04", &parameters, &other).await?;
    maps.patch("m04", &parameters, &back).await?;
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(match events.try_next().await?.ok_or("the watcher ended")? {
            Event::Apply(map) => format!("apply {}", map.name_any()),
            Event::Delete(map) => format!("delete {}", map.name_any()),
            _ => "another list".to_string(),
        });
    }
    ensure!(told == ["apply m03", "delete m04", "apply m04"], "{how}: told {told:?}");
    Ok(())
}

async fn one_object(maps: &Api<ConfigMap>) -> Result<()> {
    let events = watch_object(maps.clone(), "lone");
    pin_mut!(events);
    ensure!(events.try_next().await?.flatten().is_none(), "what is not there was seen");
    let made = maps.create(&PostParams::default(), &config_map("lone", &[])).await?;
    ensure!(events.try_next().await?.flatten().is_some(), "the new object was not seen");
    let uid = made.uid().ok_or("it has no uid")?;
    let deleted = await_condition(maps.clone(), "lone", conditions::is_deleted(&uid));
    maps.delete("lone", &DeleteParams::default()).await?;
    deleted.await?;
    ensure!(events.try_next().await?.flatten().is_none(), "the deleted object is still seen");
    Ok(())
}

/// A reflector's store is what a list gives, and follows.
async fn reflected(maps: &Api<ConfigMap>, config: watcher::Config) -> Result<()> {
    let (store, writer) = reflector::store();
    let changes = watcher(maps.clone(), config.streaming_lists())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .predicate_filter(predicates::resource_version, kube::runtime::PredicateConfig::default());
    let follower = tokio::spawn(changes.for_each(|_| std::future::ready(())));
    store.wait_until_ready().await?;
    let listed = maps.list(&ListParams::default().labels("watched=yes")).await?;
    let versions = |maps: Vec<(String, Option<String>)>| maps.into_iter().collect::<BTreeSet<_>>();
    let listed = versions(listed.iter().map(|map| (map.name_any(), map.resource_version())).collect());
    let stored = versions(store.state().iter().map(|map| (map.name_any(), map.resource_version())).collect());
    ensure!(listed == stored, "the store has {stored:?}, the list {listed:?}");

    let key = ObjectRef::new("m07").within(maps.namespace().unwrap_or_default());
    let changed = |map: Option<&ConfigMap>| {
        map.and_then(|map| map.data.as_ref()?.get("by").cloned()).is_some_and(|by| by == "reflected")
    };
    let patch = Patch::Merge(json!({"data": {"by": "reflected"}}));
    maps.patch("m07", &PatchParams::default(), &patch).await?;
    await_condition(maps.clone(), "m07", changed.and(|map: Option<&ConfigMap>| map.is_some())).await?;
    let mut tries = 0;
    while !changed(store.get(&key).as_deref()) {
        tries += 1;
        ensure!(tries < 500, "the store does not follow");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    follower.abort();
    Ok(())
}

/// The watch beneath: the bookmark at the end of the initial events, and a timeout.
async fn raw(maps: &Api<ConfigMap>) -> Result<()> {
    let parameters = WatchParams::default().labels("watched=yes").initial_events().timeout(1);
    let events: Vec<_> = maps.watch(&parameters, "0").await?.try_collect().await?;
    let added = events.iter().filter(|event| matches!(event, WatchEvent::Added(_))).count();
    ensure!(added == COUNT, "{added} initial events");
    let end = events.iter().find_map(|event| match event {
        WatchEvent::Bookmark(bookmark) => Some(bookmark),
        _ => None,
    });
    let marks = &end.ok_or("no bookmark")?.metadata.annotations;
    ensure!(
        marks.get("k8s.io/initial-events-end").map(String::as_str) == Some("true"),
        "the bookmark is annotated with {marks:?}"
    );
    Ok(())
}

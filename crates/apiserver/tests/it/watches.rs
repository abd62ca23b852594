//! Watches.

use crate::support::{ask, client, config_map, server};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde_json::json;
use std::time::Duration;

fn told(event: &WatchEvent<ConfigMap>) -> String {
    let name = |m: &ConfigMap| m.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Added(m) => format!("+{}", name(m)),
        WatchEvent::Modified(m) => format!("~{}", name(m)),
        WatchEvent::Deleted(m) => format!("-{}", name(m)),
        WatchEvent::Bookmark(b) => {
            let ends = b.metadata.annotations.contains_key("k8s.io/initial-events-end");
            if ends { "initial-end".into() } else { "bookmark".into() }
        }
        WatchEvent::Error(e) => format!("error {}", e.code),
    }
}

/// The next `n` events.
async fn next(
    stream: impl futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>>,
    n: usize,
) -> Vec<String> {
    let events = stream.take(n).map_ok(|e| told(&e)).try_collect();
    tokio::time::timeout(Duration::from_secs(20), events).await.expect("in time").expect("events")
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_its_revision_in_order() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let first = config_map(&client, "a", json!({}), "1").await;
    config_map(&client, "b", json!({}), "1").await;
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let version = first.metadata.resource_version.unwrap();
    let stream = maps.watch(&WatchParams::default(), &version).await.unwrap();
    config_map(&client, "c", json!({}), "1").await;
    assert_eq!(next(stream, 4).await, ["+b", "~a", "-b", "+c"]);
    let stream = maps.watch(&WatchParams::default(), "0").await.unwrap();
    assert_eq!(next(stream, 2).await, ["+a", "+c"], "a watch from 0 begins with what is there");
}

#[tokio::test]
async fn a_selector_turns_changes_into_arrivals_and_departures() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let start = config_map(&client, "other", json!({}), "1").await.metadata.resource_version.unwrap();
    let label = |value: Option<&str>| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    config_map(&client, "a", json!({"app": "x"}), "1").await;
    config_map(&client, "b", json!({"app": "y"}), "1").await;
    let set = |name: &'static str, value: Option<&'static str>| {
        let maps = maps.clone();
        async move { maps.patch(name, &PatchParams::default(), &label(value)).await.unwrap() }
    };
    set("b", Some("x")).await;
    let left = set("a", None).await;
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let params = WatchParams::default().labels("app=x");
    let events: Vec<_> = maps.watch(&params, &start).await.unwrap().take(4).try_collect().await.unwrap();
    assert_eq!(events.iter().map(told).collect::<Vec<_>>(), ["+a", "+b", "-a", "-b"]);
    let WatchEvent::Deleted(a) = &events[2] else { panic!("{events:?}") };
    assert_eq!(a.metadata.resource_version, left.metadata.resource_version, "the change that took it out");
    assert!(a.metadata.labels.is_some(), "its last state in the selection");
}

#[tokio::test]
async fn what_is_too_old_must_be_listed_anew() {
    use orlop_store::{Revision, Store, embedded::Embedded};
    let store = std::sync::Arc::new(Embedded::in_memory());
    let start = |store: std::sync::Arc<Embedded>| async move {
        orlop_apiserver::ApiServer::start(orlop_apiserver::Config::new(store)).await.unwrap()
    };
    let server = start(store.clone()).await;
    for name in ["a", "b", "c"] {
        config_map(&client(&server), name, json!({}), "1").await;
    }
    let uri = "/api/v1/namespaces/default/configmaps";
    let (_, page) = ask(&server, "GET", &format!("{uri}?limit=1"), json!(null)).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let exact = page["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    config_map(&client(&server), "d", json!({}), "1").await;
    let (_, old) = ask(
        &server,
        "GET",
        &format!("{uri}?resourceVersion={exact}&resourceVersionMatch=Exact"),
        json!(null),
    )
    .await;
    assert_eq!(old["items"].as_array().unwrap().len(), 3, "the state of then");
    let newest = store.revision().await.unwrap();
    store.compact(newest).await.unwrap();
    let (code, status) = ask(&server, "GET", &format!("{uri}?limit=1&continue={token}"), json!(null)).await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")), "{status}");
    let (code, status) = ask(
        &server,
        "GET",
        &format!("{uri}?resourceVersion={exact}&resourceVersionMatch=Exact"),
        json!(null),
    )
    .await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")), "{status}");
    let (code, status) =
        ask(&server, "GET", &format!("{uri}?resourceVersion={}", Revision(newest.0 + 100)), json!(null))
            .await;
    assert_eq!((code, status["reason"].as_str()), (504, Some("Timeout")), "{status}");

    // After a restart the ring is empty.
    let again = start(store).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&again));
    let stream = maps.watch(&WatchParams::default(), &exact).await.unwrap();
    assert_eq!(next(stream, 1).await, ["error 410"]);
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_bookmark() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    config_map(&client, "a", json!({}), "1").await;
    config_map(&client, "b", json!({}), "1").await;
    let params = WatchParams::default().initial_events();
    let stream = maps.watch(&params, "0").await.unwrap();
    config_map(&client, "c", json!({}), "1").await;
    assert_eq!(next(stream, 4).await, ["+a", "+b", "initial-end", "+c"]);
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_and_when_the_server_stops() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let stream = maps.watch(&WatchParams::default().timeout(1), "0").await.unwrap();
    let all: Vec<_> = tokio::time::timeout(Duration::from_secs(20), stream.collect()).await.expect("it ends");
    assert!(all.iter().all(Result::is_ok));
    let stream = maps.watch(&WatchParams::default(), "0").await.unwrap();
    server.stop();
    let all: Vec<_> = tokio::time::timeout(Duration::from_secs(20), stream.collect()).await.expect("it ends");
    assert!(all.is_empty());
}

#[tokio::test]
async fn many_watchers_see_every_event_once() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let stream = maps.watch(&WatchParams::default(), "0").await.unwrap();
        watchers.push(tokio::spawn(async move {
            let pinned = std::pin::pin!(stream);
            next(pinned, 100).await
        }));
    }
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    config_map(&client, &format!("w{w}-{n}"), json!({}), "1").await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut first: Option<Vec<String>> = None;
    for watcher in watchers {
        let events = watcher.await.unwrap();
        let distinct: std::collections::BTreeSet<_> = events.iter().collect();
        assert_eq!(distinct.len(), 100);
        assert_eq!(first.get_or_insert_with(|| events.clone()), &events, "all see the same order");
    }
}

#[tokio::test]
async fn a_table_watch_tells_its_columns_once() {
    use http_body_util::BodyExt;
    use tower::Service;
    let server = server().await;
    ask(&server, "POST", "/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}})).await;
    ask(&server, "POST", "/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "b"}})).await;
    let who = orlop_apiserver::Identity::new("admin", &["system:masters"]);
    let request = http::Request::get("/api/v1/configmaps?watch=1&timeoutSeconds=1")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(http_body_util::Full::new(bytes::Bytes::new()))
        .unwrap();
    let response = server.service_for(who).call(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let events: Vec<serde_json::Value> =
        serde_json::Deserializer::from_slice(&bytes).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(events.len(), 2);
    assert!(events[0]["object"]["columnDefinitions"].is_array());
    assert!(events[1]["object"]["columnDefinitions"].is_null());
    assert_eq!(events[1]["object"]["rows"][0]["cells"][0], "b");
}

//! Several versions of one stored kind: Events of core/v1 and of events.k8s.io/v1 are the same objects.

use crate::support::{ask, client, server};
use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use std::time::Duration;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn new_event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.y/z", "reportingInstance": "i",
        "action": "Act", "reason": "Why", "type": "Normal", "note": "said",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    })
}

#[tokio::test]
async fn what_is_written_in_one_version_is_read_in_the_other() {
    let server = server().await;
    let (code, written) = ask(&server, "POST", NEW, new_event("a")).await;
    assert_eq!(code, 201, "{written}");
    assert_eq!((&written["apiVersion"], &written["note"]), (&json!("events.k8s.io/v1"), &json!("said")));
    let (_, read) = ask(&server, "GET", &format!("{CORE}/a"), Value::Null).await;
    assert_eq!((&read["apiVersion"], &read["message"]), (&json!("v1"), &json!("said")));
    assert_eq!(read["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);

    let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let (code, patched) = ask(&server, "PATCH", &format!("{NEW}/a"), patch).await;
    assert_eq!((code, &patched["series"]["count"]), (200, &json!(2)), "{patched}");
    let (code, refused) = ask(&server, "PATCH", &format!("{NEW}/a"), json!({"note": "other"})).await;
    assert_eq!(code, 422, "{refused}");

    let (_, list) = ask(&server, "GET", &format!("{NEW}?fieldSelector=regarding.name=p"), Value::Null).await;
    assert_eq!(list["items"][0]["regarding"]["name"], "p");
    let (_, list) =
        ask(&server, "GET", &format!("{CORE}?fieldSelector=involvedObject.name=q"), Value::Null).await;
    assert_eq!(list["items"], json!([]));
    let (code, gone) = ask(&server, "DELETE", &format!("{CORE}/a"), Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    assert_eq!(ask(&server, "GET", &format!("{NEW}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_watch_tells_in_its_own_version_what_was_written_in_another() {
    let server = server().await;
    let events: Api<Event> = Api::default_namespaced(client(&server));
    let start = events.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = events.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    let old = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "b"}, "message": "said",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    assert_eq!(ask(&server, "POST", CORE, old).await.0, 201);
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Added(event) = event else { panic!("{event:?}") };
    assert_eq!(event.note.as_deref(), Some("said"));
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("p"));
}

#[tokio::test]
async fn an_autoscaler_of_the_old_version_is_one_of_the_new() {
    let server = server().await;
    let at =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let spec = json!({"maxReplicas": 5, "targetCPUUtilizationPercentage": 70,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
    let (code, made) =
        ask(&server, "POST", &at("v1"), json!({"metadata": {"name": "h"}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
    let (_, new) = ask(&server, "GET", &format!("{}/h", at("v2")), Value::Null).await;
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{new}");
    let change = json!({"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let (code, changed) = ask(&server, "PATCH", &format!("{}/h", at("v2")), change).await;
    assert_eq!(code, 200, "{changed}");
    let (_, old) = ask(&server, "GET", &format!("{}/h", at("v1")), Value::Null).await;
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
    assert!(old["spec"].get("metrics").is_none());
    let (_, group) = ask(&server, "GET", "/apis/autoscaling", Value::Null).await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
}

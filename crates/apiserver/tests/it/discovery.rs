//! Paths that are no resource: discovery, health, version, metrics, OpenAPI.

use crate::support::{ask, send, server, server_with};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::Arc;

async fn get(server: &Arc<ApiServer>, uri: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Value) {
    send(server, Identity::new("admin", &["system:masters"]), "GET", uri, "", headers).await
}

#[tokio::test]
async fn groups_and_resources_are_listed() {
    let server = server().await;
    let (_, _, api) = get(&server, "/api", &[]).await;
    assert_eq!(api["versions"], json!(["v1"]));
    let (_, _, groups) = get(&server, "/apis", &[]).await;
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].clone()).collect();
    for name in ["apps", "batch", "coordination.k8s.io", "discovery.k8s.io", "authorization.k8s.io"] {
        assert!(names.contains(&json!(name)), "{names:?}");
    }
    let (_, _, list) = get(&server, "/apis/apps/v1", &[]).await;
    let find = |name: &str| {
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap()
    };
    assert_eq!(find("deployments")["shortNames"], json!(["deploy"]));
    assert_eq!(find("deployments/scale")["group"], "autoscaling");
    assert_eq!(find("deployments/status")["verbs"], json!(["get", "patch", "update"]));
    assert_eq!(get(&server, "/apis/none.example/v1", &[]).await.0, 404);
    let (_, _, core) = get(&server, "/api/v1", &[]).await;
    let verbs = |name: &str| {
        let resources = core["resources"].as_array().unwrap();
        resources.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}"))["verbs"].clone()
    };
    let namespaces = json!(["create", "delete", "get", "list", "patch", "update", "watch"]);
    assert_eq!(verbs("namespaces"), namespaces);
    for (name, want) in [
        ("namespaces/finalize", json!(["update"])),
        ("pods/eviction", json!(["create"])),
        ("pods/exec", json!(["create", "get"])),
        ("pods/log", json!(["get"])),
        ("pods/proxy", json!(["create", "delete", "get", "patch", "update"])),
        ("pods/resize", json!(["get", "patch", "update"])),
        ("serviceaccounts/token", json!(["create"])),
    ] {
        assert_eq!(verbs(name), want, "{name}");
    }
}

#[tokio::test]
async fn namespaces_are_not_deleted_all_at_once() {
    let server = server().await;
    let (code, status) = ask(&server, "DELETE", "/api/v1/namespaces", Value::Null).await;
    assert_eq!((code, &status["reason"]), (405, &json!("MethodNotAllowed")));
}

#[tokio::test]
async fn discovery_in_one_document_is_cached_by_its_tag() {
    let server = server().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (code, headers, list) = get(&server, "/apis", &[("accept", accept)]).await;
    assert_eq!((code, &list["kind"]), (200, &json!("APIGroupDiscoveryList")));
    let apps = list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let deployments = resources.iter().find(|r| r["resource"] == "deployments").unwrap();
    assert_eq!(deployments["scope"], "Namespaced");
    assert!(deployments["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "scale"));
    let tag = headers["etag"].to_str().unwrap().to_string();
    let (code, ..) = get(&server, "/apis", &[("accept", accept), ("if-none-match", &tag)]).await;
    assert_eq!(code, 304);
}

#[tokio::test]
async fn the_server_says_how_it_is() {
    let server = server().await;
    let (code, _, text) = get(&server, "/readyz?verbose", &[]).await;
    assert_eq!(code, 200);
    assert!(text.as_str().unwrap().contains("[+]store ok\n"), "{text}");
    assert_eq!(get(&server, "/livez/ping", &[]).await.2, json!("ok"));
    assert_eq!(get(&server, "/readyz/nonsense", &[]).await.0, 404);
    let (_, _, version) = get(&server, "/version", &[]).await;
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    let (_, _, metrics) = get(&server, "/metrics", &[]).await;
    for line in [
        "apiserver_request_total{verb=\"other\",group=\"\",resource=\"\",subresource=\"\",code=\"200\"}",
        "apiserver_storage_objects{resource=\"namespaces\"} 4",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line}\n{metrics}");
    }
    server.stop();
    assert_eq!(get(&server, "/readyz", &[]).await.0, 500);
    assert_eq!(get(&server, "/livez", &[]).await.0, 200);
}

#[tokio::test]
async fn the_schema_is_published() {
    let server = server().await;
    let (code, headers, index) = get(&server, "/openapi/v3", &[]).await;
    assert_eq!(code, 200);
    assert!(headers.contains_key("etag"));
    let path = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, _, document) = get(&server, path, &[]).await;
    assert_eq!(code, 200);
    assert!(document["components"]["schemas"].get("io.k8s.api.apps.v1.Deployment").is_some());
}

#[tokio::test]
async fn lists_and_objects_are_shown_in_the_form_that_is_asked_for() {
    let server = server().await;
    let uri = "/api/v1/namespaces/default/configmaps";
    ask(&server, "POST", uri, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, _, list) = get(&server, uri, &[("accept", partial)]).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("data").is_none());
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let (_, _, list) = get(&server, &format!("{uri}?includeObject=Object"), &[("accept", table)]).await;
    assert_eq!((&list["kind"], &list["rows"][0]["object"]["data"]["k"]), (&json!("Table"), &json!("v")));
    let (_, headers, text) = get(&server, &format!("{uri}/a"), &[("accept", "application/yaml")]).await;
    assert_eq!(headers["content-type"], "application/yaml");
    assert!(text.as_str().unwrap().contains("name: a"), "{text}");
    assert_eq!(get(&server, uri, &[("accept", "text/html")]).await.0, 406);
}

#[tokio::test]
async fn events_are_forgotten_after_a_while() {
    use std::sync::atomic::{AtomicI64, Ordering};
    let now = Arc::new(AtomicI64::new(1_790_000_000));
    let clock = now.clone();
    let server = server_with(|c| {
        c.event_ttl = std::time::Duration::from_secs(1);
        c.clock = Arc::new(move || jiff::Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap());
    })
    .await;
    let uri = "/api/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e"}, "reason": "Started", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    let (code, made) = ask(&server, "POST", uri, event).await;
    assert_eq!(code, 201, "{made}");
    now.fetch_add(3600, Ordering::Relaxed);
    let deleted = async {
        let watch = format!(
            "{uri}?watch=1&timeoutSeconds=20&resourceVersion={}",
            made["metadata"]["resourceVersion"].as_str().unwrap()
        );
        use http_body_util::BodyExt;
        use tower::Service;
        let request = http::Request::get(watch).body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
        let who = Identity::new("admin", &["system:masters"]);
        let mut body = server.service_for(who).call(request).await.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<Value>(&frame).unwrap()
    };
    assert_eq!(deleted.await["type"], "DELETED");
}

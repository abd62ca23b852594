//! Pods: admission, binding, eviction, graceful deletion.

use crate::support::{ask, server};
use orlop_apiserver::ApiServer;
use serde_json::{Value, json};
use std::sync::Arc;

const PODS: &str = "/api/v1/namespaces/default/pods";

pub async fn account(server: &Arc<ApiServer>, name: &str) {
    let body = json!({"metadata": {"name": name}});
    let (code, status) = ask(server, "POST", "/api/v1/namespaces/default/serviceaccounts", body).await;
    assert_eq!(code, 201, "{status}");
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app"}]},
    })
}

pub async fn bind(server: &Arc<ApiServer>, name: &str, node: &str) -> (u16, Value) {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    ask(server, "POST", &format!("{PODS}/{name}/binding"), binding).await
}

#[tokio::test]
async fn a_pod_needs_its_service_account_and_gets_its_token() {
    let server = server().await;
    let mut other = pod("a");
    other["spec"]["serviceAccountName"] = json!("missing");
    let (code, status) = ask(&server, "POST", PODS, other).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"a\" is forbidden: error looking up service account default/missing: serviceaccount \"missing\" not found"
    );
    // The default account may come a moment later than the pod.
    let creating = {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "POST", PODS, pod("a")).await })
    };
    tokio::task::yield_now().await;
    account(&server, "default").await;
    let (code, made) = creating.await.unwrap();
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["priority"], 0);
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_pod_for_a_namespace_that_ends_is_not_made_in_the_next_of_that_name() {
    let server = server().await;
    let room = json!({"metadata": {"name": "room"}});
    ask(&server, "POST", "/api/v1/namespaces", room.clone()).await;
    let (_, mut marked) = ask(&server, "DELETE", "/api/v1/namespaces/room", Value::Null).await;
    let creating = {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "POST", "/api/v1/namespaces/room/pods", pod("a")).await })
    };
    tokio::task::yield_now().await;
    marked["spec"]["finalizers"] = json!([]);
    let (code, status) = ask(&server, "PUT", "/api/v1/namespaces/room/finalize", marked).await;
    assert_eq!(code, 200, "{status}");
    ask(&server, "POST", "/api/v1/namespaces", room).await;
    let account = json!({"metadata": {"name": "default"}});
    ask(&server, "POST", "/api/v1/namespaces/room/serviceaccounts", account).await;
    let (code, status) = creating.await.unwrap();
    assert_eq!(code, 403, "{status}");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = server().await;
    account(&server, "default").await;
    ask(&server, "POST", PODS, pod("a")).await;
    let (code, status) = bind(&server, "a", "n1").await;
    assert_eq!(code, 201, "{status}");
    let (_, bound) = ask(&server, "GET", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (code, status) = bind(&server, "a", "n2").await;
    assert_eq!(code, 409);
    assert!(status["message"].as_str().unwrap().contains("is already assigned to node \"n1\""), "{status}");
    let (code, list) = ask(
        &server,
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,status.phase%3DPending",
        Value::Null,
    )
    .await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
}

#[tokio::test]
async fn a_bound_pod_is_given_its_grace_and_goes_when_the_node_says_so() {
    let server = server().await;
    account(&server, "default").await;
    ask(&server, "POST", PODS, pod("a")).await;
    ask(&server, "POST", PODS, pod("unbound")).await;
    bind(&server, "a", "n1").await;
    let (code, marked) = ask(&server, "DELETE", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    let (_, shorter) = ask(&server, "DELETE", &format!("{PODS}/a"), json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(
        shorter["metadata"]["deletionTimestamp"].as_str() < marked["metadata"]["deletionTimestamp"].as_str()
    );
    let (_, same) = ask(&server, "DELETE", &format!("{PODS}/a"), json!({"gracePeriodSeconds": 50})).await;
    assert_eq!(same, shorter, "a longer grace is not given");
    let (code, _) = ask(&server, "DELETE", &format!("{PODS}/a"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code, 200);
    assert_eq!(ask(&server, "GET", &format!("{PODS}/a"), Value::Null).await.0, 404);
    assert_eq!(ask(&server, "DELETE", &format!("{PODS}/unbound"), Value::Null).await.0, 200);
    assert_eq!(ask(&server, "GET", &format!("{PODS}/unbound"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn an_eviction_deletes() {
    let server = server().await;
    account(&server, "default").await;
    ask(&server, "POST", PODS, pod("a")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let (code, status) = ask(&server, "POST", &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!(code, 201, "{status}");
    assert_eq!(ask(&server, "GET", &format!("{PODS}/a"), Value::Null).await.0, 404);
}

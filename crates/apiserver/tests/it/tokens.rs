//! Service-account tokens and the questions about identities.

use crate::{
    pods::{account, pod},
    support::{ask, send, server_with},
};
use orlop_apiserver::{ApiServer, Identity};
use orlop_pki::ServiceAccountKey;
use serde_json::{Value, json};
use std::sync::Arc;

async fn server() -> (Arc<ApiServer>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = Arc::new(ServiceAccountKey::open_or_create(dir.path()).unwrap());
    (server_with(|c| c.tokens = Some(key)).await, dir)
}

async fn review(server: &Arc<ApiServer>, token: &str) -> Value {
    let body = json!({"spec": {"token": token}});
    ask(server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body).await.1["status"].take()
}

#[tokio::test]
async fn a_token_lives_as_long_as_the_pod_it_is_bound_to() {
    let (server, _dir) = server().await;
    account(&server, "default").await;
    let pods = "/api/v1/namespaces/default/pods";
    let (_, made) = ask(&server, "POST", pods, pod("a")).await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = json!({"spec": {"boundObjectRef": {
        "kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made["metadata"]["uid"],
    }}});
    let (code, answer) = ask(&server, "POST", uri, request).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();
    let status = review(&server, token).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["a"]));
    ask(&server, "DELETE", &format!("{pods}/a"), Value::Null).await;
    assert_eq!(review(&server, token).await["authenticated"], false);

    let short = json!({"spec": {"expirationSeconds": 10}});
    assert_eq!(ask(&server, "POST", uri, short).await.0, 422);
    let missing = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}});
    assert_eq!(ask(&server, "POST", uri, missing).await.0, 404);
}

#[tokio::test]
async fn everybody_may_ask_who_they_are_and_what_they_may() {
    let (server, _dir) = server().await;
    let ask_as = |who: Identity, uri: &'static str, body: Value| {
        let server = server.clone();
        async move {
            let headers = [("content-type", "application/json")];
            let (code, _, value) = send(&server, who, "POST", uri, body.to_string(), &headers).await;
            (code, value)
        }
    };
    let known = Identity::new("jane", &["developers"]);
    let (code, value) =
        ask_as(known.clone(), "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!((code, &value["status"]["userInfo"]["username"]), (201, &json!("jane")));
    let question = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(ask_as(known, uri, question.clone()).await.1["status"]["allowed"], false);
    let admin = Identity::new("admin", &["system:masters"]);
    assert_eq!(ask_as(admin.clone(), uri, question).await.1["status"]["allowed"], true);
    let question =
        json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(ask_as(admin, uri, question).await.1["status"]["allowed"], false);
}

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

#[tokio::test]
async fn a_token_is_for_its_audience_and_dies_with_its_account() {
    let (server, _dir) = server().await;
    account(&server, "robot").await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/robot";
    let request = json!({"spec": {"audiences": ["vault"]}});
    let (_, answer) = ask(&server, "POST", &format!("{uri}/token"), request).await;
    let token = answer["status"]["token"].as_str().unwrap();
    let review = async |audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        ask(&server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body).await.1["status"].take()
    };
    for _ in 0..2 {
        let status = review(json!(["other", "vault"])).await;
        assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
        assert_eq!(review(json!([])).await["authenticated"], false, "it is not for the API server");
    }
    ask(&server, "DELETE", uri, Value::Null).await;
    account(&server, "robot").await;
    let status = review(json!(["vault"])).await;
    assert_eq!(status["authenticated"], false, "the next account of that name is another");
    assert!(status["error"].as_str().unwrap().starts_with("[invalid bearer token, "), "{status}");
}

#[tokio::test]
async fn a_bootstrap_token_stands_for_a_bootstrapper_while_its_secret_says_so() {
    let (server, _dir) = server().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    assert_eq!(review(&server, "abcdef.0123456789abcdef").await["authenticated"], false);
    assert_eq!(ask(&server, "POST", secrets, secret).await.0, 201);
    let status = review(&server, "abcdef.0123456789abcdef").await;
    assert_eq!(status["user"]["username"], "system:bootstrap:abcdef", "{status}");
    assert_eq!(status["user"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));
    assert_eq!(review(&server, "abcdef.0123456789abcdeX").await["authenticated"], false);
    ask(&server, "DELETE", &format!("{secrets}/bootstrap-token-abcdef"), Value::Null).await;
    assert_eq!(review(&server, "abcdef.0123456789abcdef").await["authenticated"], false);
}

#[tokio::test]
async fn whoever_acts_as_another_needs_a_right_for_each_part_of_them() {
    let (server, _dir) = server().await;
    let whoami = async |who: Identity, headers: &[(&str, &str)]| {
        let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        let (code, _, value) = send(&server, who, "POST", uri, "{}", &all).await;
        (code, value)
    };
    let admin = Identity::new("admin", &["system:masters"]);
    let as_jane =
        [("impersonate-user", "jane"), ("impersonate-group", "dev"), ("impersonate-extra-scopes", "a")];
    let (code, value) = whoami(admin.clone(), &as_jane).await;
    let info = &value["status"]["userInfo"];
    assert_eq!((code, &info["username"]), (201, &json!("jane")));
    assert_eq!(info["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(info["extra"], json!({"scopes": ["a"]}));

    let role = json!({"metadata": {"name": "i"}, "rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"]}]});
    let binding = json!({"metadata": {"name": "i"}, "roleRef": {"kind": "ClusterRole", "name": "i"},
        "subjects": [{"kind": "User", "name": "joe"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    assert_eq!(ask(&server, "POST", &format!("{rbac}/clusterroles"), role).await.0, 201);
    assert_eq!(ask(&server, "POST", &format!("{rbac}/clusterrolebindings"), binding).await.0, 201);
    let joe = Identity::new("joe", &[]);
    assert_eq!(whoami(joe.clone(), &as_jane[..1]).await.0, 201);
    for (headers, message) in [
        (
            &as_jane[..2],
            "groups \"dev\" is forbidden: User \"joe\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            &[as_jane[0], as_jane[2]],
            "userextras.authentication.k8s.io \"a\" is forbidden: User \"joe\" cannot impersonate resource \"userextras/scopes\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            &[("impersonate-user", "system:serviceaccount:n:robot")],
            "serviceaccounts \"robot\" is forbidden: User \"joe\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"n\"",
        ),
    ] {
        let (code, value) = whoami(joe.clone(), headers).await;
        assert_eq!((code, value["message"].as_str().unwrap()), (403, message));
    }
    assert_eq!(whoami(admin, &[("impersonate-group", "dev")]).await.0, 500, "a group is no user");
}

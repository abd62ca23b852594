//! CertificateSigningRequests: who may ask, approve and sign.

use crate::support::{ask, send, server};
use orlop_apiserver::{ApiServer, Identity};
use serde_json::{Value, json};
use std::sync::Arc;

const URI: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Of `CN=jane,O=dev`.
const REQUEST: &str = include_str!("jane.csr");

async fn by(server: &Arc<ApiServer>, who: &Identity, method: &str, uri: &str, body: Value) -> (u16, Value) {
    let headers = [("content-type", "application/json")];
    let (code, _, value) = send(server, who.clone(), method, uri, body.to_string(), &headers).await;
    (code, value)
}

async fn allow(server: &Arc<ApiServer>, user: &str, name: &str, rules: Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": name}, "rules": rules});
    assert_eq!(ask(server, "POST", &format!("{rbac}/clusterroles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": user}]});
    assert_eq!(ask(server, "POST", &format!("{rbac}/clusterrolebindings"), binding).await.0, 201);
}

fn encoded(pem: &str) -> String {
    use k8s_openapi::{ByteString, serde_json};
    let value = serde_json::to_value(ByteString(pem.as_bytes().to_vec())).unwrap();
    value.as_str().unwrap().to_string()
}

#[tokio::test]
async fn a_request_is_approved_and_signed_by_those_who_may() {
    let server = server().await;
    let (jane, joe) = (Identity::new("jane", &["dev"]), Identity::new("joe", &[]));
    let group = "certificates.k8s.io";
    let asking =
        json!([{"verbs": ["create"], "apiGroups": [group], "resources": ["certificatesigningrequests"]}]);
    allow(&server, "jane", "asking", asking).await;
    let body = json!({"metadata": {"name": "r"}, "spec": {"request": encoded(REQUEST), "usages": ["client auth"],
        "signerName": "example.com/own", "username": "root", "groups": ["system:masters"]},
        "status": {"certificate": encoded("x"), "conditions": [{"type": "Approved", "status": "True"}]}});
    let (code, made) = by(&server, &jane, "POST", URI, body.clone()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["username"], "jane", "who asks is not what they say");
    assert_eq!(made["spec"]["groups"], json!(["dev", "system:authenticated"]));
    assert!(made["status"].is_null(), "nobody approves their own request by making it: {made}");

    let approval = format!("{URI}/r/approval");
    let mut approved = made.clone();
    approved["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "Yes", "message": ""}]);
    assert_eq!(by(&server, &joe, "PUT", &approval, approved.clone()).await.0, 403);
    let update = json!([{"verbs": ["update"], "apiGroups": [group],
        "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]}]);
    allow(&server, "joe", "updating", update).await;
    let (code, status) = by(&server, &joe, "PUT", &approval, approved.clone()).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with signerName \"example.com/own\""
    );
    let signers = |verb: &str, name: &str| json!([{"verbs": [verb], "apiGroups": [group], "resources": ["signers"], "resourceNames": [name]}]);
    allow(&server, "joe", "approving", signers("approve", "example.com/*")).await;
    let (code, answer) = by(&server, &joe, "PUT", &approval, approved.clone()).await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer["status"]["conditions"][0]["lastUpdateTime"].is_string(), "{answer}");
    assert_eq!(answer["spec"], made["spec"]);
    let patch = json!({"metadata": {"annotations": {"a": "b"}}, "status": {"certificate": encoded("x"), "conditions": [
        answer["status"]["conditions"][0], {"type": "Noted", "status": "True", "reason": "r"}]}});
    let (code, answer) = ask(&server, "PATCH", &approval, patch).await;
    assert_eq!((code, &answer["metadata"]["annotations"]["a"]), (200, &json!("b")), "{answer}");
    assert_eq!(answer["status"]["conditions"][1]["type"], "Noted");
    assert!(answer["status"]["certificate"].is_null(), "approving hands nothing out");
    let mut back = answer.clone();
    back["status"]["conditions"] = json!([]);
    assert_eq!(by(&server, &joe, "PUT", &approval, back).await.0, 422, "an approval stays");

    let mut signed = answer;
    signed["status"]["certificate"] =
        json!(encoded("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    let status_uri = format!("{URI}/r/status");
    let (code, status) = by(&server, &joe, "PUT", &status_uri, signed.clone()).await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with("user not permitted to sign requests with signerName \"example.com/own\""),
        "{status}"
    );
    allow(&server, "joe", "signing", signers("sign", "example.com/own")).await;
    let (code, answer) = by(&server, &joe, "PUT", &status_uri, signed.clone()).await;
    assert_eq!((code, &answer["status"]["certificate"]), (200, &signed["status"]["certificate"]));

    let mut odd = body.clone();
    odd["metadata"]["name"] = json!("odd");
    odd["spec"]["request"] =
        json!(encoded("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"));
    assert_eq!(by(&server, &jane, "POST", URI, odd).await.0, 422);
}

//! A server over a store in memory, and clients of it.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_store::embedded::Embedded;
use serde_json::Value;
use std::sync::Arc;

/// A server with an empty state.
pub async fn server() -> Arc<ApiServer> {
    server_with(|_| {}).await
}

/// A server whose configuration is changed first.
pub async fn server_with(change: impl FnOnce(&mut Config)) -> Arc<ApiServer> {
    let mut config = Config::new(Arc::new(Embedded::in_memory()));
    change(&mut config);
    ApiServer::start(config).await.expect("the server starts")
}

/// A client who may do all.
pub fn client(server: &Arc<ApiServer>) -> Client {
    Client::new(server.service_for(Identity::new("admin", &["system:masters"])), "default")
}

/// Sends a request as it is; the answer is its code and body.
pub async fn send(
    server: &Arc<ApiServer>,
    who: Identity,
    method: &str,
    uri: &str,
    body: impl Into<Vec<u8>>,
    headers: &[(&str, &str)],
) -> (u16, http::HeaderMap, Value) {
    use http_body_util::BodyExt;
    use tower::Service;
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request =
        request.body(http_body_util::Full::new(bytes::Bytes::from(body.into()))).expect("a request");
    let response = server.service_for(who).call(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (parts.status.as_u16(), parts.headers, value)
}

/// As [`send`], as one who may do all, with a JSON body.
pub async fn ask(server: &Arc<ApiServer>, method: &str, uri: &str, body: Value) -> (u16, Value) {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let who = Identity::new("admin", &["system:masters"]);
    let (code, _, value) = send(server, who, method, uri, text, &[("content-type", kind)]).await;
    (code, value)
}

/// Objects of any kind in the namespace `default`.
pub fn objects(client: &Client, group: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    Api::default_namespaced_with(client.clone(), &resource)
}

/// Creates a ConfigMap with one key.
pub async fn config_map(client: &Client, name: &str, labels: Value, value: &str) -> DynamicObject {
    let object: DynamicObject = serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"k": value},
    }))
    .expect("an object");
    objects(client, "", "ConfigMap").create(&PostParams::default(), &object).await.expect("created")
}

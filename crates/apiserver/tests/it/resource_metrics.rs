//! metrics.k8s.io over a node that is played: an HTTPS endpoint shaped like a kubelet's.

use crate::{
    support::{ask, send, server_with},
    tls::{now, request},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use orlop_apiserver::{ApiServer, Identity};
use orlop_pki::{Authority, Usage, tls};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// A server with the nodes `here`, which answers, and `gone`, which does not.
async fn cluster() -> Arc<ApiServer> {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), now()).unwrap();
    let own = authority.issue(&request("node", None, Usage::Both), now()).unwrap();
    let config = tls::server_config(&own, authority.certificate(), true, &["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (acceptor, asked) = (TlsAcceptor::from(config), Arc::new(AtomicU64::new(0)));
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, asked) = (acceptor.clone(), asked.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |_request| {
                    let body = summary(asked.fetch_add(1, Ordering::SeqCst)).to_string();
                    async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body)))) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let client = tls::client_config(authority.certificate(), Some(&own)).unwrap();
    let server = server_with(|c| c.node_tls = Some(client)).await;
    for (name, port) in [("here", port), ("gone", 1)] {
        let node = json!({"metadata": {"name": name, "labels": {"is": name}}, "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        assert_eq!(ask(&server, "POST", "/api/v1/nodes", node).await.0, 201);
    }
    ask(
        &server,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    for (name, node) in [("web", "here"), ("lost", "gone"), ("silent", "here")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}]},
        });
        let (code, pod) = ask(&server, "POST", "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, 201, "{pod}");
        if name == "web" {
            *UID.lock() = pod["metadata"]["uid"].as_str().unwrap().to_string();
        }
    }
    server
}

/// The uid of the pod that the node tells of.
static UID: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());

/// Half a processor is used, by a node's own clock of a second a question.
fn summary(asked: u64) -> Value {
    let time = format!("2026-01-01T00:00:{:02}.000000Z", asked % 60);
    let used = |nanoseconds: u64| json!({"time": time, "usageCoreNanoSeconds": nanoseconds});
    let memory = json!({"time": time, "workingSetBytes": 3 << 20});
    let container = json!({"name": "c", "cpu": used(asked * 500_000_000), "memory": memory});
    json!({
        "node": {"nodeName": "here", "cpu": used(asked * 2_000_000_000), "memory": memory},
        "pods": [{"podRef": {"name": "web", "namespace": "default", "uid": *UID.lock()}, "containers": [container]}],
    })
}

#[tokio::test]
async fn what_is_used_is_told_of_the_nodes_that_answer() {
    let server = cluster().await;
    let (code, nodes) = ask(&server, "GET", &format!("{METRICS}/nodes"), Value::Null).await;
    assert_eq!((code, &nodes["kind"]), (200, &json!("NodeMetricsList")));
    let [node] = &nodes["items"].as_array().unwrap()[..] else { panic!("one node: {nodes}") };
    assert_eq!(
        (&node["metadata"]["name"], &node["metadata"]["labels"]),
        (&json!("here"), &json!({"is": "here"}))
    );
    assert_eq!(node["usage"], json!({"cpu": "2000000000n", "memory": "3Mi"}));
    assert_eq!((&node["window"], &node["timestamp"]), (&json!("1s"), &json!("2026-01-01T00:00:01Z")));

    let (_, pods) = ask(&server, "GET", &format!("{METRICS}/pods"), Value::Null).await;
    let [pod] = &pods["items"].as_array().unwrap()[..] else { panic!("one pod: {pods}") };
    assert_eq!(pod["containers"], json!([{"name": "c", "usage": {"cpu": "500000000n", "memory": "3Mi"}}]));
    for (uri, count) in
        [("pods?labelSelector=app%3Dother", 0), ("pods?fieldSelector=spec.nodeName%3Dhere", 1)]
    {
        let (_, list) = ask(&server, "GET", &format!("{METRICS}/{uri}"), Value::Null).await;
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{uri}");
    }
    let (code, one) =
        ask(&server, "GET", &format!("{METRICS}/namespaces/default/pods/web"), Value::Null).await;
    assert_eq!((code, &one["kind"]), (200, &json!("PodMetrics")));
    let (code, status) =
        ask(&server, "GET", &format!("{METRICS}/namespaces/default/pods/lost"), Value::Null).await;
    assert_eq!((code, &status["message"]), (404, &json!("pods.metrics.k8s.io \"default/lost\" not found")));
    assert_eq!(ask(&server, "DELETE", &format!("{METRICS}/nodes/here"), Value::Null).await.0, 405);

    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let admin = Identity::new("admin", &["system:masters"]);
    let (_, _, table) = send(&server, admin, "GET", &format!("{METRICS}/nodes"), "", &table).await;
    assert_eq!(table["rows"][0]["cells"], json!(["here", "2000000000n", "3Mi", "1s"]));
}

#[tokio::test]
async fn discovery_and_the_default_roles_know_of_it() {
    let server = server_with(|_| {}).await;
    let (_, list) = ask(&server, "GET", METRICS, Value::Null).await;
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["nodes", "pods"]);
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader";
    let (_, reader) = ask(&server, "GET", role, Value::Null).await;
    assert_eq!(reader["rules"][0]["apiGroups"], json!(["metrics.k8s.io"]));
    assert_eq!(reader["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"], "true");
}

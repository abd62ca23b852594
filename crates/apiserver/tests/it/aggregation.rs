//! The aggregation layer in front of a small API server as other people write them: HTTPS, a certificate of its own authority, clients known
//! by a front proxy's.

use crate::{
    support::{ask, client, send, server_with},
    tls::{now, request},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{Api, api::DynamicObject, discovery::Discovery};
use orlop_apiserver::{ApiServer, FrontProxy, Identity};
use orlop_pki::{Authority, CertificateRequest, Credential, Usage, tls};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

const GROUP: &str = "wardle.example.com";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";

/// Two servers: ours, and one that serves flunders behind the Service `judge`.
struct Pair {
    server: Arc<ApiServer>,
    port: u16,
    bundle: String,
    serving: tokio::task::JoinHandle<()>,
    accepted: Accepted,
}

fn json_body(value: &Value) -> BoxBody<Bytes, Infallible> {
    http_body_util::Full::new(Bytes::from(value.to_string())).boxed()
}

fn answer(code: u16, body: BoxBody<Bytes, Infallible>) -> http::Response<BoxBody<Bytes, Infallible>> {
    http::Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

/// What the other server does. It tells by whom and how it was asked.
async fn flunders(mut asked: http::Request<Incoming>) -> http::Response<BoxBody<Bytes, Infallible>> {
    let path = asked.uri().path().to_string();
    if asked.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut asked);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        return http::Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(json_body(&Value::Null))
            .unwrap();
    }
    match path.as_str() {
        "/apis/wardle.example.com/v1alpha1" => answer(
            200,
            json_body(&json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
                "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["create", "get", "list", "watch"]}],
            })),
        ),
        "/openapi/v2" => answer(
            200,
            json_body(&json!({
                "swagger": "2.0", "paths": {"/apis/wardle.example.com/v1alpha1/flunders": {"get": {}}},
                "definitions": {"Flunder": {
                    "type": "object", "description": "Made elsewhere.",
                    "x-kubernetes-group-version-kind": [{"group": GROUP, "version": "v1alpha1", "kind": "Flunder"}],
                }},
            })),
        ),
        "/openapi/v3" => answer(
            200,
            json_body(
                &json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=AB"}}}),
            ),
        ),
        _ if asked.uri().query().is_some_and(|q| q.contains("watch=")) => {
            let event = json!({"type": "ADDED", "object": {"kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1", "metadata": {"name": "f"}}});
            let first = stream::iter([Ok(http_body::Frame::data(Bytes::from(format!("{event}\n"))))]);
            answer(200, BodyExt::boxed(StreamBody::new(first.chain(stream::pending()))))
        }
        _ => {
            let all = |name: &str| -> Vec<String> {
                asked.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_string()).collect()
            };
            let told = json!({
                "kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1", "metadata": {"name": "f"},
                "path": path, "query": asked.uri().query(), "method": asked.method().as_str(),
                "user": all("x-remote-user"), "groups": all("x-remote-group"), "extra": all("x-remote-extra-scopes"),
                "authorization": all("authorization"),
            });
            let sent = asked.into_body().collect().await.unwrap().to_bytes();
            let mut told = told;
            told["sent"] = serde_json::from_slice(&sent).unwrap_or_default();
            answer(if told["method"] == "POST" { 201 } else { 200 }, json_body(&told))
        }
    }
}

/// The connections to the other server, as it has accepted them.
type Accepted = Arc<Mutex<Vec<tokio::task::AbortHandle>>>;

/// Serves flunders to who shows a certificate of the front proxy; the port.
async fn extension(
    certificate: &Credential,
    clients: &str,
    accepted: Accepted,
) -> (u16, tokio::task::JoinHandle<()>) {
    let config = tls::server_config(certificate, clients, true, &["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            let connection = tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|asked| async { Ok::<_, Infallible>(flunders(asked).await) });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
            accepted.lock().push(connection.abort_handle());
        }
    });
    (port, serving)
}

impl Pair {
    async fn new() -> Self {
        let (front_dir, own_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let front = Authority::open_or_create(front_dir.path(), now()).unwrap();
        let credential = front.issue(&request(FrontProxy::NAME, None, Usage::Client), now()).unwrap();
        let own = Authority::open_or_create(own_dir.path(), now()).unwrap();
        let wanted = CertificateRequest {
            dns_names: vec!["judge.default.svc".into()],
            ..request("flunders", None, Usage::Both)
        };
        let certificate = own.issue(&wanted, now()).unwrap();
        let accepted = Accepted::default();
        let (port, serving) = extension(&certificate, front.certificate(), accepted.clone()).await;
        let proxy = FrontProxy { authority: front.certificate().into(), credential };
        let server = server_with(|c| c.front_proxy = Some(proxy)).await;
        let service = json!({"metadata": {"name": "judge"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
        assert_eq!(ask(&server, "POST", "/api/v1/namespaces/default/services", service).await.0, 201);
        Self { server, port, bundle: STANDARD.encode(own.certificate()), serving, accepted }
    }

    fn api_service(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({
            "metadata": {"name": "v1alpha1.wardle.example.com"},
            "spec": {
                "group": GROUP, "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
                "service": {"namespace": "default", "name": "judge", "port": self.port}, "caBundle": self.bundle,
            },
        });
        change(&mut object);
        object
    }

    async fn register(&self, object: Value) {
        let (code, body) = ask(&self.server, "POST", SERVICES, object).await;
        assert_eq!(code, 201, "{body}");
    }

    /// What aggregated discovery says of the other server's group.
    async fn described(&self) -> Value {
        let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
        let admin = Identity::new("admin", &["system:masters"]);
        let (_, _, all) = send(&self.server, admin, "GET", "/apis", "", &accept).await;
        let found = all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == GROUP);
        found.cloned().unwrap_or_default()
    }

    /// Waits for a condition of the APIService; its status and reason.
    async fn available(&self, wanted: &str) -> Value {
        let path = format!("{SERVICES}/v1alpha1.wardle.example.com");
        let mut seen = Value::Null;
        for _ in 0..500 {
            let (_, object) = ask(&self.server, "GET", &path, Value::Null).await;
            seen = object["status"]["conditions"][0].clone();
            if seen["reason"] == wanted {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{wanted} did not come: {seen}");
    }
}

#[tokio::test]
async fn requests_for_another_server_s_group_reach_it_with_who_asks() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|_| {})).await;
    let condition = pair.available("Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));

    let mut who = Identity::new("jane", &["system:masters"]);
    who.extra.insert("scopes".into(), vec!["a".into(), "b".into()]);
    let headers =
        [("content-type", "application/json"), ("authorization", "Bearer x"), ("x-remote-user", "root")];
    let flunder = json!({"metadata": {"name": "f"}});
    let (code, _, told) =
        send(&pair.server, who, "POST", &format!("{FLUNDERS}?dryRun=All"), flunder.to_string(), &headers)
            .await;
    assert_eq!(code, 201, "{told}");
    assert_eq!(
        (&told["user"], &told["groups"]),
        (&json!(["jane"]), &json!(["system:masters", "system:authenticated"]))
    );
    assert_eq!((&told["extra"], &told["authorization"]), (&json!(["a", "b"]), &json!([])));
    assert_eq!(
        (&told["path"], &told["query"], &told["sent"]),
        (&json!(FLUNDERS), &json!("dryRun=All"), &flunder)
    );

    // Who may not, does not get there.
    let (code, ..) = send(&pair.server, Identity::new("joe", &[]), "GET", FLUNDERS, "", &[]).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn clients_find_the_other_server_s_kinds_as_if_they_were_ours() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|_| {})).await;
    pair.available("Passed").await;
    let group = pair.described().await;
    assert_eq!(group["versions"][0]["resources"][0]["responseKind"]["kind"], "Flunder");
    assert_eq!(group["versions"][0]["freshness"], "Current");
    let (_, index) = ask(&pair.server, "GET", "/openapi/v3", Value::Null).await;
    assert_eq!(
        index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"],
        "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=AB"
    );
    let (_, document) =
        ask(&pair.server, "GET", "/openapi/v3/apis/wardle.example.com/v1alpha1", Value::Null).await;
    assert_eq!(document["user"], json!(["system:kube-aggregator"]));

    let (_, document) = ask(&pair.server, "GET", "/openapi/v2", Value::Null).await;
    assert_eq!(document["definitions"]["Flunder"]["description"], "Made elsewhere.");
    assert!(document["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object());

    let client = client(&pair.server);
    let found = Discovery::new(client.clone()).filter(&[GROUP]).run().await.unwrap();
    let (resource, _) = found.get(GROUP).unwrap().recommended_kind("Flunder").unwrap();
    let flunder = Api::<DynamicObject>::default_namespaced_with(client, &resource).get("f").await.unwrap();
    assert_eq!(flunder.data["path"], format!("{FLUNDERS}/f"));
}

#[tokio::test]
async fn watches_come_through_piece_by_piece() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|_| {})).await;
    pair.available("Passed").await;
    let request = http::Request::get(format!("{FLUNDERS}?watch=true"))
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let mut service = pair.server.service_for(Identity::new("admin", &["system:masters"]));
    let mut response = tower::Service::call(&mut service, request).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&first).unwrap()["type"], "ADDED");
    // The server's end ends the watch, though the other one goes on.
    pair.server.stop();
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn connections_are_turned_over_to_the_other_server() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|_| {})).await;
    pair.available("Passed").await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), now()).unwrap();
    let own = authority.issue(&request("kube-apiserver", None, Usage::Both), now()).unwrap();
    let admin = authority.issue(&request("admin", Some("system:masters"), Usage::Client), now()).unwrap();
    let config = tls::server_config(&own, authority.certificate(), false, &["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(pair.server.clone().serve(listener, config, CancellationToken::new()));
    let config = tls::client_config(authority.certificate(), Some(&admin)).unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let head = format!(
        "GET {FLUNDERS}/f/console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_said_to_be_so_and_its_requests_fail() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|o| o["spec"]["service"]["name"] = json!("missing"))).await;
    let condition = pair.available("ServiceNotFound").await;
    assert_eq!(condition["message"], "service/missing in \"default\" is not present");
    let (code, text) = ask(&pair.server, "GET", FLUNDERS, Value::Null).await;
    assert_eq!((code, &text), (503, &json!("service unavailable\n")));
    // Its group is there all the same, and known to be stale.
    let (code, group) = ask(&pair.server, "GET", "/apis/wardle.example.com", Value::Null).await;
    assert_eq!((code, &group["preferredVersion"]["version"]), (200, &json!("v1alpha1")));
    let versions = pair.described().await["versions"].clone();
    assert_eq!(versions, json!([{"version": "v1alpha1", "freshness": "Stale", "resources": []}]));

    // A certificate for another Service is not taken.
    let service = json!({"metadata": {"name": "missing"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    ask(&pair.server, "POST", "/api/v1/namespaces/default/services", service).await;
    let condition = pair.available("FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("tls: failed to verify certificate"), "{message}");

    // It comes back with the right one, and goes when it ends; what it served is remembered.
    let path = format!("{SERVICES}/v1alpha1.wardle.example.com");
    let (code, _) =
        ask(&pair.server, "PATCH", &path, json!({"spec": pair.api_service(|_| {})["spec"]})).await;
    assert_eq!(code, 200);
    pair.available("Passed").await;
    assert_eq!(ask(&pair.server, "GET", FLUNDERS, Value::Null).await.0, 200);
    pair.serving.abort();
    let (code, _) = ask(&pair.server, "PATCH", &path, json!({"spec": {"versionPriority": 7}})).await;
    assert_eq!(code, 200);
    let condition = pair.available("FailedDiscoveryCheck").await;
    let url = "failing or missing response from https://judge.default.svc:";
    assert!(condition["message"].as_str().unwrap().starts_with(url), "{condition}");
    let described = pair.described().await;
    assert_eq!(described["versions"][0]["freshness"], "Stale");
    assert_eq!(described["versions"][0]["resources"][0]["resource"], "flunders");

    let (code, _) = ask(&pair.server, "DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    for _ in 0..500 {
        if ask(&pair.server, "GET", FLUNDERS, Value::Null).await.0 == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("requests still go elsewhere");
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_no_other() {
    let pair = Pair::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mute = pair.api_service(|_| {});
    mute["metadata"]["name"] = json!("v1.mute.example.com");
    (mute["spec"]["group"], mute["spec"]["version"]) = (json!("mute.example.com"), json!("v1"));
    mute["spec"]["service"]["port"] = json!(silent.local_addr().unwrap().port());
    pair.register(mute).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = std::time::Instant::now();
    pair.register(pair.api_service(|_| {})).await;
    pair.available("Passed").await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let (code, _) = ask(&pair.server, "GET", "/apis/mute.example.com/v1/things", Value::Null).await;
    assert_eq!(code, 503);
}

#[tokio::test]
async fn a_connection_serves_many_requests_until_it_ends() {
    let pair = Pair::new().await;
    pair.register(pair.api_service(|_| {})).await;
    pair.available("Passed").await;
    let get = async || ask(&pair.server, "GET", FLUNDERS, Value::Null).await.0;
    let accepted = || pair.accepted.lock().len();
    let before = accepted();
    for _ in 0..20 {
        assert_eq!(get().await, 200);
        // What has been answered is put back beside the next request.
        tokio::task::yield_now().await;
    }
    assert!(accepted() - before <= 2, "{} connections for 20 requests", accepted() - before);

    // The other server closes them: the next request is none the worse for it, also one that may not be made twice.
    for method in ["GET", "POST"] {
        pair.accepted.lock().iter().for_each(tokio::task::AbortHandle::abort);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (code, told) = ask(&pair.server, method, FLUNDERS, json!({"metadata": {"name": "f"}})).await;
        assert!(code < 300, "{method}: {code} {told}");
    }
}

#[tokio::test]
async fn a_server_may_be_trusted_without_looking() {
    let pair = Pair::new().await;
    let insecure = pair.api_service(|o| {
        o["spec"]["insecureSkipTLSVerify"] = json!(true);
        o["spec"].as_object_mut().unwrap().remove("caBundle");
    });
    pair.register(insecure).await;
    pair.available("Passed").await;
    assert_eq!(ask(&pair.server, "GET", FLUNDERS, Value::Null).await.0, 200);
}

#[tokio::test]
async fn what_is_served_here_is_listed_as_local() {
    let server = server_with(|c| c.client_authority = "PEM".into()).await;
    let mut apps = Value::Null;
    for _ in 0..500 {
        (_, apps) = ask(&server, "GET", &format!("{SERVICES}/v1.apps"), Value::Null).await;
        if apps["status"]["conditions"][0]["reason"] == "Local" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(apps["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(apps["status"]["conditions"][0]["message"], "Local APIServices are always available");
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (_, map) = ask(&server, "GET", path, Value::Null).await;
    assert_eq!(map["data"], json!({"client-ca-file": "PEM"}));

    // Those of custom resources come and go with their definitions.
    let definition = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(ask(&server, "POST", definitions, definition).await.0, 201);
    let exists = |wanted: bool| {
        let server = server.clone();
        async move {
            for _ in 0..500 {
                if (ask(&server, "GET", &format!("{SERVICES}/v1.example.com"), Value::Null).await.0 == 200)
                    == wanted
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("the APIService of the definition: {wanted}");
        }
    };
    exists(true).await;
    // What is changed or deleted comes back.
    let path = format!("{SERVICES}/v1.example.com");
    assert_eq!(ask(&server, "DELETE", &path, Value::Null).await.0, 200);
    exists(true).await;
    assert_eq!(ask(&server, "PATCH", &path, json!({"spec": {"versionPriority": 5}})).await.0, 200);
    let corrected = async {
        while ask(&server, "GET", &path, Value::Null).await.1["spec"]["versionPriority"] != 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), corrected).await.expect("it is corrected");
    assert_eq!(
        ask(&server, "DELETE", &format!("{definitions}/things.example.com"), Value::Null).await.0,
        200
    );
    exists(false).await;
}

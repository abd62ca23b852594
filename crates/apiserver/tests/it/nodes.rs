//! Streams to nodes: a small server stands in for the node.

use crate::{
    pods::{account, bind, pod},
    support::{ask, send},
    tls::{Served, now, request, served},
};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use orlop_apiserver::Identity;
use orlop_pki::{Usage, tls};
use serde_json::{Value, json};
use std::{convert::Infallible, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Answers logs with the path it was asked for, and echoes what comes through an upgrade.
async fn node_answers(
    mut asked: http::Request<Incoming>,
) -> Result<http::Response<Full<bytes::Bytes>>, Infallible> {
    let path = asked.uri().path_and_query().unwrap().to_string();
    if path.contains("missing") {
        let mut response = http::Response::new(Full::from("container \"missing\" is waiting to start"));
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        return Ok(response);
    }
    if !asked.headers().contains_key("upgrade") {
        return Ok(http::Response::new(Full::from(format!("asked for {path}\n"))));
    }
    let upgraded = hyper::upgrade::on(&mut asked);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        stream.write_all(format!("{path}\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.ok();
    });
    let mut response = http::Response::new(Full::default());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    for name in ["upgrade", "connection", "sec-websocket-protocol"] {
        if let Some(value) = asked.headers().get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

async fn node(served: &Served) -> SocketAddr {
    let own =
        served.authority.issue(&request("system:node:n1", Some("system:nodes"), Usage::Both), now()).unwrap();
    let config = tls::server_config(&own, served.authority.certificate(), true, &["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(node_answers);
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                connection.await.ok();
            });
        }
    });
    address
}

/// A server with a node and a pod `web` on it, and a pod `homeless`.
async fn cluster() -> Served {
    let served = served().await;
    let address = node(&served).await;
    let server = &served.server;
    account(server, "default").await;
    let (code, made) = ask(server, "POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    let (code, status) = ask(server, "PATCH", "/api/v1/nodes/n1/status", status).await;
    assert_eq!(code, 200, "{status}");
    for name in ["web", "homeless"] {
        let mut pod = pod(name);
        pod["spec"]["containers"] = json!([{"name": "a", "image": "i"}, {"name": "missing", "image": "i"}]);
        let (code, made) = ask(server, "POST", "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, 201, "{made}");
    }
    bind(server, "web", "n1").await;
    served
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let served = cluster().await;
    let get = async |path: &str| {
        let admin = Identity::new("admin", &["system:masters"]);
        let uri = format!("/api/v1/namespaces/default/pods/{path}");
        let (code, _, body) = send(&served.server, admin, "GET", &uri, "", &[]).await;
        (code, body)
    };
    let (code, body) = get("web/log?container=a&tailLines=5&timestamps=true&other=1").await;
    assert_eq!(
        (code, body),
        (200, json!("asked for /containerLogs/default/web/a?timestamps=true&tailLines=5\n"))
    );
    let (code, body) = get("web/log").await;
    assert_eq!(
        (code, &body["message"]),
        (400, &json!("a container name must be specified for pod web, choose one of: [a missing]"))
    );
    let (code, body) = get("web/log?container=missing").await;
    assert_eq!((code, &body["message"]), (400, &json!("container \"missing\" is waiting to start")));
    assert_eq!(get("homeless/log?container=a").await, (200, json!("")));
    assert_eq!(get("nobody/log").await.0, 404);
    assert_eq!(get("web/log?container=a&tailLines=-1").await.0, 422);
    let (code, body) = get("web/exec?container=a&command=ls&stdout=1").await;
    assert_eq!((code, &body["message"]), (400, &json!("Upgrade request required")));
    let (_, body) = get("homeless/exec?container=a&command=ls&stdout=1").await;
    assert_eq!(body["message"], "pod homeless does not have a host assigned");
    let admin = Identity::new("admin", &["system:masters"]);
    let (code, _, body) =
        send(&served.server, admin, "GET", "/api/v1/nodes/n1/proxy/stats/summary?x=1", "", &[]).await;
    assert_eq!((code, body), (200, Value::from("asked for /stats/summary?x=1\n")));
}

#[tokio::test]
async fn exec_hands_the_connection_over_to_the_node() {
    let served = cluster().await;
    let admin = served.credential("admin", Some("system:masters"));
    let config = tls::client_config(served.authority.certificate(), Some(&admin)).unwrap();
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let head = "GET /api/v1/namespaces/default/pods/web/exec?container=a&command=sh&command=-c&stdin=true&stdout=true HTTP/1.1\r\n\
        Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"hello node").await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with("hello node") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert!(text.to_lowercase().contains("sec-websocket-protocol: v5.channel.k8s.io"), "{text}");
    assert!(text.contains("/exec/default/web/a?input=1&output=1&command=sh&command=-c\n"), "{text}");
}

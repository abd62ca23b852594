use super::*;
use crate::fake::FakeRuntime;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn container(ports: Value) -> Container {
    serde_json::from_value(json!({"name": "c", "ports": ports})).expect("a container")
}

fn probe(value: Value) -> Probe {
    serde_json::from_value(value).expect("a probe")
}

async fn ask(probe: Value, container: &Container) -> Result<(), Unwell> {
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(FakeRuntime::default());
    let handler = Handler::of_probe(&self::probe(probe), container, Some(LOCAL)).map_err(Unwell::Errored)?;
    handler.run(&runtime, "id", Duration::from_millis(500)).await
}

/// A server for one kind of connection; ends with the test.
async fn serve<F, R>(on: F) -> u16
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOCAL, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(on(stream));
        }
    });
    port
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let status = match request.uri().path() {
        "/ok" | "/" => 200,
        "/moved" => 302,
        "/agent" if header("user-agent") == "kube-probe/1.36" => 200,
        "/mine" if header("host") == "example.com" && header("x-a") == "b" => 200,
        _ => 503,
    };
    Ok(Response::builder()
        .status(status)
        .body(Full::new(Bytes::from("x".repeat(20_000))))
        .expect("an answer"))
}

async fn http_server() -> u16 {
    serve(async |stream| {
        let service = service_fn(answer);
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

#[tokio::test]
async fn an_http_answer_below_400_is_well_and_any_other_is_named() {
    let port = http_server().await;
    let c = container(json!([{"name": "web", "containerPort": port}]));
    for (get, expected) in [
        (json!({"path": "/ok", "port": port}), None),
        (json!({"path": "ok", "port": "web"}), None),
        (json!({"port": port}), None),
        (json!({"path": "/moved", "port": port}), None),
        (json!({"path": "/agent", "port": port}), None),
        (
            json!({"path": "/mine", "port": port, "httpHeaders": [{"name": "Host", "value": "example.com"}, {"name": "X-A", "value": "b"}]}),
            None,
        ),
        (json!({"path": "/no", "port": port}), Some("HTTP probe failed with statuscode: 503")),
        (json!({"path": "/ok", "port": "none"}), Some("couldn't find port: \"none\" in container c")),
    ] {
        let got = ask(json!({"httpGet": get}), &c).await.err().map(|e| e.text().to_string());
        assert_eq!(got.as_deref(), expected, "{get}");
    }
}

#[tokio::test]
async fn https_is_asked_whatever_the_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = jiff::Timestamp::now().as_second();
    let authority = orlop_pki::Authority::open_or_create(folder.path(), now).expect("an authority");
    let request = orlop_pki::CertificateRequest {
        common_name: "nobody".into(),
        organization: None,
        dns_names: vec!["elsewhere".into()],
        addresses: vec![],
        usage: orlop_pki::Usage::Server,
        days: 1,
    };
    let credential = authority.issue(&request, now).expect("a certificate");
    let config = orlop_pki::tls::server_config(&credential, authority.certificate(), false, &[]);
    let config = config.expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let port = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(answer);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let get = json!({"httpGet": {"path": "/ok", "port": port, "scheme": "HTTPS"}});
    assert_eq!(ask(get, &container(json!([]))).await, Ok(()));
}

#[tokio::test]
async fn a_closed_port_is_refused_and_a_silent_server_times_out() {
    let free = TcpListener::bind((LOCAL, 0)).await.expect("a port").local_addr().expect("an address").port();
    let c = container(json!([]));
    for probe in [
        json!({"tcpSocket": {"port": free}}),
        json!({"httpGet": {"port": free}}),
        json!({"grpc": {"port": free}}),
    ] {
        let error = ask(probe.clone(), &c).await.expect_err("refused");
        assert!(error.text().contains("connection refused"), "{probe}: {error:?}");
    }
    let silent = serve(async |mut stream| {
        let mut byte = [0; 1024];
        while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    assert_eq!(ask(json!({"tcpSocket": {"port": silent}}), &c).await, Ok(()));
    for probe in [json!({"httpGet": {"port": silent}}), json!({"grpc": {"port": silent}})] {
        let error = ask(probe.clone(), &c).await.expect_err("timed out");
        assert!(error.text().contains("deadline exceeded"), "{probe}: {error:?}");
    }
}

#[tokio::test]
async fn a_grpc_server_says_whether_it_serves() {
    let port = serve(async |stream| {
        let service = service_fn(async |request: Request<Incoming>| {
            use http_body_util::BodyExt;
            let path = request.uri().path().to_string();
            let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let status = if body.ends_with(b"sick") { 2 } else { 1 };
            let code = if path == "/grpc.health.v1.Health/Check" { "0" } else { "12" };
            let data = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
            let trailers = hyper::HeaderMap::from_iter([(
                hyper::header::HeaderName::from_static("grpc-status"),
                hyper::header::HeaderValue::from_static(code),
            )]);
            let body = data.with_trailers(async move { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let c = container(json!([]));
    assert_eq!(ask(json!({"grpc": {"port": port}}), &c).await, Ok(()));
    assert_eq!(ask(json!({"grpc": {"port": port, "service": "well"}}), &c).await, Ok(()));
    let sick = ask(json!({"grpc": {"port": port, "service": "sick"}}), &c).await.expect_err("sick");
    assert_eq!(sick.text(), "service unhealthy (responded with \"NOT_SERVING\")");
}

#[tokio::test]
async fn a_command_is_well_when_it_exits_with_zero() {
    let c = container(json!([]));
    assert_eq!(ask(json!({"exec": {"command": ["true"]}}), &c).await, Ok(()));
    let failed = ask(json!({"exec": {"command": ["fail", "7"]}}), &c).await.expect_err("failed");
    assert_eq!(failed, Unwell::Failed("command terminated with exit code 7".into()));
}

//! A webhook as other people write them: an HTTPS server with a certificate of its own authority.

use crate::tls::{now, request};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use orlop_pki::{Authority, CertificateRequest, Usage, tls};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A webhook that runs. Its certificate is for `localhost`, 127.0.0.1 and the Service `judge` in `default`.
pub struct Webhook {
    pub url: String,
    pub port: u16,
    /// Its authority, as `caBundle` takes it.
    pub bundle: String,
    /// How often it was asked.
    pub calls: Arc<AtomicUsize>,
}

/// Answers each review with what `respond` makes of its request, under the same uid.
pub async fn webhook(respond: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Webhook {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), now()).unwrap();
    let names = ["localhost", "judge.default.svc"].map(Into::into).into();
    let wanted = CertificateRequest { dns_names: names, ..request("webhook", None, Usage::Both) };
    let credential = authority.issue(&wanted, now()).unwrap();
    let config = tls::server_config(&credential, authority.certificate(), false, &["http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, respond) = (calls.clone(), Arc::new(respond));
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, respond, counted) = (acceptor.clone(), respond.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (respond, counted) = (respond.clone(), counted.clone());
                    async move {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let bytes = request.into_body().collect().await.unwrap().to_bytes();
                        let review: Value = serde_json::from_slice(&bytes).unwrap();
                        let mut response = respond(&review["request"]);
                        response["uid"] = review["request"]["uid"].clone();
                        let answer = json!({
                            "apiVersion": review["apiVersion"], "kind": review["kind"], "response": response,
                        });
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(answer.to_string()))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Webhook {
        url: format!("https://{address}/review"),
        port: address.port(),
        bundle: STANDARD.encode(authority.certificate()),
        calls,
    }
}

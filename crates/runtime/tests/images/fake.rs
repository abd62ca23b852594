//! A registry that misbehaves as told.

use super::fixture::{Fixture, MANIFEST};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, Response, StatusCode, header},
    routing::get,
};
use orlop_runtime::image::Digest;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// What the registry holds and how it behaves.
#[derive(Default)]
pub struct Behaviour {
    /// By tag or digest: media type and body.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    /// By digest: what is sent for it, right or wrong.
    pub blobs: HashMap<String, Vec<u8>>,
    /// Break the connection after so many bytes of a blob.
    pub break_after: Option<usize>,
    /// Ignore ranges.
    pub no_ranges: bool,
    /// Answer so many requests with 503 first.
    pub unavailable: usize,
    /// Ask for a token, given to user `user` with password `secret`.
    pub token: bool,
    /// Wait before each blob.
    pub slow: bool,
}

#[derive(Clone)]
pub struct FakeRegistry {
    pub behaviour: Arc<Mutex<Behaviour>>,
    /// Requests so far: path, and the start of the range.
    pub requests: Arc<Mutex<Vec<(String, usize)>>>,
    pub address: String,
}

impl FakeRegistry {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            behaviour: Arc::new(Mutex::new(behaviour)),
            requests: Arc::default(),
            address: listener.local_addr().unwrap().to_string(),
        };
        let router = Router::new()
            .route("/v2/", get(version))
            .route("/token", get(token))
            .route("/v2/{repository}/manifests/{reference}", get(manifest))
            .route("/v2/{repository}/blobs/{digest}", get(blob))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn requests_for(&self, digest: &Digest) -> Vec<usize> {
        let requests = self.requests.lock();
        requests.iter().filter(|(path, _)| path.ends_with(digest.as_str())).map(|(_, from)| *from).collect()
    }
}

impl Behaviour {
    pub fn with(mut self, tag: &str, image: &Fixture) -> Self {
        let manifest = (MANIFEST.to_string(), image.manifest.clone());
        self.manifests.insert(tag.into(), manifest.clone());
        self.manifests.insert(image.digest().to_string(), manifest);
        self.blobs.insert(image.id().to_string(), image.config.clone());
        for layer in &image.layers {
            self.blobs.insert(Digest::of(&layer.bytes).to_string(), layer.bytes.clone());
        }
        self
    }
}

type Answer = Response<Body>;

fn answer(status: StatusCode, body: impl Into<Body>) -> Answer {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// The answer that every request gets while the registry is not willing.
fn refused(registry: &FakeRegistry, headers: &HeaderMap) -> Option<Answer> {
    let mut behaviour = registry.behaviour.lock();
    if behaviour.unavailable > 0 {
        behaviour.unavailable -= 1;
        return Some(answer(StatusCode::SERVICE_UNAVAILABLE, "later"));
    }
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|v| v == "Bearer good");
    (behaviour.token && !authorized).then(|| {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", registry.address);
        Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, realm)
            .body(Body::empty())
            .unwrap()
    })
}

async fn version(State(registry): State<FakeRegistry>, headers: HeaderMap) -> Answer {
    refused(&registry, &headers).unwrap_or_else(|| answer(StatusCode::OK, "{}"))
}

async fn token(headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Answer {
    // user:secret
    let good = headers.get(header::AUTHORIZATION).is_some_and(|v| v == "Basic dXNlcjpzZWNyZXQ=");
    if good && query.get("scope").is_some_and(|s| s.ends_with(":pull")) {
        answer(StatusCode::OK, r#"{"token":"good","expires_in":300}"#)
    } else {
        answer(StatusCode::UNAUTHORIZED, "wrong user or password")
    }
}

async fn manifest(
    State(registry): State<FakeRegistry>,
    Path((repository, reference)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    registry.requests.lock().push((format!("{repository}/{reference}"), 0));
    if let Some(refused) = refused(&registry, &headers) {
        return refused;
    }
    match registry.behaviour.lock().manifests.get(&reference) {
        Some((kind, body)) => {
            Response::builder().header(header::CONTENT_TYPE, kind).body(Body::from(body.clone())).unwrap()
        }
        None => answer(
            StatusCode::NOT_FOUND,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        ),
    }
}

async fn blob(
    State(registry): State<FakeRegistry>,
    Path((_, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    if let Some(refused) = refused(&registry, &headers) {
        return refused;
    }
    if registry.behaviour.lock().slow {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let behaviour = registry.behaviour.lock();
    let from = headers
        .get(header::RANGE)
        .filter(|_| !behaviour.no_ranges)
        .and_then(|v| v.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    registry.requests.lock().push((digest.clone(), from.unwrap_or(0)));
    let Some(body) = behaviour.blobs.get(&digest) else {
        return answer(StatusCode::NOT_FOUND, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"gone"}]}"#);
    };
    let start = from.unwrap_or(0);
    if start > 0 && start >= body.len() {
        return answer(StatusCode::RANGE_NOT_SATISFIABLE, "");
    }
    let part = body[start..].to_vec();
    let length = part.len();
    let broken = behaviour.break_after.filter(|most| *most < length && length > 4096);
    let body = match broken {
        None => Body::from(part),
        Some(most) => {
            Body::from_stream(futures::stream::unfold(Some(part[..most].to_vec()), |start| async {
                match start {
                    Some(start) => Some((Ok(Bytes::from(start)), None)),
                    None => {
                        // What was written before has to leave first.
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        Some((Err(std::io::Error::other("broken off")), None))
                    }
                }
            }))
        }
    };
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Response::builder().status(status).header(header::CONTENT_LENGTH, length).body(body).unwrap()
}

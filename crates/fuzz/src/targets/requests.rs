//! Whole requests to an API server with everything behind it: paths, queries, headers, bodies. Several requests of an
//! input, separated by `%%`, come one after the other to the same server. Each is written as in HTTP/1.1: method and
//! address, headers, an empty line, the body.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_store::Embedded;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tower::Service;

/// After so many inputs the server starts anew, so that what they left behind does not add up.
const INPUTS: usize = 500;
/// When a request that is no stream has an answer at the latest, on a machine that is busy with other things.
const LATEST: Duration = Duration::from_secs(120);
/// How long the answer of a stream is read.
const PATIENCE: Duration = Duration::from_millis(20);

struct World {
    runtime: tokio::runtime::Runtime,
    server: Arc<ApiServer>,
    left: usize,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

fn fresh() -> World {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = Config::new(Arc::new(Embedded::in_memory()));
    let server = runtime.block_on(ApiServer::start(config)).expect("the server starts");
    World { runtime, server, left: INPUTS }
}

pub(super) fn run(input: &[u8]) {
    let mut held = WORLD.lock();
    let world = match held.take() {
        Some(world) if world.left > 0 => held.insert(World { left: world.left - 1, ..world }),
        _ => held.insert(fresh()),
    };
    world.runtime.block_on(async {
        for request in crate::sections::sections(input, 6) {
            if let Some(request) = read(request) {
                answer(&world.server, request).await;
            }
        }
    });
}

fn read(bytes: &[u8]) -> Option<http::Request<Full<Bytes>>> {
    let (head, body) = match bytes.windows(2).position(|w| w == b"\n\n") {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (bytes, &[][..]),
    };
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (method, uri) = lines.next()?.split_once(' ')?;
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in lines.filter_map(|l| l.split_once(": ")) {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body))).ok()
}

async fn answer(server: &Arc<ApiServer>, request: http::Request<Full<Bytes>>) {
    let told = format!("{} {}", request.method(), request.uri());
    let who = Identity::new("admin", &["system:masters"]);
    let response = tokio::time::timeout(LATEST, server.service_for(who).call(request)).await;
    let Ok(Ok(response)) = response else { panic!("no answer to {told}") };
    let code = response.status().as_u16();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let Ok(Ok(body)) = body else { return };
    let body = body.to_bytes();
    let panicked = body.windows(28).any(|w| w == b"request could not be handled");
    assert!(!panicked, "{told} is answered with {}", String::from_utf8_lossy(&body));
    if code >= 400 && body.first() == Some(&b'{') {
        let status: serde_json::Value = serde_json::from_slice(&body).expect("a Status is JSON");
        assert_eq!(status["code"], code, "{told}: {status}");
    }
}

//! Hands a client's connection over to a node: the request to upgrade (WebSocket, RFC 6455, or SPDY) is passed on as it is,
//! and once the node agrees, bytes are copied both ways.

use crate::{
    pipeline::Held,
    response::{self, Response},
    streaming::node::Nodes,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use orlop_api::Status;
use serde_json::Value;

/// The most that is read of a node's refusal.
const REFUSAL: usize = 1 << 20;

/// Whether a client asks to turn the connection over.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get(header::CONNECTION)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
}

/// Headers that the node needs to answer the client's upgrade. The client's credentials stay here.
fn passes(name: &HeaderName) -> bool {
    *name == header::UPGRADE
        || *name == header::CONNECTION
        || name.as_str().starts_with("sec-websocket-")
        || name.as_str() == "x-stream-protocol-version"
}

/// Passes the request on to `path` at the node, and the connection with it.
pub(super) async fn forward(
    nodes: &Nodes,
    node: &Value,
    mut parts: Parts,
    path: &str,
) -> Result<Response, Status> {
    let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(Status::bad_request(
            "unable to upgrade: this connection cannot be turned over; use HTTP/1.1",
        ));
    };
    let mut request = http::Request::builder()
        .method(if parts.method == Method::POST { Method::POST } else { Method::GET })
        .uri(path)
        .body(Full::new(Bytes::new()))
        .map_err(|_| Status::bad_request("the path for the node is not valid"))?;
    for (name, value) in parts.headers.iter().filter(|(name, _)| passes(name)) {
        request.headers_mut().append(name, value.clone());
    }
    let answer = nodes.send(node, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    Ok(turn_over(client, answer, passes))
}

/// Joins the client's connection with that of an answer that agreed to turn its own over. `passes` tells which headers go on.
pub(crate) fn turn_over(
    client: OnUpgrade,
    mut answer: http::Response<hyper::body::Incoming>,
    passes: impl Fn(&HeaderName) -> bool,
) -> Response {
    let upstream = hyper::upgrade::on(&mut answer);
    let mut response = response::text(200, "");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().clear();
    for (name, value) in answer.headers().iter().filter(|(name, _)| passes(name)) {
        response.headers_mut().append(name, value.clone());
    }
    let held = Held::default();
    response.extensions_mut().insert(held.clone());
    tokio::spawn(async move {
        let _held = held;
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be turned over");
                return;
            }
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
            tracing::debug!(%error, "a stream to a node broke");
        }
    });
    response
}

/// What a node said instead of doing it, as a `Status`.
pub(super) async fn refusal(answer: http::Response<hyper::body::Incoming>) -> Status {
    let code = answer.status().as_u16();
    let text = match Limited::new(answer.into_body(), REFUSAL).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_string(),
        Err(_) => String::new(),
    };
    if let Ok(value) = serde_json::from_str::<Value>(&text)
        && value.get("kind").and_then(Value::as_str) == Some("Status")
    {
        let message = orlop_api::object::text(&value, "/message").to_string();
        return Status { details: value.get("details").cloned(), ..Status::new(code, reason(code), message) };
    }
    let message = if text.is_empty() { format!("the node answered with code {code}") } else { text };
    // A node that did not do what was agreed on is our trouble, not the client's.
    let code = if (400..600).contains(&code) { code } else { 502 };
    Status::new(code, reason(code), message)
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

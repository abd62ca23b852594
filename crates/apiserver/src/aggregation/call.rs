//! What is said to an aggregated API server: who asks (Kubernetes documentation, "Configure the Aggregation Layer"), and a request over a
//! connection of its own. Decides nothing.

use super::Route;
use crate::{Identity, registry::Registry, remote};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde_json::Value;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer to a question of the server itself may take, and how large it may be.
const ANSWER: Duration = Duration::from_secs(5);
const LARGEST: usize = 16 << 20;

/// What a header's name may not hold (RFC 9110 section 5.6.2), and the sign of the escape itself.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Whether a header of the client goes on to the other server. Who the client is, this server says.
pub(super) fn passes(name: &HeaderName, upgrade: bool) -> bool {
    let of_connection = [header::CONNECTION, header::UPGRADE];
    let stays = [
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ];
    !stays.contains(name)
        && (upgrade || !of_connection.contains(name))
        && !["x-remote-", "impersonate-", "keep-alive", "proxy-connection"]
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}

/// Says who asks.
pub(super) fn introduce(who: &Identity, headers: &mut HeaderMap) {
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &who.user);
    if !who.uid.is_empty() {
        add("x-remote-uid", &who.uid);
    }
    for group in &who.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &who.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, ESCAPED)).to_ascii_lowercase();
        for value in values {
            add(&name, value);
        }
    }
}

/// Says for whose connection a request is passed on, behind those for whom others did.
pub(super) fn forwarded_for(address: IpAddr, headers: &mut HeaderMap) {
    let name = HeaderName::from_static("x-forwarded-for");
    let before: Vec<&str> = headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).collect();
    let all = [before.join(", "), address.to_string()];
    let text = all.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(name, value);
    }
}

/// Whether a request may be made twice without harm.
fn is_repeatable(request: &http::Request<Full<Bytes>>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Sends a request, whose URI is a path, to one of the endpoints behind a route.
pub(super) async fn send(
    registry: &Registry,
    route: &Route,
    tls: Arc<ClientConfig>,
    mut request: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, String> {
    let mut place = remote::service(registry, &route.namespace, &route.service, route.port)?;
    if let Ok(host) = HeaderValue::from_str(&place.authority) {
        request.headers_mut().insert(header::HOST, host);
    }
    let turns_over = request.headers().contains_key(header::UPGRADE);
    while !turns_over && let Some((address, mut sender)) = route.connections.take(&place.addresses) {
        let again = is_repeatable(&request).then(|| request.clone());
        match sender.try_send_request(request).await {
            Ok(answer) => {
                route.connections.keep(address, sender);
                return Ok(answer);
            }
            // The other end closed the connection while nobody used it.
            Err(mut error) => match error.take_message().or(again) {
                Some(unanswered) => request = unanswered,
                None => return Err(error.into_error().to_string()),
            },
        }
    }
    // Requests are spread over the endpoints.
    let count = place.addresses.len().max(1);
    place.addresses.rotate_left(rand::random::<u32>() as usize % count);
    let (stream, address) = tokio::time::timeout(CONNECT, remote::dial(&place, tls))
        .await
        .map_err(|_| format!("dial tcp {}: i/o timeout", place.addresses.join(", ")))??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an aggregated server ended");
        }
    });
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    if !turns_over {
        route.connections.keep(address, sender);
    }
    Ok(answer)
}

/// The aggregator itself, as other servers see it.
pub(super) fn aggregator() -> Identity {
    Identity {
        user: "system:kube-aggregator".into(),
        groups: vec!["system:masters".into()],
        ..Identity::default()
    }
}

/// Asks for a JSON document, as the aggregator.
pub(super) async fn ask(registry: &Registry, route: &Route, path: &str) -> Result<Value, String> {
    Ok(ask_if_not("", registry, route, path).await?.map(|(document, _)| document).unwrap_or_default())
}

/// Asks for a JSON document that is not the one with this `ETag`; it comes with its own.
pub(super) async fn ask_if_not(
    known: &str,
    registry: &Registry,
    route: &Route,
    path: &str,
) -> Result<Option<(Value, String)>, String> {
    let url = format!("https://{}.{}.svc:{}{path}", route.service, route.namespace, route.port);
    let mut request = http::Request::get(path)
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::new()))
        .map_err(|e| e.to_string())?;
    if let Some(known) = HeaderValue::from_str(known).ok().filter(|known| !known.is_empty()) {
        request.headers_mut().insert(header::IF_NONE_MATCH, known);
    }
    introduce(&aggregator(), request.headers_mut());
    let answer = async {
        let tls = route.tls.clone()?;
        let answer = send(registry, route, tls, request).await?;
        let code = answer.status();
        if code == StatusCode::NOT_MODIFIED && !known.is_empty() {
            return Ok(None);
        }
        if !code.is_success() {
            return Err(format!("bad status from {url}: {}", code.as_u16()));
        }
        let etag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let etag = etag.unwrap_or_default().to_string();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|e| e.to_string())?;
        Ok(Some((serde_json::from_slice(&body.to_bytes()).unwrap_or_default(), etag)))
    };
    tokio::time::timeout(ANSWER, answer)
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".into()))
        .map_err(|why| format!("failing or missing response from {url}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_other_server_is_told_who_asks() {
        let who = Identity {
            user: "jane".into(),
            uid: "7".into(),
            groups: vec!["a".into(), "b".into()],
            extra: BTreeMap::from([("Example.com/scopes%".into(), vec!["x".into(), "y".into()])]),
            fence: None,
        };
        let mut headers = HeaderMap::new();
        introduce(&who, &mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-remote-user"), all("x-remote-uid")), (vec!["jane"], vec!["7"]));
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-example.com%2fscopes%25"), ["x", "y"]);
    }

    #[test]
    fn every_hop_adds_whom_it_speaks_for() {
        let mut headers = HeaderMap::new();
        for address in ["192.0.2.1", "2001:db8::1"] {
            forwarded_for(address.parse().unwrap(), &mut headers);
        }
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 2001:db8::1");
    }

    #[test]
    fn nobody_says_of_themselves_who_they_are() {
        let passes = |name: &'static str| passes(&HeaderName::from_static(name), false);
        for name in [
            "authorization",
            "x-remote-user",
            "x-remote-group",
            "x-remote-extra-a",
            "impersonate-user",
            "upgrade",
        ] {
            assert!(!passes(name), "{name}");
        }
        assert!(passes("accept") && passes("content-type") && passes("user-agent") && passes("audit-id"));
        assert!(super::passes(&header::UPGRADE, true));
    }
}

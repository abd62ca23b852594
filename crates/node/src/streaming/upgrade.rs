//! Turns a request into a stream of bytes: WebSocket (RFC 6455) or SPDY/3.1 by `Upgrade`, and which subprotocol both sides
//! speak. What is said on the stream is not its concern.

use super::response::{Body, Refusal, full};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Header by which SPDY clients offer subprotocols, and learn which one it is.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// The bytes of an upgraded connection.
pub type Io = TokioIo<Upgraded>;

/// What a request wants to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Spdy,
}

impl Transport {
    /// What the `Upgrade` header asks for.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let names = |name: &str| tokens(headers, name).map(|t| t.to_ascii_lowercase()).collect::<Vec<_>>();
        if names("connection").iter().any(|t| t == "upgrade") {
            let wanted = names("upgrade");
            if wanted.iter().any(|t| t == "websocket") {
                return Ok(Self::WebSocket);
            }
            if wanted.iter().any(|t| t == "spdy/3.1") {
                return Ok(Self::Spdy);
            }
        }
        let text = "unable to upgrade: missing upgrade headers in request: Connection: Upgrade, Upgrade: websocket or SPDY/3.1";
        Err(Refusal::bad_request(text))
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

/// The answer that upgrades a request, the subprotocol agreed on (the first offered one of `supported`; empty if a
/// WebSocket client offers none), and what resolves to the stream once the answer is sent.
pub struct Accepted {
    pub response: Response<Body>,
    pub protocol: &'static str,
    pub stream: hyper::upgrade::OnUpgrade,
}

/// Accepts an upgrade.
pub fn accept(
    mut request: Request<Incoming>,
    transport: Transport,
    supported: &[&'static str],
) -> Result<Accepted, Refusal> {
    let (mut response, protocol) = agree(request.headers(), transport, supported)?;
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(Accepted { response, protocol, stream: hyper::upgrade::on(&mut request) })
}

fn agree(
    headers: &HeaderMap,
    transport: Transport,
    supported: &[&'static str],
) -> Result<(Response<Body>, &'static str), Refusal> {
    let offer = match transport {
        Transport::WebSocket => header::SEC_WEBSOCKET_PROTOCOL.as_str(),
        Transport::Spdy => STREAM_PROTOCOL,
    };
    let offered: Vec<&str> = tokens(headers, offer).collect();
    let chosen = offered.iter().find_map(|o| supported.iter().find(|s| *s == o)).copied();
    let protocol = match chosen {
        Some(protocol) => protocol,
        None if offered.is_empty() && transport == Transport::WebSocket => "",
        None => {
            let text = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {supported:?}"
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, text));
        }
    };
    let mut response = Response::new(full(""));
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if !protocol.is_empty() {
        let name = header::HeaderName::from_static(match transport {
            Transport::WebSocket => "sec-websocket-protocol",
            Transport::Spdy => STREAM_PROTOCOL,
        });
        answer.insert(name, HeaderValue::from_static(protocol));
    }
    match transport {
        Transport::Spdy => {
            answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        }
        Transport::WebSocket => {
            if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
                return Err(Refusal::bad_request("unable to upgrade: WebSocket version 13 is spoken here"));
            }
            let key = headers
                .get(header::SEC_WEBSOCKET_KEY)
                .ok_or_else(|| Refusal::bad_request("unable to upgrade: Sec-WebSocket-Key is missing"))?;
            let key = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
                .map_err(|e| Refusal::bad_request(e.to_string()))?;
            answer.insert(header::SEC_WEBSOCKET_ACCEPT, key);
            answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
    }
    Ok((response, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_upgrade_header_says_which_transport() {
        let of = |pairs| Transport::of(&headers(pairs)).map_err(|r| r.status.as_u16());
        assert_eq!(
            of(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
            Ok(Transport::WebSocket)
        );
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]), Ok(Transport::Spdy));
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "h2c")]), Err(400));
        assert_eq!(of(&[("upgrade", "websocket")]), Err(400));
    }

    #[test]
    fn the_first_subprotocol_of_the_client_that_is_spoken_here_is_taken() {
        let base = [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
        let agree = |more: &[(&'static str, &'static str)]| {
            let headers = headers(&[&base[..], more].concat());
            agree(&headers, Transport::WebSocket, &["v5", "v4"]).map_err(|r| r.status.as_u16())
        };
        let (response, protocol) = agree(&[("sec-websocket-protocol", "v6, v4, v5")]).expect("agreed");
        assert_eq!(protocol, "v4");
        // The example of RFC 6455, section 1.3.
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agree(&[]).expect("none is fine").1, "");
        assert_eq!(agree(&[("sec-websocket-protocol", "v6")]).map(|a| a.1), Err(403));
    }

    #[test]
    fn spdy_clients_must_name_a_protocol() {
        let agree = |pairs| {
            agree(&headers(pairs), Transport::Spdy, &["v4"]).map(|a| a.1).map_err(|r| r.status.as_u16())
        };
        assert_eq!(
            agree(&[("x-stream-protocol-version", "v5"), ("x-stream-protocol-version", "v4")]),
            Ok("v4")
        );
        assert_eq!(agree(&[]), Err(403));
    }
}

//! The call of a webhook (admission, conversion): where its configuration says it is, and one POST. Never decides anything.

use crate::{
    registry::Registry,
    remote::{self, Place, Trust},
};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use orlop_api::object::{int, text};
use rustls::ClientConfig;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// The parts of a webhook's `url`, and its path.
fn from_url(url: &str) -> Result<(Place, String), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url:?} is not a URL: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_string();
    if uri.scheme_str() != Some("https") || host.is_empty() {
        return Err(format!("{url:?} is not an https URL"));
    }
    let port = uri.port_u16().unwrap_or(443);
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    Ok((Place { addresses: vec![address], server_name: host, authority }, uri.path().to_string()))
}

/// The endpoints behind the Service that a webhook names, and its path.
fn from_service(registry: &Registry, reference: &Value) -> Result<(Place, String), String> {
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    let place = remote::service(registry, namespace, name, int(reference, "/port").unwrap_or(443))?;
    let path = match text(reference, "/path") {
        "" => "/".to_string(),
        path => path.to_string(),
    };
    Ok((place, path))
}

/// How much time and room an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub timeout: Duration,
    /// Bytes.
    pub largest: usize,
}

impl Patience {
    /// A webhook is told how long it has.
    fn query(self) -> String {
        format!("?timeout={}s", self.timeout.as_secs())
    }
}

/// Posts a review to the webhook that a `clientConfig` names; the answer is JSON. Errors read like Go's.
pub(crate) async fn post(
    registry: &Registry,
    config: &Value,
    patience: Patience,
    review: &Value,
) -> Result<Value, String> {
    let url = text(config, "/url");
    let (place, path) = if url.is_empty() {
        from_service(registry, config.get("service").unwrap_or(&Value::Null))?
    } else {
        from_url(url)?
    };
    let path = format!("{path}{}", patience.query());
    let target = format!("https://{}{path}", place.authority);
    let failed = |why: String| format!("Post {target:?}: {why}");
    let config = remote::tls(Trust::Bundle(text(config, "/caBundle")), None).map_err(failed)?;
    tokio::time::timeout(patience.timeout, exchange((&place, &path), config, patience, review))
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".into()))
        .map_err(failed)
}

async fn exchange(
    (place, path): (&Place, &str),
    config: ClientConfig,
    patience: Patience,
    review: &Value,
) -> Result<Value, String> {
    let (stream, _) = remote::dial(place, Arc::new(config)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), patience.largest)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if !code.is_success() {
            let text = String::from_utf8_lossy(&body);
            let text = text.trim();
            return Err(format!(
                "the server answered {}: {}",
                code.as_u16(),
                &text[..text.floor_char_boundary(256)]
            ));
        }
        serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_who() {
        let (place, _) = from_url("https://[::1]:8443/mutate").unwrap();
        assert_eq!((place.addresses, place.server_name.as_str()), (vec!["[::1]:8443".to_string()], "::1"));
        assert_eq!(from_url("https://hooks.example.org").unwrap().1, "/");
        assert!(from_url("http://x").is_err() && from_url("nonsense").is_err());
    }
}

//! Requests for group-versions that other servers serve: passed on as they came, with who asks in their headers; answers, watches and
//! connections that are turned over pass through.

use super::{Route, call};
use crate::{
    ApiServer, Identity, audit,
    pipeline::{Admitted, Caller},
    request::RequestInfo,
    response::{self, Body, Response},
    streaming::upgrade,
};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::upgrade::OnUpgrade;
use orlop_api::Status;
use std::sync::Arc;

/// The group-version that a path is about: `/apis/GROUP/VERSION…`, or the OpenAPI document of one.
fn group_version(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let mut parts = path.strip_prefix("/apis/")?.split('/');
    Some((parts.next()?, parts.next().filter(|v| !v.is_empty())?))
}

/// An answer as Go's `http.Error` gives it.
fn plain(code: u16, text: &str) -> Response {
    response::text(code, format!("{text}\n"))
}

impl ApiServer {
    /// The server that a request is for, if it is another one.
    pub(crate) fn elsewhere(&self, request: &Admitted) -> Option<Arc<Route>> {
        let (group, version) = match &request.info.target {
            Some(target) => (target.group.as_str(), target.version.as_str()),
            None => group_version(request.parts.uri.path())?,
        };
        self.aggregator.route(group, version)
    }

    /// Whether a request is for another server.
    pub(crate) fn is_elsewhere(&self, info: &RequestInfo) -> bool {
        let target = info.target.as_ref();
        target.is_some_and(|target| self.aggregator.route(&target.group, &target.version).is_some())
    }

    /// Hands a request to the server that it is for.
    pub(crate) async fn pass_on(&self, route: &Route, request: Admitted) -> Result<Response, Status> {
        if !route.available.is() {
            return Ok(plain(503, "service unavailable"));
        }
        let tls = match &route.tls {
            Ok(tls) => tls.clone(),
            Err(why) => return Ok(plain(500, why)),
        };
        let Admitted { who, mut parts, body, .. } = request;
        let turned_over =
            if upgrade::is_wanted(&parts.headers) { parts.extensions.remove::<OnUpgrade>() } else { None };
        // Documents are read by the aggregator itself: not all who may use the API may do so there.
        let of_document = parts.uri.path().starts_with("/openapi/");
        let who = if of_document { Arc::new(call::aggregator()) } else { who };
        let asked = translate(&parts, body, &who, turned_over.is_some())?;
        let answer = match call::send(&self.registry, route, tls, asked).await {
            Ok(answer) => answer,
            Err(why) => return Ok(plain(503, &format!("error trying to reach service: {why}"))),
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return match turned_over {
                Some(client) => Ok(upgrade::turn_over(client, answer, |_| true)),
                None => Ok(plain(502, "the server turned over a connection that nobody asked it to")),
            };
        }
        let (parts, body) = answer.into_parts();
        let stop = self.stop.clone().cancelled_owned();
        let stream = body.into_data_stream().map(|chunk| chunk.map_err(Into::into)).take_until(stop);
        let mut response = Response::new(Body::stream(stream));
        *response.status_mut() = parts.status;
        let hop = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
        for (name, value) in parts.headers.iter().filter(|(name, _)| !hop.contains(name)) {
            response.headers_mut().append(name, value.clone());
        }
        Ok(response)
    }
}

/// The request as the other server gets it.
fn translate(
    parts: &Parts,
    body: Bytes,
    who: &Identity,
    upgrade: bool,
) -> Result<http::Request<Full<Bytes>>, Status> {
    let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut asked = http::Request::builder()
        .method(parts.method.clone())
        .uri(uri)
        .body(Full::new(body))
        .map_err(|_| Status::bad_request("the path is not valid"))?;
    for (name, value) in parts.headers.iter().filter(|(name, _)| call::passes(name, upgrade)) {
        asked.headers_mut().append(name, value.clone());
    }
    call::introduce(who, asked.headers_mut());
    if let Some(Caller { from, id }) = parts.extensions.get() {
        if let Some(address) = from {
            call::forwarded_for(*address, asked.headers_mut());
        }
        if let Ok(id) = HeaderValue::from_str(id) {
            asked.headers_mut().insert(audit::ID, id);
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_its_group_version() {
        assert_eq!(group_version("/apis/a.b/v1"), Some(("a.b", "v1")));
        assert_eq!(group_version("/apis/a.b/v1/"), Some(("a.b", "v1")));
        assert_eq!(group_version("/openapi/v3/apis/a.b/v1"), Some(("a.b", "v1")));
        for other in ["/apis/a.b", "/apis/a.b/", "/api/v1", "/openapi/v3", "/version"] {
            assert_eq!(group_version(other), None, "{other}");
        }
    }
}

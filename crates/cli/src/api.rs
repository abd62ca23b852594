//! Requests to the API server in the plain terms of the wire: paths, JSON, status. What kinds mean is elsewhere.

use crate::{Error, connect::in_words};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::io::AsyncBufRead;

/// Asks for a table where the server can make one.
pub(crate) const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Plain objects.
pub(crate) const AS_JSON: &str = "application/json";

/// The way to a server.
pub(crate) struct Api {
    pub(crate) client: kube::Client,
    server: String,
    /// Where objects are that do not say it themselves.
    pub(crate) namespace: String,
}

/// Parameters of a request, in order.
pub(crate) type Query<'a> = &'a [(&'a str, &'a str)];

/// What is sent with a request.
#[derive(Default)]
pub(crate) struct Content<'a> {
    pub(crate) media_type: &'a str,
    pub(crate) body: Vec<u8>,
}

impl Api {
    pub(crate) fn new(client: kube::Client, server: String, namespace: String) -> Self {
        Self { client, server, namespace }
    }

    /// Reads JSON.
    pub(crate) async fn get(&self, path: &str, query: Query<'_>, accept: &str) -> Result<Value, Error> {
        Ok(self.request(Method::GET, path, query, accept, Content::default()).await?.1)
    }

    /// Sends something and reads the answer: its HTTP code and JSON.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        accept: &str,
        content: Content<'_>,
    ) -> Result<(u16, Value), Error> {
        let response = self.send(method, path, query, accept, content).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|e| self.unreachable(&e))?.to_bytes();
        let value = serde_json::from_slice(&bytes).map_err(|e| Error::Answer(format!("{path}: {e}")))?;
        Ok((code, value))
    }

    /// Reads an answer as it comes, for as long as it comes.
    pub(crate) async fn stream(
        &self,
        path: &str,
        query: Query<'_>,
        accept: &str,
    ) -> Result<impl AsyncBufRead + Unpin + use<>, Error> {
        let body = self.send(Method::GET, path, query, accept, Content::default()).await?.into_body();
        Ok(tokio_util::io::StreamReader::new(data(body)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        accept: &str,
        content: Content<'_>,
    ) -> Result<Response<Body>, Error> {
        let mut request =
            Request::builder().method(method).uri(uri(path, query)).header(header::ACCEPT, accept);
        if !content.media_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content.media_type);
        }
        let request =
            request.body(Body::from(content.body)).map_err(|e| Error::Usage(format!("{path}: {e}")))?;
        let response = self.client.send(request).await.map_err(|e| self.explain(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|e| self.unreachable(&e))?.to_bytes();
        Err(from_status(code, &bytes))
    }

    /// What an error of the client library means.
    pub(crate) fn explain(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => Error::Server {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            },
            other => self.unreachable(&other),
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Error {
        Error::Unreachable { server: self.server.clone(), why: in_words(error) }
    }
}

fn data(body: Body) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
    body.into_data_stream().map_err(std::io::Error::other)
}

/// The error in a body: a `Status`, or the text of something between here and the server.
pub(crate) fn from_status(code: u16, body: &[u8]) -> Error {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_string();
    let message = match text("message") {
        message if message.is_empty() => {
            let text = String::from_utf8_lossy(body).trim().to_string();
            if text.is_empty() || status.is_object() {
                format!("the server answered with code {code}")
            } else {
                text
            }
        }
        message => message,
    };
    Error::Server { code, reason: text("reason"), message }
}

pub(crate) fn uri(path: &str, query: Query<'_>) -> String {
    if query.is_empty() {
        return path.to_string();
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{path}?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_the_server_said_it() {
        let status = br#"{"kind":"Status","message":"pods \"x\" not found","reason":"NotFound","code":404}"#;
        assert_eq!(
            from_status(404, status).to_string(),
            "Error from server (NotFound): pods \"x\" not found"
        );
        assert_eq!(from_status(502, b"bad gateway\n").to_string(), "Error from server: bad gateway");
        assert_eq!(from_status(500, b"").to_string(), "Error from server: the server answered with code 500");
    }
}

//! The way to an API server over TLS: HTTP/2 on one connection, made anew when it breaks, with the credential that the TLS
//! configuration shows at that time. A server that vanished without a word is noticed by pings. What is asked is for others.

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Uri, header::AUTHORIZATION};
use hyper_util::{
    client::legacy::{
        Client as Http,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::client::Body;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a silent server is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);

/// Why there is no way to a server.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not the URL of an API server: it looks like https://192.0.2.1:6443")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
}

/// Checks the URL of an API server.
///
/// # Errors
/// Where it is not `https://HOST[:PORT]`.
pub fn server_url(text: &str) -> Result<Uri, BadUrl> {
    let bad = || BadUrl { url: text.to_string() };
    let url: Uri = text.trim_end_matches('/').parse().map_err(|_| bad())?;
    let host = url.host().unwrap_or_default();
    if url.scheme_str() != Some("https") || host.is_empty() || !matches!(url.path(), "" | "/") {
        return Err(bad());
    }
    ServerName::try_from(bare(host).to_string()).map_err(|_| bad())?;
    Ok(url)
}

/// A host without the brackets of IPv6.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A client of the server at `url`, who shows `bearer` where it is given.
pub fn connect(url: &Uri, tls: &Arc<ClientConfig>, bearer: Option<&str>) -> kube::Client {
    let mut tls = (**tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let http = Http::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .build(Connector { tls: Arc::new(tls) });
    let mut authorization = bearer.and_then(|b| HeaderValue::from_str(&format!("Bearer {b}")).ok());
    if let Some(value) = &mut authorization {
        value.set_sensitive(true);
    }
    kube::Client::new(Remote { http, url: url.clone(), authorization }, "default")
}

/// Sends requests to one server.
#[derive(Clone)]
struct Remote {
    http: Http<Connector, Body>,
    url: Uri,
    authorization: Option<HeaderValue>,
}

impl tower::Service<Request<Body>> for Remote {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut to = self.url.clone().into_parts();
        to.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(uri) = Uri::from_parts(to) {
            *request.uri_mut() = uri;
        }
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        self.http.request(request)
    }
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    tls: Arc<ClientConfig>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tls = TlsConnector::from(self.tls.clone());
        Box::pin(async move {
            let host = bare(to.host().unwrap_or_default()).to_string();
            let port = to.port_u16().unwrap_or(443);
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let opening = async {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                tls.connect(name, stream).await
            };
            let stream = tokio::time::timeout(CONNECT, opening)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting timed out"))??;
            Ok(TokioIo::new(Stream(stream)))
        })
    }
}

/// A connection that says which HTTP was agreed upon.
struct Stream(TlsStream<TcpStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        match self.0.get_ref().1.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        for good in ["https://192.0.2.1:6443", "https://api.example/", "https://[2001:db8::1]:6443"] {
            server_url(good).expect(good);
        }
        for bad in ["192.0.2.1:6443", "http://192.0.2.1:6443", "https://", "https://a/b", "", "https://a b"] {
            let error = server_url(bad).expect_err(bad).to_string();
            assert!(error.contains("https://192.0.2.1:6443"), "{error}");
        }
    }
}

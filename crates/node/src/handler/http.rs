//! An HTTP GET that only wants to know whether the answer is good: each on its own connection, certificates unchecked (a
//! probe knows the address it asks, and pods' certificates are rarely made for it).

use super::{Handler, Unwell, address, connect};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Longer than any probe may take: the caller's timeout comes first.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// The address asked, as people write it.
pub(super) fn url(scheme: &str, handler: &Handler) -> String {
    match handler {
        Handler::Http { host, port, path, .. } => format!("{scheme}://{}{path}", address(host, *port)),
        _ => String::new(),
    }
}

/// Asks; any answer from 200 to 399 is well.
pub(super) async fn get(handler: &Handler) -> Result<(), Unwell> {
    let Handler::Http { https, host, port, path, headers } = handler else {
        return Err(Unwell::Errored("not an HTTP handler".into()));
    };
    let scheme = if *https { "https" } else { "http" };
    let at = |why: String| Unwell::Failed(format!("Get \"{}\": {why}", url(scheme, handler)));
    let request = request(host, *port, path, headers).map_err(|e| Unwell::Errored(e.to_string()))?;
    let stream = connect(host, *port, FOREVER).await.map_err(|e| at(e.text().into()))?;
    let status = if *https {
        let name = ServerName::try_from(host.clone()).map_err(|e| at(e.to_string()))?;
        let trusting = TRUSTING.as_ref().map_err(|e| Unwell::Errored(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(trusting.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| at(e.to_string()))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    };
    let status = status.map_err(|e| at(e.to_string()))?;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(Unwell::Failed(format!("HTTP probe failed with statuscode: {status}")))
    }
}

fn request(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<Request<Empty<Bytes>>, ::http::Error> {
    let mut request = Request::get(path);
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, default) in
        [("host", address(host, port)), ("user-agent", "kube-probe/1.36".into()), ("accept", "*/*".into())]
    {
        if !given(name) {
            request = request.header(name, default);
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.header("connection", "close").body(Empty::new())
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<u16, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let ask = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        // A server that is cut off in the middle of its answer might log an error: read it, within reason.
        let mut body = answer.into_body();
        let mut left = 10 << 10;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left -= frame.data_ref().map_or(0, Bytes::len).min(left);
        }
        Ok(status)
    };
    let mut connection = std::pin::pin!(connection);
    let mut ask = std::pin::pin!(ask);
    tokio::select! {
        status = &mut ask => status,
        end = &mut connection => match end {
            Ok(()) => ask.await,
            Err(error) => Err(error),
        },
    }
}

static TRUSTING: LazyLock<Result<Arc<ClientConfig>, orlop_pki::Error>> =
    LazyLock::new(|| orlop_pki::tls::trusting_client_config(&[]));

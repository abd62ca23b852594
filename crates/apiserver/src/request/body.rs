//! Reads a request's body within its limits. What it says is `registry::schema`'s to find out.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use orlop_api::Status;

/// The largest body that is read: `--max-request-body-bytes` of Kubernetes.
pub(crate) const MAX_BODY: usize = 3 << 20;
/// The largest object that is stored.
pub(crate) const MAX_OBJECT: usize = 3 << 19;

/// Reads all of a body, or says that it is too large.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_large = || Status::too_large(format!("Request entity too large: limit is {MAX_BODY}"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut body = std::pin::pin!(body);
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("reading the request failed: {}", e.into())))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.remaining() > MAX_BODY {
            return Err(too_large());
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            held => {
                all.extend_from_slice(&held.unwrap_or_default());
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The `Content-Type` without its parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let ok = read(Full::new(Bytes::from(vec![b'x'; MAX_BODY]))).await.unwrap();
        assert_eq!(ok.len(), MAX_BODY);
        assert_eq!(read(Full::new(Bytes::from(vec![b'x'; MAX_BODY + 1]))).await.unwrap_err().code, 413);
    }
}

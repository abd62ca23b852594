//! Answers: their bodies (whole or streamed), their encodings, and how a [`Status`] becomes one.

use crate::request::Negotiated;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::Stream;
use http::{HeaderValue, StatusCode, header};
use orlop_api::Status;
use orlop_schema::protobuf;
use serde_json::Value;
use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

/// Answers smaller than this are not compressed, as in Kubernetes.
const GZIP_FROM: usize = 128 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;
type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

enum Inner {
    Full(Option<Bytes>),
    /// Known by now, but made only as fast as it is read.
    Pieces(Pieces),
    Stream(Frames),
}

/// The body of an answer.
pub struct Body {
    inner: Inner,
    /// Dropped when the body has been sent: what the request held.
    held: Vec<Box<dyn Send>>,
}

impl Body {
    pub(crate) fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self { inner: Inner::Stream(Box::pin(stream)), held: Vec::new() }
    }

    /// Keeps `what` until the body has been sent or dropped.
    pub(crate) fn hold(&mut self, what: impl Send + 'static) {
        self.held.push(Box::new(what));
    }

    /// Whether it is made only as fast as it is read.
    pub(crate) fn has_pieces(&self) -> bool {
        matches!(self.inner, Inner::Pieces(_))
    }

    /// All of it, if it is here already.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        match &self.inner {
            Inner::Full(bytes) => bytes.as_ref(),
            Inner::Pieces(_) | Inner::Stream(_) => None,
        }
    }

    /// Makes all of it that can be made now.
    pub(crate) fn gather(&mut self) {
        if let Inner::Pieces(pieces) = &mut self.inner {
            let whole = pieces.by_ref().collect::<Vec<_>>().concat();
            self.inner = Inner::Full(Some(Bytes::from(whole)).filter(|b| !b.is_empty()));
        }
    }

    /// Whether it has no end of its own.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.inner, Inner::Stream(_))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { inner: Inner::Full(Some(bytes).filter(|b| !b.is_empty())), held: Vec::new() }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        match &mut self.inner {
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(http_body::Frame::data(b)))),
            Inner::Pieces(pieces) => Poll::Ready(pieces.next().map(|b| Ok(http_body::Frame::data(b)))),
            Inner::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|item| item.map(|r| r.map(http_body::Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.inner, Inner::Full(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.inner {
            Inner::Full(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Inner::Pieces(_) | Inner::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

/// An answer.
pub(crate) type Response = http::Response<Body>;

/// An answer of the given type.
pub(crate) fn bytes(code: u16, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A short text.
pub(crate) fn text(code: u16, body: impl Into<String>) -> Response {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(body.into()))
}

/// A JSON document.
pub(crate) fn json(code: u16, value: &Value) -> Response {
    bytes(code, "application/json", value.to_string().into())
}

/// JSON bytes in the representation that was agreed on.
pub(crate) fn encoded(code: u16, body: Bytes, negotiated: Negotiated) -> Response {
    let (content_type, body) = if negotiated.yaml {
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        ("application/yaml", serde_saphyr::to_string(&value).map(Bytes::from).unwrap_or(body))
    } else if negotiated.protobuf {
        let value = serde_json::from_slice(&body).unwrap_or_default();
        // What has a field that protobuf cannot say is said in JSON: better than half of it, or nothing.
        protobuf::encode(&value)
            .map_or(("application/json", body), |encoded| (protobuf::MEDIA_TYPE, encoded.into()))
    } else if negotiated.pretty {
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        ("application/json", serde_json::to_vec_pretty(&value).map(Bytes::from).unwrap_or(body))
    } else {
        ("application/json", body)
    };
    if !negotiated.gzip || body.len() < GZIP_FROM {
        return bytes(code, content_type, body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(packed) => {
            let mut response = bytes(code, content_type, packed.into());
            compressed(&mut response);
            response
        }
        Err(_) => bytes(code, content_type, body),
    }
}

/// JSON in pieces, in the representation that was agreed on. What is large is sent piece by piece where that can be: in JSON,
/// also compressed. YAML, protobuf and indented JSON are made of the whole.
pub(crate) fn pieces(
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
    negotiated: Negotiated,
) -> Response {
    let mut pieces = pieces.fuse();
    let mut begin = Vec::new();
    let all = negotiated.yaml || negotiated.protobuf || negotiated.pretty;
    while all || begin.len() < GZIP_FROM {
        let Some(piece) = pieces.next() else { return encoded(200, begin.into(), negotiated) };
        begin.extend_from_slice(&piece);
    }
    let pieces = std::iter::once(Bytes::from(begin)).chain(pieces);
    let pieces: Pieces = if negotiated.gzip { Box::new(Gzip::new(pieces)) } else { Box::new(pieces) };
    let mut response = bytes(200, "application/json", Bytes::new());
    *response.body_mut() = Body { inner: Inner::Pieces(pieces), held: Vec::new() };
    if negotiated.gzip {
        compressed(&mut response);
    }
    response
}

/// Compresses piece by piece.
struct Gzip<P> {
    pieces: P,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<P: Iterator<Item = Bytes>> Gzip<P> {
    fn new(pieces: P) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<P: Iterator<Item = Bytes>> Iterator for Gzip<P> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            // Writing into memory cannot fail.
            let Some(piece) = self.pieces.next() else {
                return self.encoder.take().and_then(|e| e.finish().ok()).map(Bytes::from);
            };
            let encoder = self.encoder.as_mut()?;
            encoder.write_all(&piece).ok()?;
            let packed = std::mem::take(encoder.get_mut());
            if !packed.is_empty() {
                return Some(packed.into());
            }
        }
    }
}

fn compressed(response: &mut Response) {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A failed request's answer.
pub(crate) fn status(status: &Status) -> Response {
    let mut response = json(status.code, &status.to_json());
    let seconds = status.details.as_ref().and_then(|d| d.get("retryAfterSeconds"));
    if let Some(Ok(value)) = seconds.map(|s| HeaderValue::from_str(&s.to_string())) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// Adds a `Warning` header (RFC 9111 code 299) that `kubectl` prints.
pub(crate) fn warn(response: &mut Response, message: &str) {
    let quoted = message.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        response.headers_mut().append(header::WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Form;

    #[test]
    fn only_large_answers_are_compressed() {
        let gzip = Negotiated {
            form: Form::Whole,
            meta: Default::default(),
            yaml: false,
            protobuf: false,
            pretty: false,
            gzip: true,
        };
        let encoding = |size: usize| {
            let body = Bytes::from(format!("\"{}\"", "x".repeat(size)));
            encoded(200, body, gzip).headers().get(header::CONTENT_ENCODING).cloned()
        };
        assert!(encoding(100).is_none());
        assert_eq!(encoding(GZIP_FROM).unwrap(), "gzip");
    }

    #[test]
    fn what_is_large_is_sent_in_pieces_that_make_the_whole() {
        use http_body_util::BodyExt;
        use std::io::Read;
        let piece = |n: u32| Bytes::from(format!("{n}").repeat(10_000));
        let plain = Negotiated {
            form: Form::Whole,
            meta: Default::default(),
            yaml: false,
            protobuf: false,
            pretty: false,
            gzip: false,
        };
        let whole: Vec<u8> = (0..100).flat_map(piece).collect();
        for gzip in [false, true] {
            let response = pieces((0..100).map(piece), Negotiated { gzip, ..plain });
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), gzip);
            assert_eq!(http_body::Body::size_hint(response.body()).exact(), None);
            let body = futures::executor::block_on(response.into_body().collect()).unwrap().to_bytes();
            let mut unpacked = Vec::new();
            match gzip {
                true => drop(flate2::read::GzDecoder::new(&*body).read_to_end(&mut unpacked).unwrap()),
                false => unpacked = body.into(),
            }
            assert!(unpacked == whole);
        }
        let small = pieces((0..3).map(piece), plain);
        assert_eq!(
            http_body::Body::size_hint(small.body()).exact(),
            Some(30_000),
            "the length is told where it is known"
        );
    }

    #[test]
    fn a_warning_is_quoted() {
        let mut response = text(200, "");
        warn(&mut response, "unknown field \"spec.x\"");
        assert_eq!(response.headers()[header::WARNING], "299 - \"unknown field \\\"spec.x\\\"\"");
    }
}

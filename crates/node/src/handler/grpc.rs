//! The gRPC health checking protocol (`grpc.health.v1.Health/Check`), as much of it as a probe needs, over plain HTTP/2.

use super::{Unwell, address, connect};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;

const SERVING: u64 = 1;

/// Asks whether a service (empty: the whole server) is serving.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<(), Unwell> {
    let stream = connect(host, port, Duration::from_secs(24 * 3600)).await?;
    let failed = |e: hyper::Error| Unwell::Failed(format!("error: health rpc failed: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let ask = async {
        let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", address(host, port)))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(question(service)))
            .map_err(|e| Unwell::Errored(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let early = answer.headers().get("grpc-status").cloned();
        let body = answer.into_body().collect().await.map_err(failed)?;
        let late = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
        let code = late.or(early).and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        match code {
            Some(0) => serving(&body.to_bytes()),
            Some(12) => Err(Unwell::Failed(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .into(),
            )),
            code => Err(Unwell::Failed(format!(
                "error: health rpc failed with status {}",
                code.map_or_else(|| "unknown".into(), |c| c.to_string())
            ))),
        }
    };
    let mut connection = std::pin::pin!(connection);
    let mut ask = std::pin::pin!(ask);
    tokio::select! {
        answer = &mut ask => answer,
        end = &mut connection => match end {
            Ok(()) => ask.await,
            Err(error) => Err(failed(error)),
        },
    }
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// Reads `HealthCheckResponse { status = 1 }` out of a gRPC frame.
fn serving(frame: &[u8]) -> Result<(), Unwell> {
    let status = match frame.get(5..) {
        // An empty message has the default value, which is "unknown".
        Some([0x08, value, ..]) => u64::from(*value),
        _ => 0,
    };
    if status == SERVING {
        return Ok(());
    }
    let word = match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(Unwell::Failed(format!("service unhealthy (responded with \"{word}\")")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_and_read() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(200)).len(), 5 + 1 + 2 + 200);
        assert!(serving(&[0, 0, 0, 0, 2, 8, 1]).is_ok());
        for bad in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[]] {
            assert!(serving(bad).is_err());
        }
    }
}

//! The way of a client to the API server of the same world: requests and answers take their time, some are refused or lost, watches
//! break; and when the client's process is gone, so is everything of it that was on its way.

use crate::faults::{Chances, Fate};
use bytes::Bytes;
use futures::{Stream, future::BoxFuture, stream};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use orlop_apiserver::{ApiServer, Identity};
use parking_lot::RwLock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// How long a client waits for a server that cannot be reached.
const NO_ROUTE: Duration = Duration::from_secs(2);

/// What a client hears whose connection is cut.
const RESET: &str = "connection reset by peer";

/// A process as long as it lives, and whether its machine reaches the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub ended: CancellationToken,
    pub cut_off: Arc<AtomicBool>,
}

/// A server as long as it lives.
#[derive(Clone)]
pub(crate) struct Serving {
    pub api: Arc<ApiServer>,
    pub ended: CancellationToken,
}

/// The server that answers now; there may be none for a while.
pub(crate) type Server = Arc<RwLock<Option<Serving>>>;

/// Answers a question about what pods use; `None` where it is another question.
pub(crate) type Usage = Arc<dyn Fn(&http::Uri) -> Option<serde_json::Value> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Line {
    pub server: Server,
    pub who: Identity,
    /// Answers what pods use, instead of the server.
    pub usage: Usage,
    pub chances: Arc<Chances>,
    pub life: Life,
}

impl Line {
    fn reaches(&self) -> Option<Serving> {
        if self.life.cut_off.load(Ordering::Relaxed) { None } else { self.server.read().clone() }
    }

    async fn ask(self, request: Request<Body>) -> Result<Answer, BoxError> {
        let watch =
            request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let fate = self.chances.fate();
        pass(self.chances.latency()).await;
        if let Fate::Refused(how) = fate {
            return refusal(how);
        }
        let Some(server) = self.reaches() else {
            tokio::time::sleep(NO_ROUTE).await;
            return Err("connect: no route to host".into());
        };
        if let Some(used) = (self.usage)(request.uri()) {
            return answer(StatusCode::OK, &used);
        }
        let Serving { api, ended } = server;
        let mut service = api.service_for(self.who.clone());
        drop(api);
        let answered = tokio::select! {
            biased;
            () = ended.cancelled() => return Err(RESET.into()),
            answered = tower::Service::call(&mut service, request) => answered,
        };
        // It cannot fail: what goes wrong is an answer too.
        let Ok(answer) = answered;
        drop(service);
        pass(self.chances.latency()).await;
        match fate {
            Fate::Lost(how) => return refusal(how),
            _ if ended.is_cancelled() || self.reaches().is_none() => return Err(RESET.into()),
            _ => {}
        }
        let (head, body) = answer.into_parts();
        let body = if watch {
            StreamBody::new(self.pieces(body, ended)).boxed_unsync()
        } else {
            body.boxed_unsync()
        };
        Ok(Response::from_parts(head, body))
    }

    /// The pieces of a watch as they arrive.
    fn pieces(
        self,
        body: orlop_apiserver::Body,
        server_ended: CancellationToken,
    ) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static {
        stream::unfold(Some((self, body, server_ended)), |going| async move {
            let (line, mut body, server_ended) = going?;
            let piece = tokio::select! {
                biased;
                () = line.life.ended.cancelled() => return None,
                () = server_ended.cancelled() => return Some((Err(RESET.into()), None)),
                piece = body.frame() => piece?,
            };
            let Some(way) = line.chances.piece().filter(|_| line.reaches().is_some()) else {
                return Some((Err(RESET.into()), None));
            };
            pass(way).await;
            Some((piece, Some((line, body, server_ended))))
        })
    }
}

/// Lets so much time pass, if any.
async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// What a client gets to hear whose request fails.
fn refusal(how: u64) -> Result<Answer, BoxError> {
    let (code, reason) = match how % 5 {
        0 => (429, "TooManyRequests"),
        1 => (500, "InternalError"),
        2 => (503, "ServiceUnavailable"),
        3 => (504, "Timeout"),
        _ => return Err(RESET.into()),
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": "the simulation makes this request fail",
    });
    answer(StatusCode::from_u16(code).unwrap_or_default(), &status)
}

fn answer(code: StatusCode, said: &serde_json::Value) -> Result<Answer, BoxError> {
    let body = Full::new(Bytes::from(said.to_string())).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(answer)
}

impl tower::Service<Request<Body>> for Line {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = self.clone();
        Box::pin(async move {
            let ended = line.life.ended.clone();
            tokio::select! {
                biased;
                () = ended.cancelled() => Err("the process has ended".into()),
                answer = line.ask(request) => answer,
            }
        })
    }
}

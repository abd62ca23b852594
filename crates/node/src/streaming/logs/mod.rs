//! `/containerLogs`: a container's log, from the CRI log files that its shim writes. It reads files and waits for more; it
//! never writes or rotates one.

pub(super) mod entry;
mod follow;
pub(super) mod options;
mod pieces;
mod reader;
mod tail;

#[cfg(test)]
mod tests;

use super::{
    request::Query,
    response::{Body, Refusal},
    server::Context,
    target::Target,
};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use options::LogOptions;
use std::{io, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

/// Pieces of text that may wait for a slow client.
const QUEUE: usize = 4;

/// Answers with the log as far as it is there, or with all that comes until the container has ended.
pub fn serve(context: &Arc<Context>, target: &Target, query: &Query) -> Result<Response<Body>, Refusal> {
    let options = LogOptions::parse(query, jiff::Timestamp::now())?;
    let container = target.logged_container(&*context.pods, options.previous)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let runtime = context.pods.runtime().clone();
    context.spawn(async move {
        let path = container.log_path.clone();
        let follow = options.follow.then(|| follow::Followed { runtime, container: container.id });
        if let Err(e) = follow::send(path.clone(), options, follow, &sender).await {
            tracing::warn!(path = %path.display(), error = %e, "cannot read a container's log");
            // Cutting the body short tells the reader that this is not all.
            let _ = sender.send(Err(e)).await;
        }
    });
    let frames = ReceiverStream::new(receiver).map(|bytes: io::Result<_>| bytes.map(Frame::data));
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

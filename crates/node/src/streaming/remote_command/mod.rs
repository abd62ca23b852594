//! `/exec` and `/attach`: a client's streams joined to a process in a container. Which transport carries them is settled in
//! `websocket` and `spdy`; here is what happens whatever it is.

mod options;
mod session;
mod spdy;
mod status;
mod websocket;

pub(super) use websocket::terminal_size;

use super::{
    request::Query,
    response::{Body, Refusal},
    server::Context,
    target::Target,
    upgrade::{self, Transport},
};
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use options::Streams;
use orlop_runtime::{Error, ExecSpec, Session};
use std::sync::Arc;

/// Starts the process, or joins it. Called when the client is there to be told how it went.
type Start = BoxFuture<'static, Result<Session, Error>>;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Exec,
    Attach,
}

/// Runs a command in a container.
pub fn exec(
    context: &Arc<Context>,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let command: Vec<String> = query.all("command").map(Into::into).collect();
    if command.is_empty() {
        return Err(Refusal::bad_request("you must specify at least one command argument"));
    }
    let container = target.running_container(&*context.pods)?;
    let runtime = context.pods.runtime().clone();
    let spec = ExecSpec {
        command,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let start = Box::pin(async move { runtime.exec(&container.id, spec).await });
    serve(context, request, Verb::Exec, streams, start)
}

/// Joins the main process of a container.
pub fn attach(
    context: &Arc<Context>,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let container = target.running_container(&*context.pods)?;
    let runtime = context.pods.runtime().clone();
    let start = Box::pin(async move {
        runtime.attach(&container.id, streams.stdin, streams.stdout, streams.stderr).await
    });
    serve(context, request, Verb::Attach, streams, start)
}

fn serve(
    context: &Context,
    request: Request<Incoming>,
    verb: Verb,
    streams: Streams,
    start: Start,
) -> Result<Response<Body>, Refusal> {
    let transport = Transport::of(request.headers())?;
    let names = match transport {
        Transport::WebSocket => super::channels::REMOTE_COMMAND,
        Transport::Spdy => spdy::PROTOCOLS,
    };
    let accepted = upgrade::accept(request, transport, names)?;
    context.spawn(async move {
        let io = match accepted.stream.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(e) => return tracing::debug!(error = %e, "upgrade of a stream failed"),
        };
        match transport {
            Transport::WebSocket => websocket::serve(io, accepted.protocol, verb, streams, start).await,
            Transport::Spdy => spdy::serve(io, accepted.protocol, verb, streams, start).await,
        }
    });
    Ok(accepted.response)
}

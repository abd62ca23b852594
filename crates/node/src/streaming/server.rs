//! Takes connections in, checks who they are, and hands requests to their endpoint. It knows no protocol of a stream.

use super::{
    logs, port_forward, remote_command,
    request::{Query, Route},
    resource_metrics,
    response::{Body, Refusal, answer, text},
    stats,
    target::Pods,
};
use crate::Error;
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whoever carries this group may do everything here; the API server's client certificate does.
const MASTERS: &str = "system:masters";
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// After a failure to accept (no more file descriptors), so that others can finish and give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all requests share.
pub struct Context {
    pub pods: Arc<dyn Pods>,
    pub rates: stats::Rates,
    pub shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Context {
    pub fn new(pods: Arc<dyn Pods>, shutdown: CancellationToken) -> Self {
        Self { pods, rates: stats::Rates::default(), shutdown, tasks: TaskTracker::new() }
    }

    /// Runs what outlives its request until it ends or the endpoint is shut down.
    pub fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(stream).await;
        });
    }
}

/// Accepts until shut down.
pub async fn run(
    context: Arc<Context>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) -> Result<(), Error> {
    let address = listener.local_addr().map_err(|e| Error::io("finding the endpoint's address", e))?;
    tracing::debug!(%address, "node endpoint listens");
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (task, acceptor) = (context.clone(), acceptor.clone());
                context.spawn(async move {
                    if let Err(why) = connection(task, acceptor, stream).await {
                        tracing::debug!(%peer, why, "connection to the node endpoint ended");
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "node endpoint cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    context.tasks.close();
    context.tasks.wait().await;
    Ok(())
}

async fn connection(context: Arc<Context>, acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), String> {
    // Typed characters and their echo are small; and a peer that vanished must be noticed some day.
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(|e| e.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream))
        .await
        .map_err(|_| "TLS handshake timed out")?
        .map_err(|e| e.to_string())?;
    let caller = Arc::new(Caller::of(&stream)?);
    let service = service_fn(move |request| {
        let (context, caller) = (context.clone(), caller.clone());
        async move { Ok::<_, Infallible>(handle(context, &caller, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(|e| e.to_string())
}

/// Who a connection's certificate says it is.
struct Caller {
    user: String,
    groups: Vec<String>,
}

impl Caller {
    fn of(stream: &TlsStream<TcpStream>) -> Result<Self, String> {
        let (_, tls) = stream.get_ref();
        let certificate = tls.peer_certificates().and_then(|c| c.first()).ok_or("no client certificate")?;
        let (user, groups) = orlop_pki::tls::identity(certificate).map_err(|e| e.to_string())?;
        Ok(Self { user, groups })
    }

    fn may_use_everything(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }
}

async fn handle(context: Arc<Context>, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let route = Route::parse(request.uri().path());
    if !caller.may_use_everything() {
        let verb = if request.method() == Method::POST { "create" } else { "get" };
        let subresource = route.as_ref().map_or("proxy", Route::subresource);
        let words = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource={subresource})",
            caller.user
        );
        return text(StatusCode::FORBIDDEN, words);
    }
    let Some(route) = route else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    // Streams over SPDY are opened with POST.
    let streams = matches!(route, Route::Exec(_) | Route::Attach(_) | Route::PortForward(_));
    if request.method() != Method::GET && !(streams && request.method() == Method::POST) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let outcome = match route {
        Route::Healthz => Ok(text(StatusCode::OK, "ok")),
        Route::Metrics => {
            let text = context.pods.metrics().await;
            Ok(answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        Route::ResourceMetrics => Ok(resource_metrics::serve(&context).await),
        Route::Pods => Ok(pod_list(&context)),
        Route::StatsSummary => Ok(stats::summary(&context).await),
        Route::ContainerLogs(target) => logs::serve(&context, &target, &query),
        Route::Exec(target) => remote_command::exec(&context, &target, &query, request),
        Route::Attach(target) => remote_command::attach(&context, &target, &query, request),
        Route::PortForward(target) => port_forward::serve(&context, &target, &query, request),
    };
    outcome.unwrap_or_else(|refusal: Refusal| refusal.into())
}

fn pod_list(context: &Context) -> Response<Body> {
    let items: Vec<_> = context.pods.pods().into_iter().map(|p| p.pod).collect();
    let list = serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items });
    answer(StatusCode::OK, "application/json", list.to_string())
}

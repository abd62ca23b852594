//! The API for clients of the same process: no TLS, no sockets, the same answers.

use crate::{ApiServer, Body, Identity, pipeline::Peer};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    task::{Context, Poll},
};

/// Where requests of the same process come from.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A `tower::Service` that serves the API to one identity.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    who: Arc<Identity>,
}

impl InProcess {
    pub(crate) fn new(server: Arc<ApiServer>, who: Identity) -> Self {
        Self { server, who: Arc::new(who) }
    }
}

impl<B> tower::Service<http::Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (server, who) = (self.server.clone(), self.who.clone());
        Box::pin(async move { Ok(server.respond(request, Peer::InProcess(who), Some(HERE)).await) })
    }
}

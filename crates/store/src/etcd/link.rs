//! The way to the members of etcd: one of them is asked as long as it answers, the next one when it does not. A write is
//! repeated only where it surely did not happen.

use super::{
    Endpoints,
    verdict::{Verdict, judge, told, unreachable},
    wire::{WatchRequest, WatchResponse},
};
use crate::Error;
use http::uri::PathAndQuery;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{
    Request, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

const CONNECT: Duration = Duration::from_secs(2);
/// How long a request may take with all its repetitions, and how long one member has for a question.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(4);
/// Between rounds through all members.
const PAUSE: Duration = Duration::from_millis(100);
/// etcd closes connections that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);

/// A method of etcd's protocol.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// The path of the method.
    pub path: &'static str,
    /// What is being done, for errors.
    pub step: &'static str,
    /// Whether doing it twice is the same as doing it once.
    pub repeatable: bool,
}

struct Member {
    address: String,
    channel: Channel,
}

/// The members, and which of them is asked.
pub(super) struct Link {
    members: Vec<Member>,
    current: watch::Sender<usize>,
}

impl Link {
    /// Connects when the first request is made. Must be called within a runtime.
    pub(super) fn new(endpoints: &Endpoints) -> Result<Self, Error> {
        let wrong = |address: &str, error: tonic::transport::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Error::Address { address: address.into(), why: format!("{error}: {cause}") }
        };
        let mut members = Vec::new();
        for address in &endpoints.addresses {
            let mut endpoint = Endpoint::from_shared(address.clone())
                .map_err(|e| wrong(address, e))?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING)
                .keep_alive_timeout(PONG);
            match (endpoint.uri().scheme_str(), &endpoints.authority) {
                (Some("http"), _) => {}
                (Some("https"), Some(authority)) => {
                    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
                    if let Some((certificate, key)) = &endpoints.identity {
                        tls = tls.identity(Identity::from_pem(certificate, key));
                    }
                    endpoint = endpoint.tls_config(tls).map_err(|e| wrong(address, e))?;
                }
                (Some("https"), None) => {
                    let why = "whom to trust is not known: https needs the certificate of etcd's authority";
                    return Err(Error::Address { address: address.clone(), why: why.into() });
                }
                _ => {
                    let why = "an address of etcd begins with http:// or https://";
                    return Err(Error::Address { address: address.clone(), why: why.into() });
                }
            }
            members.push(Member { address: address.clone(), channel: endpoint.connect_lazy() });
        }
        if members.is_empty() {
            return Err(Error::Address { address: String::new(), why: "no member of etcd is given".into() });
        }
        Ok(Self { members, current: watch::Sender::new(0) })
    }

    /// Asks, at other members too where that is safe.
    pub(super) async fn ask<Q, A>(&self, call: Call, question: Q) -> Result<A, Error>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut tries = 0;
        loop {
            let at = *self.current.borrow();
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if call.repeatable { left.min(ANSWER) } else { left };
            let mut moved = self.current.subscribe();
            let answer = tokio::select! {
                biased;
                answer = timeout(patience, self.ask_at(at, call, question.clone())) => answer.ok(),
                _ = moved.wait_for(|current| *current != at) => None,
            };
            let (verdict, why) = match answer {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(status)) => {
                    let why = told(&status);
                    (judge(call.step, status), why)
                }
                None => (Verdict::Unknown, "no answer in time".to_string()),
            };
            let address = self.members.get(at).map_or("", |m| &m.address);
            match verdict {
                Verdict::Final(error) => return Err(error),
                Verdict::Unknown if !call.repeatable => {
                    self.leave(at, &why);
                    return Err(unreachable(call.step, format!("{address}: {why}")));
                }
                Verdict::NotDone | Verdict::Unknown => self.leave(at, &why),
            }
            tries += 1;
            if Instant::now() + PAUSE >= deadline {
                return Err(unreachable(call.step, format!("{address}: {why}")));
            }
            if tries % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Opens a watch at the member that is asked, and tells when another one is asked from then on.
    pub(super) async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<(Streaming<WatchResponse>, Moved), Error> {
        let call = Call { path: "/etcdserverpb.Watch/Watch", step: "opening a watch", repeatable: true };
        let at = *self.current.borrow();
        let moved = Moved { at, current: self.current.subscribe() };
        // What asks stays open, or etcd would end the watch.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
        let opened = async {
            let mut grpc = self.grpc(at)?;
            grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            grpc.streaming(requiring_leader(requests), PathAndQuery::from_static(call.path), codec).await
        };
        let why = match timeout(ANSWER, opened).await {
            Ok(Ok(response)) => return Ok((response.into_inner(), moved)),
            Ok(Err(status)) => {
                let why = told(&status);
                if let Verdict::Final(error) = judge(call.step, status) {
                    return Err(error);
                }
                why
            }
            Err(_) => "no answer in time".to_string(),
        };
        self.leave(at, &why);
        Err(unreachable(call.step, why))
    }

    /// Asks another member from now on, if `at` is the one that is asked.
    pub(super) fn leave(&self, at: usize, why: &str) {
        if self.members.len() < 2 {
            return;
        }
        self.current.send_if_modified(|current| {
            let leaves = *current == at;
            if leaves {
                *current = (at + 1) % self.members.len();
                let address = |i: usize| self.members.get(i).map_or("", |m| m.address.as_str());
                tracing::warn!(
                    from = address(at),
                    to = address(*current),
                    why,
                    "going to another member of etcd"
                );
            }
            leaves
        });
    }

    /// Asks `call` of the current member once a second, and leaves it when it does not answer, so that nobody waits long for
    /// a member that is frozen or cut off without a word. Never ends.
    pub(super) async fn watch_over<Q, A>(self: Arc<Self>, call: Call, question: Q)
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        const EVERY: Duration = Duration::from_secs(1);
        const WITHIN: Duration = Duration::from_secs(2);
        if self.members.len() < 2 {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(EVERY).await;
            let at = *self.current.borrow();
            match timeout(WITHIN, self.ask_at::<Q, A>(at, call, question.clone())).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => self.leave(at, &told(&status)),
                Err(_) => self.leave(at, "it does not answer"),
            }
        }
    }

    async fn ask_at<Q, A>(&self, at: usize, call: Call, question: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc(at)?;
        grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(call.path);
        Ok(grpc.unary(requiring_leader(question), path, codec).await?.into_inner())
    }

    fn grpc(&self, at: usize) -> Result<Grpc<Channel>, tonic::Status> {
        let member = self.members.get(at).ok_or_else(|| tonic::Status::internal("no such member"))?;
        let grpc = Grpc::new(member.channel.clone());
        Ok(grpc.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
    }
}

/// A member that has lost the others refuses such requests and ends such watches, instead of letting them wait.
fn requiring_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

/// Tells when the member of a watch is no longer the one that is asked.
pub(super) struct Moved {
    at: usize,
    current: watch::Receiver<usize>,
}

impl Moved {
    /// Returns when another member is asked.
    pub(super) async fn wait(&mut self) {
        let at = self.at;
        if self.current.wait_for(|current| *current != at).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The member of the watch.
    pub(super) fn member(&self) -> usize {
        self.at
    }
}

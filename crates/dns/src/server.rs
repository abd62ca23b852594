//! Listens on UDP and TCP and answers from the index; asks others what is not the cluster's.

use crate::{
    DnsConfig, DnsIndex, Error,
    answer::{Outcome, Question},
    forward::{DATAGRAM, Forwarder, Reply},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
        rr::{DNSClass, LowerName, Name, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpListener, UdpSocket};

/// A TCP client that asks nothing for so long is left.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait on one TCP connection.
const TCP_BUFFER: usize = 32;
/// How many aliases are followed one after another.
const MAX_ALIASES: usize = 8;

/// A server that has its sockets but does not answer yet.
pub struct DnsServer {
    config: DnsConfig,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl DnsServer {
    /// Binds the sockets.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind(config: DnsConfig) -> Result<Self, Error> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let failed = |source| Error::Listen { address: *address, source };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            // With port 0, TCP takes the port that UDP was given.
            let bound = socket.local_addr().map_err(failed)?;
            tcp.push(TcpListener::bind(bound).await.map_err(failed)?);
            udp.push(socket);
        }
        Ok(Self { config, udp, tcp })
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Answers until `shutdown` resolves.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn run(
        self,
        index: Arc<DnsIndex>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let own = self.addresses();
        let handler = Handler {
            index,
            ttl: self.config.ttl,
            server: own.iter().map(SocketAddr::ip).collect(),
            forwarder: Forwarder::new(self.config.upstreams, own),
            turn: AtomicUsize::new(0),
        };
        let mut server = Server::new(handler);
        for socket in self.udp {
            server.register_socket(socket);
        }
        for listener in self.tcp {
            server.register_listener(listener, IDLE, TCP_BUFFER);
        }
        tokio::select! {
            () = shutdown => {
                server.shutdown_token().cancel();
                Ok(())
            }
            ended = server.block_until_done() => {
                Err(Error::Stopped(ended.err().map_or_else(|| "its sockets are gone".into(), |error| error.to_string())))
            }
        }
    }
}

/// Binds and answers until `shutdown` resolves.
///
/// # Errors
/// As [`DnsServer::bind`] and [`DnsServer::run`].
pub async fn serve(
    index: Arc<DnsIndex>,
    config: DnsConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    DnsServer::bind(config).await?.run(index, shutdown).await
}

struct Handler {
    index: Arc<DnsIndex>,
    ttl: u32,
    server: Vec<IpAddr>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// A whole response, apart from what it repeats of the request.
#[derive(Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Response {
    fn error(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let response = self.respond(request).await;
        let mut metadata =
            Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
        metadata.recursion_desired = request.metadata.recursion_desired;
        metadata.recursion_available = true;
        metadata.authoritative = response.authoritative;
        metadata.response_code = response.code;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, DATAGRAM));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message =
            builder.build(metadata, &response.answers, &response.authorities, [], &response.additionals);
        match out.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer could not be sent");
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

impl Handler {
    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return Response::error(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Response::error(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return Response::error(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return Response::error(ResponseCode::Refused);
        }
        let written = info.query.original().name();
        self.resolve(info.query.name(), written, info.query.query_type()).await
    }

    async fn resolve(&self, name: &LowerName, written: &Name, kind: RecordType) -> Response {
        match self.look_up(name, written, kind) {
            Outcome::Elsewhere => self.forward(written, kind).await,
            Outcome::Alias(target) => self.follow(written, target, kind).await,
            outcome => self.own(outcome, vec![]),
        }
    }

    fn look_up(&self, name: &LowerName, written: &Name, kind: RecordType) -> Outcome {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.index.answer(&Question { name, written, kind, ttl: self.ttl, server: &self.server, turn })
    }

    /// A response out of our own zone, after the aliases that led there.
    fn own(&self, outcome: Outcome, mut answers: Vec<Record>) -> Response {
        let mut response = Response { authoritative: true, ..Response::default() };
        match outcome {
            Outcome::Records { answers: found, additionals } => {
                answers.extend(found);
                response.additionals = additionals;
            }
            Outcome::NoSuchName => {
                response.code = ResponseCode::NXDomain;
                response.authorities = vec![self.index.authority()];
            }
            Outcome::NoData | Outcome::Alias(_) | Outcome::Elsewhere => {
                response.authorities = vec![self.index.authority()];
            }
        }
        response.answers = answers;
        response
    }

    /// Follows an alias: a client's resolver wants the addresses, not only the other name.
    async fn follow(&self, written: &Name, mut target: Name, kind: RecordType) -> Response {
        let mut aliases = vec![Outcome::alias_record(written, self.ttl, &target)];
        if kind == RecordType::CNAME {
            return Response { authoritative: true, answers: aliases, ..Response::default() };
        }
        for _ in 0..MAX_ALIASES {
            match self.look_up(&LowerName::from(&target), &target, kind) {
                Outcome::Elsewhere => {
                    let rest = self.forward(&target, kind).await;
                    aliases.extend(rest.answers);
                    return Response { answers: aliases, authoritative: true, ..rest };
                }
                Outcome::Alias(next) => {
                    aliases.push(Outcome::alias_record(&target, self.ttl, &next));
                    target = next;
                }
                outcome => return self.own(outcome, aliases),
            }
        }
        Response::error(ResponseCode::ServFail)
    }

    async fn forward(&self, name: &Name, kind: RecordType) -> Response {
        match self.forwarder.ask(name, kind).await {
            Some(Reply { code, answers, authorities, additionals }) => {
                Response { code, authoritative: false, answers, authorities, additionals }
            }
            None => Response::error(ResponseCode::ServFail),
        }
    }
}

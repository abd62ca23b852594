//! Asks the machine's own resolvers what is not the cluster's, and remembers their answers for a while. It never asks an
//! address that this server listens on.

use crate::Upstreams;
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{LowerName, Name, RData, Record, RecordType},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

/// For one resolver. A client gives up after 5 s; two resolvers can be tried in that time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that wait for an answer at one time; further ones fail at once.
const MAX_WAITING: usize = 512;
/// Answers remembered.
const MAX_REMEMBERED: usize = 4096;
/// For at most so many seconds, whatever their time to live.
const MAX_TTL: u32 = 300;
/// For negative answers without a SOA record.
const NO_SOA_TTL: u32 = 5;
/// The largest datagram that passes everywhere (DNS flag day 2020).
pub(crate) const DATAGRAM: u16 = 1232;
/// How often the resolvers' file is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// An answer of a resolver.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

/// Forwards questions.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    own: Vec<SocketAddr>,
    file: Mutex<ResolvFile>,
    cache: Mutex<HashMap<(LowerName, RecordType), Remembered>>,
    waiting: Semaphore,
}

#[derive(Default)]
struct ResolvFile {
    looked: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Arc<[SocketAddr]>,
}

struct Remembered {
    reply: Arc<Reply>,
    since: Instant,
    until: Instant,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams, own: Vec<SocketAddr>) -> Self {
        Self {
            upstreams,
            own,
            file: Mutex::default(),
            cache: Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    /// The answer to a question; `None` if nobody answers.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Option<Reply> {
        let key = (LowerName::from(name), kind);
        if let Some(reply) = self.remembered(&key) {
            return Some(reply);
        }
        let servers = self.servers();
        let _place = self.waiting.try_acquire().ok()?;
        let mut last = None;
        for server in servers.iter() {
            match ask_one(*server, name, kind).await {
                Ok(reply) if matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                    self.remember(key, &reply);
                    return Some(reply);
                }
                Ok(reply) => last = Some(reply),
                Err(error) => tracing::debug!(%server, %name, %error, "no answer from the upstream resolver"),
            }
        }
        last
    }

    fn remembered(&self, key: &(LowerName, RecordType)) -> Option<Reply> {
        let now = Instant::now();
        let (reply, age) = {
            let cache = self.cache.lock();
            let found = cache.get(key).filter(|found| found.until > now)?;
            (found.reply.clone(), now.duration_since(found.since).as_secs())
        };
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut reply = Arc::unwrap_or_clone(reply);
        for record in reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals) {
            record.decrement_ttl(age);
        }
        Some(reply)
    }

    fn remember(&self, key: (LowerName, RecordType), reply: &Reply) {
        let ttl = lifetime(reply);
        if ttl == 0 {
            return;
        }
        let since = Instant::now();
        let until = since + Duration::from_secs(ttl.into());
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_REMEMBERED {
            cache.retain(|_, remembered| remembered.until > since);
        }
        if cache.len() >= MAX_REMEMBERED {
            // Everything is fresh: forget every other one, which is as good a choice as any.
            let mut keep = false;
            cache.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        cache.insert(key, Remembered { reply: Arc::new(reply.clone()), since, until });
    }

    /// The resolvers to ask, ourselves never among them.
    fn servers(&self) -> Arc<[SocketAddr]> {
        match &self.upstreams {
            Upstreams::Servers(servers) => {
                servers.iter().filter(|server| !self.own.contains(server)).copied().collect()
            }
            Upstreams::ResolvConf(path) => {
                let mut file = self.file.lock();
                if file.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
                    file.looked = Some(Instant::now());
                    self.read_again(&mut file, path);
                }
                file.servers.clone()
            }
        }
    }

    fn read_again(&self, file: &mut ResolvFile, path: &Path) {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified == file.modified {
            return;
        }
        match fs::read_to_string(path) {
            Ok(text) => {
                file.modified = modified;
                file.servers = nameservers(&text).filter(|server| !self.own.contains(server)).collect();
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no upstream resolvers: only the cluster's names are answered");
                file.servers = Arc::default();
            }
        }
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn nameservers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // A scope (`%eth0`) cannot be kept; such an address is left out.
        address.parse().ok().map(|ip| SocketAddr::new(ip, 53))
    })
}

/// How many seconds a reply may be remembered (RFC 2308, section 5, for negative ones).
fn lifetime(reply: &Reply) -> u32 {
    let all = reply.answers.iter().chain(&reply.authorities);
    let shortest = all.map(|record| record.ttl).min().unwrap_or(NO_SOA_TTL);
    if reply.answers.is_empty() {
        let soa = reply.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
            _ => None,
        });
        soa.unwrap_or(NO_SOA_TTL).min(MAX_TTL)
    } else {
        shortest.min(MAX_TTL)
    }
}

async fn ask_one(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Reply> {
    let id = rand::random();
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let over_udp = timeout(PATIENCE, ask_udp(server, &bytes, &question)).await??;
    let reply = if over_udp.metadata.truncation {
        timeout(PATIENCE, ask_tcp(server, &bytes, &question)).await??
    } else {
        over_udp
    };
    Ok(Reply {
        code: reply.metadata.response_code,
        answers: reply.answers,
        authorities: reply.authorities,
        additionals: reply.additionals,
    })
}

async fn ask_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket for each question: its random port is half of what an impostor must guess.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(DATAGRAM).max(4096)];
    loop {
        let read = socket.recv(&mut buffer).await?;
        if let Some(reply) = matching(&buffer[..read], question) {
            return Ok(reply);
        }
    }
}

async fn ask_tcp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    matching(&buffer, question).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// A reply, if it is one to this question.
fn matching(bytes: &[u8], question: &Message) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let same = reply.metadata.id == question.metadata.id
        && reply.metadata.message_type == MessageType::Response
        && reply.queries == question.queries;
    same.then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_server::proto::rr::rdata::{A, SOA};

    #[test]
    fn nameserver_lines_are_found_among_others() {
        let text = "# a comment\nnameserver 10.0.0.1\n  nameserver\tfd00::1 # two\nsearch example.org\noptions ndots:5\nnameserver\nnameserver fe80::1%eth0\n";
        let found: Vec<String> = nameservers(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53"]);
    }

    #[test]
    fn this_server_is_never_asked_by_itself() {
        let own: SocketAddr = "10.43.0.10:53".parse().unwrap();
        let other: SocketAddr = "192.0.2.53:53".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.43.0.10\nnameserver 192.0.2.53\n").unwrap();
        for upstreams in [Upstreams::Servers(vec![own, other]), Upstreams::ResolvConf(path)] {
            assert_eq!(*Forwarder::new(upstreams, vec![own]).servers(), [other]);
        }
    }

    #[test]
    fn an_answer_is_kept_for_its_shortest_time_to_live_and_a_no_for_that_of_its_soa() {
        let name = Name::from_ascii("example.org.").unwrap();
        let a = |ttl| Record::from_rdata(name.clone(), ttl, RData::A(A(Ipv4Addr::LOCALHOST)));
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 17);
        let soa = |ttl| Record::from_rdata(name.clone(), ttl, RData::SOA(soa.clone()));
        let reply = |answers, authorities| Reply {
            code: ResponseCode::NoError,
            answers,
            authorities,
            additionals: vec![],
        };
        for (reply, expected) in [
            (reply(vec![a(60), a(30)], vec![]), 30),
            (reply(vec![a(86400)], vec![]), MAX_TTL),
            (reply(vec![a(0)], vec![]), 0),
            (reply(vec![], vec![soa(3600)]), 17),
            (reply(vec![], vec![soa(9)]), 9),
            (reply(vec![], vec![]), NO_SOA_TTL),
        ] {
            assert_eq!(lifetime(&reply), expected, "{reply:?}");
        }
    }
}

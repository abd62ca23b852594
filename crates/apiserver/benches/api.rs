//! Measures the API as clients meet it: creates, updates, gets and lists of 1 KB objects over TLS with keep-alive, and one
//! resource's events to many watchers. The load comes from this process and shares the machine's processors with the server.
//!
//! `cargo bench -p orlop-apiserver --bench api -- [SECONDS] [CLIENTS] [WATCHERS]`
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot measure may as well end")]

use orlop_apiserver::{ApiServer, Config};
use orlop_pki::{Authority, CertificateRequest, Credential, Usage, tls};
use orlop_store::embedded::{Embedded, Options};
use rustls::pki_types::ServerName;
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// As in the orlop binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many change what is watched, …
const WRITERS: usize = 8;
/// … so many times a second together: the deliveries that are promised, to 500.
const CHANGES: usize = 420;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A connection that speaks as little HTTP/1.1 as it must: the processors are for the server.
struct Client {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Client {
    async fn connect(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        Self { stream, buffer: vec![0; 64 << 10], filled: 0 }
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn fill(&mut self) -> usize {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        self.filled += read;
        read
    }

    /// Sends a request and reads the answer, of which it returns the length.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> usize {
        self.send(method, path, body).await;
        self.filled = 0;
        let head = loop {
            self.fill().await;
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap().to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 20"), "{text}");
        match text.split("content-length: ").nth(1) {
            Some(rest) => {
                let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
                while self.filled < head + length {
                    self.fill().await;
                }
                length
            }
            // Chunked: the last chunk is empty.
            None => {
                while !self.buffer[..self.filled].ends_with(b"0\r\n\r\n") {
                    self.fill().await;
                }
                self.filled - head
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn map(name: &str, data: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"load"}}}},"data":{{"k":"{data}"}}}}"#
    )
}

struct Setting {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    time: Duration,
    clients: usize,
}

impl Setting {
    /// Lets every client do `request(client, turn)` again and again; prints how often that was a second and how long it took.
    async fn measure(
        &self,
        what: &str,
        clients: usize,
        request: impl Fn(usize, usize) -> (&'static str, String, String) + Clone + Send + 'static,
    ) {
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Client::connect(self.address, &self.config).await);
        }
        let (start, end) = (Instant::now(), Instant::now() + self.time);
        let tasks = connections.into_iter().enumerate().map(|(number, mut client)| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let (method, path, body) = request(number, times.len());
                    let begun = Instant::now();
                    client.ask(method, &path, &body).await;
                    times.push(begun.elapsed());
                }
                times
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("{what:<28}{rate:>10.0} /s   p50 {:>7.2} ms   p99 {:>7.2} ms", at(0.5), at(0.99));
    }

    /// Many watch one resource that few change: events delivered a second, and how old they were then.
    async fn fan_out(&self, watchers: usize) {
        let (delivered, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut readers = Vec::new();
        for number in 0..watchers {
            let mut client = Client::connect(self.address, &self.config).await;
            client.send("GET", &format!("{MAPS}?watch=true&labelSelector=app%3Dwatched"), "").await;
            let (delivered, over) = (delivered.clone(), over.clone());
            readers.push(tokio::spawn(async move {
                let mut ages = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    client.filled = 0;
                    let Ok(read) = tokio::time::timeout(Duration::from_millis(500), client.fill()).await
                    else {
                        continue;
                    };
                    let text = &client.buffer[..read];
                    // An event is a line; chunks end with CR LF.
                    let events = text
                        .iter()
                        .enumerate()
                        .filter(|(i, b)| **b == b'\n' && (*i == 0 || text[i - 1] != b'\r'));
                    delivered.fetch_add(events.count() as u64, Ordering::Relaxed);
                    // A few look at their clock.
                    if number % 100 == 0
                        && let Some(at) = find(text, b"at-")
                        && let Some(sent) =
                            text.get(at + 3..at + 22).and_then(|d| std::str::from_utf8(d).ok())
                        && let Ok(sent) = sent.parse::<u128>()
                    {
                        ages.push(Duration::from_nanos(now().saturating_sub(sent) as u64));
                    }
                }
                ages
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = delivered.load(Ordering::Relaxed);
        let start = Instant::now();
        let body = move |n: usize| {
            let text = map(&format!("watched-{n}"), &format!("at-{:019}-{}", now(), "x".repeat(800)));
            text.replace("\"load\"", "\"watched\"")
        };
        let mut first = Client::connect(self.address, &self.config).await;
        for n in 0..WRITERS {
            first.ask("POST", MAPS, &body(n)).await;
        }
        let end = start + self.time;
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let mut client = Client::connect(self.address, &self.config).await;
            writers.push(tokio::spawn(async move {
                let mut turn =
                    tokio::time::interval(Duration::from_secs_f64(WRITERS as f64 / CHANGES as f64));
                while Instant::now() < end {
                    turn.tick().await;
                    client.ask("PUT", &format!("{MAPS}/watched-{number}"), &body(number)).await;
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let rate = (delivered.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let mut ages = Vec::new();
        for reader in readers {
            ages.extend(reader.await.unwrap());
        }
        ages.sort();
        let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{:<28}{rate:>10.0} /s   p50 {:>7.2} ms   p99 {:>7.2} ms",
            format!("events to {watchers} watchers"),
            at(0.5),
            at(0.99)
        );
    }

    async fn run(&self, watchers: usize) {
        let data = "x".repeat(800);
        let body = data.clone();
        self.measure("create", self.clients, move |client, turn| {
            ("POST", MAPS.into(), map(&format!("load-{client}-{turn}"), &body))
        })
        .await;
        let body = data.clone();
        self.measure("update", self.clients, move |client, turn| {
            let name = format!("load-{client}-0");
            ("PUT", format!("{MAPS}/{name}"), map(&name, &format!("{turn}{body}")))
        })
        .await;
        self.measure("get", self.clients, |client, _| {
            ("GET", format!("{MAPS}/load-{client}-0"), String::new())
        })
        .await;
        self.measure("list of 500", 4, |_, _| ("GET", format!("{MAPS}?limit=500"), String::new())).await;
        self.fan_out(watchers).await;
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

struct Identities {
    authority: Authority,
    server: Credential,
    admin: Credential,
}

fn identities(folder: &Path) -> Identities {
    let now = jiff::Timestamp::now().as_second();
    let authority = Authority::open_or_create(&folder.join("pki"), now).unwrap();
    let request = |name: &str, group: Option<&str>, usage| CertificateRequest {
        common_name: name.into(),
        organization: group.map(str::to_string),
        dns_names: vec!["localhost".into()],
        addresses: vec!["127.0.0.1".parse().unwrap()],
        usage,
        days: 1,
    };
    let server = authority.issue(&request("kube-apiserver", None, Usage::Both), now).unwrap();
    let admin = authority.issue(&request("admin", Some("system:masters"), Usage::Client), now).unwrap();
    Identities { authority, server, admin }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let folder = tempfile::tempdir().unwrap();
    let identities = identities(folder.path());
    let authority = identities.authority.certificate();
    let (serving, asking) = (runtime(), runtime());
    let store = Embedded::open(folder.path().join("store"), Options::default()).unwrap();
    let shutdown = CancellationToken::new();
    let (address, server) = serving.block_on(async {
        let server = ApiServer::start(Config::new(Arc::new(store))).await.unwrap();
        let config = tls::server_config(&identities.server, authority, false, &["h2", "http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(server.serve(listener, config, shutdown.clone())))
    });
    let setting = Setting {
        address,
        config: tls::client_config(authority, Some(&identities.admin)).unwrap(),
        time: Duration::from_secs(number(0, 5) as u64),
        clients: number(1, 64),
    };
    asking.block_on(setting.run(number(2, 500)));
    shutdown.cancel();
    let _ = serving.block_on(server);
}

//! A server on loopback with its own authority, and clients that cost little.

use orlop_apiserver::{ApiServer, Config};
use orlop_pki::{Authority, CertificateRequest, Credential, Usage, tls};
use orlop_store::embedded::{Embedded, Options};
use rustls::pki_types::ServerName;
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// The path of what most requests are about.
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with a runtime of its own.
pub struct Server {
    pub address: SocketAddr,
    /// An administrator's.
    pub config: Arc<rustls::ClientConfig>,
    runtime: Runtime,
    task: JoinHandle<Result<(), orlop_apiserver::Error>>,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts it with an empty store.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts it, and on its runtime what `more` spawns.
    pub fn start_with(more: impl FnOnce(&Arc<ApiServer>)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identities = identities(folder.path());
        let authority = identities.authority.certificate();
        let runtime = runtime();
        let store = Embedded::open(folder.path().join("store"), Options::default()).unwrap();
        let shutdown = CancellationToken::new();
        let (address, task) = runtime.block_on(async {
            let server = ApiServer::start(Config::new(Arc::new(store))).await.unwrap();
            more(&server);
            let config =
                tls::server_config(&identities.server, authority, false, &["h2", "http/1.1"]).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            (address, tokio::spawn(server.serve(listener, config, shutdown.clone())))
        });
        let config = tls::client_config(authority, Some(&identities.admin)).unwrap();
        Self { address, config, runtime, task, shutdown, _folder: folder }
    }

    /// Stops it.
    pub fn stop(self) {
        self.shutdown.cancel();
        let _ = self.runtime.block_on(self.task);
    }
}

/// A connection that speaks as little HTTP/1.1 as it must: the processors are for the server.
pub struct Client {
    stream: TlsStream<TcpStream>,
    pub buffer: Vec<u8>,
    pub filled: usize,
}

impl Client {
    pub async fn connect(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        Self { stream, buffer: vec![0; 64 << 10], filled: 0 }
    }

    pub async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn fill(&mut self) -> usize {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        self.filled += read;
        read
    }

    /// Sends a request and reads the answer, of which it returns the length.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> usize {
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

pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// A ConfigMap with some data.
pub fn map(name: &str, data: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"load"}}}},"data":{{"k":"{data}"}}}}"#
    )
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

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

//! The endpoint over real TLS, with a runtime that runs processes of this machine, and clients that speak as Kubernetes'
//! clients do.

mod access;
mod host_runtime;
mod logs;
mod port_forward;
mod remote_command;
mod spdy_client;

use super::Pods;
use crate::{ContainerHandle, PodHandle};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use host_runtime::HostRuntime;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orlop_pki::{Authority, CertificateRequest, Usage};
use orlop_runtime::ContainerRuntime;
use parking_lot::Mutex;
use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;

/// More than anything here should take; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct HostPods {
    runtime: Arc<dyn ContainerRuntime>,
    pods: Mutex<HashMap<String, PodHandle>>,
}

#[async_trait::async_trait]
impl Pods for HostPods {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        self.pods.lock().get(name).filter(|_| namespace == "default").cloned()
    }

    fn pods(&self) -> Vec<PodHandle> {
        self.pods.lock().values().cloned().collect()
    }

    fn runtime(&self) -> &Arc<dyn ContainerRuntime> {
        &self.runtime
    }

    fn node_name(&self) -> &str {
        "node-1"
    }

    async fn metrics(&self) -> String {
        "orlop_pods 1\n".into()
    }
}

/// A node with a pod `web` (uid `u-1`): container `app` has been restarted once and runs, `late` has not begun.
struct Node {
    address: SocketAddr,
    folder: tempfile::TempDir,
    pods: Arc<HostPods>,
    runtime: Arc<HostRuntime>,
    authority: Authority,
    shutdown: CancellationToken,
    served: Option<tokio::task::JoinHandle<()>>,
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Arc::new(HostRuntime::new());
        let pods = Arc::new(HostPods { runtime: runtime.clone(), pods: Mutex::default() });
        let authority = Authority::open_or_create(&folder.path().join("pki"), now()).expect("an authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut node = Self {
            address,
            folder,
            pods,
            runtime,
            authority,
            shutdown: CancellationToken::new(),
            served: None,
        };
        node.add_pod();
        let server = node.issue("node-1", None, Usage::Server);
        let tls = orlop_pki::tls::server_config(&server, node.authority.certificate(), true, &["http/1.1"])
            .expect("a configuration");
        let serving = super::serve(node.pods.clone(), listener, tls, node.shutdown.clone());
        node.served = Some(tokio::spawn(async move { serving.await.expect("served") }));
        node
    }

    fn add_pod(&self) {
        let container = |name: &str| Container { name: name.into(), ..Default::default() };
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("default".into());
        pod.metadata.uid = Some("u-1".into());
        pod.spec =
            Some(PodSpec { containers: vec![container("app"), container("late")], ..Default::default() });
        let tries = [(0, false), (1, true)].map(|(attempt, running)| ContainerHandle {
            id: format!("app-{attempt}"),
            attempt,
            running,
            log_path: self.log(attempt),
        });
        std::fs::create_dir(self.folder.path().join("app")).expect("a folder");
        for one in &tries {
            std::fs::write(&one.log_path, "").expect("a log");
        }
        self.runtime.set_running("app-1");
        let handle = PodHandle {
            pod: Arc::new(pod),
            sandbox_id: Some("sandbox".into()),
            containers: [("app".to_string(), tries.to_vec()), ("late".to_string(), vec![])].into(),
        };
        self.pods.pods.lock().insert("web".into(), handle);
    }

    fn log(&self, attempt: u32) -> PathBuf {
        self.folder.path().join(format!("app/{attempt}.log"))
    }

    fn issue(&self, name: &str, group: Option<&str>, usage: Usage) -> orlop_pki::Credential {
        let request = CertificateRequest {
            common_name: name.into(),
            organization: group.map(Into::into),
            dns_names: vec!["node-1".into()],
            addresses: vec![self.address.ip()],
            usage,
            days: 1,
        };
        self.authority.issue(&request, now()).expect("issued")
    }

    async fn connect_as(
        &self,
        credential: Option<&orlop_pki::Credential>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tls =
            orlop_pki::tls::client_config(self.authority.certificate(), credential).expect("a configuration");
        let stream = TcpStream::connect(self.address).await?;
        Box::pin(TlsConnector::from(tls).connect(self.address.ip().into(), stream)).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let api_server = self.issue("kube-apiserver-kubelet-client", Some("system:masters"), Usage::Client);
        self.connect_as(Some(&api_server)).await.expect("connected")
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (status, body) = request(self.connect().await, path).await;
        let bytes = patient(body.collect()).await.expect("a whole body").to_bytes();
        (status, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    async fn websocket(&self, path: &str, protocol: &str) -> Result<Socket, tungstenite::Error> {
        let mut request = format!("wss://{}{path}", self.address).into_client_request().expect("a request");
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a value"));
        }
        let stream = self.connect().await;
        patient(tokio_tungstenite::client_async(request, stream)).await.map(|(socket, _)| socket)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn request(stream: TlsStream<TcpStream>, path: &str) -> (StatusCode, hyper::body::Incoming) {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "node-1").body(Empty::<Bytes>::new()).expect("a request");
    let response = patient(sender.send_request(request)).await.expect("an answer");
    (response.status(), response.into_body())
}

async fn patient<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, Box::pin(work)).await.expect("it took too long")
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Everything that came on each channel until the other side closed, and the code it closed with.
async fn until_close(socket: &mut Socket) -> (HashMap<u8, Vec<u8>>, Option<u16>) {
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    while let Some(message) = patient(socket.next()).await {
        match message.expect("a message") {
            Message::Binary(bytes) => channels.entry(bytes[0]).or_default().extend(&bytes[1..]),
            Message::Close(frame) => {
                let code = frame.map(|f| f.code.into());
                // The library sends its answer when it is flushed.
                let _ = socket.flush().await;
                return (channels, code);
            }
            _ => {}
        }
    }
    (channels, None)
}

/// Reads messages until what came on a channel contains a text.
async fn until_text(socket: &mut Socket, channel: u8, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let message = patient(socket.next()).await.expect("more to come").expect("a message");
        if let Message::Binary(bytes) = message
            && bytes[0] == channel
        {
            seen.push_str(&String::from_utf8_lossy(&bytes[1..]));
        }
    }
    seen
}

async fn send(socket: &mut Socket, channel: u8, bytes: &[u8]) {
    socket.send(Message::binary([&[channel], bytes].concat())).await.expect("sent");
}

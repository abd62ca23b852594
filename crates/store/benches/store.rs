//! Durable writes a second of the embedded store beside Debian's etcd, on the same disk in the same run.
//!
//! Each of 1 and 64 writers puts 1 KB values under keys of its own, waiting for each acknowledgement. etcd is spoken to in
//! its own protocol (gRPC, one HTTP/2 connection for every 16 writers), not through its JSON gateway; it runs in a process of
//! its own and the embedded store in ours, as they would under an API server.
//!
//! `cargo bench -p orlop-store`, about 20 seconds; `ORLOP_BENCH_DIR` chooses the disk.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_store::{Commit, Embedded, Op, Options, Store, Txn};
use std::{
    future::Future,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const VALUE: usize = 1024;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(4);
const KEYS: u64 = 1000;

struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    // Cargo passes --bench; a test run of all targets passes nothing and only wants to know that this starts.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let root = std::env::var_os("ORLOP_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(root).expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("durable writes of {VALUE} bytes, {MEASURED:?} each");
        let mut ours = Vec::new();
        for writers in [1, 64] {
            let path = folder.path().join(format!("orlop-{writers}"));
            let store = Arc::new(Embedded::open(&path, Options::default()).expect("opens"));
            ours.push(run(writers, |_| Orlop(store.clone())).await);
            report("orlop", writers, ours.last().expect("one"));
            let resident = resident_mb();
            drop(store);
            let before = Instant::now();
            let store = Embedded::open(&path, Options::default()).expect("opens");
            let (took, revision) = (before.elapsed(), store.revision().await.expect("revision"));
            println!(
                "  {revision} revisions of {} keys: {resident} MB resident, opened again in {took:.0?}",
                writers as u64 * KEYS
            );
        }
        let Some(etcd) = Etcd::start(folder.path()).await else {
            println!("etcd is not installed: no comparison");
            return;
        };
        for (i, writers) in [1_usize, 64].into_iter().enumerate() {
            let clients = etcd.clients(writers.div_ceil(16)).await;
            let theirs = run(writers, |w| clients[w % clients.len()].clone()).await;
            report("etcd ", writers, &theirs);
            println!("  ratio at {writers}: {:.1}", ours[i].per_second / theirs.per_second);
        }
    });
}

fn report(name: &str, writers: usize, m: &Measured) {
    println!(
        "{name} {writers:>2} writers: {:>7.0}/s  p50 {:>8.2?}  p99 {:>8.2?}",
        m.per_second, m.p50, m.p99
    );
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

trait Put: Send + 'static {
    fn put(&mut self, key: String, value: Bytes) -> impl Future<Output = ()> + Send;
}

async fn run<P: Put>(writers: usize, writer: impl Fn(usize) -> P) -> Measured {
    let value = Bytes::from(vec![b'v'; VALUE]);
    let start = Instant::now() + WARM_UP;
    let tasks: Vec<_> = (0..writers)
        .map(|w| {
            let (mut writer, value) = (writer(w), value.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0_u64.. {
                    let before = Instant::now();
                    if before >= start + MEASURED {
                        break;
                    }
                    // A copy each, as values from the network are.
                    let value = Bytes::copy_from_slice(&value);
                    writer.put(format!("/registry/core/configmaps/bench-{w}/{}", n % KEYS), value).await;
                    if before >= start {
                        times.push(before.elapsed());
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a writer"));
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Measured { per_second: times.len() as f64 / MEASURED.as_secs_f64(), p50: at(50), p99: at(99) }
}

struct Orlop(Arc<Embedded>);

impl Put for Orlop {
    async fn put(&mut self, key: String, value: Bytes) {
        let txn = Txn { ops: vec![Op::Put(key.into(), value)], ..Txn::default() };
        assert!(matches!(self.0.commit(txn).await.expect("commit"), Commit::Done(_)));
    }
}

struct Etcd {
    child: Child,
    port: u16,
}

impl Etcd {
    async fn start(folder: &Path) -> Option<Self> {
        let free =
            || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|a| a.port());
        let (port, peer) = (free().expect("a port"), free().expect("a port"));
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let etcd = Self { child, port };
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience {
            if let Ok(mut client) = EtcdClient::connect(etcd.port).await
                && client.try_put("/ready".into(), Bytes::new()).await.is_some()
            {
                return Some(etcd);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    async fn clients(&self, count: usize) -> Vec<EtcdClient> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(EtcdClient::connect(self.port).await.expect("connects"));
        }
        clients
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Just enough of a gRPC client for `etcdserverpb.KV/Put`.
#[derive(Clone)]
struct EtcdClient {
    send: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    uri: String,
}

impl EtcdClient {
    async fn connect(port: u16) -> Result<Self, Box<dyn std::error::Error>> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { send, uri: format!("http://127.0.0.1:{port}/etcdserverpb.KV/Put") })
    }

    /// `None` unless etcd says that it is done.
    async fn try_put(&mut self, key: String, value: Bytes) -> Option<()> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        for (field, bytes) in [(0x0a, key.as_bytes()), (0x12, &value)] {
            message.put_u8(field); // field 1 and 2, length-delimited
            put_varint(&mut message, bytes.len());
            message.put_slice(bytes);
        }
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0); // not compressed
        body.put_u32(u32::try_from(message.len()).ok()?);
        body.put_slice(&message);
        let request = http::Request::post(&self.uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .ok()?;
        self.send.ready().await.ok()?;
        let response = self.send.send_request(request).await.ok()?;
        let collected = response.into_body().collect().await.ok()?;
        (collected.trailers()?.get("grpc-status")? == "0").then_some(())
    }
}

impl Put for EtcdClient {
    async fn put(&mut self, key: String, value: Bytes) {
        self.try_put(key, value).await.expect("etcd puts");
    }
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

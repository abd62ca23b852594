//! Measures memory: what a stored object costs beyond its bytes, and what large lists cost while they are read, one and ten at
//! a time. Counts what is allocated in this process, of which the server is nearly all, so that the figures do not depend on
//! the machine.
//!
//! `cargo bench -p orlop-apiserver --bench memory -- [OBJECTS] [PODS]`
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot measure may as well end")]
#![allow(dead_code, reason = "what benches share is not all used by each")]

mod common;

use common::{Client, MAPS, Server, map, runtime};
use std::{
    alloc::{GlobalAlloc, Layout},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The allocator of the orlop binary, which counts.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

#[allow(unsafe_code, reason = "only passes on, to an allocator that keeps the same promises")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { mimalloc::MiMalloc.realloc(at, layout, size) }
    }
}

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Resident memory, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

const MIB: f64 = (1 << 20) as f64;
const CLIENTS: usize = 16;

/// Creates many objects, from several connections.
async fn create(
    server: &Server,
    count: usize,
    path: &'static str,
    body: impl Fn(usize) -> String + Clone + Send + 'static,
) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(server.address, &server.config).await;
        let (next, body) = (next.clone(), body.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                client.ask("POST", path, &body(number)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Asks for a long answer and keeps nothing of it; returns its length.
async fn skim(client: &mut Client, path: &str) -> usize {
    client.send("GET", path, "").await;
    let mut length = 0;
    client.filled = 0;
    loop {
        length += client.fill().await;
        // The last chunk is empty.
        if client.buffer[..client.filled].ends_with(b"\r\n0\r\n\r\n") {
            return length;
        }
        let kept = client.filled.min(8);
        client.buffer.copy_within(client.filled - kept..client.filled, 0);
        client.filled = kept;
    }
}

/// Some clients read a whole list at once, and keep nothing of it. Prints how much memory that took at most.
async fn lists(server: &Server, readers: usize, path: &'static str) {
    let mut clients = Vec::new();
    for _ in 0..readers {
        clients.push(Client::connect(server.address, &server.config).await);
    }
    let before = live();
    PEAK.store(before, Ordering::Relaxed);
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { skim(&mut client, path).await }))
        .collect();
    let mut size = 0;
    for task in tasks {
        size = task.await.unwrap();
    }
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let (size, peak) = (size as f64 / MIB, peak as f64 / MIB);
    println!("{readers:>2} lists at a time of {size:>6.1} MiB each: {peak:>6.1} MiB more at the peak");
}

fn pod(number: usize) -> String {
    let variables: Vec<String> =
        (0..20).map(|n| format!(r#"{{"name":"VARIABLE_{n}","value":"{}"}}"#, "v".repeat(60))).collect();
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"pod-{number}","labels":{{"app":"load","tier":"web"}}}},
           "spec":{{"containers":[{{"name":"main","image":"registry.example/web:1.2.3","env":[{}],
           "resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}}}}]}}}}"#,
        variables.join(",")
    )
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let (objects, pods) = (number(0, 100_000), number(1, 10_000));
    let server = Server::start();
    runtime().block_on(async {
        // What grows with the first objects and then no more (rings of recent events, buffers) is not an object's.
        let data = "x".repeat(800);
        create(&server, 20_000, MAPS, {
            let data = data.clone();
            move |n| map(&format!("first-{n}"), &data)
        })
        .await;
        let (before, resident_before) = (live(), resident());
        create(&server, objects, MAPS, {
            let data = data.clone();
            move |n| map(&format!("load-{n}"), &data)
        })
        .await;
        let (grown, resident_grown) = (live() - before, resident().saturating_sub(resident_before));
        let mut client = Client::connect(server.address, &server.config).await;
        let bytes = client.ask("GET", &format!("{MAPS}/load-0"), "").await;
        let each = |total: usize| total as f64 / objects as f64 - bytes as f64;
        println!(
            "{objects} objects of {bytes} bytes: {:.0} bytes each beyond that, {:.0} in resident memory",
            each(grown),
            each(resident_grown)
        );
        let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        client.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
        create(&server, pods, "/api/v1/namespaces/default/pods", pod).await;
        for readers in [1, 10] {
            lists(&server, readers, "/api/v1/pods").await;
        }
    });
    server.stop();
}

//! Measures the API as clients meet it: creates, updates, gets and lists of 1 KB objects over TLS with keep-alive, and one
//! resource's events to many watchers. The load comes from this process and shares the machine's processors with the server.
//!
//! `cargo bench -p orlop-apiserver --bench api -- [SECONDS] [CLIENTS] [WATCHERS]`
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot measure may as well end")]

mod common;

use common::{Client, MAPS, Server, find, map, runtime};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// As in the orlop binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many change what is watched, …
const WRITERS: usize = 8;
/// … so many times a second together: the deliveries that are promised, to 500.
const CHANGES: usize = 420;

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

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let server = Server::start();
    let setting = Setting {
        address: server.address,
        config: server.config.clone(),
        time: Duration::from_secs(number(0, 5) as u64),
        clients: number(1, 64),
    };
    runtime().block_on(setting.run(number(2, 500)));
    server.stop();
}

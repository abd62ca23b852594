//! Measures a whole control plane: pods created over TLS as fast as clients can, until the last is bound to a node by the scheduler,
//! with all controllers running. Everything shares this machine's processors: API server with its store on disk, scheduler,
//! controllers, clients, and one that watches for bound pods.
//!
//! `cargo bench -p orlop-controllers --bench binding -- [PODS] [NODES] [CLIENTS]`
//!
//! With simulated nodes that run what is bound to them it measures besides: the cost of a pod and the memory of everything (clients and
//! simulated nodes too) as a cluster fills, how long a Deployment takes to roll and Jobs to complete, and what a cluster does when
//! nobody wants anything: `… -- fill [PODS] [NODES]`, `… -- roll [REPLICAS]`, `… -- jobs [JOBS]`, `… -- idle [OBJECTS]`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot measure may as well end")]

mod plane;

use plane::{Agents, PODS_PATH, Server, Setting, pod, runtime, scale, start_control_loops};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// As in the orlop binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// In an event of a watch for pods with a node: one was bound.
const ADDED: &[u8] = b"\"type\":\"ADDED\"";

async fn bind(setting: &Setting, pods: usize, nodes: usize) {
    setting.make_nodes(nodes).await;
    let mut watcher = setting.connect().await;
    watcher.send("GET", &format!("{PODS_PATH}?watch=true&fieldSelector=spec.nodeName%21%3D"), "").await;
    let bound = tokio::spawn(async move {
        let (mut seen, mut first) = (0, None);
        while seen < pods {
            watcher.fill().await;
            let text = &mut watcher.buffer[..watcher.filled];
            seen += text.windows(ADDED.len()).filter(|w| *w == ADDED).count();
            // The end may hold the beginning of another.
            let keep = text.len().min(ADDED.len() - 1);
            text.copy_within(text.len() - keep.., 0);
            watcher.filled = keep;
            if seen > 0 {
                first.get_or_insert_with(Instant::now);
            }
        }
        (first.unwrap(), Instant::now())
    });
    let start = Instant::now();
    setting.send_all(pods, |i| vec![("POST", PODS_PATH.into(), pod(i))]).await;
    let created = start.elapsed();
    let (first, last) = bound.await.unwrap();
    let rate = |time: Duration| pods as f64 / time.as_secs_f64();
    println!("{pods} pods on {nodes} nodes, {} clients", setting.clients);
    println!("created                     {:>10.0} /s", rate(created));
    println!("created and bound           {:>10.0} /s", rate(last - start));
    println!("first bound after           {:>10.1} ms", (first - start).as_secs_f64() * 1e3);
    println!(
        "last bound after its batch  {:>10.1} ms",
        (last - start).saturating_sub(created).as_secs_f64() * 1e3
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words = arguments.iter().filter(|a| a.parse::<usize>().is_err());
    let what = words.map(String::as_str).next().unwrap_or("bind");
    let numbers: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let (size, nodes) = match what {
        "fill" => (number(0, 150_000), number(1, 5_000)),
        "roll" | "jobs" => (number(0, 1_000), number(1, 100)),
        "idle" => (number(0, 10_000), number(1, 100)),
        _ => (number(0, 10_000), number(1, 1_000)),
    };
    let mut agents = None;
    let server = Server::start_with(|api| {
        start_control_loops(api);
        let nodes_of = Arc::new(Agents::new(api));
        if what != "bind" {
            tokio::spawn(nodes_of.clone().run());
            tokio::spawn(nodes_of.clone().beat(nodes));
        }
        agents = Some(nodes_of);
    });
    let agents = agents.unwrap();
    let setting = Setting::of(&server, number(2, 64));
    runtime().block_on(async {
        match what {
            "fill" => scale::fill(&setting, &agents, size, nodes).await,
            "roll" => scale::roll(&setting, size, nodes).await,
            "jobs" => scale::jobs(&setting, size, nodes).await,
            "idle" => scale::idle(&setting, &agents, size, nodes).await,
            _ => bind(&setting, size, nodes).await,
        }
    });
    server.stop();
}

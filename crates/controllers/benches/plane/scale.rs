//! What a cluster costs at size, with simulated nodes that run what is bound to them.

use super::{Agents, PODS_PATH, Setting, node, pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// After how many pods a line is printed while the cluster fills.
const STEP: usize = 10_000;
const APPS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A field of `/proc/self/status`, in MiB.
fn memory(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Processor time of this process so far, in seconds.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// Reads an object or a list.
async fn read(setting: &Setting, path: &str) -> Value {
    let mut client = setting.connect().await;
    let length = client.ask("GET", path, "").await;
    let text = &client.buffer[..client.filled];
    let body = &text[text.len() - length..];
    serde_json::from_slice(body).unwrap_or_default()
}

async fn until(setting: &Setting, path: &str, what: impl Fn(&Value) -> bool) -> Duration {
    let start = Instant::now();
    loop {
        if what(&read(setting, path).await) {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(300), "it never came to that");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Fills the cluster: what a pod costs and everything weighs on the way.
pub async fn fill(setting: &Setting, agents: &Agents, pods: usize, nodes: usize) {
    setting.make_nodes(nodes).await;
    println!("{:>10} {:>14} {:>14} {:>12}", "pods", "running/s", "µs of cpu/pod", "resident");
    println!("{:>10} {:>14} {:>14} {:>8.0} MiB", 0, "", "", memory("VmRSS"));
    let mut made = 0;
    while made < pods {
        let (start, before) = (Instant::now(), processor());
        let (first, count) = (made, STEP.min(pods - made));
        setting.send_all(count, move |i| vec![("POST", PODS_PATH.into(), pod(first + i))]).await;
        made += count;
        agents.until_ran(made).await;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        let cost = (processor() - before) * 1e6 / count as f64;
        println!("{made:>10} {rate:>14.0} {cost:>14.0} {:>8.0} MiB", memory("VmRSS"));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("resident at rest {:.0} MiB, at most {:.0} MiB", memory("VmRSS"), memory("VmHWM"));
}

fn deployment(replicas: usize, image: &str) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
    .to_string()
}

/// What `kubectl rollout status` waits for.
fn rolled_out(deployment: &Value, replicas: usize) -> bool {
    let status = |field: &str| deployment["status"][field].as_u64().unwrap_or(0) as usize;
    let generation = |v: &Value| v.as_u64().unwrap_or(0);
    generation(&deployment["status"]["observedGeneration"])
        >= generation(&deployment["metadata"]["generation"])
        && [status("updatedReplicas"), status("replicas"), status("availableReplicas")] == [replicas; 3]
}

/// Rolls a Deployment to another image.
pub async fn roll(setting: &Setting, replicas: usize, nodes: usize) {
    setting.make_nodes(nodes).await;
    let path = format!("{APPS}/web");
    let mut client = setting.connect().await;
    client.ask("POST", APPS, &deployment(replicas, "registry.example/web:1")).await;
    let up = until(setting, &path, |d| rolled_out(d, replicas)).await;
    println!("a Deployment of {replicas} is up after    {:>8.2} s", up.as_secs_f64());
    client.ask("PUT", &path, &deployment(replicas, "registry.example/web:2")).await;
    let rolled = until(setting, &path, |d| rolled_out(d, replicas)).await;
    println!("and rolls to another image in {:>8.2} s", rolled.as_secs_f64());
}

/// Completes Jobs of one pod each.
pub async fn jobs(setting: &Setting, jobs: usize, nodes: usize) {
    setting.make_nodes(nodes).await;
    let job = |i: usize| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("job-{i}")},
            "spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example/job:1"}],
            }}},
        })
        .to_string()
    };
    let start = Instant::now();
    setting.send_all(jobs, move |i| vec![("POST", JOBS.into(), job(i))]).await;
    let all = format!("{JOBS}?fieldSelector=status.successful%3D1");
    until(setting, &all, |list| list["items"].as_array().is_some_and(|items| items.len() == jobs)).await;
    println!("{jobs} Jobs are complete after    {:>8.2} s", start.elapsed().as_secs_f64());
}

/// Lets a cluster rest.
pub async fn idle(setting: &Setting, agents: &Agents, objects: usize, nodes: usize) {
    setting.make_nodes(nodes).await;
    let each = objects / 2;
    let map = |i: usize| json!({"metadata": {"name": format!("map-{i}")}, "data": {"k": "v"}}).to_string();
    setting.send_all(each, move |i| vec![("POST", MAPS.into(), map(i))]).await;
    setting.send_all(each, |i| vec![("POST", PODS_PATH.into(), pod(i))]).await;
    agents.until_ran(each).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", node(0).0);
    let revision = async || -> u64 {
        let list = read(setting, "/api/v1/namespaces?limit=1").await;
        list["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap()
    };
    let renewals = async || read(setting, &lease).await["metadata"]["resourceVersion"].to_string();
    let (before, cpu, start, first) = (revision().await, processor(), Instant::now(), renewals().await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (written, spent) = (revision().await - before, processor() - cpu);
    let share = 100.0 * spent / start.elapsed().as_secs_f64();
    assert_ne!(first, renewals().await, "nodes beat");
    println!(
        "{objects} objects, {nodes} nodes, 30 s of rest: {written} writes ({} leases were due), {share:.2}% of a core",
        3 * nodes
    );
}

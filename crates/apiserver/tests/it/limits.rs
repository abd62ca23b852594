//! What is limited stays so, however many write at once and whatever goes wrong in between: quotas, addresses, ports; and
//! what is too large, too deep or too long is refused in words.

use crate::support::{ask, send, server, server_with};
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_store::embedded::Embedded;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A small generator. A run whose promise is broken prints what it started from; `ORLOP_TEST_SEED` starts from it again.
struct Dice(u64);

impl Dice {
    /// The number that all generators of a test start from.
    fn seed() -> u64 {
        let asked = std::env::var("ORLOP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or_else(rand::random);
        println!("ORLOP_TEST_SEED={seed}");
        seed
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80}]}})
}

async fn services(server: &Arc<ApiServer>) -> Vec<Value> {
    let (code, list) = ask(server, "GET", SERVICES, Value::Null).await;
    assert_eq!(code, 200);
    let all = list["items"].as_array().unwrap().iter();
    all.filter(|s| s["metadata"]["name"] != "kubernetes").cloned().collect()
}

/// Creates, changes and deletes services at random; tells nothing but that every answer makes sense.
async fn write_at_random(server: Arc<ApiServer>, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..25 {
        let name = format!("s{}", dice.below(12));
        let kind = ["ClusterIP", "NodePort", "LoadBalancer"][dice.below(3) as usize];
        let uri = format!("{SERVICES}/{name}");
        let (code, answer) = match dice.below(5) {
            0 | 1 => ask(&server, "POST", SERVICES, service(&name, kind)).await,
            2 => ask(&server, "POST", &format!("{SERVICES}?dryRun=All"), service(&name, kind)).await,
            3 => ask(&server, "PATCH", &uri, json!({"spec": {"type": kind}})).await,
            _ => ask(&server, "DELETE", &uri, Value::Null).await,
        };
        let full = code == 500 && answer["message"].as_str().unwrap().contains("range is full");
        assert!(full || matches!(code, 200 | 201 | 403 | 404 | 409), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_says_what_there_is_after_any_mixture_of_writes_and_is_never_exceeded() {
    let server = server_with(|c| c.service_ranges = vec!["10.9.0.0/27".parse().unwrap()]).await;
    let hard = json!({"services": "7", "services.nodeports": "3", "services.loadbalancers": "2"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    assert_eq!(ask(&server, "POST", quotas, quota).await.0, 201);
    // The service that every cluster has is counted too; the status is that of somebody who has just counted.
    let status = json!({"status": {"hard": hard, "used": {"services": "1", "services.nodeports": "0", "services.loadbalancers": "0"}}});
    assert_eq!(ask(&server, "PATCH", &format!("{quotas}/q/status"), status).await.0, 200);
    let used = async |name: &str| -> u64 {
        let (_, q) = ask(&server, "GET", &format!("{quotas}/q"), Value::Null).await;
        q["status"]["used"][name].as_str().unwrap().parse().unwrap()
    };
    let limits = [("services", 7), ("services.nodeports", 3), ("services.loadbalancers", 2)];
    let seed = Dice::seed();
    let writer = |n: u64| tokio::spawn(write_at_random(server.clone(), seed.wrapping_add(n)));
    let tasks: Vec<_> = (0..6).map(writer).collect();
    while tasks.iter().any(|t| !t.is_finished()) {
        for (name, limit) in limits {
            assert!(used(name).await <= limit, "{name}");
        }
        let there = services(&server).await.len();
        assert!(there <= 6, "{there} besides that of every cluster");
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let there = services(&server).await;
    let of = |kinds: &[&str]| {
        there.iter().filter(|s| kinds.iter().any(|k| s["spec"]["type"] == *k)).count() as u64
    };
    assert_eq!(used("services").await, there.len() as u64 + 1);
    assert_eq!(used("services.nodeports").await, of(&["NodePort", "LoadBalancer"]));
    assert_eq!(used("services.loadbalancers").await, of(&["LoadBalancer"]));
}

fn held(services: &[Value]) -> (Vec<String>, Vec<u64>) {
    let addresses = services.iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap().to_string()).collect();
    let ports = services.iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    (addresses, ports)
}

fn distinct<T: Eq + std::hash::Hash>(list: &[T]) -> bool {
    list.iter().collect::<HashSet<_>>().len() == list.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_or_port_is_given_twice_or_lost_whatever_fails_and_whenever_the_server_starts_anew() {
    let store = Arc::new(Embedded::in_memory());
    let start = async |store: Arc<Embedded>| {
        let mut config = Config::new(store);
        // 13 addresses besides that of the kubernetes Service, and ten ports.
        config.service_ranges = vec!["10.9.0.0/28".parse().unwrap()];
        config.node_ports = 30_000..=30_009;
        ApiServer::start(config).await.unwrap()
    };
    let mut server = start(store.clone()).await;
    let seed = Dice::seed();
    for round in 0..3 {
        let writer =
            |n: u64| tokio::spawn(write_at_random(server.clone(), seed.wrapping_add(10 * round + n)));
        let tasks: Vec<_> = (0..5).map(writer).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (addresses, ports) = held(&services(&server).await);
        assert!(distinct(&addresses) && distinct(&ports), "{addresses:?} {ports:?}");
        server.stop();
        server = start(store.clone()).await;
    }
    for service in services(&server).await {
        let uri = format!("{SERVICES}/{}", service["metadata"]["name"].as_str().unwrap());
        assert_eq!(ask(&server, "DELETE", &uri, Value::Null).await.0, 200);
    }
    // All of them are free again.
    for n in 0..10 {
        let (code, answer) = ask(&server, "POST", SERVICES, service(&format!("all{n}"), "NodePort")).await;
        assert_eq!(code, 201, "{answer}");
    }
    let (code, answer) = ask(&server, "POST", SERVICES, service("none", "NodePort")).await;
    assert_eq!(code, 500, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("range is full"), "{answer}");
    // The refused one took no address with it.
    for n in 10..13 {
        let (code, answer) = ask(&server, "POST", SERVICES, service(&format!("all{n}"), "ClusterIP")).await;
        assert_eq!(code, 201, "{answer}");
    }
    let (addresses, ports) = held(&services(&server).await);
    assert_eq!((addresses.len(), ports.len()), (13, 10));
    assert!(distinct(&addresses) && distinct(&ports), "{addresses:?} {ports:?}");
}

#[tokio::test]
async fn what_is_too_large_too_deep_or_bites_its_tail_is_refused_in_words_and_changes_nothing() {
    let server = server().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    assert_eq!(ask(&server, "POST", maps, map.clone()).await.0, 201);
    let (_, before) = ask(&server, "GET", &format!("{maps}/m"), Value::Null).await;
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(3 << 20));
    let deep = format!("{}1{}", "{\"data\":".repeat(200), "}".repeat(200));
    let tail: Vec<Value> = (0..20)
        .map(|n| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata{}", "/x".repeat(1 << n))}))
        .collect();
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let one = format!("{maps}/m");
    for (method, uri, kind, body, codes, words) in [
        ("PATCH", &*one, "application/merge-patch+json", large, [413, 413], "limit"),
        (
            "PATCH",
            &one,
            "application/merge-patch+json",
            deep.clone(),
            [400, 400],
            "exceeded max depth of 100",
        ),
        ("POST", maps, "application/json", deep.clone(), [400, 400], "exceeded max depth of 100"),
        ("POST", maps, "application/yaml", deep, [400, 400], "error converting YAML to JSON"),
        ("PATCH", &one, "application/json-patch+json", Value::from(tail).to_string(), [400, 422], ""),
        ("POST", maps, "application/yaml", bomb.to_string(), [400, 400], "YAML"),
    ] {
        let who = Identity::new("admin", &["system:masters"]);
        let (code, _, status) = send(&server, who, method, uri, body, &[("content-type", kind)]).await;
        assert!(codes.contains(&code), "{kind}: {status}");
        assert_eq!(status["kind"], "Status");
        assert!(status["message"].as_str().unwrap().contains(words), "{kind}: {status}");
    }
    assert_eq!(ask(&server, "GET", &one, Value::Null).await.1, before);
}

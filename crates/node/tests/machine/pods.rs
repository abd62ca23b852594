//! Pods from their creation to their end.

use crate::cluster::{Cluster, condition, shell};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn container(pod: &Value, index: usize) -> &Value {
    &pod["status"]["containerStatuses"][index]
}

async fn fetch(pod: &Value) -> String {
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let mut stream = TcpStream::connect((ip, 8080)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn web() -> Value {
    let mut c =
        json!({"name": "web", "image": "busybox:1", "command": ["httpd", "-f", "-p", "8080", "-h", "/www"]});
    c["readinessProbe"] = json!({"httpGet": {"port": 8080}});
    json!({"containers": [c], "terminationGracePeriodSeconds": 5})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_serves_survives_its_agent_and_goes_without_a_trace() {
    let mut cluster = Cluster::start().await;
    let begun = Instant::now();
    cluster.create("web", web()).await;
    let pod = cluster.ready("web").await;
    println!("created to ready: {:?}", begun.elapsed());
    assert!(fetch(&pod).await.contains("hello"));
    let id = container(&pod, 0)["containerID"].clone();

    cluster.kill_agent().await;
    assert!(fetch(&pod).await.contains("hello"), "it runs without an agent");
    cluster.start_agent().await;
    for _ in 0..1000 {
        if cluster.agent.as_ref().is_some_and(|a| a.pod("default", "web").is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = cluster.ready("web").await;
    assert_eq!(container(&again, 0)["containerID"], id);
    assert_eq!(container(&again, 0)["restartCount"], 0);
    assert!(fetch(&again).await.contains("hello"));

    cluster.pods().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.gone("web").await;
    let left = || {
        let entries = |name: &str| std::fs::read_dir(cluster.path(name)).unwrap().count();
        entries("node/pods") + entries("node/logs/pods")
    };
    for _ in 0..1000 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_come_up_at_once() {
    let cluster = Cluster::start().await;
    let begun = Instant::now();
    let names: Vec<String> = (0..20).map(|i| format!("p{i}")).collect();
    futures::future::join_all(names.iter().map(|name| cluster.create(name, web()))).await;
    let mut ips = std::collections::BTreeSet::new();
    for name in &names {
        ips.insert(cluster.ready(name).await["status"]["podIP"].to_string());
    }
    println!("20 pods ready: {:?}", begun.elapsed());
    assert_eq!(ips.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_like_pod_runs_its_init_container_and_ends() {
    let cluster = Cluster::start().await;
    let mut main = shell("main", "cat /shared/note; echo done > /dev/termination-log");
    main["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    let mut init = shell("init", "echo prepared > /shared/note");
    init["volumeMounts"] = main["volumeMounts"].clone();
    cluster
        .create(
            "job",
            json!({"restartPolicy": "Never", "initContainers": [init], "containers": [main],
            "volumes": [{"name": "shared", "emptyDir": {}}]}),
        )
        .await;
    let pod = cluster.until("job", "done", |p| p["status"]["phase"] == "Succeeded").await;
    let ended = &container(&pod, 0)["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(0), &json!("Completed")));
    assert_eq!(ended["message"], "done\n");
    assert_eq!(cluster.log(&pod, "main", 0), "prepared\n");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);
    assert_eq!(condition(&pod, "Initialized"), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_as_a_kubelet_tells_them() {
    let cluster = Cluster::start().await;
    let one = |c: Value| json!({"restartPolicy": "Never", "containers": [c]});
    cluster.create("exit", one(shell("c", "exit 3"))).await;
    let mut missing = shell("c", "");
    missing["command"] = json!(["/no/such/program"]);
    cluster.create("missing", one(missing)).await;
    let mut hungry = shell("c", "tail /dev/zero");
    hungry["resources"] = json!({"limits": {"memory": "16Mi"}});
    cluster.create("hungry", one(hungry)).await;
    let mut config = shell("c", "true");
    config["envFrom"] = json!([{"secretRef": {"name": "none"}}]);
    cluster.create("config", one(config)).await;
    let mut root = shell("c", "true");
    root["securityContext"] = json!({"runAsNonRoot": true});
    cluster.create("root", one(root)).await;
    for (name, code, reason) in
        [("exit", 3, "Error"), ("missing", 128, "StartError"), ("hungry", 137, "OOMKilled")]
    {
        let pod = cluster.until(name, "failed", |p| p["status"]["phase"] == "Failed").await;
        let ended = &container(&pod, 0)["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(code), &json!(reason)), "{name}: {ended}");
    }
    for name in ["config", "root"] {
        let waits = |p: &Value| container(p, 0)["state"]["waiting"]["reason"] == "CreateContainerConfigError";
        cluster.until(name, "waiting", waits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_alive_is_restarted_and_one_that_is_deaf_is_killed() {
    let cluster = Cluster::start().await;
    let mut c = shell("c", "trap '' TERM; while true; do sleep 0.1; done");
    c["livenessProbe"] = json!({"exec": {"command": ["test", "-e", "/alive"]}, "periodSeconds": 1, "failureThreshold": 1,
        "terminationGracePeriodSeconds": 1});
    cluster.create("deaf", json!({"terminationGracePeriodSeconds": 1, "containers": [c]})).await;
    let pod = cluster.until("deaf", "restarted", |p| container(p, 0)["restartCount"] == 1).await;
    assert_eq!(container(&pod, 0)["lastState"]["terminated"]["exitCode"], 137);
    cluster.pods().delete("deaf", &DeleteParams::default()).await.unwrap();
    cluster.gone("deaf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_is_told_of_itself_is_true() {
    let cluster = Cluster::start().await;
    let mut c = shell(
        "c",
        "hostname; echo $MY_IP $MY_NAME; cat /etc/hosts /etc/resolv.conf; id; cat /proc/1/oom_score_adj; sleep 60",
    );
    c["env"] = json!([{"name": "MY_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MY_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let spec = json!({"containers": [c], "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000},
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}], "terminationGracePeriodSeconds": 0});
    cluster.create("me", spec).await;
    let pod = cluster.ready("me").await;
    let mut log = String::new();
    for _ in 0..500 {
        log = cluster.log(&pod, "c", 0);
        if log.contains("uid=") && log.ends_with("1000\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ip = pod["status"]["podIP"].as_str().unwrap();
    for part in [
        "me\n".to_string(),
        format!("{ip} me\n"),
        format!("{ip}\tme\n"),
        "1.2.3.4\talias\n".into(),
        "search default.svc.cluster.local svc.cluster.local cluster.local".into(),
        "options ndots:5".into(),
        "uid=1000 gid=2000 groups=2000,3000".into(),
    ] {
        assert!(log.contains(&part), "{part:?} is not in {log}");
    }
}

use crate::{Agent, NodeConfig, fake::FakeRuntime, fake_api::FakeApi};
use http::Method;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const POD: &str = "/api/v1/namespaces/shop/pods/web";

/// An agent on a fake machine with a fake API; it ends with the test.
struct Bench {
    api: Arc<FakeApi>,
    client: kube::Client,
    runtime: Arc<FakeRuntime>,
    folder: tempfile::TempDir,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    agent: Option<Agent>,
}

impl Bench {
    fn new() -> Self {
        let (api, client) = FakeApi::start();
        let runtime = Arc::new(FakeRuntime::default());
        runtime.add_image("img:1");
        let folder = tempfile::tempdir().expect("a folder");
        Self { api, client, runtime, folder, running: None, agent: None }
    }

    fn started() -> Self {
        let mut bench = Self::new();
        bench.start();
        bench
    }

    fn start(&mut self) {
        let mut config = NodeConfig::new("n1", self.folder.path(), [192, 0, 2, 1].into());
        // Nobody has to go because this machine's disk is full.
        config.eviction.thresholds.clear();
        config.image_gc.high = 1.0;
        config.cluster_dns = vec![[10, 96, 0, 10].into()];
        let runtime = self.runtime.clone();
        let agent = Agent::new(config, self.client.clone(), runtime.clone(), runtime.clone(), runtime);
        let token = CancellationToken::new();
        let (run, stop) = (agent.clone(), token.clone());
        let task = tokio::spawn(async move { Box::pin(run.run(stop)).await.expect("the agent runs") });
        self.running = Some((token, task));
        self.agent = Some(agent);
    }

    /// Ends the agent at once, as SIGKILL would: nothing is put in order.
    fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    async fn stop(&mut self) {
        if let Some((token, task)) = self.running.take() {
            token.cancel();
            task.await.expect("the agent ends");
        }
    }

    fn create(&self, spec: Value) {
        self.create_named("web", spec);
    }

    fn create_named(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = "n1".into();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        self.api.put(&format!("/api/v1/namespaces/shop/pods/{name}"), pod);
    }

    fn delete(&self, grace: i64) {
        let now = jiff::Timestamp::now().to_string();
        self.api.change(POD, |pod| {
            pod["metadata"]["deletionTimestamp"] = now.into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        });
    }

    fn pod(&self) -> Value {
        self.api.get(POD).unwrap_or_default()
    }

    /// Waits until the pod is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let looked = async {
            loop {
                let pod = self.pod();
                if wanted(&pod) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looked).await.unwrap_or_else(|_| {
            panic!("never {what}: {:#}\n{:?}", self.pod()["status"], self.runtime.state.lock().calls)
        })
    }

    async fn until_ready(&self) -> Value {
        self.until("ready", |pod| condition(pod, "Ready") == "True").await
    }

    /// Waits until something else is so.
    async fn wait(&self, what: &str, so: impl Fn() -> bool) {
        self.until(what, |_| so()).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kill();
        let _ = crate::volumes::tear_down(self.folder.path(), "uid-web");
    }
}

fn condition<'a>(pod: &'a Value, name: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|c| c["type"] == name));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

fn container(pod: &Value, index: usize) -> &Value {
    &pod["status"]["containerStatuses"][index]
}

fn simple() -> Value {
    json!({"containers": [{"name": "c", "image": "img:1"}]})
}

#[tokio::test]
async fn a_pod_becomes_ready_and_says_so_like_a_kubelet() {
    let bench = Bench::started();
    bench.create(simple());
    let pod = bench.until_ready().await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.1.0.2");
    assert_eq!(status["podIPs"], json!([{"ip": "127.1.0.2"}]));
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    for name in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, name), "True", "{name}");
    }
    let c = container(&pod, 0);
    assert_eq!((&c["name"], &c["image"], &c["restartCount"]), (&json!("c"), &json!("img:1"), &json!(0)));
    assert_eq!((&c["ready"], &c["started"]), (&json!(true), &json!(true)));
    assert_eq!(c["containerID"], "orlop://uid-web_c_0");
    assert_eq!(c["imageID"], "sha256:img:1");
    assert!(c["state"]["running"]["startedAt"].is_string());
    bench.wait("events", || bench.api.event_reasons().iter().any(|r| r == "Started")).await;
    let reasons = bench.api.event_reasons();
    let about: Vec<&str> = reasons.iter().map(String::as_str).filter(|r| !r.starts_with("Node")).collect();
    assert_eq!(about, ["Starting", "Pulled", "Created", "Started"]);
    let handle = bench.agent.as_ref().and_then(|a| a.pod("shop", "web")).expect("the pod is shown");
    assert_eq!(handle.sandbox_id.as_deref(), Some("uid-web_0"));
    assert!(handle.containers["c"][0].running);
    assert!(handle.containers["c"][0].log_path.ends_with("logs/pods/shop_web_uid-web/c/0.log"));
}

#[tokio::test]
async fn a_deleted_pod_is_stopped_removed_and_deleted() {
    let bench = Bench::started();
    bench.create(json!({"containers": [{"name": "c", "image": "img:1",
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}));
    bench.until_ready().await;
    bench.delete(30);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
    let calls = bench.runtime.state.lock().calls.clone();
    let order: Vec<usize> = ["exec", "stop_container", "stop_sandbox", "detach"]
        .iter()
        .map(|c| {
            calls.iter().position(|call| call.starts_with(c)).unwrap_or_else(|| panic!("no {c}: {calls:?}"))
        })
        .collect();
    assert!(order.is_sorted(), "{calls:?}");
    let deletes =
        bench.api.writes.lock().iter().filter(|(m, ..)| *m == Method::DELETE).cloned().collect::<Vec<_>>();
    assert_eq!(deletes.len(), 1);
    assert_eq!(deletes[0].2["gracePeriodSeconds"], 0);
    assert_eq!(deletes[0].2["preconditions"]["uid"], "uid-web");
    bench.wait("removed", || bench.runtime.state.lock().sandboxes.is_empty()).await;
    bench.wait("folders gone", || !bench.folder.path().join("pods/uid-web").exists()).await;
    assert!(bench.runtime.state.lock().linked.is_empty());
    // Its last status said how it ended.
    let writes = bench.api.writes.lock();
    let statuses = writes.iter().filter(|(m, p, _)| *m == Method::PATCH && p.contains("/pods/web"));
    let ended: Vec<&Value> =
        statuses.map(|(.., body)| &body["status"]).filter(|s| s["phase"] == "Failed").collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
}

#[tokio::test]
async fn a_stubborn_container_is_killed_when_the_grace_period_becomes_shorter() {
    let bench = Bench::started();
    bench.runtime.state.lock().stubborn.insert("_c_".into());
    bench.create(simple());
    bench.until_ready().await;
    bench.delete(300);
    bench.wait("stopping", || !bench.runtime.calls("stop_container").is_empty()).await;
    bench.delete(0);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
    assert!(!bench.runtime.calls("signal_container").is_empty());
}

#[tokio::test]
async fn a_pod_deleted_by_force_ends_here_too() {
    let bench = Bench::started();
    bench.create(simple());
    bench.until_ready().await;
    bench.api.remove(POD);
    bench.wait("removed", || bench.runtime.state.lock().sandboxes.is_empty()).await;
    assert!(bench.api.writes.lock().iter().all(|(m, ..)| *m != Method::DELETE));
}

#[tokio::test]
async fn containers_outlive_the_agent_and_are_adopted() {
    let mut bench = Bench::started();
    bench.create(json!({"containers": [{"name": "c", "image": "img:1",
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]}));
    bench.until_ready().await;
    bench.kill();
    let before = bench.runtime.running();
    bench.start();
    bench.wait("adopted", || bench.agent.as_ref().is_some_and(|a| a.pod("shop", "web").is_some())).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.runtime.running(), before, "nothing was restarted");
    assert_eq!(bench.runtime.calls("run_sandbox").len(), 1);
    assert_eq!(condition(&bench.pod(), "Ready"), "True");
    // It is really watched over: an exit is seen.
    bench.runtime.exit("uid-web_c_0", 3);
    let pod = bench.until("restarted", |p| container(p, 0)["restartCount"] == 1).await;
    assert_eq!(container(&pod, 0)["lastState"]["terminated"]["exitCode"], 3);
    bench.stop().await;
    assert_eq!(bench.runtime.running().len(), 1, "a stopped agent leaves containers alone");
}

#[tokio::test]
async fn an_adopted_pod_is_probed_at_its_address() {
    let mut bench = Bench::started();
    bench.create(json!({"containers": [{"name": "c", "image": "img:1",
        "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    bench.until("running", |pod| pod["status"]["phase"] == "Running").await;
    bench.kill();
    bench.api.writes.lock().clear();
    bench.start();
    bench.wait("probed", || !probe_events(&bench).is_empty()).await;
    for message in probe_events(&bench) {
        assert!(message.starts_with("Readiness probe failed: dial tcp 127.1.0."), "{message}");
    }
}

fn probe_events(bench: &Bench) -> Vec<String> {
    let writes = bench.api.writes.lock();
    let unhealthy = writes.iter().filter(|(.., body)| body["reason"] == "Unhealthy");
    unhealthy.filter_map(|(.., body)| body["message"].as_str().map(String::from)).collect()
}

#[tokio::test]
async fn what_is_in_the_runtime_but_not_in_the_api_is_removed_at_the_start() {
    let mut bench = Bench::started();
    bench.create(simple());
    bench.until_ready().await;
    bench.kill();
    bench.api.remove(POD);
    bench.start();
    bench.wait("removed", || bench.runtime.state.lock().sandboxes.is_empty()).await;
    bench.wait("files removed", || !bench.folder.path().join("logs/pods/shop_web_uid-web").exists()).await;
}

#[tokio::test]
async fn a_container_that_keeps_failing_backs_off() {
    let bench = Bench::started();
    bench.create(simple());
    bench.until_ready().await;
    bench.runtime.exit("uid-web_c_0", 1);
    bench.wait("restarted", || bench.runtime.running() == ["uid-web_c_1"]).await;
    bench.runtime.exit("uid-web_c_1", 7);
    let pod = bench
        .until("in back-off", |p| container(p, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let c = container(&pod, 0);
    let message = c["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert_eq!(message, "back-off 10s restarting failed container=c pod=web_shop(uid-web)");
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(c["restartCount"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(condition(&pod, "Ready"), "False");
    bench.wait("an event", || bench.api.event_reasons().iter().any(|r| r == "BackOff")).await;
    bench
        .wait("the first try is forgotten", || bench.runtime.calls("remove_container uid-web_c_0").len() == 1)
        .await;
}

#[tokio::test]
async fn a_pod_that_is_not_restarted_ends_as_its_containers_do() {
    for (code, phase) in [(0, "Succeeded"), (3, "Failed")] {
        let bench = Bench::started();
        let mut spec = simple();
        spec["restartPolicy"] = "Never".into();
        bench.create(spec);
        bench.until_ready().await;
        bench.runtime.exit("uid-web_c_0", code);
        let pod = bench.until("ended", |p| p["status"]["phase"] == phase).await;
        assert_eq!(condition(&pod, "Ready"), "False");
        bench.wait("sandbox stopped", || !bench.runtime.calls("stop_sandbox").is_empty()).await;
        assert!(bench.runtime.calls("remove_container").is_empty(), "its log and status stay");
    }
}

#[tokio::test]
async fn init_containers_run_one_by_one_and_sidecars_stay() {
    let bench = Bench::started();
    bench.create(json!({"initContainers": [
            {"name": "first", "image": "img:1"}, {"name": "side", "image": "img:1", "restartPolicy": "Always"},
            {"name": "second", "image": "img:1"}],
        "containers": [{"name": "c", "image": "img:1"}]}));
    bench.wait("first runs", || bench.runtime.running() == ["uid-web_first_0"]).await;
    let pod =
        bench.until("pending", |p| container(p, 0)["state"]["waiting"]["reason"] == "PodInitializing").await;
    assert_eq!(pod["status"]["phase"], "Pending");
    bench.runtime.exit("uid-web_first_0", 1);
    bench.wait("first again", || bench.runtime.running() == ["uid-web_first_1"]).await;
    bench.runtime.exit("uid-web_first_1", 0);
    bench.wait("side and second", || bench.runtime.running() == ["uid-web_second_0", "uid-web_side_0"]).await;
    bench.runtime.exit("uid-web_second_0", 0);
    bench.until_ready().await;
    assert_eq!(bench.runtime.running(), ["uid-web_c_0", "uid-web_side_0"]);
    bench.runtime.exit("uid-web_side_0", 0);
    bench.wait("side again", || bench.runtime.running() == ["uid-web_c_0", "uid-web_side_1"]).await;
    bench.delete(30);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
    let stops = bench.runtime.calls("stop_container");
    assert_eq!(stops, ["stop_container uid-web_c_0", "stop_container uid-web_side_1"]);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_and_tried_again_later() {
    let bench = Bench::started();
    bench.runtime.fail("pull");
    bench.create(json!({"containers": [{"name": "c", "image": "none:1"}]}));
    let pod =
        bench.until("failed", |p| container(p, 0)["state"]["waiting"]["reason"] == "ErrImagePull").await;
    assert_eq!(pod["status"]["phase"], "Pending");
    let pod = bench
        .until("back-off", |p| container(p, 0)["state"]["waiting"]["reason"] == "ImagePullBackOff")
        .await;
    let message = container(&pod, 0)["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Back-off pulling image \"none:1\""), "{message}");
    assert_eq!(bench.runtime.calls("pull").len(), 1);
}

#[tokio::test]
async fn images_that_cannot_be_are_said_so_at_once() {
    for (image, policy, reason) in
        [("no:1", "Never", "ErrImageNeverPull"), ("a b", "IfNotPresent", "InvalidImageName")]
    {
        let bench = Bench::started();
        bench.create(json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]}));
        bench.until(reason, |p| container(p, 0)["state"]["waiting"]["reason"] == reason).await;
    }
}

#[tokio::test]
async fn a_pod_waits_for_its_config_and_starts_when_it_comes() {
    let bench = Bench::started();
    bench.create(json!({"containers": [{"name": "c", "image": "img:1",
        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}]}));
    let pod = bench
        .until("waiting", |p| container(p, 0)["state"]["waiting"]["reason"] == "CreateContainerConfigError")
        .await;
    assert_eq!(container(&pod, 0)["state"]["waiting"]["message"], "configmap \"cm\" not found");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "shop"}, "data": {"k": "v"}});
    bench.api.put("/api/v1/namespaces/shop/configmaps/cm", map);
    bench.until_ready().await;
    let state = bench.runtime.state.lock();
    let (spec, _) = &state.containers["uid-web_c_0"];
    assert!(spec.env.contains(&("X".into(), "v".into())));
}

#[tokio::test]
async fn volumes_are_there_before_the_container_and_follow_their_objects() {
    let bench = Bench::started();
    let map = |v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "shop"}, "data": {"k": v}});
    bench.api.put("/api/v1/namespaces/shop/configmaps/cm", map("one"));
    bench.create(json!({"serviceAccountName": "sa",
        "volumes": [{"name": "cfg", "configMap": {"name": "cm"}}, {"name": "scratch", "emptyDir": {}},
            {"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
        "containers": [{"name": "c", "image": "img:1", "volumeMounts": [
            {"name": "cfg", "mountPath": "/etc/cfg"}, {"name": "scratch", "mountPath": "/tmp", "subPath": "a/b"},
            {"name": "token", "mountPath": "/var/run/secrets"}]}]}));
    bench.until_ready().await;
    let mounts = bench.runtime.state.lock().containers["uid-web_c_0"].0.mounts.clone();
    let host = |inside: &str| {
        let mount = mounts.iter().find(|m| m.container_path == std::path::Path::new(inside));
        mount.unwrap_or_else(|| panic!("no {inside}: {mounts:?}")).host_path.clone()
    };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(read(host("/etc/cfg").join("k")), "one");
    assert_eq!(read(host("/var/run/secrets").join("token")), "a-token");
    assert_eq!(read(host("/var/run/secrets").join("ns")), "shop");
    assert!(host("/tmp").is_dir());
    assert!(read(host("/etc/resolv.conf")).contains("nameserver 10.96.0.10"));
    assert!(read(host("/etc/hosts")).contains("127.1.0.2\tweb"));
    bench.api.put("/api/v1/namespaces/shop/configmaps/cm", map("two"));
    bench.wait("the new value", || read(host("/etc/cfg").join("k")) == "two").await;
    bench.delete(1);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
    bench.wait("files gone", || !bench.folder.path().join("pods/uid-web").exists()).await;
}

#[tokio::test]
async fn probes_decide_over_readiness_and_restarts() {
    let bench = Bench::started();
    bench.create(json!({"containers": [{"name": "c", "image": "img:1",
        "readinessProbe": {"exec": {"command": ["fail"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["fail", "2"]}, "periodSeconds": 1, "failureThreshold": 2}}]}));
    let pod = bench.until("running", |p| p["status"]["phase"] == "Running").await;
    assert_eq!((condition(&pod, "Ready"), &container(&pod, 0)["ready"]), ("False", &json!(false)));
    let pod = bench.until("restarted", |p| container(p, 0)["restartCount"] == 1).await;
    assert_eq!(container(&pod, 0)["lastState"]["terminated"]["exitCode"], 143);
    let reasons = bench.api.event_reasons();
    for reason in ["Unhealthy", "Killing"] {
        assert!(reasons.iter().any(|r| r == reason), "{reasons:?}");
    }
}

#[tokio::test]
async fn a_lost_sandbox_is_replaced_with_all_that_was_in_it() {
    let bench = Bench::started();
    bench.create(json!({"initContainers": [{"name": "i", "image": "img:1"}], "containers": [{"name": "c", "image": "img:1"}]}));
    bench.wait("init runs", || bench.runtime.running() == ["uid-web_i_0"]).await;
    bench.runtime.exit("uid-web_i_0", 0);
    bench.until_ready().await;
    bench.runtime.lose_sandbox("uid-web_0");
    bench.wait("init again", || bench.runtime.running() == ["uid-web_i_1"]).await;
    bench.runtime.exit("uid-web_i_1", 0);
    let pod = bench
        .until("ready again", |p| container(p, 0)["restartCount"] == 1 && condition(p, "Ready") == "True")
        .await;
    assert_eq!(pod["status"]["podIP"], "127.1.0.2");
    let linked: Vec<String> = bench.runtime.state.lock().linked.keys().cloned().collect();
    assert_eq!(linked, ["uid-web_1"]);
}

#[tokio::test]
async fn nothing_of_a_pod_starts_before_its_policies_are_in_force() {
    let bench = Bench::started();
    bench.runtime.fail("protect");
    bench.create(simple());
    bench.until_ready().await;
    let calls = bench.runtime.calls("");
    let protections: Vec<usize> = calls
        .iter()
        .enumerate()
        .filter(|(_, c)| c.starts_with("protect uid-web_0"))
        .map(|(at, _)| at)
        .collect();
    let started = calls.iter().position(|c| c.starts_with("start_container")).expect("it started");
    assert!(matches!(protections[..], [_, second] if second < started), "{calls:?}");
}

#[tokio::test]
async fn steps_that_fail_are_tried_again() {
    let bench = Bench::started();
    for call in [
        "run_sandbox",
        "attach",
        "protect",
        "create_container",
        "stop_container",
        "stop_sandbox",
        "detach",
        "remove_sandbox",
    ] {
        bench.runtime.fail(call);
    }
    bench.api.failing.lock().push(Method::PATCH);
    bench.create(simple());
    bench.until_ready().await;
    bench.delete(5);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
    bench.wait("removed", || bench.runtime.state.lock().sandboxes.is_empty()).await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_with_the_reason() {
    let bench = Bench::started();
    let mut spec = simple();
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
    bench.create(spec);
    let pod = bench.until("failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert!(bench.runtime.state.lock().calls.is_empty());
    bench.delete(30);
    bench.wait("gone", || bench.api.get(POD).is_none()).await;
}

#[tokio::test]
async fn a_pod_over_its_deadline_fails() {
    let bench = Bench::started();
    let mut spec = simple();
    spec["activeDeadlineSeconds"] = 1.into();
    bench.create(spec);
    let pod = bench.until("failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert!(bench.runtime.running().is_empty(), "a pod is over only when nothing of it runs");
}

#[tokio::test]
async fn a_new_image_replaces_the_container() {
    let bench = Bench::started();
    bench.create(simple());
    bench.until_ready().await;
    bench.runtime.add_image("img:2");
    bench.api.change(POD, |pod| {
        pod["spec"]["containers"][0]["image"] = "img:2".into();
        pod["metadata"]["generation"] = 2.into();
    });
    let pod = bench
        .until("replaced", |p| container(p, 0)["restartCount"] == 1 && condition(p, "Ready") == "True")
        .await;
    assert_eq!(container(&pod, 0)["image"], "img:2");
    assert_eq!(pod["status"]["observedGeneration"], 2);
}

#[tokio::test]
async fn the_node_registers_itself_and_keeps_its_lease() {
    let bench = Bench::started();
    let node = || bench.api.get("/api/v1/nodes/n1").unwrap_or_default();
    bench.wait("a status", || node()["status"]["conditions"].is_array()).await;
    let node = node();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    let ready = node["status"]["conditions"]
        .as_array()
        .and_then(|c| c.iter().find(|c| c["type"] == "Ready").cloned());
    assert_eq!(ready.unwrap_or_default()["status"], "True");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.0+orlop");
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    bench.wait("a lease", || bench.api.get(lease).is_some()).await;
    let lease = bench.api.get(lease).unwrap_or_default();
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
    assert_eq!(lease["metadata"]["ownerReferences"][0]["kind"], "Node");
}

use super::*;
use crate::{events::Events, fake::FakeRuntime, fake_api::FakeApi};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A container that is being probed, and what was found out.
struct Probed {
    found: Arc<Mutex<Vec<Found>>>,
    runtime: Arc<FakeRuntime>,
    ending: CancellationToken,
    _probes: Probes,
}

fn probed(container: Value, started: bool) -> Probed {
    let (_, client) = FakeApi::start();
    let events = Events::new(client, "n1", Arc::new(jiff::Timestamp::now));
    let runtime = Arc::new(FakeRuntime::default());
    let found = Arc::new(Mutex::new(Vec::new()));
    let ending = CancellationToken::new();
    let to = found.clone();
    let mut container: Container = serde_json::from_value(container).expect("a container");
    container.name = "c".into();
    let probes = start(Subject {
        container: Arc::new(container),
        id: "id".into(),
        ip: Some([127, 0, 0, 1].into()),
        runtime: runtime.clone(),
        events: events.of_pod(&Default::default()),
        age: Duration::ZERO,
        started,
        jitter: 0.0,
        ending: ending.clone(),
        tell: Arc::new(move |finding| to.lock().push(finding.what)),
    });
    Probed { found, runtime, ending, _probes: probes }
}

impl Probed {
    async fn after(&self, seconds: u64) -> Vec<Found> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.found.lock().clone()
    }

    fn asked(&self) -> usize {
        self.runtime.calls("exec").len()
    }
}

fn exec(command: &str, more: Value) -> Value {
    let mut probe = json!({"exec": {"command": [command]}});
    for (name, value) in more.as_object().into_iter().flatten() {
        probe[name] = value.clone();
    }
    probe
}

#[tokio::test(start_paused = true)]
async fn the_startup_probe_comes_first_and_alone() {
    let c = probed(
        json!({"name": "", "startupProbe": exec("true", json!({"initialDelaySeconds": 5})),
            "readinessProbe": exec("true", json!({}))}),
        false,
    );
    assert_eq!(c.after(4).await, []);
    assert_eq!(c.after(2).await, [Found::Started, Found::Ready(true)]);
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_that_fails_too_often_says_so_once() {
    let c = probed(
        json!({"name": "", "startupProbe": exec("fail", json!({"periodSeconds": 2, "failureThreshold": 3})),
            "livenessProbe": exec("fail", json!({}))}),
        false,
    );
    assert_eq!(c.after(3).await, []);
    assert_eq!(c.after(20).await, [Found::Failed(Why::Startup)]);
}

#[tokio::test(start_paused = true)]
async fn liveness_fails_after_its_threshold_and_is_asked_once_a_period() {
    let c = probed(json!({"name": "", "livenessProbe": exec("fail", json!({"periodSeconds": 10}))}), false);
    assert_eq!(c.after(19).await, []);
    assert_eq!(c.asked(), 2);
    assert_eq!(c.after(2).await, [Found::Failed(Why::Liveness)]);
    assert_eq!(c.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_started_before_is_not_asked_whether_it_is() {
    let c = probed(
        json!({"name": "", "startupProbe": exec("fail", json!({})), "readinessProbe": exec("true", json!({}))}),
        true,
    );
    assert_eq!(c.after(1).await, [Found::Ready(true)]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_is_asked_for_readiness_only() {
    let c = probed(json!({"name": "", "livenessProbe": exec("true", json!({"periodSeconds": 1}))}), false);
    c.after(3).await;
    c.ending.cancel();
    // A question that is under way is still answered.
    c.after(1).await;
    let asked = c.asked();
    c.after(5).await;
    assert_eq!(c.asked(), asked);
    let c = probed(json!({"name": "", "readinessProbe": exec("true", json!({"periodSeconds": 1}))}), false);
    c.ending.cancel();
    c.after(5).await;
    assert!(c.asked() > 3);
}

#[tokio::test]
async fn a_port_that_opens_late_is_noticed_long_before_the_period_is_over() {
    let port =
        TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let c = probed(
        json!({"name": "", "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 3600}}),
        false,
    );
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(c.found.lock().is_empty());
    let _listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the same port");
    for _ in 0..2000 {
        if !c.found.lock().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*c.found.lock(), [Found::Ready(true)]);
}

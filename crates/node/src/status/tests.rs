use super::*;
use crate::{
    back_off::BackOff,
    plan::{Failure, Key, Known, Probed, Termination},
    pod_state::{Container, PodState, Sandbox, spec_hash},
};
use k8s_openapi::api::core::v1::Pod;
use orlop_runtime::ContainerState;
use serde_json::{Value, json};
use std::time::Duration;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// What a case stands on.
struct Case {
    pod: Pod,
    state: PodState,
    known: Known,
    termination: Option<Termination>,
    before: PodStatus,
    now: i64,
}

impl Case {
    fn new(spec: Value) -> Self {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
        let mut known = Known::default();
        known.addresses.insert("u_0".into(), vec![[10, 0, 0, 5].into()]);
        let sandbox = Sandbox { id: "u_0".into(), attempt: 0, ready: true, netns: None };
        Self {
            pod: serde_json::from_value(pod).expect("a pod"),
            state: PodState { sandboxes: vec![sandbox], containers: vec![] },
            known,
            termination: None,
            before: PodStatus::default(),
            now: 1000,
        }
    }

    fn container(mut self, name: &str, attempt: u32, exit: Option<i32>) -> Self {
        let hash = spec_hash(&self.pod.container(name).expect("a spec"));
        self.state.put(Container {
            id: format!("u_{name}_{attempt}"),
            sandbox_id: "u_0".into(),
            name: name.into(),
            attempt,
            hash,
            image: String::new(),
            image_digest: "sha256:x".into(),
            state: if exit.is_some() { ContainerState::Exited } else { ContainerState::Running },
            created_at: Some(at(900)),
            started_at: Some(at(901)),
            finished_at: exit.map(|_| at(990)),
            exit_code: exit.unwrap_or(0),
            signal: 0,
            reason: String::new(),
            message: String::new(),
            message_file: None,
            log_path: Default::default(),
        });
        self
    }

    fn ends(mut self, cause: Cause) -> Self {
        self.termination = Some(Termination { cause, since: at(1000), grace: Duration::from_secs(30) });
        self
    }

    fn status(&self) -> PodStatus {
        let view = View {
            pod: &self.pod,
            state: &self.state,
            known: &self.known,
            termination: self.termination,
            settled: false,
            now: at(self.now),
        };
        pod_status(&StatusInput {
            view: &view,
            host_ips: &[IpAddr::V4([192, 0, 2, 1].into())],
            start_time: at(890),
            why: None,
            messages: &[("u_a_0".to_string(), "bye".to_string())].into(),
            before: &self.before,
        })
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.status()).expect("a status")
    }

    fn condition(&self, name: &str) -> Value {
        let status = self.json();
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == name).unwrap_or_default()
    }
}

fn spec(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]})
}

#[test]
fn a_pod_is_not_over_while_a_sidecar_runs() {
    let side = json!([{"name": "side", "image": "img", "restartPolicy": "Always"}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": side, "containers": [{"name": "a", "image": "img"}]});
    for (side, main, want) in [
        (None, Some(0), "Running"),
        (None, Some(3), "Running"),
        (Some(0), Some(0), "Succeeded"),
        (Some(137), Some(3), "Failed"),
    ] {
        let case =
            Case::new(spec.clone()).container("side", 0, side).container("a", 0, main).ends(Cause::Ended);
        assert_eq!(case.json()["phase"], want, "{side:?} {main:?}");
    }
}

#[test]
fn an_ephemeral_container_has_a_status_and_no_say() {
    let mut with = spec("Always");
    with["ephemeralContainers"] = json!([{"name": "e", "image": "img"}]);
    let case = Case::new(with).container("a", 0, None).container("b", 0, None);
    let waiting = case.json()["ephemeralContainerStatuses"][0].clone();
    assert_eq!(waiting["state"], json!({"waiting": {"reason": "ContainerCreating"}}));
    let case = case.container("e", 0, Some(3));
    let status = case.json();
    let ended = &status["ephemeralContainerStatuses"][0];
    assert_eq!(ended["state"]["terminated"]["exitCode"], 3);
    assert_eq!((&ended["ready"], &ended["restartCount"]), (&json!(false), &json!(0)));
    assert!(ended.get("started").is_none(), "nobody asks whether it has started: {ended}");
    assert_eq!((&status["phase"], &case.condition("Ready")["status"]), (&json!("Running"), &json!("True")));
}

#[test]
fn the_phase_follows_from_the_containers() {
    type Exit = Option<Option<i32>>;
    let (none, runs): (Exit, Exit) = (None, Some(None));
    let exit = |code: i32| Some(Some(code));
    for (policy, a, b, phase) in [
        ("Always", none, none, "Pending"),
        ("Always", runs, none, "Pending"),
        ("Always", runs, runs, "Running"),
        ("Always", runs, exit(1), "Running"),
        ("Always", exit(0), exit(1), "Running"),
        ("OnFailure", exit(0), exit(0), "Succeeded"),
        ("OnFailure", exit(0), exit(1), "Running"),
        ("Never", exit(0), runs, "Running"),
        ("Never", exit(0), exit(0), "Succeeded"),
        ("Never", exit(1), exit(0), "Failed"),
    ] {
        let mut case = Case::new(spec(policy));
        for (name, exit) in [("a", a), ("b", b)] {
            if let Some(exit) = exit {
                case = case.container(name, 0, exit);
            }
        }
        assert_eq!(case.json()["phase"], phase, "{policy} {a:?} {b:?}");
    }
}

#[test]
fn a_pod_that_was_ended_has_failed_unless_all_went_well() {
    for (a, b, phase) in [(0, 0, "Succeeded"), (0, 143, "Failed")] {
        let case = Case::new(spec("Always")).container("a", 0, Some(a)).container("b", 0, Some(b));
        assert_eq!(case.ends(Cause::Deleted).json()["phase"], phase);
    }
    let never_started = Case::new(spec("Always")).ends(Cause::Deleted).json();
    assert_eq!(never_started["phase"], "Failed");
    let ended = &never_started["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
}

#[test]
fn waiting_containers_say_why() {
    let mut case = Case::new(json!({"containers": [{"name": "a", "image": "img"}]}));
    let waiting = |case: &Case| case.json()["containerStatuses"][0]["state"]["waiting"].clone();
    assert_eq!(waiting(&case), json!({"reason": "ContainerCreating"}));
    let failure =
        Failure { reason: "ErrImagePull".into(), message: "no".into(), times: 1, retry_at: at(2000) };
    case.known.failures.insert(Key::Pull("a".into()), failure);
    assert_eq!(waiting(&case), json!({"reason": "ErrImagePull", "message": "no"}));
    let mut case =
        Case::new(json!({"containers": [{"name": "a", "image": "img"}]})).container("a", 4, Some(1));
    case.known.crashes.insert("a".into(), BackOff::after_failures(5, at(980)));
    let status = case.json();
    let c = &status["containerStatuses"][0];
    assert_eq!(c["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(c["state"]["waiting"]["message"], "back-off 2m40s restarting failed container=a pod=p_n(u)");
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(c["restartCount"], 4);
}

#[test]
fn readiness_is_what_probes_and_gates_say() {
    let mut case = Case::new(json!({"readinessGates": [{"conditionType": "example.com/lb"}],
        "containers": [{"name": "a", "image": "img", "readinessProbe": {"exec": {}}, "startupProbe": {"exec": {}}}]}))
    .container("a", 0, None);
    let flags = |case: &Case| {
        let c = case.json()["containerStatuses"][0].clone();
        (c["started"].as_bool(), c["ready"].as_bool())
    };
    assert_eq!(flags(&case), (Some(false), Some(false)));
    let mut probed = Probed { container_id: "u_a_0".into(), started: true, ..Probed::default() };
    case.known.probes.insert("a".into(), probed.clone());
    assert_eq!(flags(&case), (Some(true), Some(false)));
    assert_eq!(case.condition("ContainersReady")["message"], "containers with unready status: [a]");
    probed.ready = true;
    case.known.probes.insert("a".into(), probed);
    assert_eq!(flags(&case), (Some(true), Some(true)));
    assert_eq!(case.condition("ContainersReady")["status"], "True");
    assert_eq!(case.condition("Ready")["reason"], "ReadinessGatesNotReady");
    case.before.conditions =
        serde_json::from_value(json!([{"type": "example.com/lb", "status": "True"}])).expect("conditions");
    assert_eq!(case.condition("Ready")["status"], "True");
    assert_eq!(case.condition("example.com/lb")["status"], "True", "what others wrote stays");
}

#[test]
fn initialization_is_told_by_name() {
    let case =
        Case::new(json!({"initContainers": [{"name": "i", "image": "img"}, {"name": "j", "image": "img"}],
        "containers": [{"name": "a", "image": "img"}]}))
        .container("i", 0, Some(0));
    assert_eq!(case.condition("Initialized")["message"], "containers with incomplete status: [j]");
    assert_eq!(case.condition("Initialized")["reason"], "ContainersNotInitialized");
    let status = case.json();
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    let case = case.container("j", 0, Some(0));
    assert_eq!(case.condition("Initialized")["status"], "True");
}

#[test]
fn the_patch_holds_what_differs_and_nothing_else() {
    let mut case = Case::new(spec("Always")).container("a", 0, None).container("b", 0, None);
    let first = case.status();
    let whole = patch("u", &PodStatus::default(), &first).expect("a patch");
    assert_eq!(whole["metadata"]["uid"], "u");
    assert_eq!(whole["status"]["podIPs"], json!([{"ip": "10.0.0.5"}]));
    // What the API gives back has whole seconds, and nothing differs.
    let stored: PodStatus =
        serde_json::from_value(serde_json::to_value(&first).expect("JSON")).expect("a status");
    case.before = stored.clone();
    case.now = 1060;
    assert_eq!(patch("u", &stored, &case.status()), None);
    let case = case.container("a", 0, Some(2));
    let patch = patch("u", &stored, &case.status()).expect("a patch");
    let fields: Vec<&String> = patch["status"].as_object().expect("fields").keys().collect();
    assert_eq!(fields, ["conditions", "containerStatuses"]);
    let changed: Vec<&Value> =
        patch["status"]["conditions"].as_array().expect("a list").iter().map(|c| &c["type"]).collect();
    assert_eq!(changed, ["Ready", "ContainersReady"]);
    assert_eq!(patch["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "bye");
}

#[test]
fn an_address_that_changes_replaces_the_old_one() {
    let case = Case::new(spec("Always"));
    let mut before = case.status();
    before.pod_ips = serde_json::from_value(json!([{"ip": "10.0.0.4"}])).expect("addresses");
    let patch = patch("u", &before, &case.status()).expect("a patch");
    assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.5"}]));
}

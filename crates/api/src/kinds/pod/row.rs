//! The row of a pod in `kubectl get pods`: how the states of its containers become one word.

use crate::{
    duration,
    object::{condition, flag, has, int, list, text, time},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// What the states of the containers add up to.
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

/// Restarts counted so far and the end of the container that was restarted last.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int(status, "/restartCount").unwrap_or_default();
        self.last = self.last.max(time(status, "/lastState/terminated/finishedAt"));
    }
}

/// One cell for each column of Pod.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|c| is_sidecar(c)).count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let restarts = match summary.restarts {
        Restarts { count: 1.., last: Some(last) } => {
            format!("{} ({} ago)", summary.restarts.count, duration::since(Some(last), now))
        }
        Restarts { count, .. } => count.to_string(),
    };
    vec![
        print::name(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        print::age(pod, now),
        print::or_none(text(pod, "/status/podIPs/0/ip")),
        print::or_none(text(pod, "/spec/nodeName")),
        print::or_none(text(pod, "/status/nominatedNodeName")),
        print::or_none(&readiness_gates(pod)),
    ]
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "/status/phase");
    let reason = Some(text(pod, "/status/reason")).filter(|r| !r.is_empty()).unwrap_or(phase);
    let mut sum = Summary { reason: reason.to_string(), ready: 0, restarts: Restarts::default() };
    let scheduled = list(pod, "/status/conditions").iter().find(|c| text(c, "/type") == "PodScheduled");
    if scheduled.is_some_and(|c| text(c, "/reason") == "SchedulingGated") {
        sum.reason = "SchedulingGated".to_string();
    }

    let mut sidecar_restarts = Restarts::default();
    let initializing = init_containers(pod, &mut sum, &mut sidecar_restarts);
    if !initializing || condition(pod, "Initialized") == "True" {
        sum.restarts = sidecar_restarts;
        main_containers(pod, &mut sum);
    }

    if has(pod, "/metadata/deletionTimestamp") {
        if text(pod, "/status/reason") == "NodeLost" {
            sum.reason = "Unknown".to_string();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            sum.reason = "Terminating".to_string();
        }
    }
    sum
}

/// Walks the init containers up to the first that is not done; says whether there is one.
fn init_containers(pod: &Value, sum: &mut Summary, sidecar_restarts: &mut Restarts) -> bool {
    let specs = list(pod, "/spec/initContainers");
    for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = specs.iter().any(|s| text(s, "/name") == text(status, "/name") && is_sidecar(s));
        sum.restarts.add(status);
        if sidecar {
            sidecar_restarts.add(status);
        }
        let waiting = text(status, "/state/waiting/reason");
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        match terminated {
            Some(t) if int(t, "/exitCode").unwrap_or_default() == 0 => continue,
            _ if sidecar && flag(status, "/started") => {
                sum.ready += usize::from(flag(status, "/ready"));
                continue;
            }
            Some(t) => sum.reason = format!("Init:{}", ended(t)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                sum.reason = format!("Init:{waiting}");
            }
            None => sum.reason = format!("Init:{at}/{}", specs.len()),
        }
        return true;
    }
    false
}

fn main_containers(pod: &Value, sum: &mut Summary) {
    let mut running = false;
    let mut error = None;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        sum.restarts.add(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            sum.reason = waiting.to_string();
        } else if has(status, "/state/terminated") {
            sum.reason = ended(&status["state"]["terminated"]);
            if int(status, "/state/terminated/exitCode").is_some_and(|code| code != 0) {
                error = Some(sum.reason.clone());
            }
        } else if flag(status, "/ready") && has(status, "/state/running") {
            running = true;
            sum.ready += 1;
        }
    }
    if sum.reason == "Completed" {
        let ready = running && condition(pod, "Ready") == "True";
        sum.reason = match error {
            _ if ready => "Running".to_string(),
            Some(error) => error,
            None if running => "NotReady".to_string(),
            None => return,
        };
    }
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), int(terminated, "/signal").unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

/// Whether an init container keeps running beside the others.
fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return String::new();
    }
    let met = gates.iter().filter(|g| condition(pod, text(g, "/conditionType")) == "True").count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(mut pod: Value) -> [String; 3] {
        if !has(&pod, "/spec/containers") {
            pod["spec"]["containers"] = json!([{"name": "a"}]);
        }
        let cells = cells(&pod, "2026-01-01T01:00:00Z".parse().unwrap());
        [1, 2, 3].map(|i| cells[i].as_str().unwrap().to_string())
    }

    fn status(phase: &str, containers: Value) -> Value {
        json!({"status": {"phase": phase, "containerStatuses": containers}})
    }

    #[test]
    fn the_state_of_the_containers_becomes_one_word() {
        let restarted = json!([{"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}}]);
        for (pod, want) in [
            (status("Pending", json!([])), ["0/1", "Pending", "0"]),
            (
                status("Pending", json!([{"state": {"waiting": {"reason": "ContainerCreating"}}}])),
                ["0/1", "ContainerCreating", "0"],
            ),
            (status("Running", json!([{"ready": true, "state": {"running": {}}}])), ["1/1", "Running", "0"]),
            (status("Running", restarted), ["0/1", "CrashLoopBackOff", "3 (5m ago)"]),
            (
                status(
                    "Succeeded",
                    json!([{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]),
                ),
                ["0/1", "Completed", "0"],
            ),
            (
                status("Failed", json!([{"state": {"terminated": {"reason": "Error", "exitCode": 2}}}])),
                ["0/1", "Error", "0"],
            ),
            (
                status("Failed", json!([{"state": {"terminated": {"exitCode": 2}}}])),
                ["0/1", "ExitCode:2", "0"],
            ),
            (status("Failed", json!([{"state": {"terminated": {"signal": 9}}}])), ["0/1", "Signal:9", "0"]),
            (json!({"status": {"phase": "Failed", "reason": "Evicted"}}), ["0/1", "Evicted", "0"]),
        ] {
            assert_eq!(row(pod.clone()), want, "{pod}");
        }
    }

    #[test]
    fn a_finished_container_beside_a_running_one_is_running_or_not_ready() {
        let mut pod = status(
            "Running",
            json!([
            {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}},
            {"ready": true, "state": {"running": {}}}]),
        );
        assert_eq!(row(pod.clone())[1], "NotReady");
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(row(pod)[1], "Running");
    }

    #[test]
    fn a_failed_container_shows_before_one_that_finished_well() {
        let finished = json!({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        let failed = json!({"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}});
        let running = json!({"ready": true, "state": {"running": {}}});
        for (containers, want) in [
            (json!([finished, failed]), "OOMKilled"),
            (json!([failed, finished]), "OOMKilled"),
            (json!([finished, failed, running]), "OOMKilled"),
            (json!([finished, {"state": {"terminated": {"signal": 9, "exitCode": 137}}}]), "Signal:9"),
        ] {
            assert_eq!(row(status("Failed", containers.clone()))[1], want, "{containers}");
        }
    }

    #[test]
    fn init_containers_show_how_far_they_are() {
        let with = |statuses: Value| {
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
                "status": {"phase": "Pending", "initContainerStatuses": statuses}})
        };
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        for (statuses, want) in [
            (json!([{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]), "Init:0/2"),
            (json!([done, {"name": "j", "state": {"running": {}}}]), "Init:1/2"),
            (
                json!([done, {"name": "j", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
                "Init:CrashLoopBackOff",
            ),
            (
                json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
                "Init:Error",
            ),
            (json!([{"name": "i", "state": {"terminated": {"exitCode": 1}}}]), "Init:ExitCode:1"),
        ] {
            assert_eq!(row(with(statuses.clone()))[1], want, "{statuses}");
        }
    }

    #[test]
    fn a_started_sidecar_counts_as_a_container() {
        let pod = json!({"spec": {"containers": [{"name": "a"}],
                "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1,
                    "state": {"running": {}}}],
                "containerStatuses": [{"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}}]}});
        assert_eq!(row(pod), ["2/2", "Running", "2"]);
    }

    #[test]
    fn a_pod_being_deleted_is_terminating_unless_it_is_finished_or_its_node_is_lost() {
        let with = |phase: &str, reason: &str| {
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": phase, "reason": reason}})
        };
        assert_eq!(row(with("Running", ""))[1], "Terminating");
        assert_eq!(row(with("Running", "NodeLost"))[1], "Unknown");
        assert_eq!(row(with("Succeeded", ""))[1], "Succeeded");
    }

    #[test]
    fn wide_cells_show_address_node_and_gates() {
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]},
            "status": {"podIPs": [{"ip": "10.0.0.9"}], "conditions": [{"type": "x", "status": "True"}]}});
        let cells = cells(&pod, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[5..], ["10.0.0.9", "n", "<none>", "1/2"].map(Value::from));
    }
}

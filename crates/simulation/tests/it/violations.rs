//! The rules of the proof can be broken: histories that no controller should ever write.

use jiff::Timestamp;
use orlop_simulation::proof::{Invariants, Running};
use orlop_store::{Change, Entry, Revision, WatchBatch};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A history that somebody makes up.
struct History {
    invariants: Invariants,
    objects: BTreeMap<String, Entry>,
    revision: u64,
    time: i64,
}

fn history() -> History {
    History { invariants: Invariants::new(true), objects: BTreeMap::new(), revision: 0, time: 1000 }
}

impl History {
    /// Writes these at once; `null` deletes.
    fn commit(&mut self, changes: &[(&str, Value)]) -> &mut Self {
        self.revision += 1;
        self.time += 1;
        let revision = Revision(self.revision);
        let changes = changes.iter().map(|(key, value)| {
            let key = format!("/registry/{key}");
            let previous = self.objects.get(&key).cloned();
            let deleted = value.is_null();
            let value = if deleted { String::new() } else { value.to_string() };
            let created = previous.as_ref().map_or(revision, |p| p.created);
            let entry = Entry { key: key.clone().into(), value: value.into(), created, modified: revision };
            if deleted {
                self.objects.remove(&key);
            } else {
                self.objects.insert(key, entry.clone());
            }
            Change { entry, previous, deleted }
        });
        let batch = WatchBatch { revision, changes: changes.collect() };
        self.invariants.take_in(&batch, Timestamp::from_second(self.time).unwrap());
        self
    }

    fn put(&mut self, key: &str, value: Value) -> &mut Self {
        self.commit(&[(key, value)])
    }

    fn wait(&mut self, seconds: i64) -> &mut Self {
        self.time += seconds;
        self
    }

    #[track_caller]
    fn is_fine(&mut self) -> &mut Self {
        assert_eq!(self.invariants.violations(), []);
        self
    }

    #[track_caller]
    fn breaks(&self, rule: &str) {
        let all: Vec<&str> = self.invariants.violations().iter().map(|v| v.what.as_str()).collect();
        assert!(all.len() == 1 && all[0].contains(rule), "{all:?}");
    }
}

fn pod(name: &str, owner: (&str, &str), more: Value) -> Value {
    let mut pod = json!({
        "metadata": {"namespace": "blue", "name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"},
            "ownerReferences": [{"kind": owner.0, "uid": owner.1, "controller": true}]},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Pending"},
    });
    merge(&mut pod, more);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn set(name: &str, replicas: u32, available: u32) -> Value {
    json!({
        "metadata": {"namespace": "blue", "name": name, "uid": name,
            "ownerReferences": [{"kind": "Deployment", "uid": "d", "controller": true}]},
        "spec": {"replicas": replicas}, "status": {"availableReplicas": available},
    })
}

fn deployment(replicas: u32, surge: u32, unavailable: u32, generation: u32, seen: u32) -> Value {
    json!({
        "metadata": {"namespace": "blue", "name": "web", "uid": "d", "generation": generation},
        "spec": {"replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
        "status": {"observedGeneration": seen},
    })
}

fn job(more: Value) -> Value {
    let mut job = json!({"metadata": {"namespace": "blue", "name": "work", "uid": "j"},
        "spec": {"parallelism": 1, "completions": 2, "completionMode": "Indexed"}});
    merge(&mut job, more);
    job
}

fn ready() -> Value {
    json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

#[test]
fn a_node_that_is_given_more_than_it_has() {
    let mut history = history();
    let has = json!({"status": {"allocatable": {"cpu": "1500m", "memory": "8Gi", "pods": "110"}}});
    let on_n = |name| pod(name, ("ReplicaSet", "none"), json!({"spec": {"nodeName": "n"}}));
    history.put("core/nodes/n", has).put("core/pods/blue/a", on_n("a")).is_fine();
    let mut ended = on_n("a");
    ended["status"]["phase"] = "Succeeded".into();
    history.put("core/pods/blue/a", ended).put("core/pods/blue/b", on_n("b")).is_fine();
    history.put("core/pods/blue/c", on_n("c")).breaks("its pods ask for cpu 2000m");
}

#[test]
fn a_replica_set_with_a_pod_too_many() {
    let mut history = history();
    history.put("apps/replicasets/blue/s", set("s", 1, 0));
    history.put("core/pods/blue/a", pod("a", ("ReplicaSet", "s"), json!({}))).is_fine();
    history.put("core/pods/blue/b", pod("b", ("ReplicaSet", "s"), json!({}))).breaks("active pod 2");
}

#[test]
fn a_rollout_with_more_pods_than_its_surge_allows() {
    let mut history = history();
    history.put("apps/deployments/blue/web", deployment(3, 1, 0, 1, 1));
    history
        .put("apps/replicasets/blue/old", set("old", 3, 3))
        .put("apps/replicasets/blue/new", set("new", 1, 0));
    history.is_fine();
    history.put("apps/replicasets/blue/new", set("new", 2, 0)).breaks("wants 5 pods");
}

#[test]
fn a_deployment_that_was_scaled_down_may_still_be_seen_as_it_was() {
    let mut history = history();
    history.put("apps/deployments/blue/web", deployment(5, 0, 1, 1, 1));
    history.put("apps/replicasets/blue/s", set("s", 3, 3));
    history.put("apps/deployments/blue/web", deployment(2, 0, 1, 2, 1));
    history.put("apps/replicasets/blue/s", set("s", 5, 3)).is_fine();
    history.put("apps/deployments/blue/web", deployment(2, 0, 1, 2, 2));
    history.put("apps/replicasets/blue/s", set("s", 6, 3)).breaks("wants 6 pods");
}

#[test]
fn a_rollout_that_takes_away_what_must_stay_available() {
    let mut history = history();
    history.put("apps/deployments/blue/web", deployment(3, 1, 0, 1, 1));
    history
        .put("apps/replicasets/blue/old", set("old", 3, 3))
        .put("apps/replicasets/blue/new", set("new", 1, 1));
    history.put("apps/replicasets/blue/old", set("old", 2, 3)).is_fine();
    history.put("apps/replicasets/blue/old", set("old", 1, 3)).breaks("keeps at most 2 pods available");
}

#[test]
fn pods_that_are_not_available_may_go_in_a_rollout() {
    let mut history = history();
    history.put("apps/deployments/blue/web", deployment(3, 1, 0, 1, 1));
    history
        .put("apps/replicasets/blue/old", set("old", 3, 1))
        .put("apps/replicasets/blue/new", set("new", 1, 0));
    history.wait(60).put("apps/replicasets/blue/old", set("old", 1, 1)).is_fine();
}

#[test]
fn a_job_that_counts_what_never_happened() {
    let mut history = history();
    history.put("batch/jobs/blue/work", job(json!({})));
    let done = json!({"status": {"phase": "Succeeded"}});
    history.put("core/pods/blue/a", pod("a", ("Job", "j"), done));
    history.put("batch/jobs/blue/work", job(json!({"status": {"succeeded": 1}}))).is_fine();
    history
        .put("batch/jobs/blue/work", job(json!({"status": {"succeeded": 2}})))
        .breaks("counts 2 succeeded pods");
}

#[test]
fn a_job_that_counts_failures_that_never_happened() {
    let mut history = history();
    history.put("batch/jobs/blue/work", job(json!({})));
    history.put("batch/jobs/blue/work", job(json!({"status": {"failed": 1}}))).breaks("counts 1 failed pods");
}

#[test]
fn a_job_that_forgets() {
    let mut history = history();
    history.put("batch/jobs/blue/work", job(json!({})));
    history.put("core/pods/blue/a", pod("a", ("Job", "j"), json!({"status": {"phase": "Failed"}})));
    history.put("batch/jobs/blue/work", job(json!({"status": {"failed": 1}}))).is_fine();
    history
        .put("batch/jobs/blue/work", job(json!({"status": {"failed": 0}})))
        .breaks("counted 0 succeeded and 1 failed");
}

#[test]
fn an_index_that_is_worked_on_after_it_succeeded() {
    let mut history = history();
    let of_index_0 = |name, phase: &str| {
        let annotations = json!({"batch.kubernetes.io/job-completion-index": "0"});
        pod(name, ("Job", "j"), json!({"metadata": {"annotations": annotations}, "status": {"phase": phase}}))
    };
    history.put("batch/jobs/blue/work", job(json!({})));
    history.put("core/pods/blue/a", of_index_0("a", "Succeeded"));
    let status = json!({"status": {"succeeded": 1, "completedIndexes": "0"}});
    history.put("batch/jobs/blue/work", job(status)).is_fine();
    history
        .put("core/pods/blue/b", of_index_0("b", "Pending"))
        .breaks("for an index that has succeeded already");
}

#[test]
fn a_job_that_is_complete_too_early() {
    let mut history = history();
    history.put("batch/jobs/blue/work", job(json!({})));
    let conditions = json!([{"type": "Complete", "status": "True"}]);
    history.put("batch/jobs/blue/work", job(json!({"status": {"conditions": conditions}})));
    history.breaks("is complete with 0 of Some(2)");
}

#[test]
fn an_eviction_that_its_budget_does_not_allow() {
    let mut history = history();
    let budget = |disrupted: Value| {
        json!({"metadata": {"namespace": "blue", "name": "b"}, "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"desiredHealthy": 2, "disruptionsAllowed": 0, "disruptedPods": disrupted}})
    };
    history.put("policy/poddisruptionbudgets/blue/b", budget(json!({})));
    for name in ["x", "y", "z"] {
        history.put(&format!("core/pods/blue/{name}"), pod(name, ("ReplicaSet", "s"), ready()));
    }
    let going = |name| {
        let mut going = pod(name, ("ReplicaSet", "s"), ready());
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        going
    };
    let evict = |name: &'static str| {
        [
            ("policy/poddisruptionbudgets/blue/b", budget(json!({name: "2026-01-01T00:00:00Z"}))),
            (if name == "x" { "core/pods/blue/x" } else { "core/pods/blue/y" }, going(name)),
        ]
    };
    history.commit(&evict("x")).is_fine();
    history.commit(&evict("y")).breaks("leaves 1 healthy pods");
}

#[test]
fn a_pod_that_was_lost_is_not_the_fault_of_an_eviction() {
    let mut history = history();
    let budget = json!({"metadata": {"namespace": "blue", "name": "b"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"desiredHealthy": 2}});
    history.put("policy/poddisruptionbudgets/blue/b", budget.clone());
    for name in ["x", "y", "z"] {
        history.put(&format!("core/pods/blue/{name}"), pod(name, ("ReplicaSet", "s"), ready()));
    }
    history.put("core/pods/blue/z", Value::Null);
    history
        .commit(&[("policy/poddisruptionbudgets/blue/b", budget), ("core/pods/blue/y", Value::Null)])
        .is_fine();
}

fn runs(machine: &str, name: &str, uid: &str) -> Running {
    Running { machine: machine.into(), namespace: "blue".into(), name: name.into(), uid: uid.into() }
}

#[test]
fn an_identity_that_runs_twice() {
    let mut history = history();
    let at = Timestamp::from_second(1000).unwrap();
    let (old, other, new) = (runs("n1", "db-0", "1"), runs("n1", "db-1", "2"), runs("n2", "db-0", "3"));
    history.invariants.started(&new, &[other.clone(), new.clone()], at);
    history.is_fine();
    history.invariants.started(&new, &[old, other, new.clone()], at);
    history.breaks("blue/db-0 starts on n2 while it still runs on n1");
}

fn given_up(name: &str) -> Value {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"});
    pod(name, ("StatefulSet", "s"), json!({"spec": {"nodeName": "n"}, "status": {"conditions": [condition]}}))
}

fn on_a_node(history: &mut History) {
    history.put("core/nodes/n", json!({"metadata": {"name": "n"}}));
    history.put("core/pods/blue/a", pod("a", ("StatefulSet", "s"), json!({"spec": {"nodeName": "n"}})));
}

#[test]
fn a_pod_that_is_given_up_though_its_node_is_there() {
    let mut history = history();
    on_a_node(&mut history);
    history.is_fine().put("core/pods/blue/a", given_up("a")).breaks("but its node n is there");
}

#[test]
fn a_pod_that_is_given_up_though_its_node_may_come_back() {
    let mut history = history();
    on_a_node(&mut history);
    history.put("core/nodes/n", Value::Null).wait(45);
    history.put("core/nodes/n", json!({"metadata": {"name": "n"}})).put("core/nodes/n", Value::Null).wait(30);
    history.put("core/pods/blue/a", given_up("a")).breaks("is given up 31s after its node n went");
}

#[test]
fn what_runs_on_a_node_that_was_given_up_counts_as_gone() {
    let mut history = history();
    on_a_node(&mut history);
    history.put("core/nodes/n", Value::Null).wait(45).put("core/pods/blue/a", given_up("a"));
    let at = Timestamp::from_second(history.time).unwrap();
    let (old, new) = (runs("n", "a", "uid-a"), runs("m", "a", "new"));
    history.invariants.started(&new, &[old, new.clone()], at);
    history.is_fine();
}

#[test]
fn a_pod_that_is_preempted_for_nobody() {
    let mut history = history();
    let of = |name: &str, priority: i64, more: Value| {
        let mut pod = pod(name, ("ReplicaSet", "none"), json!({"spec": {"priority": priority}}));
        merge(&mut pod, more);
        pod
    };
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
    let preempted = json!({"spec": {"nodeName": "n"}, "status": {"conditions": [condition]}});
    history.put("core/pods/blue/high", of("high", 10, json!({})));
    history.put("core/pods/blue/same", of("same", 5, json!({})));
    history.put("core/pods/blue/a", of("a", 5, preempted.clone())).is_fine();
    history.put("core/pods/blue/high", of("high", 10, json!({"spec": {"nodeName": "n"}})));
    history.put("core/pods/blue/b", of("b", 5, preempted.clone())).is_fine();
    history
        .wait(60)
        .put("core/pods/blue/c", of("c", 5, preempted))
        .breaks("the highest that waits is Some(5)");
}

#[test]
fn an_autoscaler_that_wants_more_than_it_may() {
    let mut history = history();
    let scaler = |most: u32, wants: u32| {
        json!({"metadata": {"name": "web"}, "spec": {"minReplicas": 2, "maxReplicas": most},
            "status": {"observedGeneration": 1, "desiredReplicas": wants}})
    };
    let key = "autoscaling/horizontalpodautoscalers/blue/web";
    history.put(key, scaler(5, 5)).put(key, scaler(3, 5)).is_fine();
    history.wait(60).put(key, scaler(3, 0)).is_fine();
    history.put(key, scaler(3, 5)).breaks("wants 5, but may want 2 to 3");
}

fn claim(name: &str, volume: &str, more: Value) -> Value {
    let mut claim = json!({"spec": {"volumeName": volume}, "metadata": {
        "namespace": "blue", "name": name, "uid": format!("uid-{name}"),
        "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
    }});
    merge(&mut claim, more);
    claim
}

fn volume(claim: &str, node: &str) -> Value {
    json!({"metadata": {"labels": {"orlop.dev/node": node}}, "spec": {"claimRef": {"uid": claim}}})
}

/// With a volume on node `n` that the claim `data-db-0` has.
fn with_a_volume() -> History {
    let mut history = history();
    history.put("core/namespaces/blue", json!({"metadata": {"name": "blue"}}));
    history.put("core/persistentvolumes/v", volume("uid-data-db-0", "n"));
    history.put("core/persistentvolumeclaims/blue/data-db-0", claim("data-db-0", "v", json!({})));
    history.is_fine();
    history
}

fn with_claim(name: &str, claim: &str, node: &str) -> Value {
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    pod(name, ("StatefulSet", "s"), json!({"spec": {"nodeName": node, "volumes": volumes}}))
}

#[test]
fn a_claim_that_changes_its_volume() {
    let mut history = with_a_volume();
    history.put("core/persistentvolumes/w", volume("uid-data-db-0", "n"));
    let other = claim("data-db-0", "w", json!({}));
    history
        .put("core/persistentvolumeclaims/blue/data-db-0", other)
        .breaks("had the volume v, and now \"w\"");
}

#[test]
fn two_claims_with_one_volume() {
    let mut history = with_a_volume();
    let other = claim("data-db-1", "v", json!({}));
    history
        .put("core/persistentvolumeclaims/blue/data-db-1", other)
        .breaks("bound to v, which is uid-data-db-0's");
}

#[test]
fn a_claim_that_goes_by_itself() {
    let mut history = with_a_volume();
    history
        .put("core/persistentvolumeclaims/blue/data-db-0", Value::Null)
        .breaks("goes, though nothing says so");
}

#[test]
fn a_claim_goes_with_its_owner_or_its_namespace() {
    let mut history = with_a_volume();
    let key = "core/persistentvolumeclaims/blue/data-db-0";
    let owned = json!({"metadata": {"ownerReferences": [{"kind": "StatefulSet", "uid": "s"}]}});
    history.put(key, claim("data-db-0", "v", owned)).put(key, Value::Null).is_fine();
    history.put(key, claim("data-db-0", "v", json!({})));
    let leaving = json!({"metadata": {"name": "blue", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    history.put("core/namespaces/blue", leaving).put(key, Value::Null).is_fine();
}

#[test]
fn a_pod_that_is_not_where_its_volume_is() {
    let mut history = with_a_volume();
    history.put("core/pods/blue/db-0", with_claim("db-0", "data-db-0", "n")).is_fine();
    history.put("core/pods/blue/db-0", Value::Null);
    history.put("core/pods/blue/db-0", with_claim("db-0", "data-db-0", "m"));
    history.breaks("is on m, its claim data-db-0 on n");
}

#[test]
fn a_pod_that_has_a_node_before_its_claim_is_bound() {
    let mut history = with_a_volume();
    let waits = claim("data-db-1", "", json!({}));
    history.put("core/persistentvolumeclaims/blue/data-db-1", waits);
    history.put("core/pods/blue/db-1", with_claim("db-1", "data-db-1", "n"));
    history.breaks("has a node before its claim data-db-1 is bound");
}

#[test]
fn a_stateful_pod_with_the_claim_of_another() {
    let mut history = with_a_volume();
    history.put("core/pods/blue/db-1", with_claim("db-1", "data-db-0", "n"));
    history.breaks("blue/db-1 has the claim data-db-0 of somebody else");
}

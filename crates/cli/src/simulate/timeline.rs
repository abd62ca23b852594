//! What happened, told from the changes of objects: one line for pods of one workload that did the same within a second. Pure.

use super::cluster::{controller, list, text, title};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// When, from the beginning.
    pub at: Duration,
    /// To whom: `Deployment default/web`.
    pub who: String,
    /// What.
    pub what: What,
}

/// See [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Something of one of its pods: `made`, `bound`, ….
    Pod {
        /// Which pod.
        pod: String,
        /// What became of it.
        did: &'static str,
        /// The node that it is on.
        node: String,
    },
    /// Something of the object itself.
    Itself(String),
}

/// Lists events, in order, from one change after the other.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) events: Vec<Event>,
    /// What was said last when pods could not be made, by workload.
    pub(crate) not_made: BTreeMap<String, String>,
    /// The workload behind an owner, by the owner's uid.
    above: HashMap<String, String>,
}

fn number(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|c| c["type"] == type_)
}

fn holds(object: &Value, type_: &str) -> bool {
    condition(object, type_).is_some_and(|c| c["status"] == "True")
}

/// Whether a workload is as it should be: all pods of the newest kind, and available.
pub(crate) fn is_rolled_out(object: &Value) -> bool {
    let status = |name: &str| number(object, &format!("/status/{name}"));
    let seen = status("observedGeneration") >= number(object, "/metadata/generation");
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    seen && match text(object, "/kind") {
        "Deployment" => {
            [status("replicas"), status("updatedReplicas"), status("availableReplicas")] == [wanted; 3]
        }
        "StatefulSet" => {
            status("availableReplicas") == wanted
                && status("replicas") == wanted
                && text(object, "/status/currentRevision") == text(object, "/status/updateRevision")
        }
        "DaemonSet" => {
            let wanted = status("desiredNumberScheduled");
            [status("updatedNumberScheduled"), status("numberAvailable")] == [wanted; 2]
        }
        "Job" => holds(object, "Complete"),
        _ => [status("replicas"), status("availableReplicas")] == [wanted; 2],
    }
}

/// Whether nobody expects a pod to be ready.
fn is_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        || !text(pod, "/metadata/deletionTimestamp").is_empty()
}

impl Recorder {
    /// Learns who is behind whom from an object that is there.
    pub(crate) fn know(&mut self, object: &Value) {
        let kind = text(object, "/kind");
        if !matches!(kind, "ReplicaSet" | "Job" | "StatefulSet" | "DaemonSet" | "ReplicationController") {
            return;
        }
        let who = match controller(object) {
            Some(owner) if kind == "ReplicaSet" => format!(
                "{} {}/{}",
                text(owner, "/kind"),
                text(object, "/metadata/namespace"),
                text(owner, "/name")
            ),
            _ => title(object),
        };
        self.above.insert(text(object, "/metadata/uid").to_string(), who);
    }

    /// The workload that a pod belongs to; the pod where there is none.
    pub(crate) fn workload(&self, pod: &Value) -> String {
        let Some(owner) = controller(pod) else { return title(pod) };
        let known = self.above.get(text(owner, "/uid")).cloned();
        known.unwrap_or_else(|| {
            format!("{} {}/{}", text(owner, "/kind"), text(pod, "/metadata/namespace"), text(owner, "/name"))
        })
    }

    /// Notes what a change means: the object before, `None` where it is new, and after, `None` where it is gone.
    pub(crate) fn changed(&mut self, at: Duration, before: Option<&Value>, after: Option<&Value>) {
        let Some(object) = after.or(before) else { return };
        match text(object, "/kind") {
            "Pod" => self.pod(at, object, before, after),
            "Event" => self.told(object),
            "ReplicaSet" => {
                self.know(object);
                if controller(object).is_none() {
                    self.workload_changed(at, object, before, after);
                }
            }
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" | "CronJob" => {
                self.know(object);
                self.workload_changed(at, object, before, after);
            }
            "Node" => self.node(at, object, before, after),
            "PersistentVolumeClaim" => {
                let bound = |o: &Value| o["status"]["phase"] == "Bound";
                match (before, after) {
                    (None, _) => self.itself(at, object, "made"),
                    (_, None) => self.itself(at, object, "gone"),
                    (Some(old), Some(new)) if bound(new) && !bound(old) => {
                        self.itself(at, object, &format!("bound to {}", text(new, "/spec/volumeName")));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn itself(&mut self, at: Duration, object: &Value, what: &str) {
        self.events.push(Event { at, who: title(object), what: What::Itself(what.into()) });
    }

    fn pod(&mut self, at: Duration, object: &Value, before: Option<&Value>, after: Option<&Value>) {
        let none = Value::Null;
        let (old, new) = (before.unwrap_or(&none), after.unwrap_or(&none));
        let mut did = Vec::new();
        if before.is_none() {
            did.push("made");
        }
        if text(old, "/spec/nodeName").is_empty() && !text(new, "/spec/nodeName").is_empty() {
            did.push("bound");
        }
        let refused = |pod: &Value| {
            condition(pod, "PodScheduled")
                .is_some_and(|c| c["status"] == "False" && c["reason"] == "Unschedulable")
        };
        if refused(new) && !refused(old) {
            did.push("without a node that fits");
        }
        if holds(new, "Ready") && !holds(old, "Ready") {
            did.push("ready");
        }
        if after.is_some() && holds(old, "Ready") && !holds(new, "Ready") && !is_ended(new) {
            did.push("not ready any more");
        }
        let phase = |pod: &Value, phase: &str| pod["status"]["phase"] == phase;
        for (name, told) in [("Succeeded", "completed"), ("Failed", "failed")] {
            if phase(new, name) && !phase(old, name) {
                did.push(told);
            }
        }
        let ends = |pod: &Value| !text(pod, "/metadata/deletionTimestamp").is_empty();
        if after.is_some() && ends(new) && !ends(old) {
            did.push(match condition(new, "DisruptionTarget").map(|c| text(c, "/reason")) {
                Some("EvictionByEvictionAPI") => "evicted",
                Some("PreemptionByScheduler") => "sent away for a more important one",
                _ => "told to end",
            });
        }
        if after.is_none() {
            did.push("gone");
        }
        let who = self.workload(object);
        let (pod, node) =
            (text(object, "/metadata/name").to_string(), text(object, "/spec/nodeName").to_string());
        self.events.extend(did.into_iter().map(|did| Event {
            at,
            who: who.clone(),
            what: What::Pod { pod: pod.clone(), did, node: node.clone() },
        }));
    }

    fn workload_changed(
        &mut self,
        at: Duration,
        object: &Value,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        let (old, new) = match (before, after) {
            (None, _) => return self.itself(at, object, "made"),
            (_, None) => return self.itself(at, object, "gone"),
            (Some(old), Some(new)) => (old, new),
        };
        let replicas = |o: &Value| o.pointer("/spec/replicas").and_then(Value::as_i64);
        if number(old, "/metadata/generation") != number(new, "/metadata/generation") {
            let template = old.pointer("/spec/template") != new.pointer("/spec/template");
            match (replicas(old), replicas(new)) {
                (Some(from), Some(to)) if from != to => {
                    self.itself(at, object, &format!("scaled from {from} to {to}"));
                }
                _ => {}
            }
            if template {
                self.itself(at, object, "changed its pods' template");
            }
        }
        if holds(new, "Failed") && !holds(old, "Failed") {
            let why = condition(new, "Failed").map(|c| text(c, "/message")).unwrap_or_default();
            self.itself(at, object, &format!("failed: {why}"));
        }
        if text(object, "/kind") != "CronJob" && is_rolled_out(new) && !is_rolled_out(old) {
            let done = if text(object, "/kind") == "Job" { "completed" } else { "rolled out" };
            self.itself(at, object, done);
        }
    }

    fn node(&mut self, at: Duration, object: &Value, before: Option<&Value>, after: Option<&Value>) {
        let cordoned = |o: &Value| o["spec"]["unschedulable"] == true;
        match (before, after) {
            // Those that were asked for.
            (None, _) => {}
            (_, None) => self.itself(at, object, "gone"),
            (Some(old), Some(new)) => {
                if cordoned(new) && !cordoned(old) {
                    self.itself(at, object, "cordoned");
                }
                let ready = |o: &Value| condition(o, "Ready").map(|c| text(c, "/status").to_string());
                if ready(old).is_some_and(|r| r == "True") && ready(new).is_some_and(|r| r != "True") {
                    self.itself(at, object, "not ready any more");
                }
            }
        }
    }

    /// Why pods are not made stands in events alone for most workloads.
    fn told(&mut self, event: &Value) {
        if event["reason"] == "FailedCreate" {
            let of = |name: &str| text(event, &format!("/involvedObject/{name}")).to_string();
            let who = self.above.get(&of("uid")).cloned();
            let who = who.unwrap_or_else(|| format!("{} {}/{}", of("kind"), of("namespace"), of("name")));
            self.not_made.insert(who, text(event, "/message").to_string());
        }
    }
}

/// A line of the timeline: second, who, what.
pub(crate) type Line = (u64, String, String);

/// The lines that people read.
pub(crate) fn lines(events: &[Event]) -> Vec<Line> {
    /// Several pods of a line: how many, and on which nodes.
    type Pods = (usize, BTreeMap<String, usize>);
    let mut order: Vec<(u64, String, String)> = Vec::new();
    let mut pods: HashMap<(u64, String, String), Pods> = HashMap::new();
    for event in events {
        let second = event.at.as_secs();
        let (what, on) = match &event.what {
            What::Itself(what) => (what.clone(), None),
            What::Pod { did, node, .. } => (format!("\0{did}"), Some(node)),
        };
        let key = (second, event.who.clone(), what);
        let (count, nodes) = pods.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            Pods::default()
        });
        *count += 1;
        if let Some(node) = on.filter(|n| !n.is_empty()) {
            *nodes.entry(node.clone()).or_default() += 1;
        }
    }
    let line = |key: (u64, String, String)| {
        let what = match (key.2.strip_prefix('\0'), pods.get(&key)) {
            (Some(did), Some((count, nodes))) => {
                let many = if *count == 1 { "1 pod".to_string() } else { format!("{count} pods") };
                let on = if did == "bound" { format!(" to {}", counted(nodes)) } else { String::new() };
                format!("{many} {did}{on}")
            }
            _ => key.2.clone(),
        };
        (key.0, key.1, what)
    };
    order.into_iter().map(line).collect()
}

/// `a: 3, b: 2 and 4 more`.
pub(crate) fn counted(nodes: &BTreeMap<String, usize>) -> String {
    const SHOWN: usize = 6;
    let mut parts: Vec<String> = nodes.iter().take(SHOWN).map(|(node, n)| format!("{node}: {n}")).collect();
    if let [one] = parts.as_slice()
        && nodes.len() == 1
    {
        return one.split(": ").next().unwrap_or_default().to_string();
    }
    let more = nodes.len().saturating_sub(SHOWN);
    if more > 0 {
        parts.push(format!("and {more} more nodes"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, ready: bool) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "a", "ownerReferences":
            [{"kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}]}, "spec": {"nodeName": node},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
    }

    #[test]
    fn pods_that_did_the_same_are_one_line_of_their_workload() {
        let mut recorder = Recorder::default();
        recorder
            .know(&json!({"kind": "ReplicaSet", "metadata": {"name": "web-1", "namespace": "a", "uid": "r",
            "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d", "controller": true}]}}));
        let at = Duration::from_millis;
        for name in ["x", "y", "z"] {
            recorder.changed(at(0), None, Some(&pod(name, "", false)));
        }
        for (name, node) in [("x", "n1"), ("y", "n1"), ("z", "n2")] {
            recorder.changed(at(10), Some(&pod(name, "", false)), Some(&pod(name, node, false)));
            recorder.changed(at(2500), Some(&pod(name, node, false)), Some(&pod(name, node, true)));
        }
        recorder.changed(at(3000), Some(&pod("x", "n1", true)), None);
        let lines: Vec<String> =
            lines(&recorder.events).into_iter().map(|(at, who, what)| format!("{at} {who} {what}")).collect();
        assert_eq!(
            lines,
            [
                "0 Deployment a/web 3 pods made",
                "0 Deployment a/web 3 pods bound to n1: 2, n2: 1",
                "2 Deployment a/web 3 pods ready",
                "3 Deployment a/web 1 pod gone",
            ]
        );
    }

    #[test]
    fn a_workload_tells_what_was_changed_and_when_it_is_done() {
        let deployment = |generation: i64, replicas: i64, available: i64| {
            json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "a", "generation": generation},
                "spec": {"replicas": replicas}, "status": {"observedGeneration": generation, "replicas": replicas,
                "updatedReplicas": replicas, "availableReplicas": available}})
        };
        let mut recorder = Recorder::default();
        let (one, two, done) = (deployment(1, 1, 1), deployment(2, 2, 1), deployment(2, 2, 2));
        recorder.changed(Duration::ZERO, Some(&one), Some(&two));
        recorder.changed(Duration::from_secs(4), Some(&two), Some(&done));
        recorder.changed(Duration::from_secs(5), Some(&done), Some(&done));
        let whats: Vec<&What> = recorder.events.iter().map(|e| &e.what).collect();
        let want = ["scaled from 1 to 2", "rolled out"].map(|w| What::Itself(w.into()));
        assert_eq!(whats, want.iter().collect::<Vec<_>>());
    }

    #[test]
    fn many_nodes_are_counted_and_not_named() {
        let nodes = (1..=9).map(|n| (format!("n{n}"), n)).collect();
        assert_eq!(counted(&nodes), "n1: 1, n2: 2, n3: 3, n4: 4, n5: 5, n6: 6, and 3 more nodes");
        assert_eq!(counted(&BTreeMap::from([("a".to_string(), 4)])), "a");
    }
}

//! What a simulation came to, from the cluster before and after: where pods are, what nodes hold, what stays undone and why. It changes
//! nothing.

use super::{
    cluster::{controller, list, text, title},
    drain::Drain,
    timeline::{Event, Recorder, What, is_rolled_out},
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use orlop_api::{pod_resources, quantity::Quantity};
use orlop_scheduler::{config::Configuration, world};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The objects of a cluster at one time, by group and plural.
pub(crate) type Objects<'a> = &'a dyn Fn(&str, &str) -> Vec<Value>;

/// What is on a node: number of pods, thousandths of processors, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub pods: i64,
    pub cpu: i64,
    pub memory: i64,
}

/// A node before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeUse {
    pub name: String,
    pub before: Load,
    pub after: Load,
    /// What it has for pods.
    pub offers: Load,
}

/// Pods of a workload that stay without a node, all for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub who: String,
    pub pods: Vec<String>,
    pub why: String,
    /// The node that is nearest to taking one, and what would have to change.
    pub nearest: Option<(String, Vec<String>)>,
}

/// A workload that is not as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undone {
    pub who: String,
    pub why: String,
    /// Whether it was so before.
    pub before: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub events: Vec<Event>,
    pub nodes: Vec<NodeUse>,
    /// Pods that came to a node, by workload: how many on which.
    pub placed: BTreeMap<String, BTreeMap<String, usize>>,
    pub waiting: Vec<Waiting>,
    pub undone: Vec<Undone>,
    pub drains: Vec<Drain>,
    /// What the server refused to apply.
    pub refused: Vec<String>,
    /// How long it was looked at what still changed in the end; `None` if nothing did.
    pub busy: Option<Duration>,
}

/// The exit code where something is refused.
pub(crate) const REFUSED: u8 = 1;
/// The exit code where something stays undone.
pub(crate) const UNDONE: u8 = 2;

impl Outcome {
    /// The code that the verb ends with.
    pub(crate) fn code(&self) -> u8 {
        if !self.refused.is_empty() {
            return REFUSED;
        }
        let undone = !self.waiting.is_empty()
            || self.undone.iter().any(|u| !u.before)
            || self.drains.iter().any(|d| d.done.is_none())
            || self.busy.is_some();
        if undone { UNDONE } else { 0 }
    }

    /// When the last thing happened.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.events.iter().map(|e| e.at).max()
    }
}

fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn load(pod: &Value) -> Load {
    let requests =
        PodSpec::deserialize(&pod["spec"]).map(|s| pod_resources::requests(&s)).unwrap_or_default();
    Load { pods: 1, cpu: requests.milli_cpu(), memory: requests.memory() }
}

/// What is on each node.
pub(crate) fn loads(pods: &[Value]) -> BTreeMap<String, Load> {
    let mut all: BTreeMap<String, Load> = BTreeMap::new();
    for pod in pods.iter().filter(|p| !is_finished(p)) {
        let node = text(pod, "/spec/nodeName");
        if !node.is_empty() {
            let (sum, one) = (all.entry(node.into()).or_default(), load(pod));
            *sum = Load { pods: sum.pods + 1, cpu: sum.cpu + one.cpu, memory: sum.memory + one.memory };
        }
    }
    all
}

fn offers(node: &Value) -> Load {
    let amount = |name: &str| {
        let of = |list: &str| node.pointer(&format!("/status/{list}/{name}")).map(Quantity::from_json);
        of("allocatable").or_else(|| of("capacity")).and_then(Result::ok).unwrap_or_default()
    };
    Load { pods: amount("pods").value(), cpu: amount("cpu").milli_value(), memory: amount("memory").value() }
}

/// Nodes before and after.
pub(crate) fn uses(nodes: &[Value], before: &BTreeMap<String, Load>, after: &[Value]) -> Vec<NodeUse> {
    let after = loads(after);
    let of = |all: &BTreeMap<String, Load>, name: &str| all.get(name).copied().unwrap_or_default();
    let one = |node: &Value| {
        let name = text(node, "/metadata/name").to_string();
        NodeUse { before: of(before, &name), after: of(&after, &name), offers: offers(node), name }
    };
    nodes.iter().map(one).collect()
}

/// Where pods went that got a node.
pub(crate) fn placed(events: &[Event]) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for event in events {
        if let What::Pod { did: "bound", node, .. } = &event.what {
            *all.entry(event.who.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
    }
    all
}

/// Pods without a node, and why: in the scheduler's words, with the smallest change that would help.
pub(crate) fn waiting(
    objects: Objects<'_>,
    recorder: &Recorder,
    configuration: &Configuration,
) -> Vec<Waiting> {
    let lost: Vec<Value> = objects("", "pods")
        .into_iter()
        .filter(|p| {
            text(p, "/spec/nodeName").is_empty()
                && !is_finished(p)
                && text(p, "/metadata/deletionTimestamp").is_empty()
        })
        .collect();
    if lost.is_empty() {
        return Vec::new();
    }
    let mut known = world::World::new(configuration.clone());
    for path in world::LISTS {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let items = match parts.as_slice() {
            ["api", _, plural] => objects("", plural),
            ["apis", group, _, plural] => objects(group, plural),
            _ => Vec::new(),
        };
        // What the server keeps can be read.
        let _ = known.take(path, &items);
    }
    let mut all: Vec<Waiting> = Vec::new();
    for pod in lost {
        let (who, name) = (recorder.workload(&pod), text(&pod, "/metadata/name").to_string());
        let said = list(&pod, "/status/conditions").iter().find(|c| c["type"] == "PodScheduled");
        let said = said.map(|c| text(c, "/message").to_string()).unwrap_or_default();
        if let Some(same) = all.iter_mut().find(|w| w.who == who && w.why == said && !said.is_empty()) {
            same.pods.push(name);
            continue;
        }
        let gates: Vec<&str> = list(&pod, "/spec/schedulingGates").iter().map(|g| text(g, "/name")).collect();
        let (why, nearest) = if gates.is_empty() {
            let explained = Pod::deserialize(&pod).ok().map(|p| known.explain(&Arc::new(p)));
            match explained {
                Some(Some(explained)) if explained.candidates.is_empty() => {
                    let why = if said.is_empty() { explained.diagnosis.to_string() } else { said };
                    (why, explained.nearest)
                }
                Some(Some(_)) if said.is_empty() => ("it fits, but has no node yet".into(), None),
                Some(None) => {
                    let other = text(&pod, "/spec/schedulerName").to_string();
                    (format!("it waits for another scheduler: {other}"), None)
                }
                _ => (said, None),
            }
        } else {
            (format!("it waits for its scheduling gates: {}", gates.join(", ")), None)
        };
        all.push(Waiting { who, pods: vec![name], why, nearest });
    }
    all
}

/// Kinds that are there to have pods for good.
const WORKLOADS: [(&str, &str); 5] = [
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("apps", "replicasets"),
    ("", "replicationcontrollers"),
];

/// The workloads that are not as they are wanted, by title.
pub(crate) fn unfinished(objects: Objects<'_>) -> BTreeMap<String, Value> {
    let all = WORKLOADS.iter().flat_map(|(group, plural)| objects(group, plural));
    all.filter(|o| controller(o).is_none() && o["spec"]["paused"] != true && !is_rolled_out(o))
        .map(|o| (title(&o), o))
        .collect()
}

/// What of them nobody has explained yet.
pub(crate) fn undone(
    after: &BTreeMap<String, Value>,
    before: &BTreeSet<String>,
    waiting: &[Waiting],
    recorder: &Recorder,
) -> Vec<Undone> {
    let explained = |who: &str| waiting.iter().any(|w| w.who == who);
    let all = after.iter().filter(|(who, _)| !explained(who));
    all.map(|(who, object)| {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
        let wanted = number("/spec/replicas").or(number("/status/desiredNumberScheduled")).unwrap_or(1);
        let available =
            number("/status/availableReplicas").or(number("/status/numberAvailable")).unwrap_or(0);
        let why = match recorder.not_made.get(who) {
            Some(why) => why.clone(),
            None => format!("{available} of {wanted} pods are available"),
        };
        Undone { who: who.clone(), why, before: before.contains(who) }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, cpu: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn the_use_of_nodes_counts_what_is_there_and_not_what_has_ended() {
        let mut done = pod("done", "n", "3");
        done["status"]["phase"] = "Succeeded".into();
        let before = loads(&[pod("a", "n", "500m"), done]);
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "1Gi", "pods": "10"}}});
        let uses = uses(&[node], &before, &[pod("a", "n", "500m"), pod("b", "n", "1"), pod("c", "", "1")]);
        let cpu = |load: Load| (load.pods, load.cpu);
        assert_eq!(
            (cpu(uses[0].before), cpu(uses[0].after), cpu(uses[0].offers)),
            ((1, 500), (2, 1500), (10, 4000))
        );
    }

    #[test]
    fn a_pod_without_a_node_is_explained_with_what_would_help() {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
        let objects = |_: &str, plural: &str| match plural {
            "nodes" => vec![node.clone()],
            "pods" => vec![pod("there", "n", "800m"), pod("big", "", "500m")],
            _ => Vec::new(),
        };
        let waiting = waiting(&objects, &Recorder::default(), &Configuration::default());
        let nearest = ("n".to_string(), vec!["ask for 300m less cpu, or free that much on n".to_string()]);
        let why = "0/1 nodes are available: 1 Insufficient cpu.".to_string();
        assert_eq!(
            waiting,
            [Waiting { who: "Pod a/big".into(), pods: vec!["big".into()], why, nearest: Some(nearest) }]
        );
    }

    #[test]
    fn the_exit_code_says_whether_all_is_settled() {
        let code = |change: fn(&mut Outcome)| {
            let mut outcome = Outcome::default();
            change(&mut outcome);
            outcome.code()
        };
        assert_eq!(code(|_| {}), 0);
        assert_eq!(code(|o| o.refused.push(String::new())), REFUSED);
        assert_eq!(code(|o| o.drains.push(Drain::default())), UNDONE);
        assert_eq!(code(|o| o.busy = Some(Duration::ZERO)), UNDONE);
        let some = |before| Undone { who: String::new(), why: String::new(), before };
        assert_eq!(Outcome { undone: vec![some(true)], ..Outcome::default() }.code(), 0);
        assert_eq!(Outcome { undone: vec![some(false)], ..Outcome::default() }.code(), UNDONE);
    }
}

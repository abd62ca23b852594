//! What must hold after every single commit, whatever goes wrong. It looks at the history of the store and at nothing else, and knows
//! nothing of who wrote what.

use super::{
    autoscalers::Autoscalers,
    facts::{Allowed, Lately, Meta, NodeFacts, PodFacts, indexes, labels},
    volumes::Volumes,
};
use jiff::{SignedDuration, Timestamp};
use orlop_api::object::{int, list, text};
use orlop_store::{Change, WatchBatch};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Whoever acts may rest on what was true this long ago: caches lag behind, and requests take their time.
const BEHIND: SignedDuration = SignedDuration::from_secs(30);

/// How long a node must be gone before its pods go (`kube-controller-manager`'s pod garbage collector).
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

#[derive(Debug)]
struct ReplicaSetFacts {
    meta: Meta,
    wanted: Lately,
    available: Lately,
}

#[derive(Debug)]
struct DeploymentFacts {
    name: String,
    /// The generations that its controller may act on: the one it has seen, and newer ones.
    allowed: Vec<Allowed>,
}

#[derive(Debug, Default)]
struct JobFacts {
    name: String,
    succeeded: i64,
    failed: i64,
    completed: BTreeSet<i64>,
    parallelism: Lately,
    /// Uids of its pods that have succeeded, or failed or gone, as the store saw it.
    really_succeeded: BTreeSet<String>,
    really_failed: BTreeSet<String>,
}

#[derive(Debug)]
struct BudgetFacts {
    namespace: String,
    name: String,
    selector: BTreeMap<String, String>,
    desired: i64,
    disrupted: usize,
}

/// A pod whose containers run somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// On which machine.
    pub machine: String,
    /// The pod's namespace,
    pub namespace: String,
    /// name,
    pub name: String,
    /// and uid.
    pub uid: String,
}

/// What the history has shown so far, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Whether no answer of the server gets lost: then nobody has an excuse for one pod too many.
    pub exact: bool,
    pods: BTreeMap<Arc<str>, PodFacts>,
    nodes: BTreeMap<String, NodeFacts>,
    replica_sets: BTreeMap<Arc<str>, ReplicaSetFacts>,
    deployments: BTreeMap<String, DeploymentFacts>,
    jobs: BTreeMap<String, JobFacts>,
    budgets: BTreeMap<Arc<str>, BudgetFacts>,
    autoscalers: Autoscalers,
    volumes: Volumes,
    /// Since when nodes have been gone that were there.
    gone: BTreeMap<String, Timestamp>,
    /// Uids of pods that were given up with their nodes, whatever still runs there.
    given_up: BTreeSet<String>,
    /// When a pod stopped being healthy that nobody evicted.
    lost: Vec<(Timestamp, PodFacts)>,
    /// When a pod ceased to wait for a node, and its priority.
    waited: Vec<(Timestamp, i64)>,
    violations: Vec<Violation>,
}

impl Invariants {
    /// Rules for a history. `exact`: no answer of the server gets lost.
    #[must_use]
    pub fn new(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// What was wrong until now.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn violated(&mut self, at: Timestamp, what: String) {
        self.violations.push(Violation { at, what });
    }

    /// Takes in a commit.
    pub fn take_in(&mut self, batch: &WatchBatch, now: Timestamp) {
        let evicted = self.charged(batch);
        for change in &batch.changes {
            let key = &change.entry.key;
            let object = || -> Option<Value> {
                (!change.deleted).then(|| serde_json::from_slice(&change.entry.value).unwrap_or_default())
            };
            let mut parts = key.split('/').skip(2);
            let mut part = || parts.next().unwrap_or_default();
            match (part(), part()) {
                ("core", "pods") => self.pod(change, object(), evicted.is_some(), now),
                ("core", "nodes") => self.node(key, object(), now),
                ("core", "namespaces") => self.volumes.namespace(part(), object().as_ref()),
                ("core", "persistentvolumes") => self.volumes.volume(part(), object().as_ref()),
                ("core", "persistentvolumeclaims") => {
                    let wrong = self.volumes.claim(part(), part(), object().as_ref());
                    wrong.into_iter().for_each(|what| self.violated(now, what));
                }
                ("apps", "replicasets") => self.replica_set(key, object(), now),
                ("apps", "deployments") => self.deployment(change, object()),
                ("autoscaling", "horizontalpodautoscalers") => {
                    let wrong = self.autoscalers.take_in(key, object().as_ref(), now, now - BEHIND);
                    wrong.into_iter().for_each(|what| self.violated(now, what));
                }
                ("batch", "jobs") => self.job(change, object(), now),
                ("policy", "poddisruptionbudgets") => self.budget(key, object(), now),
                _ => {}
            }
        }
        if let Some(budget) = evicted {
            self.eviction(&budget, now);
        }
    }

    /// Takes in that containers of a pod have started, with all that run at that moment: two of one name never do. Names come again
    /// with StatefulSets only.
    pub fn started(&mut self, pod: &Running, running: &[Running], now: Timestamp) {
        for other in running {
            let same = other.namespace == pod.namespace && other.name == pod.name && other.uid != pod.uid;
            // Who deletes a node says that nothing runs there any more.
            if same && !self.given_up.contains(&other.uid) {
                let Running { machine, namespace, name, .. } = pod;
                let what = format!(
                    "{namespace}/{name} starts on {machine} while it still runs on {}",
                    other.machine
                );
                self.violated(now, what);
            }
        }
    }

    fn node(&mut self, key: &str, node: Option<Value>, now: Timestamp) {
        let name = key.rsplit('/').next().unwrap_or_default().to_string();
        match &node {
            Some(_) => self.gone.remove(&name),
            None => self.gone.insert(name.clone(), now),
        };
        match node.and_then(|node| NodeFacts::of(&node)) {
            Some(facts) => self.nodes.insert(name, facts),
            None => self.nodes.remove(&name),
        };
    }

    fn pod(&mut self, change: &Change, pod: Option<Value>, evicted: bool, now: Timestamp) {
        let key = change.entry.key.clone();
        let before = self.pods.remove(&key);
        let pod = pod.map(|pod| PodFacts::of(&pod));
        let was_healthy = before.as_ref().filter(|p| p.is_healthy());
        let same = pod.as_ref().filter(|p| was_healthy.is_some_and(|b| b.meta.uid == p.meta.uid));
        if let Some(was) = was_healthy.filter(|_| !evicted && !same.is_some_and(PodFacts::is_healthy)) {
            self.lost.push((now, was.clone()));
        }
        self.tell_job(before.as_ref(), pod.as_ref());
        if let Some(waited) =
            before.as_ref().filter(|b| b.waits() && !pod.as_ref().is_some_and(PodFacts::waits))
        {
            self.waited.push((now, waited.priority));
        }
        let Some(pod) = pod else { return };
        self.pods.insert(key, pod.clone());
        let is_new = before.as_ref().is_none_or(|b| b.meta.uid != pod.meta.uid);
        if before.as_ref().is_none_or(|b| b.node != pod.node) && !pod.node.is_empty() {
            self.capacity(&pod, now);
            let wrong = self.volumes.bound(&pod);
            wrong.into_iter().for_each(|what| self.violated(now, what));
        }
        if before.as_ref().is_none_or(|b| b.disrupted != pod.disrupted) {
            self.disrupted(&pod, now);
        }
        if is_new {
            self.created(&pod, now);
        }
    }

    /// Who is ended from outside is so for a reason.
    fn disrupted(&mut self, pod: &PodFacts, now: Timestamp) {
        let Meta { namespace, name, uid, .. } = &pod.meta;
        let what = match pod.disrupted.as_str() {
            "DeletionByPodGC" => {
                self.given_up.insert(uid.clone());
                match self.gone.get(&pod.node).map(|since| now.duration_since(*since)) {
                    None => format!("{namespace}/{name} is given up, but its node {} is there", pod.node),
                    Some(time) if time < QUARANTINE => {
                        format!("{namespace}/{name} is given up {time:#} after its node {} went", pod.node)
                    }
                    Some(_) => return,
                }
            }
            "PreemptionByScheduler" => {
                let since = now - BEHIND;
                self.waited.retain(|(at, _)| *at >= since);
                let waiting = self.pods.values().filter(|p| p.waits()).map(|p| p.priority);
                let highest = waiting.chain(self.waited.iter().map(|(_, priority)| *priority)).max();
                if highest.is_some_and(|highest| highest > pod.priority) {
                    return;
                }
                format!(
                    "{namespace}/{name} of priority {} is preempted, but the highest that waits is {highest:?}",
                    pod.priority
                )
            }
            _ => return,
        };
        self.violated(now, what);
    }

    /// No node is given more than it has.
    fn capacity(&mut self, pod: &PodFacts, now: Timestamp) {
        let Some(has) = self.nodes.get(&pod.node) else { return };
        let there = || self.pods.values().filter(|p| p.node == pod.node && !p.is_finished());
        let (cpu, memory) = (there().map(|p| p.cpu).sum::<i64>(), there().map(|p| p.memory).sum::<i64>());
        let pods = i64::try_from(there().count()).unwrap_or(i64::MAX);
        if cpu > has.cpu || memory > has.memory || pods > has.pods {
            let what = format!(
                "node {} has {has:?}, but its pods ask for cpu {cpu}m, memory {memory}, pods {pods} since {}/{} is there",
                pod.node, pod.meta.namespace, pod.meta.name
            );
            self.violated(now, what);
        }
    }

    fn active(&self, owner: &str) -> i64 {
        let active = self.pods.values().filter(|p| p.meta.is_of(owner) && p.is_active()).count();
        i64::try_from(active).unwrap_or(i64::MAX)
    }

    /// Nobody makes more pods than they are told to.
    fn created(&mut self, pod: &PodFacts, now: Timestamp) {
        let Some((kind, owner)) = &pod.meta.controller else { return };
        let active = self.active(owner);
        let since = now - BEHIND;
        let most = match kind.as_str() {
            "ReplicaSet" => {
                let set = self.replica_sets.values().find(|s| s.meta.uid == *owner);
                set.map(|s| s.wanted.most_since(since))
            }
            "Job" => self.jobs.get(owner).map(|j| j.parallelism.most_since(since)),
            _ => None,
        };
        if let Some(most) = most.filter(|most| self.exact && active > *most) {
            let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
            self.violated(
                now,
                format!("{namespace}/{name} is active pod {active} of a {kind} that may have {most}"),
            );
        }
        let done = self.jobs.get(owner).is_some_and(|j| pod.index.is_some_and(|i| j.completed.contains(&i)));
        if done {
            let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
            self.violated(now, format!("{namespace}/{name} is made for an index that has succeeded already"));
        }
    }

    fn replica_set(&mut self, key: &Arc<str>, set: Option<Value>, now: Timestamp) {
        let Some(set) = set else {
            self.replica_sets.remove(key);
            return;
        };
        let meta = Meta::of(&set);
        let wanted = int(&set, "/spec/replicas").unwrap_or(1);
        let available = int(&set, "/status/availableReplicas").unwrap_or(0);
        let before = self.replica_sets.get(key).filter(|s| s.meta.uid == meta.uid);
        let had = before.map_or(0, |s| s.wanted.now());
        if before.is_none() {
            let fresh = ReplicaSetFacts {
                meta: meta.clone(),
                wanted: Lately::default(),
                available: Lately::default(),
            };
            self.replica_sets.insert(key.clone(), fresh);
        }
        if let Some(facts) = self.replica_sets.get_mut(key) {
            facts.meta = meta.clone();
            facts.wanted.push(now, wanted);
            facts.available.push(now, available);
        }
        let Some((_, owner)) = meta.controller.filter(|(kind, _)| kind == "Deployment") else { return };
        if wanted > had {
            self.surge(&owner, &meta.name, now);
        } else if wanted < had {
            self.availability(&owner, (&meta.uid, &meta.name), now);
        }
    }

    fn sets_of(&self, deployment: &str) -> impl Iterator<Item = &ReplicaSetFacts> {
        self.replica_sets.values().filter(move |s| s.meta.is_of(deployment))
    }

    /// A rollout never wants more pods than replicas and surge.
    fn surge(&mut self, deployment: &str, set: &str, now: Timestamp) {
        let Some(facts) = self.deployments.get(deployment) else { return };
        let all: i64 = self.sets_of(deployment).map(|s| s.wanted.now()).sum();
        let most = facts.allowed.iter().map(|a| a.most).max().unwrap_or(i64::MAX);
        if all > most {
            let what =
                format!("Deployment {} wants {all} pods since {set} grew, but may have {most}", facts.name);
            self.violated(now, what);
        }
    }

    /// A rollout never takes so many away that fewer than promised are available.
    fn availability(&mut self, deployment: &str, (uid, set): (&str, &str), now: Timestamp) {
        let Some(facts) = self.deployments.get(deployment) else { return };
        if facts.allowed.iter().any(|a| a.recreates) {
            return;
        }
        let since = now - BEHIND;
        let least = facts.allowed.iter().map(|a| a.least).min().unwrap_or(0);
        let left: i64 =
            self.sets_of(deployment).map(|s| s.available.most_since(since).min(s.wanted.now())).sum();
        // What was not available anyway may go.
        let harmless = self
            .sets_of(deployment)
            .find(|s| s.meta.uid == uid)
            .is_some_and(|s| s.wanted.now() >= s.available.most_since(since));
        if left < least && !harmless {
            let what = format!(
                "Deployment {} keeps at most {left} pods available since {set} shrank, but must keep {least}",
                facts.name
            );
            self.violated(now, what);
        }
    }

    fn deployment(&mut self, change: &Change, deployment: Option<Value>) {
        let Some(deployment) = deployment else {
            let last = change.previous.as_ref().map(|e| serde_json::from_slice::<Value>(&e.value));
            if let Some(Ok(last)) = last {
                self.deployments.remove(text(&last, "/metadata/uid"));
            }
            return;
        };
        let allowed = Allowed::of(&deployment);
        let seen = int(&deployment, "/status/observedGeneration").unwrap_or(0);
        let facts = self.deployments.entry(text(&deployment, "/metadata/uid").into()).or_insert_with(|| {
            DeploymentFacts { name: text(&deployment, "/metadata/name").into(), allowed: Vec::new() }
        });
        facts.allowed.retain(|a| a.generation >= seen && a.generation != allowed.generation);
        facts.allowed.push(allowed);
    }

    /// Takes down what really became of a Job's pod.
    fn tell_job(&mut self, before: Option<&PodFacts>, after: Option<&PodFacts>) {
        let Some(pod) = after.or(before) else { return };
        let Some((_, owner)) = pod.meta.controller.as_ref().filter(|(kind, _)| kind == "Job") else { return };
        let Some(job) = self.jobs.get_mut(owner) else { return };
        match (pod.phase.as_str(), after.is_none() || pod.meta.deleting) {
            ("Succeeded", _) => job.really_succeeded.insert(pod.meta.uid.clone()),
            ("Failed", _) | (_, true) => job.really_failed.insert(pod.meta.uid.clone()),
            _ => false,
        };
    }

    /// What a Job counts only grows, and is never more than what happened.
    fn job(&mut self, change: &Change, job: Option<Value>, now: Timestamp) {
        let Some(job) = job else {
            let last = change.previous.as_ref().map(|e| serde_json::from_slice::<Value>(&e.value));
            if let Some(Ok(last)) = last {
                self.jobs.remove(text(&last, "/metadata/uid"));
            }
            return;
        };
        let name = format!("{}/{}", text(&job, "/metadata/namespace"), text(&job, "/metadata/name"));
        let facts = self.jobs.entry(text(&job, "/metadata/uid").into()).or_default();
        facts.name.clone_from(&name);
        facts.parallelism.push(now, int(&job, "/spec/parallelism").unwrap_or(1));
        let (succeeded, failed) =
            (int(&job, "/status/succeeded").unwrap_or(0), int(&job, "/status/failed").unwrap_or(0));
        let completed: BTreeSet<i64> = indexes(text(&job, "/status/completedIndexes")).into_iter().collect();
        let mut wrong = Vec::new();
        if succeeded < facts.succeeded || failed < facts.failed {
            wrong.push(format!(
                "Job {name} counted {} succeeded and {} failed, now {succeeded} and {failed}",
                facts.succeeded, facts.failed
            ));
        }
        if !completed.is_superset(&facts.completed) {
            wrong.push(format!("Job {name} forgets indexes: {:?}, now {completed:?}", facts.completed));
        }
        let count = |set: &BTreeSet<String>| i64::try_from(set.len()).unwrap_or(i64::MAX);
        if succeeded > count(&facts.really_succeeded) {
            let really = facts.really_succeeded.len();
            wrong.push(format!("Job {name} counts {succeeded} succeeded pods, but only {really} have"));
        }
        if failed > count(&facts.really_failed) {
            wrong.push(format!(
                "Job {name} counts {failed} failed pods, but only {} have",
                facts.really_failed.len()
            ));
        }
        let completions = int(&job, "/spec/completions");
        let complete =
            list(&job, "/status/conditions").iter().any(|c| c["type"] == "Complete" && c["status"] == "True");
        let indexed = text(&job, "/spec/completionMode") == "Indexed";
        let right =
            completions.is_none_or(|c| if indexed || self.exact { succeeded == c } else { succeeded >= c });
        if complete && !right {
            wrong.push(format!("Job {name} is complete with {succeeded} of {completions:?} completions"));
        }
        (facts.succeeded, facts.failed, facts.completed) = (succeeded, failed, completed);
        wrong.into_iter().for_each(|what| self.violated(now, what));
    }

    fn budget(&mut self, key: &Arc<str>, budget: Option<Value>, now: Timestamp) {
        let Some(budget) = budget else {
            self.budgets.remove(key);
            return;
        };
        let facts = BudgetFacts {
            namespace: text(&budget, "/metadata/namespace").into(),
            name: text(&budget, "/metadata/name").into(),
            selector: labels(budget.pointer("/spec/selector/matchLabels")),
            desired: int(&budget, "/status/desiredHealthy").unwrap_or(0),
            disrupted: budget
                .pointer("/status/disruptedPods")
                .and_then(Value::as_object)
                .map_or(0, |m| m.len()),
        };
        if int(&budget, "/status/disruptionsAllowed").is_some_and(|n| n < 0) {
            self.violated(now, format!("budget {}/{} is overdrawn", facts.namespace, facts.name));
        }
        self.budgets.insert(key.clone(), facts);
    }

    /// The budget that an eviction in this commit was charged to: the one commit that changes a budget and a pod.
    fn charged(&self, batch: &WatchBatch) -> Option<Arc<str>> {
        let is = |c: &&Change, of: &str| c.entry.key.starts_with(of);
        let pod = batch.changes.iter().any(|c| is(&c, "/registry/core/pods/"));
        let budget = batch.changes.iter().find(|c| is(c, "/registry/policy/poddisruptionbudgets/"));
        budget.filter(|_| pod).map(|c| c.entry.key.clone())
    }

    /// After an eviction as many are healthy as the budget wants, but for those that were lost otherwise.
    fn eviction(&mut self, key: &Arc<str>, now: Timestamp) {
        let since = now - BEHIND;
        self.lost.retain(|(at, _)| *at >= since);
        let Some(budget) = self.budgets.get(key) else { return };
        let is_its = |p: &PodFacts| p.meta.namespace == budget.namespace && p.has(&budget.selector);
        let healthy = self.pods.values().filter(|p| is_its(p) && p.is_healthy()).count();
        let lost = self.lost.iter().filter(|(_, p)| is_its(p)).count();
        if i64::try_from(healthy + lost).unwrap_or(i64::MAX) < budget.desired {
            let what = format!(
                "an eviction leaves {healthy} healthy pods of budget {}/{}, which wants {} ({} on their way, {lost} lost lately)",
                budget.namespace, budget.name, budget.desired, budget.disrupted
            );
            self.violated(now, what);
        }
    }
}

//! The loop around the core: pods without a node come in from the watch, many are decided on in one pass over the snapshot, bindings
//! go out side by side. A pod that fits nowhere waits until something happens that could help it, then tries again with back-off.

use crate::{
    acts::{self, BindError, Nomination},
    config::Configuration,
    decision::{Decision, Diagnosis},
    feed::{Change, Feed},
    hints::{Happening, parts},
    plugin::{Plugin, Plugins},
    preemption::{self, Budget},
    queue::{Pending, Queue},
    shape::spec_of,
    snapshot::Snapshot,
    volumes::{Preparation, Volumes},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt};
use orlop_client::{Caches, Clock, EventType, Key, Recorder};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{sync::Semaphore, time::Instant};

/// Bindings under way at once.
const BINDINGS: usize = 256;
/// Conditions, nominations and evictions written at once.
const WRITES: usize = 64;
/// Decisions made before the loop looks at what happened meanwhile.
const BATCH: usize = 512;

/// Runs the scheduler with kube-scheduler's defaults until dropped.
pub async fn run(client: Client, clock: Clock) {
    run_with(client, clock, Configuration::default()).await;
}

/// Runs the scheduler until dropped.
pub async fn run_with(client: Client, clock: Clock, configuration: Configuration) {
    run_sharing(client, clock, configuration, &Caches::default()).await;
}

/// The same with caches that others in this process use too.
pub async fn run_sharing(client: Client, clock: Clock, configuration: Configuration, caches: &Caches) {
    let (feed, mut changes) = Feed::new(caches);
    let seed = configuration.seed.unwrap_or_else(|| clock().as_nanosecond() as u64);
    let recorders = configuration.profiles.iter().map(|p| {
        // Events name their source by a word that lives as long as the process; profiles do too.
        let name: &'static str = Box::leak(p.name.clone().into_boxed_str());
        Recorder::new(client.clone(), name, None, clock.clone())
    });
    let mut scheduler = Scheduler {
        recorders: recorders.collect(),
        client: client.clone(),
        clock,
        snapshot: Snapshot::new(configuration.profiles, seed),
        volumes: Volumes::default(),
        budgets: BTreeMap::new(),
        queue: Queue::new(configuration.backoff),
        assumed: HashMap::new(),
        happenings: Vec::new(),
        preempting: HashMap::new(),
        writes: Arc::new(Semaphore::new(WRITES)),
        feed: &feed,
    };
    let work = async {
        feed.synced().await;
        let mut bindings: FuturesUnordered<BoxFuture<'static, Bound>> = FuturesUnordered::new();
        loop {
            let due = scheduler.queue.next_due();
            let turn = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(change) = changes.recv() => scheduler.take_in(change),
                Some((uid, outcome)) = bindings.next() => scheduler.bound(&uid, outcome),
                () = turn, if bindings.len() < BINDINGS => {}
            }
            // All that has arrived by now is one batch on one snapshot.
            while let Ok(change) = changes.try_recv() {
                scheduler.take_in(change);
            }
            scheduler.wake();
            bindings.extend(scheduler.place(BINDINGS - bindings.len()));
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(feed.run(client), Box::pin(work));
}

/// A pod's uid, and whether its binding was accepted.
type Bound = (String, Result<(), BindError>);

/// A pod whose binding is under way: decided, and counted on its node.
struct Assumed {
    pod: Arc<Pod>,
    node: String,
    profile: usize,
    preparations: Vec<Preparation>,
}

struct Scheduler<'a> {
    client: Client,
    /// One of each profile.
    recorders: Vec<Recorder>,
    clock: Clock,
    snapshot: Snapshot,
    volumes: Volumes,
    budgets: BTreeMap<Key, Budget>,
    queue: Queue,
    assumed: HashMap<String, Assumed>,
    /// What happened since pods were last woken.
    happenings: Vec<Happening>,
    /// Pods that are sending others away, with how many of those are not told yet.
    preempting: HashMap<String, Arc<AtomicUsize>>,
    /// Bounds what is written side by side besides bindings.
    writes: Arc<Semaphore>,
    feed: &'a Feed,
}

fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> Option<&str> {
    spec_of(pod).node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether a pod waits for a node.
fn waits(pod: &Pod) -> bool {
    node_of(pod).is_none() && !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a plugin that is asked before a pod is put in line keeps it out.
fn is_held_back(pod: &Pod, asked: Plugins) -> bool {
    asked.has(Plugin::SchedulingGates)
        && spec_of(pod).scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
}

impl Scheduler<'_> {
    fn is_ours(&self, pod: &Pod) -> bool {
        let profile = self.snapshot.profile_of(pod).filter(|_| waits(pod));
        profile.is_some_and(|p| !is_held_back(pod, self.snapshot.profile(p).pre_enqueue))
    }

    fn happened(&mut self, what: Happening) {
        if self.queue.anybody_waits() {
            self.happenings.push(what);
        }
    }

    /// Starts a write that nobody waits for.
    fn write(&self, act: impl Future<Output = ()> + Send + 'static) {
        let writes = self.writes.clone();
        tokio::spawn(async move {
            let _turn = writes.acquire_owned().await;
            act.await;
        });
    }

    fn wake(&mut self) {
        if !self.happenings.is_empty() {
            self.queue.wake(&self.happenings, Instant::now());
            self.happenings.clear();
        }
    }

    fn take_in(&mut self, change: Change) {
        match change {
            Change::Node(old, Some(node)) => self.take_in_node(old, node),
            Change::Node(old, None) => {
                if let Some(node) = old {
                    self.snapshot.remove_node(&node.name_any());
                }
            }
            Change::Pod(old, new) => self.take_in_pod(old, new),
            Change::Namespace(name, namespace) => {
                self.snapshot.set_namespace(&name, namespace.as_deref());
                self.happened(Happening::Namespaces);
            }
            Change::Service(key, selector) => {
                self.snapshot.workloads.set_service(&key.namespace, &key.name, selector);
            }
            Change::Controller(kind, key, selector) => {
                self.snapshot.workloads.set_controller(kind, &key.namespace, &key.name, selector);
            }
            Change::Claim(key, claim) => {
                self.volumes.set_claim((key.namespace, key.name), claim);
                self.happened(Happening::Storage);
            }
            Change::Volume(name, volume) => {
                self.volumes.set_volume(&name, volume);
                self.happened(Happening::Storage);
            }
            Change::Class(name, class) => {
                self.volumes.set_class(&name, class);
                self.happened(Happening::Storage);
            }
            Change::CsiNode(name, node) => {
                self.volumes.set_csi_node(&name, node.as_deref());
                self.happened(Happening::Attachable);
            }
            Change::Attachment(name, attachment) => {
                self.volumes.set_attachment(&name, attachment.as_deref());
                if attachment.is_none() {
                    self.happened(Happening::Attachable);
                }
            }
            Change::Budget(key, budget) => {
                match budget.and_then(|b| Budget::of(&b)) {
                    Some(budget) => self.budgets.insert(key, budget),
                    None => self.budgets.remove(&key),
                };
            }
        }
    }

    fn take_in_node(&mut self, old: Option<Arc<Node>>, node: Arc<Node>) {
        let matters = old.as_ref().is_none_or(|old| {
            let images = |n: &Node| n.status.as_ref().and_then(|s| s.images.clone());
            parts(old, &node) != Default::default() || images(old) != images(&node)
        });
        if !matters {
            return;
        }
        self.snapshot.set_node(&node);
        self.happened(match old {
            Some(old) => Happening::NodeChanged(old, node),
            None => Happening::NodeAdded(node),
        });
    }

    fn take_in_pod(&mut self, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>) {
        let Some(uid) = new.as_ref().or(old.as_ref()).and_then(|p| p.uid()) else { return };
        match new {
            Some(pod) if self.is_ours(&pod) => {
                if !self.assumed.contains_key(&uid) {
                    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.clone());
                    let told = old.as_ref().and_then(|p| p.status.as_ref()).map(|s| &s.nominated_node_name);
                    if old.is_none() || told != Some(&nominated) {
                        self.snapshot.nominate(&pod, nominated.as_deref().filter(|n| !n.is_empty()));
                    }
                    self.queue.add(pod);
                }
            }
            Some(pod) if !is_finished(&pod) && node_of(&pod).is_some() => {
                self.queue.take(&uid);
                self.preempting.remove(&uid);
                self.snapshot.nominate(&pod, None);
                let node = node_of(&pod).unwrap_or_default().to_string();
                let known = self.snapshot.placed(&uid).map(|p| p.pod.clone());
                self.snapshot.place(&node, &pod);
                self.volumes.set_user(&pod, Some(&node));
                let labels = |p: &Pod| p.metadata.labels.clone();
                match known {
                    Some(known) if spec_of(&known).containers != spec_of(&pod).containers => {
                        self.happened(Happening::PodLeft(known));
                    }
                    Some(known) if labels(&known) == labels(&pod) => {}
                    _ => self.happened(Happening::PodPlaced(pod)),
                }
            }
            new => {
                self.queue.take(&uid);
                self.preempting.remove(&uid);
                let gone = new.or(old);
                if let Some(pod) = gone {
                    self.snapshot.nominate(&pod, None);
                    self.volumes.set_user(&pod, None);
                    if !self.assumed.contains_key(&uid) && self.snapshot.remove_pod(&uid) {
                        self.happened(Happening::PodLeft(pod));
                    }
                }
            }
        }
    }

    /// Decides for pods that are due, at most `room` of them placed; the placed ones are counted on their node at once.
    fn place(&mut self, room: usize) -> Vec<BoxFuture<'static, Bound>> {
        let now = Instant::now();
        let mut placed = Vec::new();
        for _ in 0..BATCH {
            if placed.len() >= room {
                break;
            }
            let Some(waiting) = self.queue.next(now) else { break };
            let pod = waiting.pod.clone();
            let Some(profile) = self.snapshot.profile_of(&pod) else { continue };
            let rules = self.snapshot.profile(profile).clone();
            let vetoes = self.volumes.vetoes(&pod, &self.snapshot, &rules);
            match self.snapshot.decide(&pod, profile, vetoes.clone()) {
                Decision::Node { name, .. } => placed.push(self.assume(pod, name, profile)),
                Decision::Unschedulable(mut diagnosis) => {
                    let nomination = self.preempt(&pod, profile, vetoes, &mut diagnosis);
                    self.refuse(waiting, profile, &diagnosis, nomination, now);
                }
            }
        }
        placed
    }

    fn assume(&mut self, pod: Arc<Pod>, node: String, profile: usize) -> BoxFuture<'static, Bound> {
        let uid = pod.uid().unwrap_or_default();
        let id = self.snapshot.nodes().find(&node);
        let object = id.and_then(|id| self.snapshot.nodes().object(id).cloned());
        let preparations = object.map(|n| self.volumes.reserve(&pod, &n)).unwrap_or_default();
        self.snapshot.place(&node, &pod);
        self.volumes.set_user(&pod, Some(&node));
        let patience = self.snapshot.profile(profile).bind_timeout;
        let assumed =
            Assumed { pod: pod.clone(), node: node.clone(), profile, preparations: preparations.clone() };
        self.assumed.insert(uid.clone(), assumed);
        let claims = (self.feed.claims.clone(), self.feed.claims_changed.clone());
        let client = self.client.clone();
        let act = acts::bind(client, pod, node, preparations, claims, patience);
        Box::pin(async move { (uid, act.await) })
    }

    /// Sends pods of lower priority away if that helps; says what becomes of the pod's nomination.
    fn preempt(
        &mut self,
        pod: &Arc<Pod>,
        profile: usize,
        vetoes: crate::decision::Vetoes,
        diagnosis: &mut Diagnosis,
    ) -> Nomination {
        if !preemption::is_on(&self.snapshot, profile) || diagnosis.nodes == 0 {
            return Nomination::Stays;
        }
        let uid = pod.uid().unwrap_or_default();
        match self.preempting.get(&uid) {
            Some(untold) if untold.load(Ordering::Relaxed) > 0 => {
                diagnosis.after =
                    "preemption: not eligible due to a terminating pod on the nominated node.".into();
                return Nomination::Stays;
            }
            _ => self.preempting.remove(&uid),
        };
        let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
        let nominated = nominated.is_some_and(|n| !n.is_empty());
        let budgets: Vec<Budget> = self.budgets.values().cloned().collect();
        let victims = match self.snapshot.preempt(pod, profile, vetoes, &budgets) {
            Ok(victims) => victims,
            Err(words) => {
                let eligible = !words.starts_with("not eligible");
                diagnosis.after = format!("preemption: {words}");
                if eligible {
                    self.snapshot.nominate(pod, None);
                }
                return if eligible && nominated { Nomination::Clear } else { Nomination::Stays };
            }
        };
        let node = victims.node;
        let priority = crate::shape::priority_of(pod);
        if let Some(id) = self.snapshot.nodes().find(&node) {
            for lower in self.snapshot.nominated_below(id, priority) {
                self.snapshot.nominate(&lower, None);
                self.write(acts::clear_nomination(self.client.clone(), lower));
            }
        }
        self.snapshot.nominate(pod, Some(&node));
        let untold = Arc::new(AtomicUsize::new(victims.pods.len()));
        self.preempting.insert(uid, untold.clone());
        for victim in victims.pods {
            let recorder = self.recorders[profile].clone();
            let (client, preemptor, untold) = (self.client.clone(), pod.clone(), untold.clone());
            let act = acts::evict(client, recorder, victim, preemptor, node.clone(), (self.clock)());
            self.write(async move {
                act.await;
                untold.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Nomination::Set(node)
    }

    fn refuse(
        &mut self,
        mut waiting: Pending,
        profile: usize,
        diagnosis: &Diagnosis,
        nomination: Nomination,
        now: Instant,
    ) {
        let message = diagnosis.to_string();
        if waiting.message != message || nomination != Nomination::Stays {
            waiting.message.clone_from(&message);
            let (pod, reason) = (waiting.pod.clone(), "Unschedulable");
            self.recorders[profile].event(&*pod, EventType::Warning, "FailedScheduling", message.clone());
            let client = self.client.clone();
            self.write(acts::say_unschedulable(client, pod, reason, message, nomination, (self.clock)()));
        }
        let mut plugins = diagnosis.plugins();
        if plugins == Plugins::default() {
            plugins = Plugins::all();
        }
        let shape = self.snapshot.shape_of(&waiting.pod);
        self.queue.wait(waiting, plugins, shape, now);
    }

    fn bound(&mut self, uid: &str, outcome: Result<(), BindError>) {
        let Some(Assumed { pod, node, profile, preparations }) = self.assumed.remove(uid) else { return };
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let here = self.feed.pods.get(&namespace, &name).filter(|p| p.metadata.uid == pod.metadata.uid);
        let recorder = &self.recorders[profile];
        let Err(error) = outcome else {
            let message = format!("Successfully assigned {namespace}/{name} to {node}");
            recorder.event(&*pod, EventType::Normal, "Scheduled", message);
            if here.is_none() || here.is_some_and(|p| is_finished(&p)) {
                // It went while it was bound, and its going was not taken in.
                self.snapshot.remove_pod(uid);
                self.volumes.set_user(&pod, None);
                self.happened(Happening::PodLeft(pod));
            }
            return;
        };
        tracing::debug!(uid, %error, "binding failed");
        self.volumes.unreserve(&preparations);
        // Gone, bound by another, or the server is busy: what the cache says decides.
        match here {
            Some(now) if self.is_ours(&now) => {
                let message = error.to_string();
                recorder.event(&*now, EventType::Warning, "FailedScheduling", message.clone());
                let client = self.client.clone();
                let stays = Nomination::Stays;
                let told = now.clone();
                self.write(acts::say_unschedulable(
                    client,
                    told,
                    "SchedulerError",
                    message,
                    stays,
                    (self.clock)(),
                ));
                self.forget(uid, &pod);
                self.queue.retry(now, Instant::now());
            }
            Some(now) if node_of(&now).is_some() && !is_finished(&now) => {
                self.take_in(Change::Pod(None, Some(now)));
            }
            _ => self.forget(uid, &pod),
        }
    }

    fn forget(&mut self, uid: &str, pod: &Arc<Pod>) {
        self.volumes.set_user(pod, None);
        if self.snapshot.remove_pod(uid) {
            self.happened(Happening::PodLeft(pod.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::{
        api::core::v1::{PodSchedulingGate, PodSpec},
        apimachinery::pkg::apis::meta::v1::Time,
    };

    #[test]
    fn only_pods_that_wait_for_a_node_are_looked_at() {
        let with = |change: fn(&mut Pod)| {
            let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
            change(&mut pod);
            waits(&pod)
        };
        assert!(with(|_| {}));
        assert!(!with(|p| p.spec.get_or_insert_default().node_name = Some("n".into())));
        assert!(!with(|p| p.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))));
    }

    #[test]
    fn gates_hold_a_pod_back_where_the_profile_asks_the_plugin() {
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        assert!(!is_held_back(&pod, Plugins::all()));
        pod.spec.get_or_insert_default().scheduling_gates =
            Some(vec![PodSchedulingGate { name: "wait".into() }]);
        assert!(is_held_back(&pod, Plugins::all()));
        assert!(!is_held_back(&pod, Plugins::all().without(Plugin::SchedulingGates)));
    }

    #[test]
    fn a_pod_belongs_to_the_profile_that_it_names() {
        let snapshot = Snapshot::default();
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        assert_eq!(snapshot.profile_of(&pod), Some(0));
        pod.spec.get_or_insert_default().scheduler_name = Some("mine".into());
        assert_eq!(snapshot.profile_of(&pod), None);
    }
}

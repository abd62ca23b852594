//! The pods that wait for a node: those whose turn it is by priority and age, those that pause, and those that wait for something to
//! happen that could help them. It never decides where a pod goes.

use crate::{
    hints::Happening,
    plugin::Plugins,
    shape::{Shape, priority_of, spec_of},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Even if nothing seems to help, every waiting pod is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// How long a pod that failed pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub first: Duration,
    pub last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), last: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.last)
    }
}

/// A pod without a node.
pub(crate) struct Pending {
    pub pod: Arc<Pod>,
    /// What was last said about it.
    pub message: String,
    attempts: u32,
    /// What kept it out, with the shape that hints look at.
    kept_out: Option<(Plugins, Arc<Shape>)>,
    stands: Stands,
}

#[derive(Clone, Copy)]
enum Stands {
    /// It is its turn.
    Ready,
    /// Not before this.
    Pauses(Instant),
    /// Until something happens; since when.
    Waits(Instant),
}

/// Higher priority first, then the older.
type Turn = (Reverse<i32>, Option<Timestamp>, String);

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    backoff: Backoff,
    pods: HashMap<String, Pending>,
    ready: BTreeSet<Turn>,
    /// Everybody else by when it is looked at next.
    later: BTreeSet<(Instant, String)>,
    /// Those that wait, by what kept them out.
    waiting: HashMap<Plugins, HashSet<String>>,
}

fn turn(uid: &str, pod: &Pod) -> Turn {
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (Reverse(priority_of(pod)), created, uid.to_string())
}

impl Queue {
    /// A queue whose pods pause so long.
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Puts a pod in line. What is already there keeps its place, unless its spec or labels changed.
    pub(crate) fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        let old = self.take(&uid);
        let pending = match old {
            Some(old) if spec_of(&old.pod) == spec_of(&pod) && old.pod.labels() == pod.labels() => {
                Pending { pod, ..old }
            }
            Some(old) => Pending { pod, stands: Stands::Ready, ..old },
            None => {
                Pending { pod, message: String::new(), attempts: 0, kept_out: None, stands: Stands::Ready }
            }
        };
        self.put(uid, pending);
    }

    fn put(&mut self, uid: String, pending: Pending) {
        match pending.stands {
            Stands::Ready => {
                self.ready.insert(turn(&uid, &pending.pod));
            }
            Stands::Pauses(at) => {
                self.later.insert((at, uid.clone()));
            }
            Stands::Waits(since) => {
                self.later.insert((since + LOOK_AGAIN, uid.clone()));
                let plugins = pending.kept_out.as_ref().map_or_else(Plugins::all, |(p, _)| *p);
                self.waiting.entry(plugins).or_default().insert(uid.clone());
            }
        }
        self.pods.insert(uid, pending);
    }

    /// Takes a pod out of line.
    pub(crate) fn take(&mut self, uid: &str) -> Option<Pending> {
        let pending = self.pods.remove(uid)?;
        match pending.stands {
            Stands::Ready => {
                self.ready.remove(&turn(uid, &pending.pod));
            }
            Stands::Pauses(at) => {
                self.later.remove(&(at, uid.to_string()));
            }
            Stands::Waits(since) => {
                self.later.remove(&(since + LOOK_AGAIN, uid.to_string()));
                let plugins = pending.kept_out.as_ref().map_or_else(Plugins::all, |(p, _)| *p);
                if let Some(all) = self.waiting.get_mut(&plugins) {
                    all.remove(uid);
                    if all.is_empty() {
                        self.waiting.remove(&plugins);
                    }
                }
            }
        }
        Some(pending)
    }

    /// Takes out the pod whose turn it is.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Pending> {
        while let Some((at, uid)) = self.later.first().cloned() {
            if at > now {
                break;
            }
            let Some(pending) = self.take(&uid) else {
                self.later.remove(&(at, uid));
                continue;
            };
            self.put(uid, Pending { stands: Stands::Ready, ..pending });
        }
        let (_, _, uid) = self.ready.first().cloned()?;
        self.take(&uid)
    }

    /// Puts back a pod that fits nowhere: it waits for something to happen that these plugins may take for help.
    pub(crate) fn wait(&mut self, pending: Pending, plugins: Plugins, shape: Arc<Shape>, now: Instant) {
        let uid = pending.pod.uid().unwrap_or_default();
        let attempts = pending.attempts.saturating_add(1);
        let kept_out = Some((plugins, shape));
        self.put(uid, Pending { attempts, kept_out, stands: Stands::Waits(now), ..pending });
    }

    /// Puts in line a pod that is to be tried again after a pause.
    pub(crate) fn retry(&mut self, pod: Arc<Pod>, now: Instant) {
        let uid = pod.uid().unwrap_or_default();
        let (message, attempts) = self.take(&uid).map(|p| (p.message, p.attempts)).unwrap_or_default();
        let at = now + self.backoff.first;
        self.put(uid, Pending { pod, message, attempts, kept_out: None, stands: Stands::Pauses(at) });
    }

    /// Whether somebody waits for anything to happen.
    pub(crate) fn anybody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Wakes those whom something that happened may help; each still pauses for its back-off.
    pub(crate) fn wake(&mut self, happenings: &[Happening], now: Instant) {
        let mut uids = Vec::new();
        for (plugins, all) in &self.waiting {
            let concerned: Vec<&Happening> =
                happenings.iter().filter(|h| h.concerns().iter().any(|p| plugins.has(p))).collect();
            if concerned.is_empty() {
                continue;
            }
            let helped = all.iter().filter(|uid| {
                let Some(pending) = self.pods.get(*uid) else { return false };
                match &pending.kept_out {
                    Some((plugins, shape)) => {
                        concerned.iter().any(|h| h.helps(&pending.pod, shape, *plugins))
                    }
                    None => true,
                }
            });
            uids.extend(helped.cloned());
        }
        for uid in uids {
            let Some(mut pending) = self.take(&uid) else { continue };
            if let Stands::Waits(since) = pending.stands {
                let at = since + self.backoff.after(pending.attempts);
                pending.stands = if at <= now { Stands::Ready } else { Stands::Pauses(at) };
            }
            self.put(uid, pending);
        }
    }

    /// When somebody's turn comes; `None` while there is nobody.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.ready.first() {
            Some(_) => Some(Instant::now()),
            None => self.later.first().map(|(at, _)| *at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plugin::Plugin,
        shape::{Resources, Shapes},
    };
    use k8s_openapi::{
        api::core::v1::{Node, PodSpec},
        apimachinery::pkg::apis::meta::v1::Time,
    };
    use serde_json::json;

    fn pod(name: &str, priority: i32, created: i64) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.metadata.creation_timestamp = Timestamp::from_second(created).ok().map(Time);
        pod.spec = Some(PodSpec { priority: Some(priority), ..PodSpec::default() });
        Arc::new(pod)
    }

    fn name(pending: Option<Pending>) -> String {
        pending.map(|p| p.pod.name_any()).unwrap_or_default()
    }

    fn waits_for(queue: &mut Queue, plugin: Plugin, now: Instant) {
        let pending = queue.next(now).expect("its turn");
        let shape = Shapes::default().of(&pending.pod, &mut Resources::default());
        queue.wait(pending, Plugins::default().with(plugin), shape, now);
    }

    fn left() -> Happening {
        Happening::PodLeft(pod("gone", 0, 0))
    }

    #[test]
    fn the_most_important_goes_first_and_of_equals_the_oldest() {
        let mut queue = Queue::default();
        for pod in [pod("young", 0, 9), pod("old", 0, 1), pod("important", 10, 10)] {
            queue.add(pod);
        }
        let now = Instant::now();
        let order: Vec<_> = (0..4).map(|_| name(queue.next(now))).collect();
        assert_eq!(order, ["important", "old", "young", ""]);
        assert!(queue.next_due().is_none(), "nobody is left to wake up for");
    }

    #[test]
    fn who_fits_nowhere_is_looked_at_again_when_something_helps_but_not_at_once() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, 1));
        let now = Instant::now();
        waits_for(&mut queue, Plugin::NodeResourcesFit, now);
        queue.add(pod("a", 0, 1));
        assert!(queue.next(now + Duration::from_secs(60)).is_none(), "a change of its status helps nobody");
        queue.wake(&[left()], now);
        assert!(queue.next(now + Duration::from_millis(900)).is_none());
        waits_for(&mut queue, Plugin::NodeResourcesFit, now + Duration::from_secs(1));
        assert_eq!(name(queue.next(now + LOOK_AGAIN + Duration::from_secs(1))), "a", "at the latest");
    }

    #[test]
    fn what_cannot_help_wakes_nobody() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0, 1));
        let now = Instant::now();
        waits_for(&mut queue, Plugin::TaintToleration, now);
        let soon = now + Duration::from_secs(30);
        let node = |taint: &str| -> Arc<Node> {
            let node =
                json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": taint}]}});
            Arc::new(serde_json::from_value(node).unwrap())
        };
        let change = |a: &str, b: &str| Happening::NodeChanged(node(a), node(b));
        for nothing in [
            left(),
            Happening::Storage,
            Happening::NodeAdded(node("NoSchedule")),
            change("NoSchedule", "NoExecute"),
        ] {
            queue.wake(&[nothing], soon);
            assert!(queue.next(soon).is_none());
        }
        queue.wake(&[change("NoSchedule", "PreferNoSchedule")], soon);
        assert_eq!(name(queue.next(soon)), "a");
    }

    #[test]
    fn who_leaves_the_line_never_has_a_turn() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(pod("a", 0, 1));
        queue.retry(pod("b", 0, 2), now);
        queue.add(pod("c", 5, 2));
        waits_for(&mut queue, Plugin::NodePorts, now);
        assert!(["a", "b", "c"].iter().all(|uid| queue.take(uid).is_some()));
        queue.wake(&[left()], now);
        assert!(
            queue.next(now + LOOK_AGAIN).is_none() && queue.next_due().is_none() && !queue.anybody_waits()
        );
    }
}

//! The pods that wait for a node: those whose turn it is by priority and age, those that pause, and those that wait for a change of
//! the cluster that could help them. It never decides where a pod goes.

use crate::snapshot::PodInfo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

pub(crate) const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Even if nothing seems to help, every waiting pod is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// A pod without a node.
pub(crate) struct Pending {
    pub pod: PodInfo,
    /// What was last said about it.
    pub message: String,
    attempts: u32,
    stands: Stands,
}

#[derive(Clone, Copy)]
enum Stands {
    /// It is its turn.
    Ready,
    /// Not before this.
    Pauses(Instant),
    /// Until something changes; since when.
    Waits(Instant),
}

/// Higher priority first, then the older.
type Turn = (Reverse<i32>, Option<Timestamp>, String);

/// See the module.
#[derive(Default)]
pub(crate) struct Line {
    pods: HashMap<String, Pending>,
    ready: BTreeSet<Turn>,
    /// Everybody else by when it is looked at next.
    later: BTreeSet<(Instant, String)>,
}

fn turn(uid: &str, pod: &PodInfo) -> Turn {
    let created = pod.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (Reverse(pod.spec().priority.unwrap_or(0)), created, uid.to_string())
}

impl Line {
    /// Puts a pod in line. What is already there keeps its place, unless its spec changed.
    pub(crate) fn add(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().unwrap_or_default();
        let old = self.take(&uid);
        let pod = PodInfo::new(pod);
        let pending = match old {
            Some(old) if old.pod.spec() == pod.spec() => Pending { pod, ..old },
            Some(old) => Pending { pod, stands: Stands::Ready, ..old },
            None => Pending { pod, message: String::new(), attempts: 0, stands: Stands::Ready },
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
            }
        }
        self.pods.insert(uid, pending);
    }

    /// Takes a pod out of line.
    pub(crate) fn take(&mut self, uid: &str) -> Option<Pending> {
        let pending = self.pods.remove(uid)?;
        match pending.stands {
            Stands::Ready => self.ready.remove(&turn(uid, &pending.pod)),
            Stands::Pauses(at) => self.later.remove(&(at, uid.to_string())),
            Stands::Waits(since) => self.later.remove(&(since + LOOK_AGAIN, uid.to_string())),
        };
        Some(pending)
    }

    /// Takes out the pod whose turn it is.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Pending> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, uid)) = self.later.pop_first() else { break };
            if let Some(pending) = self.pods.get_mut(&uid) {
                pending.stands = Stands::Ready;
                self.ready.insert(turn(&uid, &pending.pod));
            }
        }
        let (_, _, uid) = self.ready.first().cloned()?;
        self.take(&uid)
    }

    /// Puts back a pod that fits nowhere: it waits for a change.
    pub(crate) fn wait(&mut self, pending: Pending, now: Instant) {
        let uid = pending.pod.pod.uid().unwrap_or_default();
        let attempts = pending.attempts.saturating_add(1);
        self.put(uid, Pending { attempts, stands: Stands::Waits(now), ..pending });
    }

    /// Puts in line a pod that is to be tried again at a given time.
    pub(crate) fn retry(&mut self, pod: Arc<Pod>, at: Instant) {
        let uid = pod.uid().unwrap_or_default();
        let (message, attempts) = self.take(&uid).map(|p| (p.message, p.attempts)).unwrap_or_default();
        self.put(uid, Pending { pod: PodInfo::new(pod), message, attempts, stands: Stands::Pauses(at) });
    }

    /// Something changed that may help those that wait; each still pauses for its back-off.
    pub(crate) fn wake(&mut self, now: Instant) {
        let waiting = self.pods.iter().filter(|(_, p)| matches!(p.stands, Stands::Waits(_)));
        let uids: Vec<String> = waiting.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            let Some(mut pending) = self.take(&uid) else { continue };
            if let Stands::Waits(since) = pending.stands {
                let doubled = FIRST_BACKOFF.saturating_mul(1 << pending.attempts.saturating_sub(1).min(8));
                let at = since + doubled.min(LAST_BACKOFF);
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
    use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::Time};

    fn pod(name: &str, priority: i32, created: i64) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.metadata.creation_timestamp = Timestamp::from_second(created).ok().map(Time);
        pod.spec = Some(PodSpec { priority: Some(priority), ..PodSpec::default() });
        Arc::new(pod)
    }

    fn name(pending: Option<Pending>) -> String {
        pending.map(|p| p.pod.pod.name_any()).unwrap_or_default()
    }

    #[test]
    fn the_most_important_goes_first_and_of_equals_the_oldest() {
        let mut line = Line::default();
        for pod in [pod("young", 0, 9), pod("old", 0, 1), pod("important", 10, 10)] {
            line.add(pod);
        }
        let now = Instant::now();
        let order: Vec<_> = (0..4).map(|_| name(line.next(now))).collect();
        assert_eq!(order, ["important", "old", "young", ""]);
        assert!(line.next_due().is_none(), "nobody is left to wake up for");
    }

    #[test]
    fn who_fits_nowhere_is_looked_at_again_when_something_changes_but_not_at_once() {
        let mut line = Line::default();
        line.add(pod("a", 0, 1));
        let now = Instant::now();
        let a = line.next(now).expect("its turn");
        line.wait(a, now);
        line.add(pod("a", 0, 1));
        assert!(
            line.next(now + Duration::from_secs(60)).is_none(),
            "a change of its status is none that helps"
        );
        line.wake(now);
        assert!(line.next(now + Duration::from_millis(900)).is_none());
        let a = line.next(now + FIRST_BACKOFF).expect("after its pause");
        line.wait(a, now);
        assert_eq!(name(line.next(now + LOOK_AGAIN)), "a", "at the latest");
    }

    #[test]
    fn who_leaves_the_line_never_has_a_turn() {
        let mut line = Line::default();
        line.add(pod("a", 0, 1));
        line.retry(pod("b", 0, 2), Instant::now());
        assert!(line.take("a").is_some() && line.take("b").is_some());
        assert!(line.next(Instant::now() + LOOK_AGAIN).is_none() && line.next_due().is_none());
    }
}

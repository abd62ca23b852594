//! A simulated machine: which pods' containers run on it, and what becomes of them as time goes by. It outlives its agent, as containers
//! do, and is empty after the power was off. Pure: the time is handed in, and what is drawn follows from the seed and the pod's uid.

use crate::random::{Random, hash};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use std::{collections::BTreeMap, time::Duration};

/// Seconds until the containers of a pod have started.
pub const START_SECONDS: &str = "simulation.orlop.dev/start-seconds";
/// Seconds from then until the pod is ready; `never` for a pod that never is.
pub const READY_SECONDS: &str = "simulation.orlop.dev/ready-seconds";
/// Seconds that the containers run until they exit; `forever` for containers that do not exit by themselves.
pub const RUN_SECONDS: &str = "simulation.orlop.dev/run-seconds";
/// With which code they exit.
pub const EXIT_CODE: &str = "simulation.orlop.dev/exit-code";
/// How many of a hundred exits are failures, whatever the code says.
pub const FAIL_PERCENT: &str = "simulation.orlop.dev/fail-percent";
/// Seconds from the request to stop until they have stopped; the grace period limits it.
pub const STOP_SECONDS: &str = "simulation.orlop.dev/stop-seconds";

/// How many thousandths of a processor all pods of one selector use together, as an autoscaler sees it.
pub const LOAD: &str = "simulation.orlop.dev/load";

/// What exits by a signal to terminate exits with.
const TERMINATED: i32 = 143;
/// What was ended otherwise.
pub(crate) const KILLED: i32 = 137;
/// How long a container that exited waits before it starts again, at first and at most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LAST_BACK_OFF: Duration = Duration::from_secs(300);

/// How long things take where a pod's annotations do not say: from, to.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Until containers have started.
    pub start: (Duration, Duration),
    /// From then until the pod is ready.
    pub ready: (Duration, Duration),
    /// How long pods run that are meant to end (`restartPolicy` is not `Always`).
    pub run: (Duration, Duration),
    /// Until a pod has stopped that should.
    pub stop: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        let range = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        Self {
            start: range(1_000, 1_000),
            ready: range(1_000, 1_000),
            run: range(10_000, 10_000),
            stop: range(1_000, 1_000),
        }
    }
}

/// Where a pod's containers stand. All containers of a pod go the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Image, sandbox and volumes are made until then.
    Starting {
        /// When its containers start.
        until: Timestamp,
    },
    /// Its containers run.
    Running {
        /// Since then,
        since: Timestamp,
        /// ready from then on, if ever,
        ready: Option<Timestamp>,
        /// and exit then with this code, if ever.
        exit: Option<(Timestamp, i32)>,
    },
    /// Something that time alone does not mend keeps them from running.
    Stuck,
    /// They have exited for good.
    Ended {
        /// When.
        at: Timestamp,
        /// With which code.
        code: i32,
    },
}

/// A pod on a machine.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub stage: Stage,
    /// How often its containers were started again.
    pub restarts: u32,
    /// By when it stops, once it was told to.
    pub stopping: Option<Timestamp>,
    /// Its address.
    pub address: String,
    plan: Plan,
    random: Random,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    start: Duration,
    ready: Option<Duration>,
    run: Option<Duration>,
    code: i32,
    fail_percent: u64,
    stop: Duration,
    /// `Always`, or `OnFailure`.
    restarts: bool,
    /// Not after success.
    only_failed: bool,
}

fn seconds(pod: &Pod, annotation: &str) -> Option<Duration> {
    let seconds: f64 = pod.annotations().get(annotation)?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

impl Plan {
    fn of(pod: &Pod, pace: &Pace, random: &mut Random) -> Self {
        let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
        let says =
            |annotation: &str, word: &str| pod.annotations().get(annotation).is_some_and(|v| v == word);
        let number = |annotation: &str| pod.annotations().get(annotation)?.parse::<i64>().ok();
        let mut drawn = |(from, to)| random.time(from, to);
        let (start, ready, run, stop) =
            (drawn(pace.start), drawn(pace.ready), drawn(pace.run), drawn(pace.stop));
        let ends = policy != "Always" && !says(RUN_SECONDS, "forever");
        Self {
            start: seconds(pod, START_SECONDS).unwrap_or(start),
            ready: (!says(READY_SECONDS, "never")).then(|| seconds(pod, READY_SECONDS).unwrap_or(ready)),
            run: seconds(pod, RUN_SECONDS).or(ends.then_some(run)),
            code: number(EXIT_CODE).and_then(|c| i32::try_from(c).ok()).unwrap_or(0),
            fail_percent: number(FAIL_PERCENT).and_then(|p| u64::try_from(p).ok()).unwrap_or(0),
            stop: seconds(pod, STOP_SECONDS).unwrap_or(stop),
            restarts: policy != "Never",
            only_failed: policy == "OnFailure",
        }
    }
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    // A time beyond what a timestamp can say never comes.
    SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// Why containers wait that will not start by themselves.
const STUCK: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];

impl Run {
    /// A pod that was on its machine before the world began, as its status says: what runs, runs on; what is stuck, stays so.
    pub(crate) fn inherited(pod: &Pod, seed: u64, pace: &Pace, now: Timestamp) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let restarts = containers.first().map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0));
        let mut run = Self::new(pod, seed, pace, status.pod_ip.unwrap_or_default(), restarts, now);
        let waits = |c: &ContainerStatus| {
            let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.clone());
            waiting.is_some_and(|reason| STUCK.contains(&reason.as_str()))
        };
        let stuck = containers.iter().any(waits);
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        run.stage = match status.phase.as_deref() {
            _ if stuck => Stage::Stuck,
            Some("Running") => {
                let since =
                    containers.first().and_then(|c| c.state.as_ref()?.running.as_ref()?.started_at.clone());
                let since = since.map_or(now, |t| t.0.min(now));
                let due = run.plan.ready.map(|wait| after(now, wait));
                Stage::Running { since, ready: if ready { Some(since) } else { due }, exit: None }
            }
            _ => run.stage,
        };
        run
    }

    /// A pod that came to a machine. `restarts` counts what happened to it before.
    pub(crate) fn new(
        pod: &Pod,
        seed: u64,
        pace: &Pace,
        address: String,
        restarts: u32,
        now: Timestamp,
    ) -> Self {
        let mut random = Random::new(seed ^ hash(&pod.uid().unwrap_or_default()), "pod");
        let plan = Plan::of(pod, pace, &mut random);
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            stage: Stage::Starting { until: after(now, plan.start) },
            restarts,
            stopping: None,
            address,
            plan,
            random,
        }
    }

    /// Whether its containers run.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether its containers run at that time, if nobody tells them anything until then.
    #[must_use]
    pub fn runs_at(&self, now: Timestamp) -> bool {
        let mut then = self.clone();
        then.advance(now);
        then.runs()
    }

    /// Whether it is ready at that time.
    #[must_use]
    pub fn is_ready(&self, now: Timestamp) -> bool {
        matches!(self.stage, Stage::Running { ready: Some(at), .. } if at <= now)
    }

    /// Tells it to stop within `grace`; an earlier word with less time holds.
    pub(crate) fn stop(&mut self, grace: Duration, now: Timestamp) {
        if let Stage::Starting { .. } = self.stage {
            // What has not started never does.
            self.stage = Stage::Ended { at: now, code: KILLED };
        }
        let by = after(now, self.plan.stop.min(grace));
        self.stopping = Some(self.stopping.map_or(by, |earlier| earlier.min(by)));
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let own = match self.stage {
            Stage::Starting { until } => Some(until),
            Stage::Running { ready, exit, .. } => {
                let ready = ready.filter(|at| *at > now);
                ready.into_iter().chain(exit.map(|(at, _)| at)).min()
            }
            Stage::Stuck => None,
            Stage::Ended { .. } => return None,
        };
        own.into_iter().chain(self.stopping).min()
    }

    /// Brings it to `now`. Returns whether its containers started meanwhile.
    pub(crate) fn advance(&mut self, now: Timestamp) -> bool {
        let mut started = false;
        while let Some(at) = self.next(now).filter(|at| *at <= now) {
            if self.stopping.is_some_and(|by| by <= at) {
                self.stage = Stage::Ended { at, code: TERMINATED };
                continue;
            }
            match self.stage {
                Stage::Starting { .. } => {
                    started = true;
                    self.start(at);
                }
                Stage::Running { exit: Some((at, code)), .. } => self.exited(at, code),
                Stage::Running { exit: None, .. } | Stage::Stuck | Stage::Ended { .. } => break,
            }
        }
        started
    }

    fn start(&mut self, at: Timestamp) {
        let fails = self.random.below(100) < self.plan.fail_percent;
        let code = if fails && self.plan.code == 0 { 1 } else { self.plan.code };
        self.stage = Stage::Running {
            since: at,
            ready: self.plan.ready.map(|wait| after(at, wait)),
            exit: self.plan.run.map(|run| (after(at, run), code)),
        };
    }

    fn exited(&mut self, at: Timestamp, code: i32) {
        let again = self.plan.restarts && !(self.plan.only_failed && code == 0);
        if !again || self.stopping.is_some() {
            self.stage = Stage::Ended { at, code };
            return;
        }
        let wait = FIRST_BACK_OFF.saturating_mul(1 << self.restarts.min(10)).min(LAST_BACK_OFF);
        self.restarts += 1;
        self.stage = Stage::Starting { until: after(at, wait) };
    }
}

/// A machine: the pods on it, by uid.
#[derive(Debug, Default)]
pub struct Machine {
    /// Its pods.
    pub runs: BTreeMap<String, Run>,
    /// How many addresses it has given away.
    pub(crate) addresses: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn run(policy: &str, annotations: &[(&str, &str)]) -> Run {
        let mut pod = Pod::default();
        pod.metadata.uid = Some("1".into());
        pod.metadata.annotations =
            Some(annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        pod.spec = Some(PodSpec { restart_policy: Some(policy.into()), ..PodSpec::default() });
        Run::new(&pod, 1, &Pace::default(), "10.0.0.1".into(), 0, at(100))
    }

    #[test]
    fn a_server_starts_and_gets_ready_and_stays() {
        let mut run = run("Always", &[(READY_SECONDS, "5")]);
        assert!(!run.advance(at(100)) && !run.runs());
        assert!(run.advance(at(101)) && run.runs() && !run.is_ready(at(101)));
        assert!(run.is_ready(at(106)));
        assert_eq!(run.next(at(106)), None);
    }

    #[test]
    fn a_job_ends_and_one_that_fails_is_started_again_where_its_policy_says_so() {
        let mut done = run("OnFailure", &[(RUN_SECONDS, "10")]);
        done.advance(at(1000));
        assert_eq!(done.stage, Stage::Ended { at: at(111), code: 0 });
        let mut failed = run("OnFailure", &[(RUN_SECONDS, "10"), (EXIT_CODE, "3")]);
        failed.advance(at(112));
        assert_eq!((failed.restarts, failed.stage), (1, Stage::Starting { until: at(121) }));
        let mut never = run("Never", &[(RUN_SECONDS, "10"), (EXIT_CODE, "3")]);
        never.advance(at(112));
        assert_eq!(never.stage, Stage::Ended { at: at(111), code: 3 });
    }

    #[test]
    fn what_is_told_to_stop_before_it_started_never_starts() {
        let mut early = run("Always", &[(START_SECONDS, "5")]);
        early.stop(Duration::from_secs(30), at(101));
        assert!(!early.advance(at(200)));
        assert_eq!(early.stage, Stage::Ended { at: at(101), code: KILLED });
    }

    #[test]
    fn what_is_told_to_stop_stops_in_its_time_and_no_later_than_its_grace() {
        let mut patient = run("Always", &[(STOP_SECONDS, "20")]);
        patient.advance(at(110));
        patient.stop(Duration::from_secs(30), at(110));
        patient.advance(at(129));
        assert!(patient.runs());
        patient.stop(Duration::from_secs(2), at(129));
        patient.advance(at(200));
        assert_eq!(patient.stage, Stage::Ended { at: at(130), code: TERMINATED });
    }
}

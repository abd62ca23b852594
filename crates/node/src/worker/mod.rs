//! The worker of one pod: takes news in, lets the planner decide, carries steps out side by side, and writes the pod's status
//! whenever it differs from what the API has. It can be killed between any two lines: what it forgets, the runtime's labels
//! and the API remember.

mod container;
mod learn;
mod steps;

pub(crate) use steps::{blocking, host_ports};

#[cfg(test)]
mod tests;

use crate::{
    agent::{ContainerHandle, PodHandle, Shared},
    claims::Claims,
    events::PodEvents,
    plan::{self, Action, Cause, Known, Need, Probed, Termination, View},
    pod::{PodExt, Role},
    pod_files,
    pod_state::PodState,
    probes::{self, Finding, Probes},
    status::{self, StatusInput},
    tokens::PodTokens,
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use steps::Outcome;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// News for a worker.
#[derive(Debug)]
pub(crate) enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The pod is not in the API any more.
    Gone,
    /// A container's process has ended.
    Exited(String),
    /// A sandbox's shim is gone.
    SandboxLost(String),
    /// Probes have found something out.
    Finding(Finding),
    /// A ConfigMap or Secret that the pod uses has changed.
    ObjectsChanged,
    /// The node is short of something, and this pod has to go.
    Evict(Box<Evicted>),
    /// What the runtime has of the pod, in case news were lost.
    Resync(PodState),
}

/// Why and how a pod is evicted.
#[derive(Debug)]
pub(crate) struct Evicted {
    pub message: String,
    pub grace: Duration,
}

/// What a worker starts with.
pub(crate) struct Start {
    pub pod: Arc<Pod>,
    /// What the runtime has of it already.
    pub state: PodState,
    /// Why it was turned away, if it was: reason and message.
    pub rejected: Option<(String, String)>,
    /// It is not in the API any more.
    pub gone: bool,
}

/// See the module.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    state: PodState,
    known: Known,
    termination: Option<Termination>,
    /// How long it has to end, if it is being evicted.
    evicted: Option<Duration>,
    /// `status.reason` and `status.message`.
    why: Option<(String, String)>,
    start_time: Timestamp,
    messages: BTreeMap<String, String>,
    /// The status that the API has.
    acked: PodStatus,
    patching: bool,
    patch_after: Option<Timestamp>,
    probes: BTreeMap<String, (String, Probes)>,
    /// Containers whose back-off was told of.
    announced: BTreeSet<String>,
    tokens: Arc<tokio::sync::Mutex<PodTokens>>,
    /// What its claims stand for, once that is known.
    claims: Arc<parking_lot::Mutex<Option<Arc<Claims>>>>,
    events: PodEvents,
    /// Cancelled when the pod begins to end: pulls and hooks give up then.
    ending: CancellationToken,
    outbox: mpsc::UnboundedSender<Message>,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// When it was first seen, until all of its containers run.
    starting: Option<Instant>,
    gone: bool,
}

/// Why a pod that has ended did so, as it was said before.
fn kept_reason(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref().filter(|_| pod.ended())?;
    Some((status.reason.clone()?, status.message.clone().unwrap_or_default()))
}

/// How a worker is told things.
pub(crate) type Inbox = mpsc::UnboundedReceiver<Message>;

impl Worker {
    /// A worker for a pod, and how to tell it things.
    pub fn new(shared: Arc<Shared>, start: Start) -> (Self, mpsc::UnboundedSender<Message>, Inbox) {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let now = shared.now();
        let acked = start.pod.status.clone().unwrap_or_default();
        let start_time = acked.start_time.as_ref().map_or(now, |t| t.0);
        let mut worker = Self {
            events: shared.events.of_pod(&start.pod),
            shared,
            known: Known { given: crate::resize::given(&start.pod), ..Known::default() },
            termination: None,
            evicted: None,
            why: start.rejected.or_else(|| kept_reason(&start.pod)),
            start_time,
            messages: BTreeMap::new(),
            patching: false,
            patch_after: None,
            probes: BTreeMap::new(),
            announced: BTreeSet::new(),
            tokens: Arc::default(),
            claims: Arc::default(),
            ending: CancellationToken::new(),
            outbox: outbox.clone(),
            running: FuturesUnordered::new(),
            starting: start.state.sandboxes.is_empty().then(Instant::now),
            gone: start.gone,
            acked,
            state: start.state,
            pod: start.pod,
        };
        worker.adopt();
        (worker, outbox, inbox)
    }

    /// Works until nothing of the pod is left, or `shutdown`. Says whether nothing is left.
    pub async fn run(mut self, mut inbox: Inbox, shutdown: CancellationToken) -> bool {
        let references = container::references(&self.pod);
        self.shared.objects.using(self.pod.namespace(), self.pod.uid(), &references);
        for container in self.state.containers.clone() {
            self.read_message(&container.id).await;
        }
        let done = loop {
            while let Ok(message) = inbox.try_recv() {
                self.take(message).await;
            }
            // Steps that end at once must not keep others from running.
            tokio::task::coop::consume_budget().await;
            let plan = self.step();
            if plan.done && self.running.is_empty() {
                break true;
            }
            let wake = plan.wake_at.map(|at| crate::back_off::elapsed(self.shared.now(), at));
            tokio::select! {
                () = shutdown.cancelled() => break false,
                Some(message) = inbox.recv() => self.take(message).await,
                Some(outcome) = self.running.next() => self.learn(outcome).await,
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
            }
        };
        self.shared.objects.using(self.pod.namespace(), self.pod.uid(), &Default::default());
        self.shared.puller.forget(self.pod.uid());
        self.shared.forget(self.pod.uid());
        if done {
            remove_files(self.shared.config.root_dir.clone(), self.pod.clone()).await;
        }
        done
    }

    fn view(&self, settled: bool) -> View<'_> {
        View {
            pod: &self.pod,
            state: &self.state,
            known: &self.known,
            termination: self.termination,
            settled,
            now: self.shared.now(),
        }
    }

    /// One round: decide, write the status, start what is to be done.
    fn step(&mut self) -> plan::Plan {
        let mut wake = self.terminate_if_due();
        wake = wake.into_iter().chain(self.consider_resize()).min();
        let patch = self.status_patch();
        let settled = patch.is_none() && !self.patching;
        if let Some(patch) = patch
            && !self.patching
            && !self.gone
        {
            match self.patch_after.filter(|at| *at > self.shared.now()) {
                Some(later) => wake = wake.into_iter().chain([later]).min(),
                None => self.send_status(patch),
            }
        }
        let mut plan = plan::plan(&self.view(settled));
        plan.wake_at = plan.wake_at.into_iter().chain(wake).min();
        for action in std::mem::take(&mut plan.actions) {
            self.begin(action);
        }
        self.announce_back_offs();
        self.run_probes();
        self.measure_start();
        self.publish();
        plan
    }

    /// Notes how long it took until all containers ran.
    fn measure_start(&mut self) {
        let runs = |name: &str| self.state.newest(name).is_some_and(|c| c.running());
        if let Some(since) = self.starting
            && self.pod.spec_ref().containers.iter().all(|c| runs(&c.name))
        {
            self.shared.metrics.pod_started(since.elapsed());
            self.starting = None;
        }
    }

    /// Tells once of each failed container that it must wait.
    fn announce_back_offs(&mut self) {
        let mut waiting = Vec::new();
        for (role, spec) in self.pod.containers() {
            let last =
                self.state.newest(&spec.name).filter(|c| c.exited() && !self.announced.contains(&c.id));
            let Some(last) = last.filter(|_| self.termination.is_none()) else { continue };
            if let Need::Wait { .. } = plan::need(&self.view(false), role, spec) {
                waiting.push((last.id.clone(), spec.name.clone()));
            }
        }
        for (id, name) in waiting {
            let of = format!("{}_{}({})", self.pod.name(), self.pod.namespace(), self.pod.uid());
            let message = format!("Back-off restarting failed container {name} in pod {of}");
            self.events.warning(Some(&name), "BackOff", message);
            self.announced.insert(id);
        }
        let state = &self.state;
        self.announced.retain(|id| state.containers.iter().any(|c| c.id == *id));
    }

    /// Notices that the pod must end; gives the time at which it will have to.
    fn terminate_if_due(&mut self) -> Option<Timestamp> {
        let now = self.shared.now();
        let seconds = self.pod.metadata.deletion_grace_period_seconds;
        let given = seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
        let usual = Duration::from_secs(self.pod.grace_seconds());
        if self.gone {
            // Deleted by force: there is nothing to wait for.
            self.terminate(Cause::Gone, given.unwrap_or(Duration::from_secs(1)));
        } else if self.pod.deleting() {
            self.terminate(Cause::Deleted, given.unwrap_or(usual));
        }
        if self.termination.is_some() {
            return None;
        }
        if let Some(grace) = self.evicted {
            self.terminate(Cause::Evicted, grace);
        } else if self.why.is_some() && !self.pod.ended() {
            self.terminate(Cause::Rejected, usual);
        } else if self.pod.ended() || plan::ended(&self.pod, &self.state, &self.known).is_some() {
            self.terminate(Cause::Ended, usual);
        } else if let Some(seconds) = self.pod.spec_ref().active_deadline_seconds {
            let deadline = self.start_time + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            if now < deadline {
                return Some(deadline);
            }
            let message = "Pod was active on the node longer than the specified deadline";
            self.events.normal(None, "DeadlineExceeded", message);
            self.why = Some(("DeadlineExceeded".into(), message.into()));
            self.terminate(Cause::Deadline, usual);
        }
        None
    }

    /// Begins or changes the end of the pod. What was begun earlier keeps its time.
    fn terminate(&mut self, cause: Cause, grace: Duration) {
        let since = match self.termination {
            Some(old) if old.cause == cause && old.grace == grace => return,
            // A delete that follows a delete may shorten the time, counted from the first.
            Some(old) if matches!(old.cause, Cause::Deleted | Cause::Gone) => old.since,
            _ => self.shared.now(),
        };
        self.termination = Some(Termination { cause, since, grace });
        self.ending.cancel();
        // What could not be started need not be tried any more.
        self.known.failures.retain(|key, _| !matches!(key, plan::Key::Start(_) | plan::Key::Pull(_)));
    }

    /// The status that the pod should have, as a patch to the one it has.
    fn status_patch(&self) -> Option<serde_json::Value> {
        if self.pod.ended() && self.state.containers.is_empty() {
            return None;
        }
        let view = self.view(false);
        let host_ips = self.shared.config.node_ips();
        let status = status::pod_status(&StatusInput {
            view: &view,
            host_ips: &host_ips,
            start_time: self.start_time,
            why: self.why.as_ref().map(|(r, m)| (r.as_str(), m.as_str())),
            messages: &self.messages,
            before: &self.acked,
        });
        status::patch(self.pod.uid(), &self.acked, &status)
    }

    fn send_status(&mut self, patch: serde_json::Value) {
        self.patching = true;
        let api = Api::<Pod>::namespaced(self.shared.client.clone(), self.pod.namespace());
        let name = self.pod.name().to_string();
        self.running.push(Box::pin(async move {
            let result = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            Outcome::Status(result.map(Box::new).map_err(Box::new))
        }));
    }

    /// Starts an action.
    fn begin(&mut self, action: Action) {
        let now = self.shared.now();
        match &action {
            Action::Start { container, .. } => {
                if let Some(last) = self.state.newest(container).filter(|c| c.exited()) {
                    let failed = last.finished_at.unwrap_or(now);
                    let backoff = self.known.crashes.entry(container.clone()).or_default();
                    backoff.next(now.max(failed));
                }
            }
            Action::Stop { id, grace, .. } => {
                self.known.stopping.insert(id.clone(), now + *grace);
            }
            _ => {}
        }
        self.known.in_flight.insert(action.key());
        let step = steps::Step {
            shared: self.shared.clone(),
            pod: self.as_given(),
            events: self.events.clone(),
            ending: self.ending.clone(),
            tokens: self.tokens.clone(),
            claims: self.claims.clone(),
            ips: self.ips(),
        };
        let state = self.state.clone();
        let image = match &action {
            Action::Start { container, .. } => self.known.images.get(container).cloned(),
            _ => None,
        };
        self.running.push(Box::pin(step.run(action, state, image)));
    }

    /// The pod with what it was promised, which may not be what it asks for.
    fn as_given(&self) -> Arc<Pod> {
        if crate::resize::differs(&self.pod, &self.known.given) {
            return Arc::new(crate::resize::with(&self.pod, &self.known.given));
        }
        self.pod.clone()
    }

    fn ips(&self) -> Vec<IpAddr> {
        if self.pod.host_network() {
            return self.shared.config.node_ips();
        }
        let newest = self.state.newest_sandbox().and_then(|s| self.known.addresses.get(&s.id));
        newest.cloned().unwrap_or_default()
    }

    /// Starts the probes of what runs and ends those of what does not.
    fn run_probes(&mut self) {
        let mut wanted = BTreeSet::new();
        let ip = self.ips().first().copied();
        for (role, spec) in self.pod.containers() {
            if role == Role::Init || !probes::has_probes(spec) {
                continue;
            }
            let Some(last) = self.state.newest(&spec.name).filter(|c| c.running()) else { continue };
            wanted.insert(spec.name.clone());
            let probing = self.probes.get(&spec.name).is_some_and(|(id, _)| *id == last.id);
            // The address of a pod that was taken over is not known before its link has been looked at.
            if probing || self.termination.is_some() || ip.is_none() {
                continue;
            }
            let adopted = self.known.probed(&spec.name, &last.id).cloned();
            let jitter = if adopted.is_some() { rand::random() } else { 0.0 };
            let found = adopted.unwrap_or_else(|| Probed {
                container_id: last.id.clone(),
                started: spec.startup_probe.is_none(),
                ready: spec.readiness_probe.is_none(),
                failed: None,
            });
            let outbox = self.outbox.clone();
            let subject = probes::Subject {
                container: Arc::new(spec.clone()),
                id: last.id.clone(),
                ip,
                runtime: self.shared.runtime.clone(),
                events: self.events.clone(),
                age: last
                    .started_at
                    .map_or(Duration::ZERO, |at| crate::back_off::elapsed(at, self.shared.now())),
                started: found.started,
                jitter,
                ending: self.ending.clone(),
                tell: Arc::new(move |finding| drop(outbox.send(Message::Finding(finding)))),
            };
            self.known.probes.insert(spec.name.clone(), found);
            self.probes.insert(spec.name.clone(), (last.id.clone(), probes::start(subject)));
        }
        self.probes.retain(|name, _| wanted.contains(name));
    }

    /// Tells the rest of the agent what there is of the pod.
    fn publish(&self) {
        let logs = pod_files::log_folder(&self.shared.config.root_dir, &self.pod);
        let mut containers: BTreeMap<String, Vec<ContainerHandle>> = BTreeMap::new();
        for container in &self.state.containers {
            containers.entry(container.name.clone()).or_default().push(ContainerHandle {
                id: container.id.clone(),
                attempt: container.attempt,
                running: container.running(),
                log_path: logs.join(pod_files::log_file(&container.name, container.attempt)),
            });
        }
        containers.values_mut().for_each(|tries| tries.sort_by_key(|t| t.attempt));
        let sandbox_id = self.state.current_sandbox().map(|s| s.id.clone());
        self.shared.publish(PodHandle { pod: self.pod.clone(), sandbox_id, containers });
    }
}

/// Removes what is left on disk of a pod that is gone.
async fn remove_files(root: PathBuf, pod: Arc<Pod>) {
    let (folder, logs) = (crate::volumes::pod_folder(&root, pod.uid()), pod_files::log_folder(&root, &pod));
    let removed = tokio::task::spawn_blocking(move || {
        crate::volumes::remove_folder(&folder).and(crate::volumes::remove_folder(&logs))
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(pod = pod.name(), error = error.chain(), "files of a pod were not removed");
    }
}

//! Decides what a pod needs next: from what it should be, what runs, what was learnt and the time, to a list of actions. Pure:
//! it does nothing itself, and run again on the same facts it gives the same answer. A worker carries the actions out at its
//! own pace and tells the planner which are still under way.

mod container;
mod start;
mod stop;

#[cfg(test)]
mod tests;

pub(crate) use container::{Need, need};
pub(crate) use start::initialized;

use crate::{
    back_off::BackOff,
    pod::{PodExt, Role, restarts},
    pod_state::PodState,
    resize::{Amounts, Pending},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use orlop_runtime::Image;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// One step for a worker to take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make a sandbox and link it.
    CreateSandbox { attempt: u32 },
    /// Link a sandbox whose address is not known (it was adopted).
    Attach { sandbox: String },
    /// Bring the volumes into being, or up to date.
    Mount,
    /// See that the image of a container is here, by its pull policy.
    Pull { container: String },
    /// Make a container and start it.
    Start { container: String, attempt: u32, sandbox: String },
    /// End a container: its `preStop` hook, its stop signal, and after the grace period SIGKILL.
    Stop { id: String, grace: Duration, why: Why },
    /// End a container that is being stopped at once: its grace period became shorter.
    Kill { id: String },
    /// Give a running container what it was promised.
    Resize { container: String, id: String },
    /// Forget a container that has ended.
    RemoveContainer { id: String },
    /// End a sandbox and take its link away; its containers' records stay.
    StopSandbox { id: String },
    /// Forget a sandbox and its containers.
    RemoveSandbox { id: String },
    /// Take the volumes away.
    Unmount,
    /// Tell the API that nothing of the pod is left.
    Delete,
}

impl Action {
    /// What it is, for measurements: the kubelet's name where it has one.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateSandbox { .. } => "run_podsandbox",
            Self::Attach { .. } => "attach_network",
            Self::Mount => "mount_volumes",
            Self::Pull { .. } => "pull_image",
            Self::Start { .. } => "start_container",
            Self::Stop { .. } => "stop_container",
            Self::Kill { .. } => "kill_container",
            Self::Resize { .. } => "resize_container",
            Self::RemoveContainer { .. } => "remove_container",
            Self::StopSandbox { .. } => "stop_podsandbox",
            Self::RemoveSandbox { .. } => "remove_podsandbox",
            Self::Unmount => "unmount_volumes",
            Self::Delete => "delete_pod",
        }
    }
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The pod ends.
    PodEnds,
    /// The liveness probe failed.
    Liveness,
    /// The startup probe failed.
    Startup,
    /// Its spec changed.
    Changed,
    /// It gets other resources, and wants to be started anew for them.
    Resized,
    /// Its sandbox is gone.
    SandboxGone,
}

/// What makes two actions the same work, so that it is not done twice at a time and a failure is remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Sandbox,
    Mount,
    Pull(String),
    Start(String),
    Stop(String),
    Kill(String),
    Resize(String),
    RemoveContainer(String),
    StopSandbox(String),
    RemoveSandbox(String),
    Delete,
}

impl Action {
    pub fn key(&self) -> Key {
        match self {
            Self::CreateSandbox { .. } | Self::Attach { .. } => Key::Sandbox,
            Self::Mount | Self::Unmount => Key::Mount,
            Self::Pull { container } => Key::Pull(container.clone()),
            Self::Start { container, .. } => Key::Start(container.clone()),
            Self::Stop { id, .. } => Key::Stop(id.clone()),
            Self::Kill { id } => Key::Kill(id.clone()),
            Self::Resize { id, .. } => Key::Resize(id.clone()),
            Self::RemoveContainer { id } => Key::RemoveContainer(id.clone()),
            Self::StopSandbox { id } => Key::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => Key::RemoveSandbox(id.clone()),
            Self::Delete => Key::Delete,
        }
    }
}

/// A step that failed, and when it may be tried again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// As `state.waiting.reason`.
    pub reason: String,
    pub message: String,
    pub times: u32,
    pub retry_at: Timestamp,
}

/// What the probes say of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Probed {
    /// The try that this is about.
    pub container_id: String,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
    /// The startup or liveness probe has failed for good.
    pub failed: Option<Why>,
}

/// What a worker has learnt about its pod and would have to learn again after a restart of the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Addresses of linked sandboxes (none with the host's network).
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Sandboxes that were stopped and unlinked.
    pub stopped: BTreeSet<String>,
    /// Images that are here for the next start of a container.
    pub images: BTreeMap<String, Image>,
    /// The volumes are there.
    pub mounted: bool,
    /// The volumes were taken away again.
    pub unmounted: bool,
    /// When the volumes must be brought up to date.
    pub refresh_at: Option<Timestamp>,
    pub failures: BTreeMap<Key, Failure>,
    pub crashes: BTreeMap<String, BackOff>,
    pub probes: BTreeMap<String, Probed>,
    /// Containers being stopped, and until when they have time.
    pub stopping: BTreeMap<String, Timestamp>,
    pub in_flight: BTreeSet<Key>,
    /// The API has taken the delete.
    pub deleted: bool,
    /// What each container was promised.
    pub given: Amounts,
    /// What each container that runs has, by its id.
    pub applied: BTreeMap<String, ResourceRequirements>,
    /// Why the pod does not get what it asks for.
    pub pending: Option<Pending>,
}

impl Known {
    /// What the probes say of a try of a container, once they have said anything.
    pub fn probed(&self, name: &str, id: &str) -> Option<&Probed> {
        self.probes.get(name).filter(|p| p.container_id == id)
    }

    pub fn busy(&self, key: &Key) -> bool {
        self.in_flight.contains(key)
    }

    /// What a running container has and what it was promised, where the two differ.
    pub fn resizing(&self, name: &str, id: &str) -> Option<(&ResourceRequirements, &ResourceRequirements)> {
        let (has, given) = (self.applied.get(id)?, self.given.get(name)?);
        (has != given).then_some((has, given))
    }

    pub fn starting(&self) -> bool {
        self.in_flight.iter().any(|k| matches!(k, Key::Start(_)))
    }
}

/// Why a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// All its containers have ended, or one that must not fail has.
    Ended,
    /// `activeDeadlineSeconds` are over.
    Deadline,
    /// The node needs what it uses.
    Evicted,
    /// It was turned away before anything was made.
    Rejected,
    /// The API wants it gone.
    Deleted,
    /// It is not in the API any more.
    Gone,
}

/// The end of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Termination {
    pub cause: Cause,
    pub since: Timestamp,
    pub grace: Duration,
}

/// Everything a decision rests on.
pub(crate) struct View<'a> {
    pub pod: &'a Pod,
    pub state: &'a PodState,
    pub known: &'a Known,
    pub termination: Option<Termination>,
    /// The API has the pod's newest status.
    pub settled: bool,
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// When to think again even if nothing happens.
    pub wake_at: Option<Timestamp>,
    /// Nothing is left: the worker can go.
    pub done: bool,
}

impl Plan {
    /// Wants a step: it is added unless it is under way or has to wait after a failure.
    fn want(&mut self, view: &View<'_>, action: Action) {
        let key = action.key();
        if view.known.busy(&key) || self.actions.iter().any(|a| a.key() == key) {
            return;
        }
        match view.known.failures.get(&key) {
            Some(failure) if failure.retry_at > view.now => self.wake(failure.retry_at),
            _ => self.actions.push(action),
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What the pod needs next.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    match view.termination {
        Some(termination) => stop::plan(view, termination),
        None => start::plan(view),
    }
}

/// Whether a pod has come to its own end, and if so whether well.
pub(crate) fn ended(pod: &Pod, state: &PodState, known: &Known) -> Option<bool> {
    if known.starting() {
        return None;
    }
    let mut succeeded = true;
    for (role, spec) in pod.containers() {
        let last = state.newest(&spec.name);
        let over = last.filter(|c| c.exited() && !restarts(pod, role, spec, c.exit_code));
        match role {
            Role::Init if over.is_some_and(|c| c.exit_code != 0) => return Some(false),
            Role::Init | Role::Sidecar | Role::Ephemeral => {}
            Role::Main => succeeded &= over?.exit_code == 0,
        }
    }
    Some(succeeded)
}

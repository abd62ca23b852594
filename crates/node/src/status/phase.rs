//! The pod's phase, from its containers' statuses (kubelet `getPhase`). Pure.

use super::StatusInput;
use crate::{
    plan::Cause,
    pod::{PodExt, RestartPolicy, Role, restarts},
};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    /// Whether nothing follows it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn last_terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

fn running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// Counts of main containers.
#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    restarting: usize,
}

pub(super) fn phase(input: &StatusInput<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> Phase {
    let pod = input.view.pod;
    match input.view.termination.map(|t| t.cause) {
        Some(Cause::Rejected) => return Phase::Failed,
        // What still runs holds what the pod was given: until it has stopped, the pod is not over for anybody.
        Some(Cause::Deadline | Cause::Evicted) if input.over() => return Phase::Failed,
        _ if pod.ended() => {
            let succeeded = input.before.phase.as_deref() == Some("Succeeded");
            return if succeeded { Phase::Succeeded } else { Phase::Failed };
        }
        _ => {}
    }
    let specs = pod.containers();
    let role_of = |name: &str| specs.iter().find(|(_, s)| s.name == name).map(|(r, s)| (*r, *s));
    let mut initializing = 0;
    let mut failed = 0;
    for status in init {
        let Some((role, spec)) = role_of(&status.name) else { continue };
        match role {
            Role::Sidecar if status.started != Some(true) => initializing += 1,
            Role::Init => match terminated(status) {
                Some(end) if end.exit_code == 0 => {}
                Some(end) if !restarts(pod, role, spec, end.exit_code) => failed += 1,
                _ => initializing += 1,
            },
            _ => {}
        }
    }
    let mut count = Count::default();
    for status in main {
        let Some((role, spec)) = role_of(&status.name) else { continue };
        if running(status) {
            count.running += 1;
        } else if let Some(end) = terminated(status).or_else(|| last_terminated(status)) {
            count.stopped += 1;
            count.succeeded += usize::from(end.exit_code == 0);
            count.restarting += usize::from(restarts(pod, role, spec, end.exit_code));
        } else {
            count.waiting += 1;
        }
    }
    if failed > 0 && input.view.termination.is_some() && input.over() {
        return Phase::Failed;
    }
    let accompanied =
        init.iter().any(|s| running(s) && role_of(&s.name).is_some_and(|(r, _)| r == Role::Sidecar));
    decide(input, &count, initializing + failed, accompanied)
}

fn decide(input: &StatusInput<'_>, count: &Count, initializing: usize, accompanied: bool) -> Phase {
    let total = count.running + count.waiting + count.stopped;
    if input.over() {
        // Nothing is started any more: what has ended has ended for good.
        return if count.stopped == total && count.succeeded == total && total > 0 {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
    }
    if count.waiting > 0 || (initializing > 0 && count.running == 0 && count.stopped == 0) {
        return Phase::Pending;
    }
    // A pod is not over while a sidecar still runs.
    if count.running > 0 || count.restarting > 0 || accompanied {
        return Phase::Running;
    }
    if count.stopped == count.succeeded {
        return if input.view.pod.restart_policy() == RestartPolicy::Always {
            Phase::Running
        } else {
            Phase::Succeeded
        };
    }
    Phase::Failed
}

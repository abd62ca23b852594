//! The way up: sandbox, volumes and images side by side, init containers in order, then the others, and keeping them so. Pure.

use super::{Action, Key, Need, Plan, View, need};
use crate::{
    pod::{PodExt, Role},
    pod_state::{Container, PodState, Sandbox},
};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use std::time::Duration;

/// How long a container that is replaced has to end, if its pod does not say.
fn grace(pod: &Pod, spec: &Spec, why: super::Why) -> Duration {
    let probe = match why {
        super::Why::Liveness => spec.liveness_probe.as_ref(),
        super::Why::Startup => spec.startup_probe.as_ref(),
        _ => None,
    };
    let own = probe.and_then(|p| p.termination_grace_period_seconds);
    Duration::from_secs(own.and_then(|s| u64::try_from(s).ok()).unwrap_or_else(|| pod.grace_seconds()))
}

/// Whether all init containers have done their part in the current sandbox; `Err` holds the names of those that have not.
pub(crate) fn initialized(view: &View<'_>) -> Result<(), Vec<String>> {
    let containers = view.pod.containers();
    let here = |c: &&Container| view.state.newest_sandbox().is_some_and(|s| s.id == c.sandbox_id);
    let begun = containers
        .iter()
        .any(|(role, spec)| *role == Role::Main && view.state.newest(&spec.name).filter(here).is_some());
    let waiting: Vec<String> = containers
        .iter()
        .filter(|(role, spec)| {
            let last = view.state.newest(&spec.name).filter(here);
            match role {
                Role::Init => !last.is_some_and(|c| c.exited() && c.exit_code == 0),
                Role::Sidecar => !last.is_some_and(|c| sidecar_started(view, spec, c)),
                Role::Main | Role::Ephemeral => false,
            }
        })
        .map(|(_, spec)| spec.name.clone())
        .collect();
    if begun || waiting.is_empty() { Ok(()) } else { Err(waiting) }
}

/// A sidecar holds the next one up until it runs and its startup probe and hook are done.
fn sidecar_started(view: &View<'_>, spec: &Spec, last: &Container) -> bool {
    let probed = view.known.probed(&spec.name, &last.id);
    let started = match spec.startup_probe {
        Some(_) => probed.is_some_and(|p| p.started),
        None => true,
    };
    last.running() && started && !view.known.busy(&Key::Start(spec.name.clone()))
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let old = old_sandboxes(view.state);
    for sandbox in &old {
        if !view.known.stopped.contains(&sandbox.id) {
            plan.want(view, Action::StopSandbox { id: sandbox.id.clone() });
        } else if !view.state.containers.iter().any(|c| c.sandbox_id == sandbox.id) {
            plan.want(view, Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
    match view.state.current_sandbox() {
        Some(sandbox) if !view.known.addresses.contains_key(&sandbox.id) => {
            plan.want(view, Action::Attach { sandbox: sandbox.id.clone() });
        }
        Some(_) => {}
        // The old one must have given back its host ports first.
        None if old.iter().all(|s| view.known.stopped.contains(&s.id)) => {
            let attempt = view.state.newest_sandbox().map_or(0, |s| s.attempt + 1);
            plan.want(view, Action::CreateSandbox { attempt });
        }
        None => {}
    }
    let stale = view.known.refresh_at.is_some_and(|at| at <= view.now);
    if !view.known.mounted || stale {
        plan.want(view, Action::Mount);
    } else if let Some(at) = view.known.refresh_at {
        plan.wake(at);
    }
    ephemeral(view, &mut plan);
    containers(view, &mut plan);
    remove_dead(view, &mut plan);
    plan
}

/// All sandboxes that no container may be started in any more.
fn old_sandboxes(state: &PodState) -> Vec<&Sandbox> {
    let current = state.current_sandbox().map(|s| &s.id);
    state.sandboxes.iter().filter(|s| Some(&s.id) != current).collect()
}

/// Somebody wants to look into the pod, perhaps to find out why it does not get on: that waits for nothing of the others.
fn ephemeral(view: &View<'_>, plan: &mut Plan) {
    for spec in &view.pod.ephemeral() {
        match need(view, Role::Ephemeral, spec) {
            Need::Start { attempt } => start(view, plan, spec, attempt),
            Need::Remove { id } => plan.want(view, Action::RemoveContainer { id }),
            Need::Stop { id, why } => {
                plan.want(view, Action::Stop { id, grace: grace(view.pod, spec, why), why });
            }
            Need::Nothing | Need::Wait { .. } => {}
        }
    }
}

fn containers(view: &View<'_>, plan: &mut Plan) {
    let initialized = initialized(view).is_ok();
    for (role, spec) in view.pod.containers() {
        match role {
            Role::Init if initialized => continue,
            Role::Main if !initialized => continue,
            _ => {}
        }
        match need(view, role, spec) {
            Need::Nothing => resize(view, plan, spec),
            Need::Wait { until, .. } => plan.wake(until),
            Need::Start { attempt } => start(view, plan, spec, attempt),
            Need::Stop { id, why } => {
                plan.want(view, Action::Stop { id, grace: grace(view.pod, spec, why), why });
            }
            Need::Remove { id } => plan.want(view, Action::RemoveContainer { id }),
        }
        // Init containers go one by one.
        if !initialized && role != Role::Main && !init_done(view, role, spec) {
            break;
        }
    }
}

/// Gives a container that runs what it was promised.
fn resize(view: &View<'_>, plan: &mut Plan, spec: &Spec) {
    let Some(last) = view.state.newest(&spec.name).filter(|c| c.running()) else { return };
    if view.known.resizing(&spec.name, &last.id).is_some() && !view.known.busy(&Key::Start(spec.name.clone()))
    {
        plan.want(view, Action::Resize { container: spec.name.clone(), id: last.id.clone() });
    }
}

fn init_done(view: &View<'_>, role: Role, spec: &Spec) -> bool {
    let Some(sandbox) = view.state.current_sandbox() else { return false };
    let Some(last) = view.state.newest(&spec.name).filter(|c| c.sandbox_id == sandbox.id) else {
        return false;
    };
    match role {
        Role::Init => last.exited() && last.exit_code == 0,
        _ => sidecar_started(view, spec, last),
    }
}

/// Starts a container, or sees to what it still lacks. Containers of one pod are started one after the other, so that a
/// `postStart` hook holds up those that follow.
fn start(view: &View<'_>, plan: &mut Plan, spec: &Spec, attempt: u32) {
    let key = Key::Start(spec.name.clone());
    if let Some(failure) = view.known.failures.get(&key).filter(|f| f.retry_at > view.now) {
        plan.wake(failure.retry_at);
        return;
    }
    if !view.known.images.contains_key(&spec.name) {
        plan.want(view, Action::Pull { container: spec.name.clone() });
        return;
    }
    let linked = view.state.current_sandbox().filter(|s| view.known.addresses.contains_key(&s.id));
    let Some(sandbox) = linked else { return };
    let planned = plan.actions.iter().any(|a| matches!(a, Action::Start { .. }));
    if view.known.mounted && !view.known.starting() && !planned {
        let (container, sandbox) = (spec.name.clone(), sandbox.id.clone());
        plan.want(view, Action::Start { container, attempt, sandbox });
    }
}

/// Of each container the last that has ended is kept, for `kubectl logs --previous`.
pub(super) fn remove_dead(view: &View<'_>, plan: &mut Plan) {
    for container in view.state.containers.iter().filter(|c| c.exited()) {
        let newer = view
            .state
            .containers
            .iter()
            .any(|c| c.name == container.name && c.exited() && c.attempt > container.attempt);
        if newer {
            plan.want(view, Action::RemoveContainer { id: container.id.clone() });
        }
    }
}

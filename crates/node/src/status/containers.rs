//! The status of one container. Pure.

use super::StatusInput;
use crate::{
    plan::{Key, Need, need},
    pod::{PodExt, Role, restarts},
    pod_state::Container,
};
use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

/// `containerID`.
fn id(container: &Container) -> String {
    format!("orlop://{}", container.id)
}

pub(super) fn status(
    input: &StatusInput<'_>,
    role: Role,
    spec: &Spec,
    uninitialized: bool,
) -> ContainerStatus {
    let view = input.view;
    let last = view.state.newest(&spec.name);
    let state = state(input, role, spec, last, uninitialized);
    let waiting = state.waiting.is_some();
    // A container that waits to be started again shows how it ended as its last state.
    let ended = match last {
        Some(c) if waiting && c.exited() => Some(c),
        Some(c) => view.state.before(c),
        None => None,
    };
    let busy = view.known.busy(&Key::Start(spec.name.clone()));
    let alive = last.filter(|c| c.running() && state.running.is_some());
    let probed = last.and_then(|c| view.known.probed(&spec.name, &c.id));
    let started =
        alive.is_some() && !busy && (spec.startup_probe.is_none() || probed.is_some_and(|p| p.started));
    let ready = match role {
        Role::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
        // Nobody asks whether it is ready.
        Role::Ephemeral => false,
        _ => started && (spec.readiness_probe.is_none() || probed.is_some_and(|p| p.ready)),
    };
    let has_resources = alive.is_some() && spec.resources.is_some();
    let applied = alive.and_then(|c| view.known.applied.get(&c.id)).or(spec.resources.as_ref());
    let given = view.known.given.get(&spec.name).or(spec.resources.as_ref());
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        image_id: last.map(|c| c.image_digest.clone()).unwrap_or_default(),
        container_id: last.filter(|c| !c.id.is_empty()).map(id),
        restart_count: last.map_or(0, |c| i32::try_from(c.attempt).unwrap_or(i32::MAX)),
        ready,
        started: (role != Role::Ephemeral).then_some(started),
        last_state: ended
            .map(|c| ContainerState { terminated: Some(terminated(input, c)), ..ContainerState::default() }),
        state: Some(state),
        resources: applied.filter(|_| has_resources).cloned(),
        allocated_resources: has_resources.then(|| given.and_then(|r| r.requests.clone())).flatten(),
        volume_mounts: alive.and_then(|_| mounts(spec)),
        ..ContainerStatus::default()
    }
}

fn mounts(spec: &Spec) -> Option<Vec<VolumeMountStatus>> {
    let all: Vec<VolumeMountStatus> = spec
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".into()),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!all.is_empty()).then_some(all)
}

fn state(
    input: &StatusInput<'_>,
    role: Role,
    spec: &Spec,
    last: Option<&Container>,
    uninitialized: bool,
) -> ContainerState {
    let view = input.view;
    if let Some(running) = last.filter(|c| c.running()) {
        let started_at = running.started_at.map(Time);
        return ContainerState {
            running: Some(ContainerStateRunning { started_at }),
            ..ContainerState::default()
        };
    }
    let exited = last.filter(|c| c.exited());
    if input.over() {
        return ContainerState {
            terminated: Some(exited.map_or_else(lost, |c| terminated(input, c))),
            ..ContainerState::default()
        };
    }
    let comes_again =
        exited.is_none_or(|c| restarts(view.pod, role, spec, c.exit_code) && view.termination.is_none());
    let reason = if comes_again { waiting(input, role, spec) } else { None };
    match (reason, exited) {
        (Some(waiting), _) => ContainerState { waiting: Some(waiting), ..ContainerState::default() },
        (None, Some(c)) => {
            ContainerState { terminated: Some(terminated(input, c)), ..ContainerState::default() }
        }
        (None, None) => {
            let reason = if uninitialized && view.pod.spec_ref().init_containers.is_some() {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: None };
            ContainerState { waiting: Some(waiting), ..ContainerState::default() }
        }
    }
}

/// Why a container is not started, if there is more to say than that it is being made.
fn waiting(input: &StatusInput<'_>, role: Role, spec: &Spec) -> Option<ContainerStateWaiting> {
    let view = input.view;
    for key in [Key::Start(spec.name.clone()), Key::Pull(spec.name.clone())] {
        if let Some(failure) = view.known.failures.get(&key) {
            let (reason, message) = (failure.reason.clone(), failure.message.clone());
            return Some(ContainerStateWaiting { reason: Some(reason), message: Some(message) });
        }
    }
    let Need::Wait { delay, .. } = need(view, role, spec) else { return None };
    let message = back_off_message(delay.as_secs(), &spec.name, view.pod);
    Some(ContainerStateWaiting { reason: Some("CrashLoopBackOff".into()), message: Some(message) })
}

/// The kubelet's words for a container in crash-loop back-off.
pub(crate) fn back_off_message(
    seconds: u64,
    container: &str,
    pod: &k8s_openapi::api::core::v1::Pod,
) -> String {
    let delay = match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    };
    let (name, namespace, uid) = (pod.name(), pod.namespace(), pod.uid());
    format!("back-off {delay} restarting failed container={container} pod={name}_{namespace}({uid})")
}

/// How a container that has ended did so.
fn terminated(input: &StatusInput<'_>, container: &Container) -> ContainerStateTerminated {
    let reason = match (container.reason.as_str(), container.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let message = input.messages.get(&container.id).filter(|m| !m.is_empty()).cloned();
    ContainerStateTerminated {
        exit_code: container.exit_code,
        signal: (container.signal != 0).then_some(container.signal),
        reason: Some(reason.into()),
        message: message.or_else(|| Some(container.message.clone()).filter(|m| !m.is_empty())),
        started_at: container.started_at.or(container.created_at).map(Time),
        finished_at: container.finished_at.map(Time),
        container_id: (!container.id.is_empty()).then(|| id(container)),
    }
}

/// A container of an ended pod of which nothing is known.
fn lost() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..ContainerStateTerminated::default()
    }
}

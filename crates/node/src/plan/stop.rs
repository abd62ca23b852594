//! The way down: containers (sidecars after the others, the last first), then the sandbox, then the volumes, then the API's
//! object. Pure.

use super::{Action, Cause, Key, Plan, Termination, View, Why, start::remove_dead};
use crate::{
    back_off::elapsed,
    pod::{PodExt, Role},
    pod_state::Container,
};
use orlop_runtime::ContainerState;
use std::time::Duration;

/// What a container gets at least to end by itself, however little of the pod's grace period is left.
const LEAST_GRACE: Duration = Duration::from_secs(1);

pub(super) fn plan(view: &View<'_>, end: Termination) -> Plan {
    let mut plan = Plan::default();
    let alive = stop_containers(view, end, &mut plan);
    let busy = view.known.in_flight.iter().any(|k| matches!(k, Key::Start(_) | Key::Sandbox | Key::Stop(_)));
    if alive || busy {
        return plan;
    }
    let mut standing = false;
    for sandbox in view.state.sandboxes.iter().filter(|s| !view.known.stopped.contains(&s.id)) {
        standing = true;
        plan.want(view, Action::StopSandbox { id: sandbox.id.clone() });
    }
    if standing {
        return plan;
    }
    if !view.known.unmounted {
        plan.want(view, Action::Unmount);
    }
    match end.cause {
        Cause::Ended | Cause::Deadline | Cause::Evicted | Cause::Rejected => remove_dead(view, &mut plan),
        Cause::Deleted => {
            if view.known.deleted {
                remove_all(view, &mut plan);
            } else if view.known.unmounted && view.settled {
                plan.want(view, Action::Delete);
            }
        }
        Cause::Gone => {
            remove_all(view, &mut plan);
            plan.done = view.known.unmounted && view.state.sandboxes.is_empty();
        }
    }
    plan
}

fn remove_all(view: &View<'_>, plan: &mut Plan) {
    for sandbox in &view.state.sandboxes {
        plan.want(view, Action::RemoveSandbox { id: sandbox.id.clone() });
    }
}

/// Stops what may be stopped now; says whether anything is alive.
fn stop_containers(view: &View<'_>, end: Termination, plan: &mut Plan) -> bool {
    let order = view.pod.containers();
    let alive: Vec<&Container> =
        view.state.containers.iter().filter(|c| c.state == ContainerState::Running).collect();
    let rank = |c: &Container| order.iter().position(|(role, s)| *role == Role::Sidecar && s.name == c.name);
    let deadline = end.since + end.grace;
    for container in &alive {
        // A sidecar waits for all that are not sidecars and for the sidecars started after it.
        let held = rank(container)
            .is_some_and(|own| alive.iter().any(|other| rank(other).is_none_or(|theirs| theirs > own)));
        if held {
            continue;
        }
        let id = container.id.clone();
        if view.known.busy(&Key::Stop(id.clone())) {
            let granted = view.known.stopping.get(&id);
            if granted.is_some_and(|until| deadline < *until) {
                if view.now >= deadline {
                    plan.want(view, Action::Kill { id });
                } else {
                    plan.wake(deadline);
                }
            }
        } else {
            let grace = elapsed(view.now, deadline).max(LEAST_GRACE);
            plan.want(view, Action::Stop { id, grace, why: Why::PodEnds });
        }
    }
    !alive.is_empty()
}

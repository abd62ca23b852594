//! What a single container needs. Pure.

use super::{Key, View, Why};
use crate::{
    pod::{Role, restarts},
    pod_state::spec_hash,
    resize,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as Spec;
use orlop_runtime::ContainerState;
use std::time::Duration;

/// What a container needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Need {
    /// Nothing: it runs, or has ended and stays so, or is being worked on.
    Nothing,
    /// To be started, as its `attempt`-th try.
    Start { attempt: u32 },
    /// To be left alone until its back-off is over.
    Wait { delay: Duration, until: Timestamp },
    /// To be stopped, so that it can be started again.
    Stop { id: String, why: Why },
    /// To be removed: it was made but never started, perhaps because the agent died in between.
    Remove { id: String },
}

/// What the container needs in a pod that is to run.
pub(crate) fn need(view: &View<'_>, role: Role, spec: &Spec) -> Need {
    if view.known.busy(&Key::Start(spec.name.clone())) {
        return Need::Nothing;
    }
    let Some(last) = view.state.newest(&spec.name) else { return Need::Start { attempt: 0 } };
    let id = last.id.clone();
    let here = view.state.current_sandbox().is_some_and(|s| s.id == last.sandbox_id);
    match last.state {
        ContainerState::Created => Need::Remove { id },
        ContainerState::Running => {
            let failed = view.known.probed(&spec.name, &id).and_then(|p| p.failed);
            if !here {
                Need::Stop { id, why: Why::SandboxGone }
            } else if last.hash != spec_hash(spec) {
                Need::Stop { id, why: Why::Changed }
            } else if let Some(why) = failed {
                Need::Stop { id, why }
            } else if view
                .known
                .resizing(&spec.name, &id)
                .is_some_and(|(from, to)| resize::restarts(spec, from, to))
            {
                Need::Stop { id, why: Why::Resized }
            } else {
                Need::Nothing
            }
        }
        ContainerState::Exited | ContainerState::Unknown => {
            // A new sandbox is initialized anew.
            let again = role == Role::Init && !here && last.exit_code == 0;
            if !again && !restarts(view.pod, role, spec, last.exit_code) {
                return Need::Nothing;
            }
            let ended = last.finished_at.unwrap_or(view.now);
            let backoff = view.known.crashes.get(&spec.name);
            match backoff.and_then(|b| b.waiting(ended, view.now)) {
                Some((delay, until)) if !again => Need::Wait { delay, until },
                _ => Need::Start { attempt: last.attempt + 1 },
            }
        }
    }
}

//! The pod's conditions. Conditions that others own (readiness gates, `DisruptionTarget`) are kept. Pure.

use super::{StatusInput, phase::Phase};
use crate::{
    plan::{Cause, initialized},
    pod::{PodExt, Role},
};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A condition's value with its reason and message.
struct Value {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Value {
    fn yes() -> Self {
        Self { holds: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { holds: false, reason: Some(reason), message }
    }
}

/// The conditions that are there only while a resize is under way.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resizing(input: &StatusInput<'_>) -> Vec<PodCondition> {
    let known = &input.view.known;
    let mut all = Vec::new();
    if let Some(pending) = &known.pending {
        let value =
            Value { holds: true, reason: Some(pending.reason), message: Some(pending.message.clone()) };
        all.push(condition(input, RESIZE[0], value));
    }
    let mut running = input.view.state.containers.iter().filter(|c| c.running());
    if input.view.termination.is_none() && running.any(|c| known.resizing(&c.name, &c.id).is_some()) {
        let failed = known.failures.iter().find(|(key, _)| matches!(key, crate::plan::Key::Resize(_)));
        let reason = failed.map(|_| "Error");
        let message = failed.map(|(_, failure)| failure.message.clone());
        all.push(condition(input, RESIZE[1], Value { holds: true, reason, message }));
    }
    all
}

pub(super) fn conditions(input: &StatusInput<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let containers = containers_ready(input, status);
    let ready = if containers.holds { gates(input) } else { Value::no_like(&containers) };
    let own = [
        ("PodReadyToStartContainers", sandboxed(input)),
        ("Initialized", init(input, status)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Value::yes()),
    ];
    let mut all: Vec<PodCondition> =
        own.into_iter().map(|(name, value)| condition(input, name, value)).collect();
    all.extend(resizing(input));
    if let Some(("Evicted", why)) = input.why
        && input.view.termination.is_some_and(|t| t.cause == Cause::Evicted)
    {
        let value = Value { holds: true, reason: Some("TerminationByKubelet"), message: Some(why.into()) };
        all.push(condition(input, "DisruptionTarget", value));
    }
    let ours = |name: &str| RESIZE.contains(&name);
    let others = input
        .before
        .conditions
        .iter()
        .flatten()
        .filter(|c| !ours(&c.type_) && !all.iter().any(|o| o.type_ == c.type_));
    let others: Vec<PodCondition> = others.cloned().collect();
    all.extend(others);
    all
}

impl Value {
    fn no_like(other: &Self) -> Self {
        Self { holds: false, reason: other.reason, message: other.message.clone() }
    }
}

fn condition(input: &StatusInput<'_>, name: &str, value: Value) -> PodCondition {
    let status = if value.holds { "True" } else { "False" };
    let before = input.before.conditions.iter().flatten().find(|c| c.type_ == name);
    let unchanged = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: name.into(),
        status: status.into(),
        reason: value.reason.map(Into::into),
        message: value.message,
        last_transition_time: unchanged.or(Some(Time(input.view.now))),
        observed_generation: input.view.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn phase(status: &PodStatus) -> Option<Phase> {
    match status.phase.as_deref()? {
        "Succeeded" => Some(Phase::Succeeded),
        "Failed" => Some(Phase::Failed),
        _ => None,
    }
}

fn sandboxed(input: &StatusInput<'_>) -> Value {
    let linked = input.view.state.current_sandbox().is_some_and(|s| {
        input.view.known.addresses.contains_key(&s.id) && !input.view.known.stopped.contains(&s.id)
    });
    Value { holds: linked, reason: None, message: None }
}

fn init(input: &StatusInput<'_>, status: &PodStatus) -> Value {
    if phase(status) == Some(Phase::Succeeded) {
        return Value { holds: true, reason: Some("PodCompleted"), message: None };
    }
    match initialized(input.view) {
        Ok(()) => Value::yes(),
        Err(names) => Value::no("ContainersNotInitialized", Some(listed("incomplete", &names))),
    }
}

fn listed(what: &str, names: &[String]) -> String {
    format!("containers with {what} status: [{}]", names.join(" "))
}

fn containers_ready(input: &StatusInput<'_>, status: &PodStatus) -> Value {
    match phase(status) {
        Some(Phase::Succeeded) => return Value::no("PodCompleted", None),
        Some(Phase::Failed) => return Value::no("PodFailed", None),
        _ => {}
    }
    let roles = input.view.pod.containers();
    let counts = |s: &&ContainerStatus| roles.iter().any(|(r, c)| *r != Role::Init && c.name == s.name);
    let all = status.init_container_statuses.iter().flatten();
    let all = all.chain(status.container_statuses.iter().flatten()).filter(counts);
    let unready: Vec<String> = all.filter(|s| !s.ready).map(|s| s.name.clone()).collect();
    if unready.is_empty() {
        Value::yes()
    } else {
        Value::no("ContainersNotReady", Some(listed("unready", &unready)))
    }
}

fn gates(input: &StatusInput<'_>) -> Value {
    let mut missing = Vec::new();
    for gate in input.view.pod.spec_ref().readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match input.before.conditions.iter().flatten().find(|c| c.type_ == *name) {
            None => missing
                .push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(c) if c.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        Value::yes()
    } else {
        Value::no("ReadinessGatesNotReady", Some(missing.join(", ")))
    }
}

//! A pod's `status` as a kubelet would write it, from what runs and what was learnt. Pure; writing it is the worker's.

mod conditions;
mod containers;
mod patch;
mod phase;

#[cfg(test)]
mod tests;

pub(crate) use patch::patch;

use crate::{
    plan::{Cause, View},
    pod::{PodExt, Role},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use orlop_api::qos::QosClass;
use std::{collections::BTreeMap, net::IpAddr};

/// What a status is made from besides the planner's view.
pub(crate) struct StatusInput<'a> {
    pub view: &'a View<'a>,
    /// Addresses of the node, the primary one first.
    pub host_ips: &'a [IpAddr],
    /// When the agent first saw the pod.
    pub start_time: Timestamp,
    /// `status.reason` and `status.message` of a pod that was turned away or evicted.
    pub why: Option<(&'a str, &'a str)>,
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// The status as the API has it: conditions of others and transition times come from it.
    pub before: &'a PodStatus,
}

impl StatusInput<'_> {
    /// Whether all that will ever run of the pod has run.
    pub fn over(&self) -> bool {
        let quiet = self.view.known.in_flight.iter().all(|k| !matches!(k, crate::plan::Key::Start(_)));
        self.view.termination.is_some() && quiet && !self.view.state.containers.iter().any(|c| c.running())
    }
}

/// The status of a pod.
pub(crate) fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let view = input.view;
    let pod = view.pod;
    let mut init = Vec::new();
    let mut main = Vec::new();
    let uninitialized = crate::plan::initialized(view).is_err();
    for (role, spec) in pod.containers() {
        let status = containers::status(input, role, spec, uninitialized);
        if role == Role::Main { main.push(status) } else { init.push(status) }
    }
    let ephemeral = pod.ephemeral();
    let ephemeral =
        ephemeral.iter().map(|spec| containers::status(input, Role::Ephemeral, spec, uninitialized));
    let ephemeral = some(ephemeral.collect());
    let phase = phase::phase(input, &init, &main);
    // Why it ended is told with its end.
    let why = input.why.filter(|_| phase.is_final());
    let ips = pod_ips(input);
    let generation = pod.metadata.generation;
    let mut status = PodStatus {
        phase: Some(phase.as_str().into()),
        start_time: Some(Time(input.start_time)),
        qos_class: input
            .before
            .qos_class
            .clone()
            .or_else(|| Some(QosClass::of(pod.spec_ref()).as_str().into())),
        host_ip: input.host_ips.first().map(ToString::to_string),
        host_ips: Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        observed_generation: generation,
        container_statuses: some(main),
        init_container_statuses: some(init),
        ephemeral_container_statuses: ephemeral,
        reason: why.map(|(reason, _)| reason.into()),
        message: why.map(|(_, message)| message.into()),
        ..PodStatus::default()
    };
    if view.termination.is_some_and(|t| t.cause == Cause::Rejected) {
        // Nothing of it was ever there.
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
        status.host_ip = None;
        status.host_ips = None;
    }
    status.conditions = Some(conditions::conditions(input, &status));
    // What others put there stays.
    status.nominated_node_name = input.before.nominated_node_name.clone();
    status.resource_claim_statuses = input.before.resource_claim_statuses.clone();
    status
}

fn some(list: Vec<ContainerStatus>) -> Option<Vec<ContainerStatus>> {
    (!list.is_empty()).then_some(list)
}

/// The pod's addresses: those of its newest sandbox. A pod that has ended keeps the last ones it had.
fn pod_ips(input: &StatusInput<'_>) -> Vec<IpAddr> {
    let view = input.view;
    if let Some(sandbox) = view.state.newest_sandbox()
        && let Some(addresses) = view.known.addresses.get(&sandbox.id)
    {
        if view.pod.host_network() {
            return input.host_ips.to_vec();
        }
        return addresses.clone();
    }
    let before = input.before.pod_ips.iter().flatten();
    let kept = before.filter_map(|p| p.ip.parse().ok()).collect();
    if view.termination.is_some() || view.state.current_sandbox().is_some() { kept } else { Vec::new() }
}

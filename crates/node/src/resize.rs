//! In-place resizing: whether the node has room for what a running pod asks for now, and what of it is carried out how (Kubernetes
//! documentation, "Resize CPU and Memory Resources assigned to Containers"). Pure.

use crate::pod::{PodExt, Role};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use orlop_api::{
    pod_resources::{Resources, requests},
    quantity::Quantity,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// What containers may use, by name.
pub(crate) type Amounts = BTreeMap<String, ResourceRequirements>;

/// Why the node cannot give what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Infeasible`: never here. `Deferred`: not now.
    pub reason: &'static str,
    pub message: String,
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.containers().into_iter().filter(|(role, _)| *role != Role::Init).map(|(_, c)| c)
}

/// What the pod asks for.
pub(crate) fn wanted(pod: &Pod) -> Amounts {
    resizable(pod).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect()
}

/// Whether the pod asks for something else than it was given.
pub(crate) fn differs(pod: &Pod, given: &Amounts) -> bool {
    let none = ResourceRequirements::default();
    resizable(pod).any(|c| given.get(&c.name).is_some_and(|g| g != c.resources.as_ref().unwrap_or(&none)))
}

/// What a pod was given, as its status says; what it asks for where the status does not say.
pub(crate) fn given(pod: &Pod) -> Amounts {
    let mut amounts = wanted(pod);
    let status = pod.status.clone().unwrap_or_default();
    let lists = [status.init_container_statuses, status.container_statuses];
    for status in lists.into_iter().flatten().flatten() {
        let Some(amount) = amounts.get_mut(&status.name) else { continue };
        let Some(actual) = status.resources else { continue };
        amount.limits = actual.limits;
        amount.requests = status.allocated_resources.or(actual.requests);
    }
    amounts
}

/// The pod with what it was given in place of what it asks for.
pub(crate) fn with(pod: &Pod, given: &Amounts) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(amount) = given.get(&container.name)
                && (container.resources.is_some() || *amount != ResourceRequirements::default())
            {
                container.resources = Some(amount.clone());
            }
        }
    }
    pod
}

/// Whether the node has room for a pod as it wants to be, beside the others as they are.
pub(crate) fn judge(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<(), Pending> {
    let wanted = requests(pod.spec_ref());
    let mut used = Resources::default();
    for other in others {
        used.add(&requests(with(other, &given(other)).spec_ref()));
    }
    let number = |name: &str, q: Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
    for name in ["cpu", "memory"] {
        let (amount, capacity) = (wanted.get(name), allocatable.get(name).copied().unwrap_or_default());
        if amount > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {}, capacity: {}",
                number(name, amount),
                number(name, capacity)
            );
            return Err(Pending { reason: "Infeasible", message });
        }
    }
    for name in ["cpu", "memory"] {
        let (amount, capacity) = (wanted.get(name), allocatable.get(name).copied().unwrap_or_default());
        if used.get(name) + amount > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                number(name, amount),
                number(name, used.get(name)),
                number(name, capacity)
            );
            return Err(Pending { reason: "Deferred", message });
        }
    }
    Ok(())
}

/// Whether a container wants to be started anew for this change (`resizePolicy`).
pub(crate) fn restarts(spec: &Container, from: &ResourceRequirements, to: &ResourceRequirements) -> bool {
    let amount = |r: &ResourceRequirements, name: &str| {
        let of = |map: &Option<BTreeMap<String, _>>| map.as_ref().and_then(|m| m.get(name)).map(Quantity::of);
        (of(&r.requests), of(&r.limits))
    };
    spec.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer"
            && amount(from, &policy.resource_name) != amount(to, &policy.resource_name)
    })
}

/// What the events of a resize say of it.
pub(crate) fn summary(pod: &Pod, given: &Amounts) -> String {
    let of = |role: Role| -> Vec<Value> {
        let containers = pod.containers().into_iter().filter(|(r, _)| *r == role);
        let amount = |c: &Container| given.get(&c.name).cloned().unwrap_or_default();
        containers.map(|(_, c)| json!({"name": c.name, "resources": amount(c)})).collect()
    };
    let mut all = json!({"containers": of(Role::Main), "generation": pod.metadata.generation});
    let sidecars = of(Role::Sidecar);
    if !sidecars.is_empty() {
        all["initContainers"] = sidecars.into();
    }
    all.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u", "generation": 2}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}, "resizePolicy": [
                {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]},
            "status": {"containerStatuses": status}}))
        .expect("a pod")
    }

    fn running(cpu: &str) -> Value {
        json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "resources": {"requests": {"cpu": cpu}}, "allocatedResources": {"cpu": cpu}}])
    }

    #[test]
    fn a_pod_that_asks_for_too_much_waits_or_never_gets_it() {
        let allocatable = [("cpu".to_string(), Quantity::from_units(2))].into();
        let others = [Arc::new(pod("1", Value::Null))];
        let judged = |cpu: &str| {
            judge(&pod(cpu, Value::Null), &others, &allocatable).map_err(|p| (p.reason, p.message))
        };
        assert_eq!(judged("1"), Ok(()));
        assert_eq!(
            judged("1500m"),
            Err((
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000".into()
            ))
        );
        assert_eq!(
            judged("3"),
            Err((
                "Infeasible",
                "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000".into()
            ))
        );
        // What another one asks for and has not got takes no room.
        let greedy = [Arc::new(pod("2", running("500m")))];
        assert_eq!(judge(&pod("1500m", Value::Null), &greedy, &allocatable), Ok(()));
    }

    #[test]
    fn what_was_given_counts_until_more_is() {
        let asks = pod("2", running("1"));
        let has = given(&asks);
        assert!(differs(&asks, &has) && !differs(&pod("1", running("1")), &has));
        assert_eq!(requests(with(&asks, &has).spec_ref()).milli_cpu(), 1000);
        assert_eq!(given(&pod("2", Value::Null)), wanted(&asks), "without a status it has what it asks for");
        assert_eq!(
            summary(&asks, &wanted(&asks)),
            r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"2"}}}],"generation":2}"#
        );
    }

    #[test]
    fn only_a_change_whose_policy_says_so_starts_anew() {
        let asks = pod("2", Value::Null);
        let container = &asks.spec_ref().containers[0];
        let amount = |value: Value| serde_json::from_value::<ResourceRequirements>(value).expect("amounts");
        let before = amount(json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
        assert!(!restarts(
            container,
            &before,
            &amount(json!({"requests": {"cpu": "2", "memory": "1024Mi"}}))
        ));
        assert!(restarts(container, &before, &amount(json!({"requests": {"cpu": "1", "memory": "2Gi"}}))));
    }
}

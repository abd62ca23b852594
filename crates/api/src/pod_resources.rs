//! What a pod needs of a node: the effective requests and limits of all its containers together
//! (Kubernetes documentation, "Init Containers", "Sidecar Containers", "Pod Overhead", "pod-level resources").
//! The scheduler counts with it, and so does the node's admission.

use crate::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as TypedQuantity,
};
use std::collections::BTreeMap;

/// Amounts by resource name (`cpu`, `memory`, `ephemeral-storage`, `nvidia.com/gpu`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, Quantity>);

impl Resources {
    /// Reads the map of a typed object.
    pub fn of(typed: Option<&BTreeMap<String, TypedQuantity>>) -> Self {
        Self(typed.into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::of(q))).collect())
    }

    /// How much of one; zero where it is not there.
    pub fn get(&self, name: &str) -> Quantity {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// CPU in thousandths of a core.
    pub fn milli_cpu(&self) -> i64 {
        self.get("cpu").milli_value()
    }

    /// Memory in bytes.
    pub fn memory(&self) -> i64 {
        self.get("memory").value()
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        for (name, quantity) in &other.0 {
            *self.0.entry(name.clone()).or_default() += *quantity;
        }
    }

    /// Takes all of `other` away; may go below zero.
    pub fn subtract(&mut self, other: &Self) {
        for (name, quantity) in &other.0 {
            *self.0.entry(name.clone()).or_default() -= *quantity;
        }
    }

    /// Raises each to what `other` has, where that is more.
    pub fn raise_to(&mut self, other: &Self) {
        for (name, quantity) in &other.0 {
            let ours = self.0.entry(name.clone()).or_insert(*quantity);
            *ours = (*ours).max(*quantity);
        }
    }
}

/// Whether an init container keeps running beside the others (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod asks a node to keep for it.
pub fn requests(spec: &PodSpec) -> Resources {
    let mut total = containers(spec, |r| Resources::of(r.and_then(|r| r.requests.as_ref())));
    override_with(&mut total, Resources::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref())));
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

/// The most that the pod may use. A resource that some container has no limit for is not in it only where no
/// container has one.
pub fn limits(spec: &PodSpec) -> Resources {
    let mut total = containers(spec, |r| Resources::of(r.and_then(|r| r.limits.as_ref())));
    override_with(&mut total, Resources::of(spec.resources.as_ref().and_then(|r| r.limits.as_ref())));
    for (name, quantity) in Resources::of(spec.overhead.as_ref()).0 {
        if let Some(limit) = total.0.get_mut(&name) {
            *limit += quantity;
        }
    }
    total
}

/// All containers together: those that run side by side are added; an init container runs beside the sidecars
/// started before it, and the pod needs the most of any moment.
fn containers(spec: &PodSpec, of: impl Fn(Option<&ResourceRequirements>) -> Resources) -> Resources {
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container.resources.as_ref());
        if is_sidecar(container) {
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.raise_to(&moment);
    }
    let mut total = sidecars;
    for container in &spec.containers {
        total.add(&of(container.resources.as_ref()));
    }
    total.raise_to(&starting);
    total
}

/// What is said of the whole pod counts instead of the sum, for the resources that can be said so.
fn override_with(total: &mut Resources, of_pod: Resources) {
    let whole = of_pod.0.into_iter().filter(|(name, _)| is_pod_level(name));
    total.0.extend(whole);
}

/// Whether a resource may be set for the whole pod.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn cpu(amount: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": amount}}})
    }

    fn sidecar(amount: &str) -> serde_json::Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": amount}}})
    }

    #[test]
    fn a_pod_needs_the_most_of_any_moment() {
        for (init, main, want) in [
            (vec![], vec![cpu("100m"), cpu("200m")], 300),
            (vec![cpu("1")], vec![cpu("100m"), cpu("200m")], 1000),
            (vec![cpu("250m"), cpu("200m")], vec![cpu("300m")], 300),
            (vec![sidecar("100m")], vec![cpu("300m")], 400),
            (vec![sidecar("100m"), cpu("1")], vec![cpu("300m")], 1100),
            (vec![cpu("1"), sidecar("100m")], vec![cpu("300m")], 1000),
        ] {
            let spec = spec(json!({"initContainers": init, "containers": main}));
            assert_eq!(requests(&spec).milli_cpu(), want, "{init:?} {main:?}");
        }
    }

    #[test]
    fn overhead_is_added_and_resources_of_the_pod_replace_the_sum() {
        let pod = spec(json!({"containers": [cpu("100m")], "overhead": {"cpu": "50m", "memory": "1Mi"}}));
        assert_eq!((requests(&pod).milli_cpu(), requests(&pod).memory()), (150, 1 << 20));
        assert!(limits(&pod).0.is_empty(), "an overhead is no limit");
        let pod = spec(json!({"containers": [cpu("100m")], "resources": {"requests": {"cpu": "2"}},
            "overhead": {"cpu": "50m"}}));
        assert_eq!(requests(&pod).milli_cpu(), 2050);
    }

    #[test]
    fn amounts_add_up_and_are_taken_away() {
        let of = |pairs: &[(&str, &str)]| {
            Resources(pairs.iter().map(|(n, q)| (n.to_string(), Quantity::parse(q).unwrap())).collect())
        };
        let mut sum = of(&[("cpu", "1"), ("memory", "1Gi")]);
        sum.add(&of(&[("cpu", "500m"), ("x.io/gpu", "2")]));
        assert_eq!(sum, of(&[("cpu", "1500m"), ("memory", "1Gi"), ("x.io/gpu", "2")]));
        sum.subtract(&of(&[("memory", "512Mi")]));
        assert_eq!(sum.memory(), 512 << 20);
    }
}

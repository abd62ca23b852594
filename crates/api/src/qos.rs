//! The quality-of-service class of a pod (Kubernetes documentation, "Pod Quality of Service Classes"): who is
//! evicted first when a node runs out of memory.

use crate::pod_resources::{Resources, is_pod_level};
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

/// The class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has equal requests and limits for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is requested or limited.
    BestEffort,
}

impl QosClass {
    /// As it stands in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod with this spec.
    pub fn of(spec: &PodSpec) -> Self {
        let of_pod = spec.resources.as_ref().map(Amounts::of).filter(|amounts| !amounts.is_empty());
        let all: Vec<Amounts> = match of_pod {
            // What is said of the whole pod decides alone.
            Some(of_pod) => vec![of_pod],
            None => spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .map(|c| c.resources.as_ref().map(Amounts::of).unwrap_or_default())
                .collect(),
        };
        match () {
            () if all.iter().all(Amounts::is_empty) => Self::BestEffort,
            () if all.iter().all(Amounts::is_guaranteed) => Self::Guaranteed,
            () => Self::Burstable,
        }
    }
}

/// CPU and memory that are more than nothing.
#[derive(Default)]
struct Amounts {
    requests: Resources,
    limits: Resources,
}

impl Amounts {
    fn of(resources: &ResourceRequirements) -> Self {
        let counted = |mut amounts: Resources| {
            amounts.0.retain(|name, amount| is_pod_level(name) && !name.contains('-') && !amount.is_zero());
            amounts
        };
        Self {
            requests: counted(Resources::of(resources.requests.as_ref())),
            limits: counted(Resources::of(resources.limits.as_ref())),
        }
    }

    fn is_empty(&self) -> bool {
        self.requests.0.is_empty() && self.limits.0.is_empty()
    }

    /// Both limited; where requests differ from limits the pod may burst.
    fn is_guaranteed(&self) -> bool {
        self.limits.0.len() == 2
            && self.requests.0.iter().all(|(name, amount)| self.limits.get(name) == *amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn class(containers: Value) -> &'static str {
        let spec: PodSpec = serde_json::from_value(json!({"containers": containers})).unwrap();
        QosClass::of(&spec).as_str()
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let with = |requests: Value, limits: Value| json!({"name": "a", "resources": {"requests": requests, "limits": limits}});
        for (containers, want) in [
            (json!([{"name": "a"}]), "BestEffort"),
            (json!([with(json!({"cpu": "0"}), json!({}))]), "BestEffort"),
            (json!([with(json!({"ephemeral-storage": "1Gi"}), json!({}))]), "BestEffort"),
            (json!([with(full.clone(), full.clone())]), "Guaranteed"),
            (json!([with(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone())]), "Guaranteed"),
            (json!([with(json!({"cpu": "1"}), json!({"cpu": "1"}))]), "Burstable"),
            (json!([with(json!({"cpu": "500m", "memory": "1Gi"}), full.clone())]), "Burstable"),
            (json!([with(full.clone(), full.clone()), {"name": "b"}]), "Burstable"),
        ] {
            assert_eq!(class(containers.clone()), want, "{containers}");
        }
    }
}

//! From a pod's requests and limits to its place in the cgroup tree, cgroup numbers and `oom_score_adj`, as the kubelet does
//! (Kubernetes documentation, "Resource Management for Pods and Containers").

use crate::pod::PodExt;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use orlop_api::{
    pod_resources::{Resources as Amounts, limits, requests},
    qos::QosClass,
    quantity::Quantity,
};
use orlop_runtime::Resources;

const QUOTA_PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

fn folder(class: QosClass) -> &'static str {
    match class {
        QosClass::Guaranteed => "guaranteed",
        QosClass::Burstable => "burstable",
        QosClass::BestEffort => "besteffort",
    }
}

fn amount(typed: Option<&ResourceRequirements>, limit: bool, name: &str) -> Option<Quantity> {
    let map = typed.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() });
    map?.get(name).map(Quantity::of).filter(|q| !q.is_zero())
}

/// Where the pod lives in the cgroup tree, relative to the runtime's root.
pub(crate) fn cgroup_parent(pod: &Pod) -> String {
    format!("{}/pod{}", folder(QosClass::of(pod.spec_ref())), pod.uid())
}

/// CPU weight in the terms of cgroup v1.
fn shares(milli_cpu: i64) -> u64 {
    let milli = u64::try_from(milli_cpu).unwrap_or(0);
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota for a limit; 0 is no limit.
fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 {
        return 0;
    }
    (milli_cpu * QUOTA_PERIOD as i64 / 1000).max(MIN_QUOTA)
}

/// `oom_score_adj` of a container's processes: the more of what it asked for it may use, the earlier it is killed.
fn oom_score(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    if pod.spec_ref().priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match QosClass::of(pod.spec_ref()) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = amount(container.resources.as_ref(), false, "memory").map_or(0, Quantity::value);
            let part = 1000 * i128::from(request) / i128::from(node_memory.max(1));
            // Always killed before guaranteed ones (-997) and after best-effort ones (1000).
            i32::try_from(1000 - part).unwrap_or(3).clamp(3, 999)
        }
    }
}

/// The limits of one container.
pub(crate) fn of_container(pod: &Pod, container: &Container, node_memory: u64) -> Resources {
    let r = container.resources.as_ref();
    let cpu_limit = amount(r, true, "cpu").map_or(0, Quantity::milli_value);
    // A limit without a request is a request too.
    let cpu_request = amount(r, false, "cpu").map_or(cpu_limit, Quantity::milli_value);
    let hugepages = r.and_then(|r| r.limits.as_ref()).into_iter().flatten().filter_map(|(name, q)| {
        let size = Quantity::parse(name.strip_prefix("hugepages-")?).ok()?.value();
        Some((page_size(size), u64::try_from(Quantity::of(q).value()).ok()?))
    });
    Resources {
        cpu_shares: shares(cpu_request),
        cpu_quota: quota(cpu_limit),
        cpu_period: QUOTA_PERIOD,
        memory_limit: amount(r, true, "memory").map_or(0, Quantity::value),
        oom_score_adj: Some(oom_score(pod, container, node_memory)),
        hugepage_limits: hugepages.collect(),
        ..Resources::default()
    }
}

fn page_size(bytes: i64) -> String {
    if bytes % (1 << 30) == 0 { format!("{}GB", bytes >> 30) } else { format!("{}MB", bytes >> 20) }
}

/// The limits of the pod as a whole. A resource is limited only where every container (or the pod itself) has a limit.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let spec = pod.spec_ref();
    let bounded = |name| {
        amount(spec.resources.as_ref(), true, name).is_some()
            || pod.containers().iter().all(|(_, c)| amount(c.resources.as_ref(), true, name).is_some())
    };
    let most: Amounts = limits(spec);
    let cpu_limit = if bounded("cpu") { most.milli_cpu() } else { 0 };
    Resources {
        cpu_shares: shares(requests(spec).milli_cpu().max(0)),
        cpu_quota: quota(cpu_limit),
        cpu_period: QUOTA_PERIOD,
        memory_limit: if bounded("memory") { most.memory() } else { 0 },
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}}))
            .expect("a pod")
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let pod = pod(json!([{"name": "a", "resources":
            {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi", "hugepages-2Mi": "4Mi"}}}]));
        let of = of_container(&pod, &pod.spec_ref().containers[0], 1 << 30);
        assert_eq!((of.cpu_shares, of.cpu_quota, of.cpu_period), (256, 50_000, 100_000));
        assert_eq!(of.memory_limit, 128 << 20);
        assert_eq!(of.oom_score_adj, Some(1000 - 62));
        assert_eq!(of.hugepage_limits.get("2MB"), Some(&(4 << 20)));
        assert_eq!(cgroup_parent(&pod), "burstable/podu");
    }

    #[test]
    fn without_limits_nothing_is_limited() {
        let pod = pod(
            json!([{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1m", "memory": "1Gi"}}}]),
        );
        let of = of_container(&pod, &pod.spec_ref().containers[0], 1 << 30);
        assert_eq!((of.cpu_shares, of.cpu_quota, of.memory_limit), (2, 0, 0));
        let other = of_container(&pod, &pod.spec_ref().containers[1], 1 << 30);
        assert_eq!(other.cpu_quota, 1000, "never less than the kernel takes");
        let whole = of_pod(&pod);
        assert_eq!((whole.cpu_quota, whole.memory_limit), (0, 0), "one container is unbounded");
    }
}

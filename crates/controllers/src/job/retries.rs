//! How often each index of a Job may fail (`backoffLimitPerIndex`). The count stands in the index's newest failed pod, which is
//! held by its finalizer until its successor carries the count on, so that it is never lost. Pure (Kubernetes documentation,
//! "Backoff limit per index").

use super::{Indexes, decide, pod::index_of, policy};
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::JobSpec, core::v1::Pod};
use kube::ResourceExt;
use policy::Consequence;
use std::{collections::BTreeMap, sync::Arc};

pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index had failed before a pod was made: counted, ignored.
fn failures(pod: &Pod) -> (i32, i32) {
    let count = |key: &str| pod.annotations().get(key).and_then(|n| n.parse().ok()).unwrap_or(0);
    (count(FAILURES), count(IGNORED))
}

/// How often it has failed with this pod.
pub(super) fn failures_after(spec: &JobSpec, failed: &Pod) -> (i32, i32) {
    let (counted, ignored) = failures(failed);
    match policy::consequence(spec, failed) {
        Consequence::Ignored => (counted, ignored + 1),
        _ => (counted + 1, ignored),
    }
}

/// Whether the index of a failed pod is not tried again.
pub(super) fn fails_index(spec: &JobSpec, failed: &Pod) -> bool {
    let Some(limit) = spec.backoff_limit_per_index else { return false };
    match policy::consequence(spec, failed) {
        Consequence::FailsIndex => true,
        Consequence::Ignored => false,
        _ => failures(failed).0 >= limit,
    }
}

/// The failed pods that still have to be replaced, by index. `fails` says which pods count as failed.
pub(super) fn to_replace(
    spec: &JobSpec,
    mine: &[Arc<Pod>],
    completed: &Indexes,
    fails: impl Fn(&Pod) -> bool,
) -> BTreeMap<i32, Arc<Pod>> {
    let mut newest: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    if spec.backoff_limit_per_index.is_none() {
        return newest;
    }
    let age = |pod: &Pod| {
        let (counted, ignored) = failures(pod);
        (counted + ignored, decide::finished_at(pod))
    };
    for pod in mine.iter().filter(|p| fails(p)) {
        let Some(index) = index_of(pod).filter(|i| !completed.contains(*i)) else { continue };
        match newest.get(&index) {
            Some(other) if age(other) >= age(pod) => {}
            _ => {
                newest.insert(index, pod.clone());
            }
        }
    }
    let runs = |index: i32| mine.iter().any(|p| pods::is_active(p) && index_of(p) == Some(index));
    newest.retain(|index, pod| !runs(*index) && !fails_index(spec, pod));
    newest
}

/// How long the successor of a failed pod still has to wait.
pub(super) fn pause(spec: &JobSpec, failed: &Pod, now: Timestamp) -> SignedDuration {
    let (counted, ignored) = failures_after(spec, failed);
    let Some(end) = decide::finished_at(failed) else { return SignedDuration::ZERO };
    let backoff = decide::backoff(usize::try_from(counted + ignored).unwrap_or(0));
    (backoff - now.duration_since(end)).max(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec() -> JobSpec {
        serde_json::from_value(
            json!({"template": {}, "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}]}}),
        )
        .unwrap()
    }

    fn pod(index: i32, failures: i32, phase: &str, code: i32) -> Arc<Pod> {
        let state = if phase == "Failed" {
            json!({"terminated": {"exitCode": code, "finishedAt": "1970-01-01T00:00:00Z"}})
        } else {
            Value::Null
        };
        let pod = json!({
            "metadata": {"name": format!("p-{index}-{failures}"), "annotations": {
                "batch.kubernetes.io/job-completion-index": index.to_string(), FAILURES: failures.to_string()}},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn waiting(mine: &[Arc<Pod>], completed: &str) -> Vec<String> {
        let fails = |p: &Pod| pods::phase(p) == "Failed";
        let all = to_replace(&spec(), mine, &Indexes::parse(completed), fails);
        all.values().map(|p| p.name_any()).collect()
    }

    #[test]
    fn the_newest_failed_pod_of_an_index_waits_for_its_successor() {
        assert_eq!(waiting(&[pod(0, 0, "Failed", 1), pod(1, 0, "Running", 0)], ""), ["p-0-0"]);
        assert!(waiting(&[pod(0, 0, "Failed", 1), pod(0, 1, "Running", 0)], "").is_empty(), "it is there");
        assert!(
            waiting(&[pod(0, 0, "Failed", 1), pod(0, 1, "Failed", 1)], "").is_empty(),
            "that was one too many"
        );
        assert!(waiting(&[pod(0, 0, "Failed", 1)], "0").is_empty(), "the index is done");
        assert!(waiting(&[pod(0, 0, "Failed", 42)], "").is_empty(), "such a failure is final");
    }

    #[test]
    fn ignored_failures_do_not_use_up_the_index() {
        assert_eq!(failures_after(&spec(), &pod(0, 1, "Failed", 7)), (1, 1));
        assert_eq!(failures_after(&spec(), &pod(0, 1, "Failed", 1)), (2, 0));
        assert!(
            !fails_index(&spec(), &pod(0, 1, "Failed", 7)) && fails_index(&spec(), &pod(0, 1, "Failed", 1))
        );
    }

    #[test]
    fn each_index_waits_longer_after_each_failure() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(pause(&spec(), &pod(0, 0, "Failed", 1), at(4)), SignedDuration::from_secs(6));
        assert_eq!(pause(&spec(), &pod(0, 1, "Failed", 1), at(4)), SignedDuration::from_secs(16));
        assert_eq!(pause(&spec(), &pod(0, 0, "Failed", 1), at(40)), SignedDuration::ZERO);
    }
}

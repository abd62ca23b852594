//! What a PodDisruptionBudget allows: pure arithmetic over its pods (Kubernetes documentation, "Disruptions").

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use orlop_api::int_or_string::{self, Rounding};
use std::{collections::BTreeMap, sync::Arc};

/// How long an evicted pod is believed to be on its way out.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// How many pods there should be and how many of them healthy, where `scale` is how many the owners ask for.
pub(super) fn wanted(budget: &PodDisruptionBudget, matching: usize, scale: i32) -> (i32, i32) {
    let spec = budget.spec.clone().unwrap_or_default();
    let of = |share: &IntOrString| {
        let all = i64::from(scale);
        i32::try_from(int_or_string::resolve(Some(share), 0, all, Rounding::Up)).unwrap_or(i32::MAX)
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, scale.saturating_sub(of(most)).max(0)),
        (None, Some(IntOrString::Int(least))) => (i32::try_from(matching).unwrap_or(i32::MAX), *least),
        (None, Some(least)) => (scale, of(least)),
        (None, None) => (0, 0),
    }
}

/// Whether the number of pods that owners ask for must be known.
pub(super) fn asks_for_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|s| {
        s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_)))
    })
}

/// The evicted pods that are still believed to go, those that should be gone and are not, and when to look again.
pub(super) struct Evicted {
    pub going: BTreeMap<String, Time>,
    pub stuck: Vec<Arc<Pod>>,
    pub look_again: Option<SignedDuration>,
}

pub(super) fn evicted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Evicted {
    let noted = budget.status.as_ref().and_then(|s| s.disrupted_pods.clone()).unwrap_or_default();
    let mut evicted = Evicted { going: BTreeMap::new(), stuck: Vec::new(), look_again: None };
    for pod in pods.iter().filter(|p| !pods::is_terminating(p)) {
        let Some(since) = noted.get(&pod.name_any()) else { continue };
        let left = PATIENCE - now.duration_since(since.0);
        if left < SignedDuration::ZERO {
            evicted.stuck.push(pod.clone());
        } else {
            evicted.look_again = Some(evicted.look_again.map_or(left, |l| l.min(left)));
            evicted.going.insert(pod.name_any(), since.clone());
        }
    }
    evicted
}

/// How many pods are healthy and stay so.
pub(super) fn healthy(pods: &[Arc<Pod>], going: &BTreeMap<String, Time>) -> i32 {
    let stays = |p: &&Arc<Pod>| !pods::is_terminating(p) && !going.contains_key(&p.name_any());
    pods.iter().filter(stays).filter(|p| pods::is_ready(p)).count() as i32
}

/// The status with these numbers.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    (expected, desired): (i32, i32),
    healthy: i32,
    going: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    // A budget without pods allows nothing: its first pods may come before it is looked at again.
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let (value, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let old = budget.status.clone().unwrap_or_default();
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(going).filter(|g| !g.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: Some(with_condition(budget, old.conditions, (value, reason, ""), now)),
    }
}

/// The status of a budget that could not be calculated: nothing is allowed.
pub(super) fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let conditions = status.conditions.take();
    status.conditions = Some(with_condition(budget, conditions, ("False", "SyncFailed", why), now));
    status
}

fn with_condition(
    budget: &PodDisruptionBudget,
    conditions: Option<Vec<Condition>>,
    (value, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = conditions.unwrap_or_default();
    let old = all.iter().find(|c| c.type_ == CONDITION && c.status == value);
    let since = old.map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    };
    match all.iter_mut().find(|c| c.type_ == CONDITION) {
        Some(place) => *place = condition,
        None => all.push(condition),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn shares_are_of_what_the_owners_ask_for_and_rounded_up() {
        for (spec, matching, scale, want) in [
            (json!({"minAvailable": 2}), 5, 0, (5, 2)),
            (json!({"minAvailable": "50%"}), 3, 5, (5, 3)),
            (json!({"minAvailable": "100%"}), 3, 3, (3, 3)),
            (json!({"maxUnavailable": 1}), 3, 5, (5, 4)),
            (json!({"maxUnavailable": "30%"}), 5, 5, (5, 3)),
            (json!({"maxUnavailable": 9}), 3, 3, (3, 0)),
            (json!({}), 3, 3, (0, 0)),
        ] {
            assert_eq!(wanted(&budget(spec.clone(), json!({})), matching, scale), want, "{spec}");
        }
    }

    #[test]
    fn what_is_allowed_is_what_is_healthy_beyond_what_must_be() {
        let budget = budget(json!({}), json!({}));
        let allowed = |numbers, healthy| {
            let status = status(&budget, numbers, healthy, BTreeMap::new(), Timestamp::UNIX_EPOCH);
            let condition = status.conditions.unwrap().remove(0);
            (status.disruptions_allowed.unwrap(), condition.status, condition.reason)
        };
        assert_eq!(allowed((3, 2), 3), (1, "True".into(), "SufficientPods".into()));
        assert_eq!(allowed((3, 2), 2), (0, "False".into(), "InsufficientPods".into()));
        assert_eq!(allowed((3, 2), 1), (0, "False".into(), "InsufficientPods".into()));
        assert_eq!(allowed((0, 0), 2).0, 0, "nothing is expected");
    }

    #[test]
    fn an_evicted_pod_does_not_count_until_it_should_long_be_gone() {
        let noted = json!({"disruptedPods": {"a": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"},
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        let budget = budget(json!({}), noted);
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let at = |s| Timestamp::from_second(s).unwrap();
        let early = evicted(&budget, &pods, at(100));
        assert_eq!(early.going.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(
            (early.look_again, healthy(&pods, &early.going)),
            (Some(SignedDuration::from_secs(20)), 1)
        );
        let late = evicted(&budget, &pods, at(130));
        assert_eq!((late.going.len(), late.stuck.len(), healthy(&pods, &late.going)), (0, 1, 2));
    }

    #[test]
    fn a_condition_keeps_the_time_since_when_it_holds() {
        let first = failed(&budget(json!({}), Value::Null), "oh", Timestamp::UNIX_EPOCH);
        let mut again = budget(json!({}), Value::Null);
        again.status = Some(first.clone());
        let later = Timestamp::from_second(50).unwrap();
        assert_eq!(failed(&again, "oh", later), first);
        let condition = status(&again, (1, 0), 1, BTreeMap::new(), later).conditions.unwrap().remove(0);
        assert_eq!((condition.status.as_str(), condition.last_transition_time), ("True", Time(later)));
    }
}

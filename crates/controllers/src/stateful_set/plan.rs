//! What a StatefulSet should do now: a pure function of its pods and revisions (Kubernetes documentation, "StatefulSets",
//! "Deployment and Scaling Guarantees" and "Update strategies"). It calls nobody.

use super::identity::{self, Ordinals};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use orlop_api::int_or_string::{self, Rounding};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Make the pod with an ordinal, of the current revision or else the newest.
    Create {
        ordinal: i64,
        current: bool,
    },
    /// Make the claims of a pod that waits, where some are missing.
    Provide(Arc<Pod>),
    /// See that labels and claims of a pod are those of its ordinal.
    Tend(Arc<Pod>),
    /// See that the claims of a pod that is no longer wanted go or stay as told.
    TendClaims(Arc<Pod>),
    Delete(Arc<Pod>),
    /// Delete a pod that has ended, so that another takes its place.
    Replace(Arc<Pod>, i64),
}

/// What to do now. Steps come one after the other if `ordered`, else as many at a time as one likes; whatever fails ends it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub ordered: bool,
    pub steps: Vec<Step>,
    pub look_again: Option<Duration>,
}

/// What a plan is made from.
pub(super) struct View<'a> {
    pub set: &'a StatefulSet,
    /// Names of the revisions.
    pub update: &'a str,
    pub mine: &'a [Arc<Pod>],
    /// How long an ended pod of an ordinal has to wait for its successor.
    pub pause: &'a (dyn Fn(i64) -> Option<Duration> + Sync),
    pub now: Timestamp,
}

/// Whether a pod runs and is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

/// Whether it has been for as long as is asked.
pub(super) fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    is_ready(pod) && pods::until_available(pod, min_ready, now).is_some_and(|w| w.is_zero())
}

/// How many pods may be away during an update.
fn max_unavailable(set: &StatefulSet, count: i64) -> i64 {
    let rolling = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
    let most = rolling.and_then(|r| r.max_unavailable.as_ref());
    int_or_string::resolve(most, 1, count, Rounding::Up).max(1)
}

/// Whether a new pod is made of the current revision rather than the newest.
fn of_current_revision(set: &StatefulSet, ordinals: Ordinals, ordinal: i64) -> bool {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let kept = match strategy.and_then(|s| s.rolling_update.as_ref()) {
        Some(rolling) => rolling.partition.unwrap_or(0),
        None if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") => return false,
        None => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
    };
    ordinal < ordinals.start + i64::from(kept)
}

/// What to do now.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let spec = view.set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let ordinals = Ordinals::of(view.set);
    let mut plan = Plan { ordered, ..Plan::default() };
    let waits = view.mine.iter().filter(|p| is_ready(p));
    let waits = waits.filter_map(|p| pods::until_available(p, min_ready, view.now));
    plan.look_again = waits.filter(|w| !w.is_zero()).min().map(|w| w.unsigned_abs());

    let by_ordinal: BTreeMap<i64, &Arc<Pod>> =
        view.mine.iter().filter_map(|p| Some((identity::ordinal_of(view.set, p)?, p))).collect();
    let unavailable = |p: &Pod| !is_available(p, min_ready, view.now) || pods::is_terminating(p);

    for ordinal in ordinals.iter() {
        let Some(pod) = by_ordinal.get(&ordinal) else {
            let current = of_current_revision(view.set, ordinals, ordinal);
            plan.steps.push(Step::Create { ordinal, current });
            if ordered {
                return plan;
            }
            continue;
        };
        if pods::is_finished(pod) {
            // Its successor comes when it is gone: there are never two of one name.
            match (view.pause)(ordinal).filter(|_| !pods::is_terminating(pod)) {
                // One that ends again and again is replaced less and less often.
                Some(wait) => plan.look_again = Some(plan.look_again.map_or(wait, |w| w.min(wait))),
                None if pods::is_terminating(pod) => {}
                None => plan.steps.push(Step::Replace((*pod).clone(), ordinal)),
            }
            if ordered {
                return plan;
            }
            continue;
        }
        if pods::phase(pod) == "Pending" {
            plan.steps.push(Step::Provide((*pod).clone()));
        }
        if ordered && unavailable(pod) {
            return plan;
        }
        plan.steps.push(Step::Tend((*pod).clone()));
    }

    let condemned: Vec<&Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(o, _)| !ordinals.contain(**o)).map(|(_, p)| *p).collect();
    plan.steps.extend(condemned.iter().map(|p| Step::TendClaims((*p).clone())));
    // In order, all that are wanted are available here: the first that is not is the lowest of those that go.
    let first_unavailable = condemned.iter().rev().find(|p| unavailable(p));
    for pod in &condemned {
        let gone_anyway = first_unavailable.is_some_and(|f| f.metadata.uid == pod.metadata.uid);
        if pods::is_terminating(pod) {
            if ordered {
                return plan;
            }
        } else if ordered && unavailable(pod) && !gone_anyway && !pods::is_finished(pod) {
            // It may yet come up, and be of use to the others while they go. One that has ended never will.
            return plan;
        } else {
            plan.steps.push(Step::Delete((*pod).clone()));
            if ordered {
                return plan;
            }
        }
    }

    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() != Some("OnDelete") {
        let partition = strategy.rolling_update.and_then(|r| r.partition).unwrap_or(0);
        let wanted: Vec<_> = by_ordinal.iter().filter(|(o, _)| ordinals.contain(**o)).collect();
        let missing = ordinals.count - wanted.len() as i64;
        let away = wanted.iter().filter(|(_, p)| unavailable(p)).count() as i64 + missing;
        let most = max_unavailable(view.set, ordinals.count);
        let stale: Vec<Arc<Pod>> = wanted
            .iter()
            .rev()
            .filter(|(ordinal, _)| **ordinal >= ordinals.start + i64::from(partition))
            .filter(|(_, p)| identity::revision_of(p) != view.update)
            .filter(|(_, p)| !pods::is_terminating(p) && !pods::is_finished(p))
            .map(|(_, p)| Arc::clone(p))
            .collect();
        // One that serves nobody costs nothing, and must not keep the update from coming to it.
        let (idle, serving): (Vec<_>, Vec<_>) = stale.into_iter().partition(|p| unavailable(p));
        let idle = idle.into_iter().take(usize::try_from(most).unwrap_or(1));
        let room = usize::try_from(most - away).unwrap_or(0);
        plan.steps.extend(idle.chain(serving.into_iter().take(room)).map(Step::Delete));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    fn set(spec: Value) -> StatefulSet {
        let mut whole = json!({"replicas": 3, "selector": {}, "serviceName": "s", "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "web", "uid": "u"}, "spec": whole})).unwrap()
    }

    /// `ready`, `unready`, `pending`, `failed`, `going`; an old revision with a `-` in front.
    fn pod(ordinal: i64, state: &str) -> Arc<Pod> {
        let revision = if state.starts_with('-') { "old" } else { "new" };
        let state = state.trim_start_matches('-');
        let phase = match state {
            "pending" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let ready = if matches!(state, "ready" | "going") { "True" } else { "False" };
        let mut pod = json!({
            "metadata": {"name": format!("web-{ordinal}"), "uid": format!("u{ordinal}"),
                "labels": {"controller-revision-hash": revision}},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
        });
        if state == "going" {
            pod["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// The steps that change pods: `+0` makes one of the newest revision, `*0` one of the current, `-0` deletes one.
    fn steps(set: &StatefulSet, states: &[&str]) -> String {
        let mine: Vec<_> =
            states.iter().zip(0..).filter(|(s, _)| !s.is_empty()).map(|(s, i)| pod(i, s)).collect();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100);
        let plan = plan(&View { set, update: "new", mine: &mine, pause: &|_| None, now });
        let told = plan.steps.iter().filter_map(|step| match step {
            Step::Create { ordinal, current } => {
                Some(format!("{}{ordinal}", if *current { '*' } else { '+' }))
            }
            Step::Delete(pod) | Step::Replace(pod, _) => {
                Some(format!("-{}", identity::ordinal_of(set, pod)?))
            }
            _ => None,
        });
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn in_order_a_pod_comes_when_all_before_it_are_ready() {
        let set = set(json!({}));
        for (states, want) in [
            (vec![], "+0"),
            (vec!["pending"], ""),
            (vec!["unready"], ""),
            (vec!["ready"], "+1"),
            (vec!["ready", "ready"], "+2"),
            (vec!["unready", "", "ready"], ""),
            (vec!["ready", "", "ready"], "+1"),
            (vec!["ready", "going", "ready"], ""),
            (vec!["ready", "failed", "ready"], "-1"),
            (vec!["ready", "ready", "ready"], ""),
        ] {
            assert_eq!(steps(&set, &states), want, "{states:?}");
        }
    }

    #[test]
    fn in_order_the_last_pod_goes_first_and_waits_for_the_health_of_the_others() {
        let set = set(json!({"replicas": 1}));
        for (states, want) in [
            (vec!["ready", "ready", "ready"], "-2"),
            (vec!["ready", "ready", "going"], ""),
            (vec!["unready", "ready", "ready"], ""),
            (vec!["ready", "ready", "unready"], "-2"),
            (vec!["ready", "unready", "unready"], ""),
            (vec!["ready", "ready"], "-1"),
        ] {
            assert_eq!(steps(&set, &states), want, "{states:?}");
        }
    }

    #[test]
    fn in_parallel_all_come_and_go_at_once() {
        let parallel = json!({"podManagementPolicy": "Parallel"});
        assert_eq!(steps(&set(parallel.clone()), &[]), "+0 +1 +2");
        assert_eq!(steps(&set(parallel.clone()), &["unready", "", "failed"]), "+1 -2");
        let mut fewer = parallel;
        fewer["replicas"] = 1.into();
        assert_eq!(steps(&set(fewer), &["unready", "ready", "going", "unready"]), "-3 -1");
    }

    #[test]
    fn an_update_goes_from_the_last_pod_down_one_at_a_time() {
        let set = set(json!({}));
        assert_eq!(steps(&set, &["-ready", "-ready", "-ready"]), "-2");
        assert_eq!(steps(&set, &["-ready", "-ready", "unready"]), "");
        assert_eq!(steps(&set, &["-ready", "-ready", "ready"]), "-1");
        assert_eq!(steps(&set, &["-ready", "ready", "ready"]), "-0");
    }

    #[test]
    fn a_partition_keeps_the_first_pods_as_they_are() {
        let rolling = |partition: i32, most: Value| {
            set(json!({"updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"partition": partition, "maxUnavailable": most}}}))
        };
        assert_eq!(steps(&rolling(2, json!(1)), &["-ready", "-ready", "-ready"]), "-2");
        assert_eq!(steps(&rolling(2, json!(1)), &["-ready", "-ready", "ready"]), "");
        assert_eq!(steps(&rolling(3, json!(1)), &["-ready", "-ready", "-ready"]), "");
        assert_eq!(steps(&rolling(2, json!(1)), &["-ready", "", "ready"]), "*1", "lost below it");
        assert_eq!(steps(&rolling(2, json!(1)), &["-ready", "-ready", ""]), "+2", "lost above it");
        assert_eq!(steps(&rolling(0, json!(2)), &["-ready", "-ready", "-ready"]), "-2 -1");
        assert_eq!(steps(&rolling(0, json!("50%")), &["-ready", "-ready", "-ready"]), "-2 -1");
    }

    #[test]
    fn on_delete_nothing_is_replaced_and_what_was_lost_is_new() {
        let set = set(json!({"updateStrategy": {"type": "OnDelete"}}));
        assert_eq!(steps(&set, &["-ready", "-ready", "-ready"]), "");
        assert_eq!(steps(&set, &["-ready", "", "-ready"]), "+1");
    }

    #[test]
    fn a_parallel_update_comes_to_a_pod_that_is_not_ready() {
        let set = set(json!({"podManagementPolicy": "Parallel"}));
        assert_eq!(steps(&set, &["-unready", "-ready", "-ready"]), "-0");
        assert_eq!(steps(&set, &["-ready", "-ready", "unready"]), "");
    }

    #[test]
    fn a_pod_counts_only_after_the_seconds_that_it_must_be_ready() {
        let set = set(json!({"minReadySeconds": 120}));
        assert_eq!(steps(&set, &["ready"]), "");
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100);
        let plan = plan(&View { set: &set, update: "new", mine: &[pod(0, "ready")], pause: &|_| None, now });
        assert_eq!(plan.look_again, Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_pod_that_ended_before_waits_for_its_successor() {
        let pause = |ordinal| (ordinal == 1).then_some(Duration::from_secs(3));
        let mine = [pod(0, "failed"), pod(1, "failed")];
        let set = set(json!({"podManagementPolicy": "Parallel", "replicas": 2}));
        let plan =
            plan(&View { set: &set, update: "new", mine: &mine, pause: &pause, now: Timestamp::UNIX_EPOCH });
        assert!(matches!(&plan.steps[..], [Step::Replace(_, 0)]), "{:?}", plan.steps);
        assert_eq!(plan.look_again, Some(Duration::from_secs(3)));
    }

    /// What may become of a pod by itself.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Ready,
        Unready,
        Failed,
        Gone,
    }

    /// The states of the pods of ordinals 0 to 5 after a step; an ordinal without a pod has the empty text.
    fn after(states: &mut [String], step: &Step, set: &StatefulSet) {
        match step {
            Step::Create { ordinal, current } => {
                let place = &mut states[*ordinal as usize];
                assert!(place.is_empty(), "two pods of ordinal {ordinal}");
                *place = if *current { "-pending".into() } else { "pending".into() };
            }
            Step::Delete(pod) | Step::Replace(pod, _) => {
                let ordinal = identity::ordinal_of(set, pod).unwrap();
                states[ordinal as usize] = "going".into();
            }
            _ => {}
        }
    }

    fn planned(set: &StatefulSet, states: &[String]) -> Vec<Step> {
        let mine = states.iter().zip(0..).filter(|(s, _)| !s.is_empty());
        let mine: Vec<_> = mine.map(|(s, i)| pod(i, s)).collect();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100);
        plan(&View { set, update: "new", mine: &mine, pause: &|_| None, now }).steps
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]

        /// Whatever becomes of pods: what is promised holds at every step, and when they are left alone all is as asked for.
        #[test]
        fn promises_hold_and_the_end_is_reached(
            replicas in 0..6usize,
            parallel: bool,
            partition in 0..4i64,
            most in 1..3i64,
            start in proptest::collection::vec(0..6usize, 6),
            fates in proptest::collection::vec((0..6usize, 0..4usize), 0..20),
        ) {
            let policy = if parallel { "Parallel" } else { "OrderedReady" };
            let set = set(json!({"replicas": replicas, "podManagementPolicy": policy, "updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": {"partition": partition, "maxUnavailable": most}}}));
            let kinds = ["", "ready", "-ready", "unready", "pending", "failed"];
            let mut states: Vec<String> = start.iter().map(|i| kinds[*i].to_string()).collect();
            let fates = fates.into_iter().map(|(place, fate)| {
                (place, [Fate::Ready, Fate::Unready, Fate::Failed, Fate::Gone][fate])
            });
            // After all that may happen, everything turns out well.
            let well = (0..60).flat_map(|_| (0..6).map(|place| (place, Fate::Ready)));
            for (place, fate) in fates.chain(well) {
                let old = if states[place].starts_with('-') { "-" } else { "" };
                let state = states[place].trim_start_matches('-').to_string();
                states[place] = match (state.as_str(), fate) {
                    ("", _) => String::new(),
                    ("going", Fate::Ready | Fate::Gone) | (_, Fate::Gone) => String::new(),
                    ("going" | "failed", _) => format!("{old}{state}"),
                    (_, Fate::Ready) => format!("{old}ready"),
                    (_, Fate::Unready) => format!("{old}unready"),
                    (_, Fate::Failed) => format!("{old}failed"),
                };
                let before = states.clone();
                let is_ready = |i: usize| before[i].ends_with("ready") && !before[i].ends_with("unready");
                let steps = planned(&set, &states);
                let mut taken = 0;
                for step in &steps {
                    match step {
                        Step::Create { ordinal, current } => {
                            let ordinal = *ordinal as usize;
                            proptest::prop_assert!(ordinal < replicas);
                            proptest::prop_assert_eq!(*current, (ordinal as i64) < partition);
                            proptest::prop_assert!(parallel || (0..ordinal).all(is_ready), "{before:?} {step:?}");
                        }
                        Step::Delete(pod) => {
                            let ordinal = identity::ordinal_of(&set, pod).unwrap() as usize;
                            if ordinal < replicas {
                                proptest::prop_assert!(before[ordinal].starts_with('-') && ordinal as i64 >= partition);
                                taken += usize::from(is_ready(ordinal));
                            } else if !parallel {
                                proptest::prop_assert!((ordinal + 1..6).all(|i| before[i].is_empty()), "{before:?}");
                            }
                        }
                        _ => {}
                    }
                    after(&mut states, step, &set);
                }
                let away = (0..replicas).filter(|i| !is_ready(*i)).count();
                proptest::prop_assert!(taken == 0 || away + taken <= most as usize, "{before:?} {steps:?}");
            }
            for (ordinal, state) in states.iter().enumerate() {
                let fits = match state.as_str() {
                    "" => ordinal >= replicas,
                    "ready" => ordinal < replicas,
                    "-ready" => ordinal < replicas && (ordinal as i64) < partition,
                    _ => false,
                };
                proptest::prop_assert!(fits, "{ordinal}: {states:?}");
            }
        }
    }
}

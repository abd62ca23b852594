//! What a DaemonSet should do now: a pure function of its pods and the nodes. It calls nobody.

use super::{HASH_LABEL, placement};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{Node, Pod},
};
use kube::ResourceExt;
use orlop_api::int_or_string::{self, Rounding};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Most pods made or deleted in one go; the next go follows at once.
const BURST: usize = 250;

/// What to do now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have ended, and their nodes: they are deleted, so that new ones take their place.
    pub ended: Vec<(String, Arc<Pod>)>,
    pub look_again: Option<Duration>,
}

/// What a plan is made from.
pub(super) struct View<'a> {
    pub set: &'a DaemonSet,
    pub hash: &'a str,
    pub nodes: &'a [Arc<Node>],
    pub mine: &'a [Arc<Pod>],
    /// How long an ended pod on a node has to wait for its successor.
    pub pause: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub now: Timestamp,
}

/// The node that a daemon pod is on or meant for.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.clone().filter(|n| !n.is_empty()).or_else(|| placement::pinned_to(spec))
}

/// Pods by the node that they are on or meant for.
pub(super) fn by_node(mine: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut map: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in mine {
        if let Some(node) = node_of(pod) {
            map.entry(node).or_default().push(pod.clone());
        }
    }
    map
}

/// Whether a pod is of the revision with this hash.
pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(HASH_LABEL).is_some_and(|h| h == hash)
}

/// A pod with an old template, alone on its node.
struct Stale {
    node: String,
    pod: Arc<Pod>,
    available: bool,
}

/// The counts that a rolling update heeds.
struct Rolling {
    allowed: Allowances,
    /// Nodes without an available pod.
    missing: usize,
    /// Nodes that have a new pod beside an old one, and wait for it.
    surged: usize,
    stale: Vec<Stale>,
}

/// What to do now.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let allowed = allowances(view.set, view.nodes);
    let mut rolling = Rolling { allowed, missing: 0, surged: 0, stale: Vec::new() };
    let spec = view.set.spec.clone().unwrap_or_default();
    let by_node = by_node(view.mine);
    let mut nodes: Vec<_> = view.nodes.iter().map(|n| (n.name_any(), n)).collect();
    nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, node) in &nodes {
        let here = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let fit = placement::fit(&spec.template, node);
        if fit.may_run {
            on_node(view, &spec, name, here, &mut plan, &mut rolling);
        } else if !fit.may_stay {
            // What runs may stay where only new pods are kept away.
            plan.delete.extend(here.iter().filter(|p| !pods::is_terminating(p)).cloned());
        }
    }
    // Bound pods of nodes that are gone are the node controller's; those that wait for such a node are ours.
    let exists = |name: &String| nodes.binary_search_by(|(n, _)| n.cmp(name)).is_ok();
    let unbound =
        |p: &&Arc<Pod>| p.spec.as_ref().is_some_and(|s| s.node_name.as_ref().is_none_or(String::is_empty));
    let homeless = by_node.iter().filter(|(node, _)| !exists(node)).flat_map(|(_, pods)| pods);
    plan.delete.extend(homeless.filter(unbound).filter(|p| !pods::is_terminating(p)).cloned());

    let on_delete = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete");
    if !on_delete {
        replace(&mut plan, rolling);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// What one node needs on which a daemon pod belongs.
fn on_node(
    view: &View<'_>,
    spec: &DaemonSetSpec,
    name: &str,
    here: &[Arc<Pod>],
    plan: &mut Plan,
    rolling: &mut Rolling,
) {
    let mut wait_for = |wait: Duration| {
        plan.look_again = Some(plan.look_again.map_or(wait, |w| w.min(wait)));
    };
    let (ended, mut alive): (Vec<_>, Vec<_>) =
        here.iter().filter(|p| !pods::is_terminating(p)).cloned().partition(|p| pods::is_finished(p));
    // One that ends again and again is replaced less and less often.
    let pause = (view.pause)(name).filter(|_| !ended.is_empty());
    pause.into_iter().for_each(&mut wait_for);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let mut is_available = |pod: &Arc<Pod>| match pods::until_available(pod, min_ready, view.now) {
        Some(wait) if wait.is_zero() => true,
        Some(wait) => {
            wait_for(wait.unsigned_abs());
            false
        }
        None => false,
    };
    alive.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let available: Vec<_> = alive.iter().filter(|p| is_available(p)).filter_map(|p| p.uid()).collect();
    let is_available = |pod: &Pod| pod.uid().is_some_and(|uid| available.contains(&uid));
    if available.is_empty() {
        rolling.missing += 1;
    }
    if pause.is_none() {
        plan.ended.extend(ended.into_iter().map(|p| (name.to_string(), p)));
    }
    let (new, old): (Vec<_>, Vec<_>) = alive.into_iter().partition(|p| is_updated(p, view.hash));
    // One of each generation at most: the oldest stays.
    plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).cloned());
    let surges = rolling.allowed.surge > 0;
    match (new.first(), old.first()) {
        // With surge, a node has both until the new one is available.
        (Some(new), Some(old)) if surges && pods::is_ready(old) && !is_available(new) => rolling.surged += 1,
        (Some(_), Some(old)) => plan.delete.push(old.clone()),
        (Some(_), None) => {}
        (None, Some(old)) => rolling.stale.push(Stale {
            node: name.to_string(),
            pod: old.clone(),
            available: is_available(old),
        }),
        // One that is on its way out is waited for.
        (None, None) if pause.is_none() && here.iter().all(|p| pods::is_finished(p)) => {
            plan.create.push(name.to_string());
        }
        (None, None) => {}
    }
}

/// Chooses which pods with an old template make way: those that serve nobody at once, others as far as allowed.
fn replace(plan: &mut Plan, rolling: Rolling) {
    let allowed = rolling.allowed;
    let mut room = allowed.unavailable.saturating_sub(rolling.missing);
    let mut extra = allowed.surge.saturating_sub(rolling.surged);
    for Stale { node, pod, available } in rolling.stale {
        let room = if allowed.surge > 0 { &mut extra } else { &mut room };
        if available {
            if *room == 0 {
                continue;
            }
            *room -= 1;
        }
        if allowed.surge > 0 {
            plan.create.push(node);
        } else {
            plan.delete.push(pod);
        }
    }
}

/// How far a rolling update may go at a time, in nodes.
#[derive(Clone, Copy)]
struct Allowances {
    unavailable: usize,
    surge: usize,
}

/// `maxUnavailable` and `maxSurge`, rounded up.
fn allowances(set: &DaemonSet, nodes: &[Arc<Node>]) -> Allowances {
    let spec = set.spec.clone().unwrap_or_default();
    let rolling = spec.update_strategy.and_then(|s| s.rolling_update).unwrap_or_default();
    let total = nodes.iter().filter(|n| placement::fit(&spec.template, n).may_run).count() as i64;
    let surge = int_or_string::resolve(rolling.max_surge.as_ref(), 0, total, Rounding::Up);
    let unavailable = int_or_string::resolve(rolling.max_unavailable.as_ref(), 1, total, Rounding::Up);
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    Allowances { unavailable: unavailable.max(0) as usize, surge: surge.max(0) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use k8s_openapi::{
        api::{
            apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
            core::v1::{PodCondition, PodSpec, PodStatus},
        },
        apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
    };

    fn nodes(count: usize) -> Vec<Arc<Node>> {
        let node = |i| {
            let mut node = Node::default();
            node.metadata.name = Some(format!("n{i}"));
            Arc::new(node)
        };
        (0..count).map(node).collect()
    }

    fn set(surge: i32, unavailable: i32) -> DaemonSet {
        let rolling = RollingUpdateDaemonSet {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        };
        let strategy = DaemonSetUpdateStrategy { type_: None, rolling_update: Some(rolling) };
        let spec = DaemonSetSpec { update_strategy: Some(strategy), ..DaemonSetSpec::default() };
        DaemonSet { spec: Some(spec), ..DaemonSet::default() }
    }

    fn pod(name: &str, node: usize, hash: &str, phase: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.metadata.labels = Some([(HASH_LABEL.to_string(), hash.to_string())].into());
        pod.spec = Some(PodSpec { node_name: Some(format!("n{node}")), ..PodSpec::default() });
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if phase == "Running" { "True" } else { "False" }.into(),
            last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ..PodCondition::default()
        };
        pod.status = Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(vec![ready]),
            ..PodStatus::default()
        });
        Arc::new(pod)
    }

    fn planned(set: &DaemonSet, nodes: &[Arc<Node>], mine: &[Arc<Pod>]) -> Plan {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100);
        plan(&View { set, hash: "new", nodes, mine, pause: &|_| None, now })
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|p| p.name_any()).collect()
    }

    #[test]
    fn a_node_without_a_pod_gets_one_and_a_pod_too_many_goes() {
        let mine = [pod("a", 0, "new", "Running"), pod("b", 0, "new", "Running")];
        let plan = planned(&set(0, 1), &nodes(2), &mine);
        assert_eq!(plan.create, ["n1"]);
        assert_eq!(names(&plan.delete), ["b"]);
    }

    #[test]
    fn no_more_old_pods_go_at_a_time_than_may_be_unavailable() {
        let old: Vec<_> = (0..4).map(|i| pod(&format!("p{i}"), i, "old", "Running")).collect();
        assert_eq!(names(&planned(&set(0, 2), &nodes(4), &old).delete), ["p0", "p1"]);
        let mut halfway = old.clone();
        halfway[0] = pod("q0", 0, "new", "Pending");
        assert_eq!(names(&planned(&set(0, 2), &nodes(4), &halfway).delete), ["p1"]);
        halfway[1] = pod("p1", 1, "old", "Pending");
        let plan = planned(&set(0, 2), &nodes(4), &halfway);
        assert_eq!(names(&plan.delete), ["p1"], "one that serves nobody goes, and no further one");
    }

    #[test]
    fn with_surge_the_new_pod_comes_before_the_old_one_goes() {
        let old: Vec<_> = (0..3).map(|i| pod(&format!("p{i}"), i, "old", "Running")).collect();
        let plan = planned(&set(1, 0), &nodes(3), &old);
        assert_eq!((plan.create, plan.delete.len()), (vec!["n0".to_string()], 0));
        let with = |phase| [old.clone(), vec![pod("q0", 0, "new", phase)]].concat();
        let plan = planned(&set(1, 0), &nodes(3), &with("Pending"));
        assert_eq!((plan.create.len(), plan.delete.len()), (0, 0), "the surge is used up");
        let plan = planned(&set(1, 0), &nodes(3), &with("Running"));
        assert_eq!((plan.create, names(&plan.delete)), (vec!["n1".to_string()], vec!["p0".to_string()]));
    }

    #[test]
    fn a_pod_that_ended_is_replaced_after_a_pause_if_it_ended_before() {
        let mine = [pod("a", 0, "new", "Failed")];
        let (set, nodes) = (set(0, 1), nodes(1));
        let plan_with = |pause: &(dyn Fn(&str) -> Option<Duration> + Sync)| {
            let now = Timestamp::UNIX_EPOCH;
            plan(&View { set: &set, hash: "new", nodes: &nodes, mine: &mine, pause, now })
        };
        let first = plan_with(&|_| None);
        assert_eq!((first.ended.len(), first.create.len()), (1, 1));
        let again = plan_with(&|_| Some(Duration::from_secs(2)));
        assert_eq!((again.ended.len(), again.create.len()), (0, 0));
        assert_eq!(again.look_again, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_pod_that_waits_for_a_node_that_is_gone_is_deleted() {
        let mut waiting = (*pod("a", 7, "new", "Pending")).clone();
        waiting.spec = placement::pod_for(&DaemonSet::default(), "new", "n7").spec;
        assert_eq!(names(&planned(&set(0, 1), &[], &[Arc::new(waiting)]).delete), ["a"]);
        let bound = pod("b", 7, "new", "Running");
        assert!(planned(&set(0, 1), &[], &[bound]).delete.is_empty(), "that one is the node controller's");
    }
}

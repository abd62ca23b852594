//! How many pods the load wants: from what the pods use to a number. Pure (Kubernetes documentation, "Horizontal Pod Autoscaling",
//! "Algorithm details").

use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use kube::ResourceExt;
use orlop_api::quantity::Quantity;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How long after its start a pod's processor use is taken for that of starting.
const STARTING: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready within this time of its start was never ready.
const FIRST_READY: SignedDuration = SignedDuration::from_secs(30);

/// What a pod uses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    /// The time that it was measured over.
    pub window: SignedDuration,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from the target it may be without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// A target for what each pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Hundredths of what the pods ask for.
    Utilization(i32),
    /// So many thousandths.
    Average(i64),
}

/// How many pods are wanted, and how it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Hundredths of what the pods ask for, where that is the target.
    pub utilization: Option<i32>,
    /// What each pod uses on the average, in thousandths.
    pub average: i64,
}

/// The pods by what can be said of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => {
                    groups.missing.insert(name);
                }
                Some(sample) if is_cpu && !counts(pod, sample, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether the processor use of a pod says something of its load.
fn counts(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let start = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let (Some(ready), Some(start)) = (pods::condition(pod, "Ready"), start) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(start.0, |t| t.0);
    if now.duration_since(start.0) < STARTING {
        ready.status != "False" && sample.at.duration_since(changed) >= sample.window
    } else {
        ready.status != "False" || changed.duration_since(start.0) >= FIRST_READY
    }
}

/// What pods ask for of a resource, in thousandths; of one container if it is named.
pub(super) fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let amount = |requirements: Option<&ResourceRequirements>| {
        let amount = requirements?.requests.as_ref()?.get(resource)?;
        Some(Quantity::of(amount).milli_value())
    };
    let mut all = BTreeMap::new();
    for pod in pods {
        let name = pod.name_any();
        let Some(spec) = &pod.spec else { continue };
        if let Some(whole) = amount(spec.resources.as_ref()).filter(|_| container.is_none()) {
            all.insert(name, whole);
            continue;
        }
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0;
        let mut found = false;
        for one in spec.containers.iter().chain(sidecars) {
            if container.is_some_and(|c| c != one.name) {
                continue;
            }
            let Some(request) = amount(one.resources.as_ref()) else {
                return Err(format!(
                    "missing request for {resource} in container {} of Pod {name}",
                    one.name
                ));
            };
            sum += request;
            found = true;
        }
        if let Some(wanted) = container.filter(|_| !found) {
            return Err(format!("container {wanted} not found in Pod {name}"));
        }
        all.insert(name, sum);
    }
    Ok(all)
}

/// How what is used stands to the target, with the shares behind it.
struct Usage {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

fn usage(samples: &Samples, requests: &BTreeMap<String, i64>, target: Target) -> Result<Usage, String> {
    match target {
        Target::Utilization(target) => {
            let known = samples.iter().filter_map(|(name, s)| Some((s.value, *requests.get(name)?)));
            let known: Vec<_> = known.collect();
            let used: i64 = known.iter().map(|(value, _)| value).sum();
            let asked: i64 = known.iter().map(|(_, request)| request).sum();
            if asked == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
            Ok(Usage {
                ratio: f64::from(utilization) / f64::from(target),
                utilization: Some(utilization),
                average: used / known.len() as i64,
            })
        }
        Target::Average(target) => {
            let used: i64 = samples.values().map(|s| s.value).sum();
            let average = used / (samples.len().max(1)) as i64;
            Ok(Usage { ratio: average as f64 / target as f64, utilization: None, average })
        }
    }
}

/// What a proposal is made from.
pub(super) struct View<'a> {
    pub current: i32,
    pub pods: &'a [Arc<Pod>],
    /// Whether it is processor time, of which a pod uses much while it starts.
    pub is_cpu: bool,
    pub requests: &'a BTreeMap<String, i64>,
    pub target: Target,
    pub tolerance: Tolerance,
    pub now: Timestamp,
}

/// How many pods are wanted where each should use so much.
pub(super) fn propose(view: &View<'_>, mut samples: Samples) -> Result<Proposal, String> {
    if view.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(view.pods, &samples, view.is_cpu, view.now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let usage_now = usage(&samples, view.requests, view.target)?;
    let ratio = usage_now.ratio;
    let proposal =
        |replicas| Proposal { replicas, utilization: usage_now.utilization, average: usage_now.average };
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let same = view.tolerance.holds(ratio);
        return Ok(proposal(if same { view.current } else { rounded_up(ratio * groups.ready as f64) }));
    }
    // Pods of which nothing is known are taken to speak against the change.
    let assume = |name: &String| -> Option<i64> {
        if ratio < 1.0 {
            Some(match view.target {
                Target::Average(target) => target,
                Target::Utilization(target) => {
                    view.requests.get(name).copied().unwrap_or(0) * i64::from(target.max(100)) / 100
                }
            })
        } else {
            (ratio > 1.0).then_some(0)
        }
    };
    let assumed = |value| Sample { value, at: view.now, window: SignedDuration::ZERO };
    for name in &groups.missing {
        if let Some(value) = assume(name) {
            samples.insert(name.clone(), assumed(value));
        }
    }
    if up_with_unready {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), assumed(0))));
    }
    let new = usage(&samples, view.requests, view.target)?.ratio;
    let turned = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    if turned || view.tolerance.holds(new) {
        return Ok(proposal(view.current));
    }
    let replicas = rounded_up(new * samples.len() as f64);
    let against = (new < 1.0 && replicas > view.current) || (new > 1.0 && replicas < view.current);
    Ok(proposal(if against { view.current } else { replicas }))
}

/// How many pods are wanted where one value, not a pod's own, should be so much.
pub(super) fn propose_for_value(
    current: i32,
    pods: &[Arc<Pod>],
    (value, target): (i64, i64),
    tolerance: Tolerance,
) -> Result<i32, String> {
    let ratio = value as f64 / target as f64;
    if current == 0 {
        return Ok(rounded_up(ratio));
    }
    if tolerance.holds(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err(
            "unable to calculate ready pods: no pods returned by selector while calculating replica count"
                .into(),
        );
    }
    let ready = pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
    Ok(rounded_up(ratio * ready as f64))
}

/// The same where the value is shared by all pods. With what each has.
pub(super) fn propose_for_share(
    current: i32,
    (value, target): (i64, i64),
    tolerance: Tolerance,
) -> (i32, i64) {
    let ratio = value as f64 / (target as f64 * f64::from(current));
    let replicas = if current != 0 && tolerance.holds(ratio) {
        current
    } else {
        rounded_up(value as f64 / target as f64)
    };
    let share = if current == 0 { 0 } else { (value as f64 / f64::from(current)).ceil() as i64 };
    (replicas, share)
}

/// The next whole number; what is too large is the largest.
fn rounded_up(number: f64) -> i32 {
    number.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 100_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// A pod that asks for a whole processor: `ready`, `unready`, `starting`, `pending`, `failed`.
    fn pod(name: &str, state: &str) -> Arc<Pod> {
        let phase = match state {
            "pending" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let (ready, started, changed) = match state {
            "unready" => ("False", 0, 10),
            "starting" => ("True", NOW - 60, NOW - 5),
            _ => ("True", 0, 5),
        };
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [container]}, "status": {
            "phase": phase, "startTime": at(started).to_string(),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(changed).to_string()}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// States with what the pods use in thousandths of a processor; less than nothing where that is not known.
    fn proposed(current: i32, target: Target, pods: &[(&str, i64)]) -> Result<i32, String> {
        let names = |i: usize| format!("p{i}");
        let all: Vec<_> = pods.iter().enumerate().map(|(i, (state, _))| pod(&names(i), state)).collect();
        let known = pods.iter().enumerate().filter(|(_, (_, value))| *value >= 0);
        let sample = |value| Sample { value, at: at(NOW), window: SignedDuration::from_secs(15) };
        let samples = known.map(|(i, (_, value))| (names(i), sample(*value))).collect();
        let view = View {
            current,
            pods: &all,
            is_cpu: true,
            requests: &requests(&all, "cpu", None).unwrap(),
            target,
            tolerance: Tolerance { up: 0.1, down: 0.1 },
            now: at(NOW),
        };
        propose(&view, samples).map(|p| p.replicas)
    }

    #[test]
    fn the_number_grows_and_shrinks_with_the_load() {
        let half = Target::Utilization(50);
        for (current, load, want) in [
            (3, vec![500, 500, 500], 3),
            (3, vec![540, 540, 540], 3),
            (3, vec![600, 600, 600], 4),
            (3, vec![1000, 1000, 1000], 6),
            (3, vec![100, 100, 100], 1),
            (4, vec![460, 460, 460, 460], 4),
            (4, vec![200, 200, 200, 200], 2),
        ] {
            let pods: Vec<_> = load.iter().map(|l| ("ready", *l)).collect();
            assert_eq!(proposed(current, half, &pods), Ok(want), "{load:?}");
            assert_eq!(proposed(current, Target::Average(500), &pods), Ok(want), "{load:?}");
        }
    }

    #[test]
    fn pods_of_which_nothing_is_known_slow_the_change() {
        let half = Target::Utilization(50);
        for (current, pods, want) in [
            // Going up, they count as idle; without them there would be 6.
            (3, vec![("ready", 1000), ("ready", 1000), ("ready", -1)], 4),
            // Going down, as fully used; without them there would be 1.
            (4, vec![("ready", 100), ("ready", 100), ("ready", 100), ("ready", -1)], 3),
            // If that turns the direction, nothing is done.
            (3, vec![("ready", 600), ("ready", -1), ("ready", -1)], 3),
            // Those that are not ready count as idle going up, and not at all going down.
            (3, vec![("ready", 1000), ("ready", 1000), ("unready", 900)], 4),
            (3, vec![("ready", 1000), ("ready", 1000), ("starting", 900)], 4),
            (3, vec![("ready", 1000), ("ready", 1000), ("pending", -1)], 4),
            (3, vec![("ready", 200), ("ready", 200), ("unready", 900)], 1),
            (3, vec![("ready", 1000), ("ready", 1000), ("failed", 0)], 4),
        ] {
            assert_eq!(proposed(current, half, &pods), Ok(want), "{pods:?}");
        }
    }

    #[test]
    fn without_anything_to_go_by_it_says_why() {
        let half = Target::Utilization(50);
        let none = "no pods returned by selector while calculating replica count";
        assert_eq!(proposed(3, half, &[]), Err(none.into()));
        let unready = "did not receive metrics for targeted pods (pods might be unready)";
        assert_eq!(proposed(1, half, &[("unready", 100)]), Err(unready.into()));
        let mut bare = (*pod("p", "ready")).clone();
        bare.spec.as_mut().unwrap().containers[0].resources = None;
        let bare = [Arc::new(bare)];
        assert_eq!(
            requests(&bare, "cpu", None),
            Err("missing request for cpu in container c of Pod p".to_string())
        );
        assert!(requests(&bare, "cpu", Some("d")).is_err());
    }

    #[test]
    fn values_that_are_not_a_pods_own() {
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let pods = [pod("a", "ready"), pod("b", "ready"), pod("c", "unready")];
        for (current, value, want) in [(3, 1000, 3), (3, 1090, 3), (3, 2000, 4), (3, 400, 1), (0, 2500, 3)] {
            assert_eq!(propose_for_value(current, &pods, (value, 1000), tolerance), Ok(want), "{value}");
        }
        for (current, value, want) in
            [(2, 2000, (2, 1000)), (2, 2100, (2, 1050)), (2, 5000, (5, 2500)), (0, 3000, (3, 0))]
        {
            assert_eq!(propose_for_share(current, (value, 1000), tolerance), want, "{value}");
        }
    }
}

//! How fast the number of pods may change: stabilization windows, policies and bounds. Pure (Kubernetes documentation,
//! "Horizontal Pod Autoscaling", "Configurable scaling behavior").

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a higher recommendation holds against a lower one, unless something else is said.
const DOWN_WINDOW: i64 = 300;

/// What was recommended and done lately, by which the pace is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// Recommendations, before any was held back.
    recommendations: Vec<(Timestamp, i32)>,
    /// How many pods were added, or less than nothing where they were taken away.
    changes: Vec<(Timestamp, i32)>,
}

/// A reason and its words.
pub(super) type Reason = (&'static str, &'static str);

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub replicas: i32,
    /// Why the recommendation is held back, if it is.
    pub stabilized: Option<Reason>,
    /// Why less, or more, than wanted is done, if it is.
    pub limited: Option<Reason>,
}

/// What bounds a change.
pub(super) struct Bounds<'a> {
    pub current: i32,
    pub least: i32,
    pub most: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

const UP_STABILIZED: Reason = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Reason = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const TOO_FAST_UP: Reason =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Reason =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Reason =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Reason =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl Past {
    /// The number of pods when it was first seen holds like a recommendation.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// A change that was made.
    pub(super) fn changed(&mut self, by: i32, now: Timestamp) {
        self.changes.push((now, by));
    }

    fn forget(&mut self, now: Timestamp) {
        // No window or period is longer than an hour.
        let recent = |(at, _): &(Timestamp, i32)| now.duration_since(*at) <= SignedDuration::from_hours(1);
        self.recommendations.retain(recent);
        self.changes.retain(recent);
    }

    fn within(&self, seconds: i64, now: Timestamp) -> impl Iterator<Item = i32> + '_ {
        let since = SignedDuration::from_secs(seconds);
        let recent = self.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < since);
        recent.map(|(_, replicas)| *replicas)
    }

    /// How many were added and taken away within a period.
    fn moved(&self, seconds: i32, now: Timestamp) -> (i32, i32) {
        let since = SignedDuration::from_secs(seconds.into());
        let recent = self.changes.iter().filter(|(at, _)| now.duration_since(*at) < since);
        recent.fold((0, 0), |(added, taken), (_, by)| (added + (*by).max(0), taken + (-*by).max(0)))
    }
}

/// What of a recommendation may be done now. It is remembered.
pub(super) fn normalize(bounds: &Bounds<'_>, past: &mut Past, wanted: i32, now: Timestamp) -> Normalized {
    past.forget(now);
    let (stable, stabilized) = stabilize(bounds, past, wanted, now);
    past.recommendations.push((now, wanted));
    let (replicas, limited) = match bounds.behavior {
        None => limit_by_default(bounds, stable),
        Some(behavior) => limit_by_rules(bounds, behavior, past, stable, now),
    };
    Normalized { replicas, stabilized, limited: limited.filter(|_| replicas != stable) }
}

fn stabilize(bounds: &Bounds<'_>, past: &Past, wanted: i32, now: Timestamp) -> (i32, Option<Reason>) {
    let Some(behavior) = bounds.behavior else {
        let highest = past.within(DOWN_WINDOW, now).fold(wanted, i32::max);
        return (highest, (highest != wanted).then_some(DOWN_STABILIZED));
    };
    let window = |rules: &Option<HPAScalingRules>, default: i64| {
        rules.as_ref().and_then(|r| r.stabilization_window_seconds).map_or(default, i64::from)
    };
    let lowest = past.within(window(&behavior.scale_up, 0), now).fold(wanted, i32::min);
    let highest = past.within(window(&behavior.scale_down, DOWN_WINDOW), now).fold(wanted, i32::max);
    let stable = bounds.current.max(lowest).min(highest);
    let why = if wanted >= bounds.current { UP_STABILIZED } else { DOWN_STABILIZED };
    (stable, (stable != wanted).then_some(why))
}

/// Without rules of its own: doubled at most, or up to four.
fn limit_by_default(bounds: &Bounds<'_>, wanted: i32) -> (i32, Option<Reason>) {
    let fastest = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.most > fastest { (fastest, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
    if wanted < bounds.least {
        (bounds.least, Some(TOO_FEW))
    } else if wanted > most {
        (most, Some(why))
    } else {
        (wanted, None)
    }
}

fn limit_by_rules(
    bounds: &Bounds<'_>,
    behavior: &HorizontalPodAutoscalerBehavior,
    past: &Past,
    wanted: i32,
    now: Timestamp,
) -> (i32, Option<Reason>) {
    let current = bounds.current;
    if wanted > current {
        let fastest = up_limit(current, behavior.scale_up.as_ref(), past, now).max(current);
        let (most, why) =
            if bounds.most > fastest { (fastest, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
        if wanted > most { (most, Some(why)) } else { (wanted, None) }
    } else if wanted < current {
        let fastest = down_limit(current, behavior.scale_down.as_ref(), past, now).min(current);
        let (least, why) =
            if bounds.least < fastest { (fastest, TOO_FAST_DOWN) } else { (bounds.least, TOO_FEW) };
        if wanted < least { (least, Some(why)) } else { (wanted, None) }
    } else {
        (wanted, None)
    }
}

/// The most pods that the rules allow.
fn up_limit(current: i32, rules: Option<&HPAScalingRules>, past: &Past, now: Timestamp) -> i32 {
    let Some(rules) = rules else { return i32::MAX };
    let limits = rules.policies.iter().flatten().map(|policy| {
        let (added, taken) = past.moved(policy.period_seconds, now);
        let before = current - added + taken;
        match policy.type_.as_str() {
            "Pods" => before.saturating_add(policy.value),
            _ => (f64::from(before) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits.min().unwrap_or(i32::MAX),
        _ => limits.max().unwrap_or(i32::MAX),
    }
}

/// The fewest pods that the rules allow.
fn down_limit(current: i32, rules: Option<&HPAScalingRules>, past: &Past, now: Timestamp) -> i32 {
    let Some(rules) = rules else { return 0 };
    let limits = rules.policies.iter().flatten().map(|policy| {
        let (added, taken) = past.moved(policy.period_seconds, now);
        let before = current + taken - added;
        match policy.type_.as_str() {
            "Pods" => before - policy.value,
            _ => (f64::from(before) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits.max().unwrap_or(0),
        _ => limits.min().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn behavior(rules: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(rules).unwrap()
    }

    fn bounds(current: i32, behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Bounds<'_> {
        Bounds { current, least: 2, most: 20, behavior }
    }

    fn reason(normalized: &Normalized) -> (i32, Option<&'static str>, Option<&'static str>) {
        (normalized.replicas, normalized.stabilized.map(|r| r.0), normalized.limited.map(|r| r.0))
    }

    #[test]
    fn without_rules_it_at_most_doubles_and_stays_in_bounds() {
        for (current, wanted, want) in [
            (3, 3, (3, None, None)),
            (3, 6, (6, None, None)),
            (3, 7, (6, None, Some("ScaleUpLimit"))),
            (1, 9, (4, None, Some("ScaleUpLimit"))),
            (15, 25, (20, None, Some("TooManyReplicas"))),
            (3, 1, (2, None, Some("TooFewReplicas"))),
        ] {
            let got = normalize(&bounds(current, None), &mut Past::default(), wanted, at(0));
            assert_eq!(reason(&got), want, "{current} → {wanted}");
        }
    }

    #[test]
    fn a_recent_higher_recommendation_holds_for_five_minutes() {
        let mut past = Past::default();
        past.begin(8, at(0));
        let after = |past: &mut Past, wanted, seconds| {
            reason(&normalize(&bounds(8, None), past, wanted, at(seconds)))
        };
        assert_eq!(after(&mut past, 3, 15), (8, Some("ScaleDownStabilized"), None));
        assert_eq!(after(&mut past, 5, 200), (8, Some("ScaleDownStabilized"), None));
        assert_eq!(after(&mut past, 3, 310), (5, Some("ScaleDownStabilized"), None));
        assert_eq!(after(&mut past, 3, 501), (3, None, None));
    }

    #[test]
    fn windows_of_its_own_hold_in_both_directions() {
        let rules = behavior(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 0}}));
        let mut past = Past::default();
        past.begin(4, at(0));
        let mut after =
            |wanted, seconds| reason(&normalize(&bounds(4, Some(&rules)), &mut past, wanted, at(seconds)));
        assert_eq!(after(9, 10), (4, Some("ScaleUpStabilized"), None));
        assert_eq!(after(3, 20), (3, None, None));
        assert_eq!(after(9, 90), (9, None, None));
    }

    #[test]
    fn policies_say_how_many_in_which_time() {
        let policies = |select: &str| {
            let policies = json!([{"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 50, "periodSeconds": 60}]);
            let rules =
                json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": policies});
            behavior(json!({"scaleUp": rules, "scaleDown": rules}))
        };
        for (select, current, wanted, want) in [
            ("Max", 10, 20, (15, None, Some("ScaleUpLimit"))),
            ("Min", 10, 20, (12, None, Some("ScaleUpLimit"))),
            ("Disabled", 10, 20, (10, None, Some("ScaleUpLimit"))),
            ("Max", 10, 2, (5, None, Some("ScaleDownLimit"))),
            ("Min", 10, 2, (8, None, Some("ScaleDownLimit"))),
            ("Disabled", 10, 2, (10, None, Some("ScaleDownLimit"))),
            ("Max", 3, 1, (2, None, Some("TooFewReplicas"))),
            ("Max", 18, 40, (20, None, Some("TooManyReplicas"))),
        ] {
            let rules = policies(select);
            let got = normalize(&bounds(current, Some(&rules)), &mut Past::default(), wanted, at(0));
            assert_eq!(reason(&got), want, "{select} {current} → {wanted}");
        }
        // What was added within the period counts.
        let rules = policies("Min");
        let mut past = Past::default();
        past.changed(2, at(100));
        let got = normalize(&bounds(12, Some(&rules)), &mut past, 20, at(130));
        assert_eq!(reason(&got), (12, None, Some("ScaleUpLimit")));
        let got = normalize(&bounds(12, Some(&rules)), &mut past, 20, at(161));
        assert_eq!(reason(&got), (14, None, Some("ScaleUpLimit")));
    }
}

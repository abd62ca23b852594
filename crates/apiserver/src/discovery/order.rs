//! The order of groups and versions in discovery: by the priorities that their APIServices have, as in Kubernetes. Where names are served
//! more than once, clients take the first. Pure.

use crate::aggregation::Published;
use std::cmp::Reverse;

/// Priorities of what is served here: the group's, then that of its version. Built-in ones are Kubernetes' own.
pub(crate) fn priority(group: &str, version: &str) -> (i64, i64) {
    let of_group = match group {
        "" => 18_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        "resource.k8s.io" => 15_900,
        // As metrics-server registers itself.
        "metrics.k8s.io" => return (100, 100),
        _ => return (1_000, 100),
    };
    let of_version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        _ => 9,
    };
    (of_group, of_version)
}

/// Group-versions with those of a group together, the preferred one first. The group that registers others is the first of all.
pub(super) fn in_order(groups: Vec<(String, String)>, others: &[Published]) -> Vec<(String, String)> {
    let of = |group: &str, version: &str| {
        let other = others.iter().find(|o| o.group == group && o.version == version);
        other.map_or_else(|| priority(group, version), |other| other.priority)
    };
    let of_group = |group: &str| {
        let own = groups.iter().filter(|(g, _)| g == group);
        own.map(|(g, v)| of(g, v).0).max().unwrap_or_default()
    };
    let mut sorted = groups.clone();
    sorted.sort_by_cached_key(|(group, version)| {
        let first = group != crate::aggregation::GROUP;
        let place = (first, Reverse(of_group(group)), group.clone());
        (place, Reverse(of(group, version).1), stability(version))
    });
    sorted
}

/// Sorts versions of the same priority: stable before beta before alpha, then the newer (Kubernetes documentation, "Versions in
/// CustomResourceDefinitions", "Version priority").
fn stability(version: &str) -> (u8, Reverse<(u64, u64)>, String) {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let other = (3, Reverse((0, 0)), version.to_string());
    let Some(rest) = version.strip_prefix('v') else { return other };
    let (major, rest) = rest.split_at(digits(rest));
    let Ok(major) = major.parse::<u64>() else { return other };
    for (rank, stage) in [(1, "beta"), (2, "alpha")] {
        if let Some(minor) = rest.strip_prefix(stage) {
            return match minor.parse::<u64>() {
                Ok(minor) => (rank, Reverse((major, minor)), String::new()),
                Err(_) => other,
            };
        }
    }
    if rest.is_empty() { (0, Reverse((major, 0)), String::new()) } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(g, v)| (g.to_string(), v.to_string())).collect()
    }

    #[test]
    fn the_stable_and_newest_version_of_a_group_is_preferred() {
        let versions = ["foo1", "v1alpha1", "v2", "v10", "v3beta1", "v1", "v12alpha1", "foo10", "v11beta2"];
        let groups = versions.iter().map(|v| ("x.y".to_string(), v.to_string())).collect();
        let sorted: Vec<String> = in_order(groups, &[]).into_iter().map(|(_, v)| v).collect();
        assert_eq!(
            sorted,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]
        );
    }

    #[test]
    fn groups_stand_in_the_order_of_their_priorities() {
        let other = |version: &str, priority| Published {
            group: "other".into(),
            version: version.into(),
            priority,
            ..Published::default()
        };
        let others = [other("v1", (2_000, 10)), other("v1beta1", (500, 20))];
        let all = [
            ("metrics.k8s.io", "v1beta1"),
            ("b.example", "v1"),
            ("other", "v1"),
            ("autoscaling", "v1"),
            ("a.example", "v1"),
            ("apps", "v1"),
            ("other", "v1beta1"),
            ("apiregistration.k8s.io", "v1"),
            ("autoscaling", "v2"),
        ];
        let wanted = [
            ("apiregistration.k8s.io", "v1"),
            ("apps", "v1"),
            ("autoscaling", "v2"),
            ("autoscaling", "v1"),
            ("other", "v1beta1"),
            ("other", "v1"),
            ("a.example", "v1"),
            ("b.example", "v1"),
            ("metrics.k8s.io", "v1beta1"),
        ];
        assert_eq!(in_order(pairs(&all), &others), pairs(&wanted));
    }
}

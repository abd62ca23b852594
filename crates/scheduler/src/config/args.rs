//! Arguments of plugins (`pluginConfig`): the kinds of kubescheduler.config.k8s.io/v1, and as strategies ours besides.

use super::fields::{ConfigError, Field, Fields};
use crate::{
    matcher::{Constraint, Labels},
    plugin::Plugin,
    profile::Profile,
    strategy::{self, RequestedToCapacity, Utilization},
};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use std::{sync::Arc, time::Duration};

/// Reads the arguments of a plugin into a profile.
pub(super) fn read(plugin: Plugin, field: Field<'_>, profile: &mut Profile) -> Result<(), ConfigError> {
    if !field.is_there() {
        return Ok(());
    }
    let args = Fields::of(field)?;
    let only = |names: &[&str]| args.only(&[&["apiVersion", "kind"], names].concat());
    let kind = args.get("kind");
    if kind.text()?.is_some_and(|k| k != format!("{}Args", plugin.name())) {
        return kind.fail(format!("must be {:?}", format!("{}Args", plugin.name())));
    }
    match plugin {
        Plugin::NodeResourcesFit => {
            only(&["ignoredResources", "ignoredResourceGroups", "scoringStrategy"])?;
            profile.ignored_resources = args.get("ignoredResources").typed()?.unwrap_or_default();
            profile.ignored_groups = args.get("ignoredResourceGroups").typed()?.unwrap_or_default();
            read_strategy(args.get("scoringStrategy"), profile)
        }
        Plugin::NodeResourcesBalancedAllocation => {
            only(&["resources"])?;
            read_resources(&args.get("resources"), &mut profile.balanced_resources)
        }
        Plugin::PodTopologySpread => {
            only(&["defaultConstraints", "defaultingType"])?;
            read_constraints(&args, profile)
        }
        Plugin::InterPodAffinity => {
            only(&["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"])?;
            let weight = args.get("hardPodAffinityWeight").number(0, 100)?;
            profile.hard_pod_affinity_weight = weight.unwrap_or(profile.hard_pod_affinity_weight);
            let ignore = args.get("ignorePreferredTermsOfExistingPods").truth()?;
            profile.ignore_preferred_terms_of_existing_pods = ignore.unwrap_or(false);
            Ok(())
        }
        Plugin::DefaultPreemption => {
            only(&["minCandidateNodesPercentage", "minCandidateNodesAbsolute"])?;
            let percentage = args.get("minCandidateNodesPercentage");
            let absolute = args.get("minCandidateNodesAbsolute");
            let whole = |field: &Field<'_>, most, default| Ok(field.number(0, most)?.unwrap_or(default));
            profile.min_candidate_nodes_percentage =
                whole(&percentage, 100, profile.min_candidate_nodes_percentage)?;
            profile.min_candidate_nodes_absolute =
                whole(&absolute, 1 << 31, profile.min_candidate_nodes_absolute)?;
            if profile.min_candidate_nodes_percentage == 0 && profile.min_candidate_nodes_absolute == 0 {
                return absolute.fail("must not be 0 where minCandidateNodesPercentage is 0 too".into());
            }
            Ok(())
        }
        Plugin::NodeAffinity => {
            only(&["addedAffinity"])?;
            profile.added_affinity = args.get("addedAffinity").typed()?;
            Ok(())
        }
        Plugin::VolumeBinding => {
            only(&["bindTimeoutSeconds", "shape"])?;
            if let Some(seconds) = args.get("bindTimeoutSeconds").number(0, 1 << 31)? {
                profile.bind_timeout = Duration::from_secs(seconds.unsigned_abs());
            }
            Ok(())
        }
        _ => only(&[]),
    }
}

fn read_resources(field: &Field<'_>, into: &mut Vec<(String, i64)>) -> Result<(), ConfigError> {
    if !field.is_there() {
        return Ok(());
    }
    let mut all = Vec::new();
    for entry in field.items()? {
        let entry = Fields::of(entry)?;
        entry.only(&["name", "weight"])?;
        let name = entry.get("name");
        let Some(text) = name.text()? else { return name.fail("must be there".into()) };
        let weight = entry.get("weight").number(0, 100)?.filter(|w| *w > 0).unwrap_or(1);
        all.push((text.to_string(), weight));
    }
    *into = all;
    Ok(())
}

fn read_strategy(field: Field<'_>, profile: &mut Profile) -> Result<(), ConfigError> {
    if !field.is_there() {
        return Ok(());
    }
    let fields = Fields::of(field)?;
    fields.only(&["type", "resources", "requestedToCapacityRatio"])?;
    read_resources(&fields.get("resources"), &mut profile.strategy_resources)?;
    let kind = fields.get("type");
    if let Some(name) = kind.text()? {
        let Some(strategy) = strategy::by_name(name) else {
            return kind.fail(format!("{name:?} is none of {}", strategy::NAMES.join(", ")));
        };
        profile.strategy = strategy;
    }
    let ratio = fields.get("requestedToCapacityRatio");
    if !ratio.is_there() {
        return Ok(());
    }
    let ratio = Fields::of(ratio)?;
    ratio.only(&["shape"])?;
    let shape = ratio.get("shape");
    let mut points: Vec<Utilization> = Vec::new();
    for point in shape.items()? {
        let point = Fields::of(point)?;
        point.only(&["utilization", "score"])?;
        let utilization = point.get("utilization");
        let at = utilization.number(0, 100)?.unwrap_or(0);
        if points.last().is_some_and(|p| p.utilization >= at) {
            return utilization.fail("must be more than the one before".into());
        }
        let score = point.get("score").number(0, 10)?.unwrap_or(0);
        points.push(Utilization { utilization: at, score });
    }
    if points.is_empty() {
        return shape.fail("must have a point".into());
    }
    if profile.strategy.name() == "RequestedToCapacity" {
        profile.strategy = Arc::new(RequestedToCapacity::new(points));
    }
    Ok(())
}

fn read_constraints(args: &Fields<'_>, profile: &mut Profile) -> Result<(), ConfigError> {
    let list = args.get("defaultConstraints");
    let kind = args.get("defaultingType");
    match kind.text()? {
        Some("System") if list.items()?.is_empty() => return Ok(()),
        Some("System") => return list.fail("must be empty where defaultingType is System".into()),
        // Kubernetes' own default is System, as long as nobody says otherwise.
        None if !list.is_there() => return Ok(()),
        None | Some("List") => {}
        Some(_) => return kind.fail("must be System or List".into()),
    }
    let mut all = Vec::new();
    for entry in list.items()? {
        let typed: TopologySpreadConstraint = match entry.typed()? {
            Some(typed) => typed,
            None => return entry.fail("must be there".into()),
        };
        if typed.label_selector.is_some() {
            return entry
                .inner("labelSelector")
                .fail("a default constraint counts a workload's own pods".into());
        }
        if typed.max_skew < 1 || typed.topology_key.is_empty() {
            return entry.fail("must have a topologyKey and a maxSkew above 0".into());
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&typed.when_unsatisfiable.as_str()) {
            return entry.inner("whenUnsatisfiable").fail("must be DoNotSchedule or ScheduleAnyway".into());
        }
        all.push(Constraint { pods: None, ..Constraint::new(&typed, "", &Labels::new()) });
    }
    profile.default_constraints = all;
    profile.system_defaulted = false;
    Ok(())
}

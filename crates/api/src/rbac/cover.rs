//! Whether the rules that somebody holds cover rules that they want to give away: the check against escalation.

use super::rule::{PolicyRule, names_path};
use std::collections::{BTreeMap, btree_map::Entry};

/// The parts of `wanted` that no rule of `held` covers, each with one verb, group, resource and name, or one path.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(break_down).filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule taken apart.
fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = PolicyRule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                } else {
                    let named = |name| PolicyRule { resource_names: one(name), ..part.clone() };
                    parts.extend(rule.resource_names.iter().map(named));
                }
            }
        }
    }
    for path in &rule.non_resource_urls {
        for verb in &rule.verbs {
            parts.push(PolicyRule {
                verbs: one(verb),
                non_resource_urls: one(path),
                ..PolicyRule::default()
            });
        }
    }
    parts
}

/// Whether `rule` allows all that `part` does; `part` is one of [`break_down`].
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |held: &[String], wanted: &[String]| {
        held.iter().any(|h| h == "*") || wanted.iter().all(|w| held.contains(w))
    };
    all(&rule.verbs, &part.verbs)
        && all(&rule.api_groups, &part.api_groups)
        && part.resources.iter().all(|wanted| covers_resource(&rule.resources, wanted))
        && part
            .non_resource_urls
            .iter()
            .all(|wanted| rule.non_resource_urls.iter().any(|held| names_path(held, wanted)))
        && (rule.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|n| rule.resource_names.contains(n))))
}

fn covers_resource(held: &[String], wanted: &str) -> bool {
    let of_any = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    held.iter().any(|h| h == "*" || h == wanted || Some(h) == of_any.as_ref())
}

/// Puts rules that differ in their verbs alone together.
pub fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut compacted = Vec::new();
    let mut simple: BTreeMap<(String, String, Option<String>), PolicyRule> = BTreeMap::new();
    for rule in rules {
        let key = match (&*rule.api_groups, &*rule.resources, &*rule.resource_names) {
            ([group], [resource], names) if names.len() <= 1 && rule.non_resource_urls.is_empty() => {
                (group.clone(), resource.clone(), names.first().cloned())
            }
            _ => {
                compacted.push(rule);
                continue;
            }
        };
        match simple.entry(key) {
            Entry::Vacant(place) => drop(place.insert(rule)),
            Entry::Occupied(mut place) => {
                let there = &mut place.get_mut().verbs;
                for verb in rule.verbs {
                    if !there.contains(&verb) {
                        there.push(verb);
                    }
                }
            }
        }
    }
    compacted.extend(simple.into_values());
    compacted
}

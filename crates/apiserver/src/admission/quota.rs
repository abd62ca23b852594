//! ResourceQuota: charges every write to the quotas of its namespace in the transaction of the write itself, conditioned on
//! the quotas, so that what is used never exceeds what is allowed, however many write at once, and what is deleted is free at
//! the same moment. The words and sums are `orlop_api::quota`'s.

use super::Request;
use crate::{
    cache::codec,
    registry::{Plan, Registry, Resource, commit::Turns},
};
use orlop_api::{Status, object::text, pod_resources::Resources, quantity::Quantity, quota};
use orlop_store::Txn;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::MutexGuard;

/// The quotas' part of the chain.
#[derive(Default)]
pub(crate) struct Quotas {
    /// Those who charge the same namespace take turns instead of undoing each other's transactions.
    turns: Turns,
}

/// What of a quota matters to a write.
struct Charge {
    quota: Value,
    key: String,
    revision: orlop_store::Revision,
    hard: BTreeMap<String, Quantity>,
    delta: BTreeMap<String, Quantity>,
    /// What a pod must say and does not.
    missing: Option<String>,
}

/// A write as quotas see it.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub old: Option<&'a Value>,
    pub new: Option<&'a Value>,
}

fn quotas(registry: &Registry) -> Option<Arc<Resource>> {
    registry.find("", "v1", "resourcequotas").filter(|r| r.cache.len() > 0)
}

/// The quotas whose usage the write changes.
fn charges(request: &Request<'_>, write: Write<'_>) -> Vec<Charge> {
    let kind = request.kind;
    let Some(resource) = quotas(request.registry) else { return Vec::new() };
    if request.namespace.is_empty() || !kind.namespaced() {
        return Vec::new();
    }
    let prefix = format!("{}{}/", resource.cache.key_prefix, request.namespace);
    let found = resource.cache.snapshot(&prefix, None, 0, |_| true).objects;
    let of = |object: Option<&Value>| object.map(|o| quota::usage(&kind.group, &kind.plural, o));
    let mut usages: Option<(Option<Resources>, Option<Resources>)> = None;
    let mut charges = Vec::new();
    for object in found {
        if request.is("", "resourcequotas") && object.name() == request.name {
            // A quota is not charged to itself: its own transaction writes it.
            continue;
        }
        let quota = object.value();
        let hard = quota::amounts(&quota, "/spec/hard");
        let (new, old) = usages.get_or_insert_with(|| (of(write.new), of(write.old)));
        let selects =
            |o: Option<&Value>| o.is_some_and(|o| quota::selects(&quota, &kind.group, &kind.plural, o));
        let delta = quota::change(
            &hard,
            new.as_ref().filter(|_| selects(write.new)),
            old.as_ref().filter(|_| selects(write.old)),
        );
        let is_new_pod = write.old.is_none() && request.is("", "pods") && selects(write.new);
        let missing = write.new.filter(|_| is_new_pod).and_then(|pod| quota::missing(&hard, pod));
        if missing.is_some() || !delta.is_empty() {
            charges.push(Charge {
                quota,
                key: object.key.to_string(),
                revision: object.revision,
                hard,
                delta,
                missing,
            });
        }
    }
    charges
}

/// What the objects that are there use of the resources that a quota's status does not speak of yet: it is new, or was
/// changed a moment ago.
fn count(request: &Request<'_>, quota: &Value, names: &[&String]) -> BTreeMap<String, Quantity> {
    let mut used: BTreeMap<String, Quantity> =
        names.iter().map(|name| ((*name).clone(), Quantity::ZERO)).collect();
    let mut kinds: Vec<(String, String)> = names.iter().filter_map(|n| quota::counted_kind(n)).collect();
    kinds.sort();
    kinds.dedup();
    for (group, plural) in kinds {
        let resource = request
            .registry
            .resources()
            .into_iter()
            .find(|r| r.kind.group == group && r.kind.plural == plural);
        let Some(version) = resource.map(|r| r.kind.version.clone()) else { continue };
        for object in request.look_up_all((&group, &version, &plural), request.namespace) {
            if quota::selects(quota, &group, &plural, &object) {
                let usage = quota::usage(&group, &plural, &object);
                used.iter_mut().for_each(|(name, amount)| *amount += usage.get(name));
            }
        }
    }
    used
}

impl Quotas {
    /// The turn to charge the namespace, where the write changes what its quotas count; held until it is committed.
    pub(crate) async fn turn(&self, request: &Request<'_>, write: Write<'_>) -> Option<MutexGuard<'_, ()>> {
        if quotas(request.registry).is_none() || charges(request, write).is_empty() {
            return None;
        }
        Some(self.turns.enter(request.namespace).await)
    }

    /// Adds to the plan what the write changes in its namespace's quotas; 403 where there is too little left.
    pub(crate) fn charge(
        &self,
        request: &Request<'_>,
        write: Write<'_>,
        plan: &mut Plan,
    ) -> Result<(), Status> {
        let Some(resource) = quotas(request.registry) else { return Ok(()) };
        for Charge { mut quota, key, revision, hard, delta, missing } in charges(request, write) {
            let name = text(&quota, "/metadata/name").to_string();
            let grows = delta.values().any(|amount| !amount.is_negative());
            if let Some(missing) = missing {
                return Err(request.forbidden(&format!("failed quota: {name}: {missing}")));
            }
            let mut used = quota::amounts(&quota, "/status/used");
            let unknown: Vec<&String> = hard.keys().filter(|n| !used.contains_key(*n)).collect();
            if !unknown.is_empty() {
                if !grows {
                    // Nobody has counted yet; who does will not find this object.
                    continue;
                }
                used.extend(count(request, &quota, &unknown));
            }
            used.retain(|name, _| hard.contains_key(name));
            let after = quota::charge(&name, &hard, &used, &delta).map_err(|why| request.forbidden(&why))?;
            let print = |amounts: &BTreeMap<String, Quantity>| {
                amounts
                    .iter()
                    .map(|(k, v)| (k.clone(), json!(v.to_string())))
                    .collect::<serde_json::Map<_, _>>()
            };
            quota["status"]["hard"] = print(&hard).into();
            quota["status"]["used"] = print(&after).into();
            let txn = Txn::replace(key, revision, codec::encode(&resource.cache.body_prefix, &quota));
            plan.txn.conditions.extend(txn.conditions);
            plan.txn.ops.extend(txn.ops);
        }
        Ok(())
    }
}

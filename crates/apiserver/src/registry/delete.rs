//! Delete: at once, after a grace period, or when the last finalizer goes (Kubernetes documentation, "Finalizers" and
//! "Garbage Collection").

use super::{
    Cx, Plan, Registry, Resource,
    commit::{Outcome, TRIES},
    metadata,
    selection::Selection,
};
use crate::{
    Identity,
    admission::{self, Operation, Options, quota},
    cache::{codec, object::Object},
    request::{DeleteOptions, ListOptions, options::Propagation},
};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use orlop_api::{Deletion, Status};
use orlop_store::Txn;
use serde_json::{Value, json};
use std::sync::Arc;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete leaves.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Bytes),
    /// The object stays until others let it go.
    Marked(Bytes),
}

/// What is to be done.
enum Step {
    /// Nothing: it is on its way out already.
    Nothing,
    Mark(Value),
    Remove,
}

/// What is written beside a delete, in its transaction: gets the object as it is, adds to the plan, and returns the object as
/// it should be marked, or refuses. Asked anew whenever somebody else was faster.
pub(crate) type Beside<'a> = &'a (dyn Fn(&Value, &mut Plan) -> Result<Value, Status> + Sync);

impl Registry {
    /// Deletes an object.
    pub(crate) async fn delete(
        &self,
        resource: &Resource,
        at: (&str, &str),
        options: &DeleteOptions,
        who: &Identity,
    ) -> Result<Deleted, Status> {
        self.delete_beside(resource, at, options, who, &|old, _| Ok(old.clone())).await
    }

    /// Deletes an object, and writes something else with it or not at all.
    pub(crate) async fn delete_beside(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
        who: &Identity,
        beside: Beside<'_>,
    ) -> Result<Deleted, Status> {
        let key = resource.cache.key(namespace, name);
        let mut turn = None;
        for attempt in 0..TRIES {
            if attempt == 1 {
                turn = Some(self.turns.enter(&key).await);
            }
            let current = resource.cache.get(&key).ok_or_else(|| Status::not_found(&resource.kind, name))?;
            let old = current.value();
            check_preconditions(resource, &current, &old, options)?;
            let now = self.now();
            let hook_cx = Cx { registry: self, who };
            resource.restrict(who, "", None, Some(&old))?;
            resource.hooks.admit_delete(&hook_cx, &old)?;
            tracing::debug!(user = %hook_cx.who.user, kind = ?resource.kind, namespace, name, "an object is deleted");
            // Who admits sees it in the version that is asked for.
            let shown = resource.show_one(current.clone()).await?;
            let shown = (!Arc::ptr_eq(&shown, &current)).then(|| shown.value());
            let request = admission::Request {
                registry: self,
                operation: Operation::Delete,
                kind: &resource.kind,
                subresource: "",
                object_kind: None,
                original: None,
                namespace,
                name,
                old: shown.as_ref().or(Some(&old)),
                options: Options::Delete(options),
                who,
                dry_run: options.dry,
            };
            if !options.evicts {
                self.admission.delete(&request).await?;
            }
            let mut plan = Plan::default();
            let marked = beside(&old, &mut plan)?;
            match step(resource, &old, marked, options, now) {
                Step::Nothing => return Ok(Deleted::Marked(resource.show_one(current).await?.body())),
                Step::Remove => {
                    let shown = resource.show_one(current.clone()).await?;
                    if options.dry {
                        return Ok(Deleted::Gone(shown.body()));
                    }
                    resource.hooks.remove(&old, &mut plan);
                    let write = quota::Write { old: Some(&old), new: None };
                    let _charged = self.admission.quotas.turn(&request, write).await;
                    self.admission.quotas.charge(&request, write, &mut plan)?;
                    let own = Txn::delete(key.as_str(), current.revision);
                    plan.txn.conditions.splice(0..0, own.conditions);
                    plan.txn.ops.splice(0..0, own.ops);
                    if let Outcome::Done(revision) = self.commit(plan, who).await? {
                        return Ok(Deleted::Gone(shown.deleted(revision).body()));
                    }
                }
                Step::Mark(new) => {
                    let prefix = current.stored_prefix().to_string();
                    let stored = codec::encode(&prefix, &new);
                    let shown = Arc::new(current.shown_as(stored.clone(), &prefix));
                    let shown = resource.show_one(shown).await?;
                    if options.dry {
                        return Ok(Deleted::Marked(shown.body()));
                    }
                    let own = Txn::replace(key.as_str(), current.revision, stored.clone());
                    plan.txn.conditions.splice(0..0, own.conditions);
                    plan.txn.ops.splice(0..0, own.ops);
                    if let Outcome::Done(revision) = self.commit(plan, who).await? {
                        return Ok(Deleted::Marked(shown.deleted(revision).body()));
                    }
                }
            }
        }
        drop(turn);
        Err(Status::stale(&resource.kind, name))
    }

    /// Deletes all objects of a selection; the answer is what they were.
    pub(crate) async fn delete_collection(
        &self,
        resource: &Resource,
        selection: &Selection,
        list: &ListOptions,
        options: &DeleteOptions,
        who: &Identity,
    ) -> Result<Vec<Arc<Object>>, Status> {
        let listing = self.list(resource, selection, list).await?;
        for object in &listing.objects {
            match self.delete(resource, (object.namespace(), object.name()), options, who).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        Ok(listing.objects)
    }
}

/// The `Status` of a delete that left nothing behind.
pub(crate) fn success(resource: &Resource, name: &str, body: &[u8]) -> Value {
    let uid = serde_json::from_slice::<Value>(body)
        .map(|v| metadata::text(&v, "uid").to_string())
        .unwrap_or_default();
    let mut details = json!({"name": name, "kind": resource.kind.plural, "uid": uid});
    if !resource.kind.group.is_empty() {
        details["group"] = json!(resource.kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn check_preconditions(
    resource: &Resource,
    current: &Object,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let conflict = |what: &str, wanted: &str, ours: &str| {
        let why =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {ours}");
        Err(Status::conflict(&resource.kind, current.name(), &why))
    };
    let uid = metadata::text(old, "uid");
    if let Some(wanted) = &preconditions.uid
        && wanted != uid
    {
        return conflict("UID", wanted, uid);
    }
    let revision = current.revision.to_string();
    match &preconditions.resource_version {
        Some(wanted) if *wanted != revision => conflict("ResourceVersion", wanted, &revision),
        _ => Ok(()),
    }
}

/// The finalizers that the object should have for its dependents' sake.
fn finalizers(resource: &Resource, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let before = metadata::finalizers(old);
    let policy = options.propagation_policy.or_else(|| {
        options
            .orphan_dependents
            .map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background })
    });
    let (orphan, foreground) = match policy {
        Some(policy) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        None if before.contains(&ORPHAN) || before.contains(&FOREGROUND) => {
            (before.contains(&ORPHAN), before.contains(&FOREGROUND))
        }
        None => {
            let policy = resource.hooks.propagation();
            (policy == Propagation::Orphan, policy == Propagation::Foreground)
        }
    };
    let mut after: Vec<String> =
        before.into_iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).map(str::to_string).collect();
    if orphan {
        after.push(ORPHAN.into());
    }
    if foreground {
        after.push(FOREGROUND.into());
    }
    after
}

/// Decides what a delete does now. `new` is the object as it should be where it stays.
fn step(resource: &Resource, old: &Value, mut new: Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let deleting = metadata::is_deleting(old);
    let finalizers = finalizers(resource, old, options);
    let kept = !finalizers.is_empty() || resource.hooks.holds(old);
    let grace = match resource.kind.rules.deletion(old, options.grace_period_seconds) {
        Deletion::Now => 0,
        Deletion::After(seconds) => seconds,
    };
    if grace == 0 && !kept {
        return Step::Remove;
    }
    let Some(meta) = metadata::of(&mut new) else { return Step::Remove };
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), json!(finalizers));
    }
    let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if !deleting || grace < before {
        // A shorter grace counts from the first delete on.
        let asked = text_time(meta.get("deletionTimestamp"))
            .and_then(|t| t.checked_sub(SignedDuration::from_secs(before)).ok())
            .unwrap_or(now);
        let at = asked.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        meta.insert("deletionTimestamp".into(), metadata::format_time(at).into());
        meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|_| !deleting) {
            meta.insert("generation".into(), json!(generation + 1));
        }
        resource.hooks.mark_deleted(&mut new);
    }
    if new == *old { Step::Nothing } else { Step::Mark(new) }
}

fn text_time(value: Option<&Value>) -> Option<Timestamp> {
    value?.as_str()?.parse().ok()
}

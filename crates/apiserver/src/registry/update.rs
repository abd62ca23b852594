//! Changes of what is there: the one way in which an update, a patch, an apply or a subresource writes an object. Reads,
//! changes, checks and writes until nobody interferes, and removes the object when nothing keeps it any longer.

use super::{
    Cx, Part, Plan, Registry, Resource, WriteContext, Written,
    commit::{Outcome, TRIES},
    create::check_size,
    metadata, schema,
};
use crate::{
    admission::{self, quota},
    cache::object::Object,
    request::options::FieldValidation,
};
use orlop_api::{FieldError, Status, metadata::validate_object_meta};
use orlop_store::Txn;
use serde_json::{Value, json};
use std::sync::Arc;

/// A changed object, before the registry's own rules.
pub(crate) struct Change {
    pub object: Value,
    /// Complaints about fields.
    pub warnings: Vec<String>,
    /// Whether managed fields are right already: apply brings its own.
    pub managed: bool,
}

/// A change, ready to be written.
enum Ready {
    /// Nothing changed.
    Same,
    Put(Value, Plan),
    /// It goes, for nothing holds it any more; who asked is shown what it would have been.
    Remove(Value, Plan),
}

impl Registry {
    /// Replaces an object, or its part, by a body (PUT).
    pub(crate) async fn update(
        &self,
        resource: &Resource,
        part: Part,
        (namespace, name): (&str, &str),
        body: schema::Body,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        let kind = &resource.kind;
        let mut value = body.value;
        resource.check_kind(&mut value)?;
        let warnings = resource.conform(&mut value, &body.duplicates, cx.options.field_validation)?;
        let sent = metadata::text(&value, "name");
        if sent != name {
            if sent.is_empty() {
                let error = FieldError::required("metadata.name", "name must be provided");
                return Err(Status::invalid(kind, "", &[error]));
            }
            return Err(Status::bad_request(format!(
                "the name of the object ({sent}) does not match the name on the URL ({name})"
            )));
        }
        if kind.namespaced() {
            let sent = metadata::text(&value, "namespace");
            if !sent.is_empty() && sent != namespace {
                return Err(Status::bad_request(format!(
                    "the namespace of the object ({sent}) does not match the namespace on the URL ({namespace})"
                )));
            }
        }
        let missing = resource.cache.get(&resource.cache.key(namespace, name)).is_none();
        if missing && part == Part::Whole && resource.hooks.creates_on_update() {
            if !metadata::text(&value, "uid").is_empty() {
                return Err(Status::conflict(kind, name, "Precondition failed: the object does not exist"));
            }
            if let Some(meta) = metadata::of(&mut value) {
                meta.remove("resourceVersion");
            }
            let body = self.create_value(resource, namespace, value, cx, true).await?;
            return Ok(Written { body, created: true, warnings });
        }
        if metadata::text(&value, "resourceVersion").is_empty()
            && !resource.hooks.updates_blindly()
            && !missing
        {
            let detail = "must be specified for an update";
            return Err(Status::invalid(
                kind,
                name,
                &[FieldError::invalid("metadata.resourceVersion", 0, detail)],
            ));
        }
        self.modify(resource, part, (namespace, name), cx, |_, _| {
            Ok(Change { object: value.clone(), warnings: warnings.clone(), managed: false })
        })
        .await
    }

    /// Reads, changes and writes an object until nobody interferes. `change` gets the object as it is, and its value.
    pub(crate) async fn modify(
        &self,
        resource: &Resource,
        part: Part,
        (namespace, name): (&str, &str),
        cx: &WriteContext,
        change: impl Fn(&Arc<Object>, &Value) -> Result<Change, Status> + Send,
    ) -> Result<Written, Status> {
        let key = resource.cache.key(namespace, name);
        let mut turn = None;
        for attempt in 0..TRIES {
            if attempt == 1 {
                turn = Some(self.turns.enter(&key).await);
            }
            let current = resource.cache.get(&key).ok_or_else(|| Status::not_found(&resource.kind, name))?;
            let shown = resource.show_one(current.clone()).await?;
            let old = shown.value();
            let changed = change(&shown, &old)?;
            let warnings = changed.warnings.clone();
            let done = |body| Ok(Written { body, created: false, warnings });
            let request = admission::Request::write(
                self,
                &resource.kind,
                part.subresource(),
                (namespace, name),
                Some(&old),
                cx,
            );
            let quotas = &self.admission.quotas;
            let charged;
            let (object, stored, removes, mut plan) =
                match self.ready(resource, part, &old, changed, cx).await? {
                    Ready::Same => return done(shown.body()),
                    Ready::Put(object, mut plan) => {
                        let stored = resource.to_stored(&object).await?;
                        check_size(&stored)?;
                        let write = quota::Write { old: Some(&old), new: Some(&object) };
                        charged = quotas.turn(&request, write).await;
                        quotas.charge(&request, write, &mut plan)?;
                        if cx.options.dry_run {
                            return done(resource.body(&object, &stored, current.revision));
                        }
                        let own = Txn::replace(key.as_str(), current.revision, stored.clone());
                        plan.txn.conditions.splice(0..0, own.conditions);
                        plan.txn.ops.splice(0..0, own.ops);
                        (object, stored, false, plan)
                    }
                    Ready::Remove(object, mut plan) => {
                        let stored = resource.to_stored(&object).await?;
                        let write = quota::Write { old: Some(&old), new: None };
                        charged = quotas.turn(&request, write).await;
                        quotas.charge(&request, write, &mut plan)?;
                        (object, stored, true, plan)
                    }
                };
            if removes {
                if cx.options.dry_run {
                    return done(resource.body(&object, &stored, current.revision));
                }
                let own = Txn::delete(key.as_str(), current.revision);
                plan.txn.conditions.splice(0..0, own.conditions);
                plan.txn.ops.splice(0..0, own.ops);
            }
            match self.commit(plan, &cx.who).await? {
                Outcome::Done(revision) => {
                    // What is gone is shown as it was asked for, in the version that was there last.
                    let revision = if removes { current.revision } else { revision };
                    return done(resource.body(&object, &stored, revision));
                }
                Outcome::Conflict => {}
            }
            drop(charged);
        }
        drop(turn);
        Err(Status::stale(&resource.kind, name))
    }

    /// Everything between the changed object and the transaction.
    async fn ready(
        &self,
        resource: &Resource,
        part: Part,
        old: &Value,
        changed: Change,
        cx: &WriteContext,
    ) -> Result<Ready, Status> {
        let Change { object: mut new, managed, .. } = changed;
        let kind = &resource.kind;
        let name = metadata::text(old, "name");
        let now = self.now();
        let hook_cx = Cx { registry: self, who: &cx.who };
        check_preconditions(resource, old, &new)?;
        metadata::prepare_update(&mut new, old);
        self.carry_over(resource, part, &mut new, old);
        let by_client = !matches!(part, Part::Status | Part::System(_));
        kind.rules.default(&mut new);
        let namespace = metadata::text(old, "namespace");
        let request =
            admission::Request::write(self, kind, part.subresource(), (namespace, name), Some(old), cx);
        let complete = |new: &mut Value| {
            metadata::prepare_update(new, old);
            self.carry_over(resource, part, new, old);
            kind.rules.default(new);
        };
        if part == Part::Other("scale") {
            super::scale::mutate(self, resource, &request, &mut new).await?;
        } else {
            let mutated = self.admission.mutate(&request, &mut new, complete).await?;
            if mutated.by_others {
                resource.conform(&mut new, &[], FieldValidation::Ignore)?;
            }
            if mutated.changed {
                complete(&mut new);
            }
        }
        let mut errors = validate_object_meta(kind, &new);
        errors.extend(orlop_api::metadata::validate_object_meta_update(&new, old));
        if part == Part::Status {
            kind.rules.prepare_status(&mut new, old);
            errors.extend(kind.rules.validate_status(&new, old));
        } else if let Part::Other(name) = part
            && let Some(part) = resource.part(name)
        {
            (part.keep)(&mut new, old);
            errors.extend(kind.rules.validate(&new));
            errors.extend((part.validate)(&new, old));
        } else if by_client {
            kind.rules.prepare_update(&mut new, old);
            errors.extend(kind.rules.validate_change(&new, old));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(kind, name, &errors));
        }
        resource.restrict(&cx.who, part.subresource(), Some(&new), Some(old))?;
        let mut plan = Plan::default();
        if by_client {
            resource.hooks.update(&hook_cx, &mut new, old, &mut plan)?;
        } else if part == Part::Status {
            resource.hooks.update_status(&hook_cx, &mut new, old)?;
        }
        if part == Part::Other("scale") {
            super::scale::validate(self, resource, &request, &new).await?;
        } else {
            self.admission.validate(&request, Some(&new)).await?;
        }
        // What the server itself writes is nobody's new wish.
        if kind.has_generation
            && by_client
            && desired_differs(&new, old, kind.has_status)
            && let Some(meta) = metadata::of(&mut new)
        {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            meta.insert("generation".into(), json!(generation + 1));
        }
        if !managed {
            resource.manage(Some(old), &mut new, part, cx, now)?;
        }
        if metadata::is_deleting(&new)
            && metadata::finalizers(&new).is_empty()
            && !resource.hooks.holds(&new)
            && new.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
        {
            let mut plan = Plan::default();
            resource.hooks.remove(old, &mut plan);
            return Ok(Ready::Remove(new, plan));
        }
        if same(&new, old) && plan.txn.ops.is_empty() {
            return Ok(Ready::Same);
        }
        Ok(Ready::Put(new, plan))
    }

    /// What the part that is written leaves as it is.
    fn carry_over(&self, resource: &Resource, part: Part, new: &mut Value, old: &Value) {
        let kind = &resource.kind;
        if part == Part::Status {
            // All but the status and the metadata comes from the old object.
            let status = new.get("status").cloned();
            let meta = new.get("metadata").cloned();
            *new = old.clone();
            let Some(members) = new.as_object_mut() else { return };
            match status {
                Some(status) => members.insert("status".into(), status),
                None => members.remove("status"),
            };
            if let Some(mut meta) = meta {
                orlop_api::object::carry_over(
                    &mut meta,
                    old.get("metadata").unwrap_or(&Value::Null),
                    "ownerReferences",
                );
                members.insert("metadata".into(), meta);
            }
        } else if kind.has_status && !matches!(part, Part::System(_)) {
            orlop_api::object::carry_over(new, old, "status");
        }
        if let Some(members) = new.as_object_mut() {
            members.insert("apiVersion".into(), kind.api_version().into());
            members.insert("kind".into(), kind.kind.to_string().into());
        }
    }
}

/// 409 where the client means another version, or another object of that name.
fn check_preconditions(resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
    let kind = &resource.kind;
    let name = metadata::text(old, "name");
    let (sent, ours) = (metadata::text(new, "uid"), metadata::text(old, "uid"));
    if !sent.is_empty() && sent != ours {
        let why = format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {ours}");
        return Err(Status::conflict(kind, name, &why));
    }
    let sent = metadata::text(new, "resourceVersion");
    if !sent.is_empty() && sent != "0" && sent != metadata::text(old, "resourceVersion") {
        sent.parse::<u64>().map_err(|_| {
            let error = FieldError::invalid("metadata.resourceVersion", sent, "must be an unsigned integer");
            Status::invalid(kind, name, &[error])
        })?;
        return Err(Status::stale(kind, name));
    }
    for field in ["name", "namespace"] {
        let (sent, ours) = (metadata::text(new, field), metadata::text(old, field));
        if !sent.is_empty() && sent != ours {
            let error = FieldError::invalid(format!("metadata.{field}"), sent, "field is immutable");
            return Err(Status::invalid(kind, name, &[error]));
        }
    }
    Ok(())
}

/// Whether anything but metadata differs, or a status that is written apart: what `generation` counts.
fn desired_differs(new: &Value, old: &Value, has_status: bool) -> bool {
    let counts = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !has_status,
        _ => true,
    };
    let mut a = new.as_object().into_iter().flatten().filter(|(k, _)| counts(k));
    let mut b = old.as_object().into_iter().flatten().filter(|(k, _)| counts(k));
    !a.by_ref().eq(b.by_ref())
}

/// Whether a write would change nothing that matters: times in managed fields do not.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else { return new == old };
    let skip = |k: &String| matches!(k.as_str(), "metadata");
    let rest = |m: &serde_json::Map<String, Value>| m.iter().filter(|(k, _)| !skip(k)).count();
    if rest(a) != rest(b) || a.iter().filter(|(k, _)| !skip(k)).any(|(k, v)| b.get(k) != Some(v)) {
        return false;
    }
    let meta = |m: &serde_json::Map<String, Value>| {
        let mut meta = m.get("metadata").cloned().unwrap_or_default();
        if let Some(fields) = meta.get_mut("managedFields").and_then(Value::as_array_mut) {
            for entry in fields {
                if let Some(entry) = entry.as_object_mut() {
                    entry.remove("time");
                }
            }
        }
        meta
    };
    meta(a) == meta(b)
}

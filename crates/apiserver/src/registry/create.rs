//! Create: a new object is admitted, defaulted, checked, and written with whatever its kind writes beside it.

use super::{
    Cx, Part, Plan, Registry, Resource, WriteContext, Written,
    commit::{Outcome, TRIES},
    metadata, schema,
};
use crate::{
    admission::{self, quota},
    request::{body::MAX_OBJECT, options::FieldValidation},
};
use bytes::Bytes;
use orlop_api::{Status, metadata::validate_object_meta};
use orlop_store::{Revision, Txn};
use serde_json::{Value, json};

/// How often a generated name that is taken is drawn anew.
const NAME_TRIES: usize = 8;

impl Registry {
    /// Creates an object out of a body. `namespace` is that of the path.
    pub(crate) async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        body: schema::Body,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        let mut value = body.value;
        resource.check_kind(&mut value)?;
        let warnings = resource.conform(&mut value, &body.duplicates, cx.options.field_validation)?;
        let body = self.create_value(resource, namespace, value, cx, true).await?;
        Ok(Written { body, created: true, warnings })
    }

    /// Creates an object whose type has been checked. `manage` is false where its managed fields are right already.
    pub(crate) async fn create_value(
        &self,
        resource: &Resource,
        namespace: &str,
        value: Value,
        cx: &WriteContext,
        manage: bool,
    ) -> Result<Bytes, Status> {
        let kind = &resource.kind;
        if let Some(status) = &cx.options.no_create {
            return Err((**status).clone());
        }
        let generated =
            metadata::text(&value, "name").is_empty() && !metadata::text(&value, "generateName").is_empty();
        resource.hooks.await_needs(self, namespace, &value).await;
        let mut names = 0;
        for _ in 0..TRIES {
            let (object, mut plan) = self.prepare(resource, namespace, value.clone(), cx, manage).await?;
            let name = metadata::text(&object, "name").to_string();
            let key = resource.cache.key(metadata::text(&object, "namespace"), &name);
            let stored = resource.to_stored(&object).await?;
            check_size(&stored)?;
            let taken = resource.cache.get(&key).is_some();
            if taken && !generated {
                return Err(Status::already_exists(kind, &name));
            }
            let request = admission::Request::write(self, kind, "", (namespace, &name), None, cx);
            let write = quota::Write { old: None, new: Some(&object) };
            let _turn = self.admission.quotas.turn(&request, write).await;
            self.admission.quotas.charge(&request, write, &mut plan)?;
            if cx.options.dry_run {
                return Ok(dry(resource.body(&object, &stored, Revision(0))));
            }
            if !taken {
                let own = Txn::create(key.as_str(), stored.clone());
                plan.txn.conditions.splice(0..0, own.conditions);
                plan.txn.ops.splice(0..0, own.ops);
                if let Outcome::Done(revision) = self.commit(plan, &cx.who).await? {
                    return Ok(resource.body(&object, &stored, revision));
                }
                if resource.cache.get(&key).is_none() {
                    // Not the name was taken but something that the kind writes beside it.
                    continue;
                }
                if !generated {
                    return Err(Status::already_exists(kind, &name));
                }
            }
            names += 1;
            if names == NAME_TRIES {
                let mut status = Status::already_exists(kind, &name);
                status.message = "the server was not able to generate a unique name for the object".into();
                return Err(status);
            }
        }
        Err(Status::timeout("too many others write at the same time; please try again"))
    }

    /// Everything between the client's object and the transaction.
    async fn prepare(
        &self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        cx: &WriteContext,
        manage: bool,
    ) -> Result<(Value, Plan), Status> {
        let kind = &resource.kind;
        let now = self.now();
        let hook_cx = Cx { registry: self, who: &cx.who };
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let Some(meta) = metadata::of(&mut object) else {
            return Err(Status::bad_request("metadata is not an object"));
        };
        if kind.namespaced() {
            place(meta, namespace)?;
        }
        let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_string();
        if !base.is_empty() && meta.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
            meta.insert(
                "name".into(),
                metadata::generate(&base, metadata::suffix_of((self.random)())).into(),
            );
        }
        let uid = uuid::Builder::from_random_bytes((self.random)().to_le_bytes()).into_uuid();
        metadata::prepare_create(meta, &uid.to_string(), now);
        if kind.has_generation {
            meta.insert("generation".into(), json!(1));
        }
        let name = metadata::text(&object, "name").to_string();
        if kind.namespaced() {
            self.check_namespace(resource, namespace, &name)?;
        }
        if kind.has_status
            && !kind.rules.keeps_status_on_create()
            && let Some(members) = object.as_object_mut()
        {
            members.remove("status");
        }
        resource.hooks.admit_create(&hook_cx, &mut object)?;
        kind.rules.default(&mut object);
        let request = admission::Request::write(self, kind, "", (namespace, &name), None, cx);
        let complete = |object: &mut Value| kind.rules.default(object);
        let mutated = self.admission.mutate(&request, &mut object, complete).await?;
        if mutated.by_others {
            resource.conform(&mut object, &[], FieldValidation::Ignore)?;
        }
        if mutated.changed {
            kind.rules.default(&mut object);
        }
        kind.rules.prepare_create(&mut object);
        let mut errors = validate_object_meta(kind, &object);
        errors.extend(kind.rules.validate(&object));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, &name, &errors));
        }
        resource.restrict(&cx.who, "", Some(&object), None)?;
        let mut plan = Plan::default();
        resource.hooks.create(&hook_cx, &mut object, &mut plan)?;
        self.admission.validate(&request, Some(&object)).await?;
        if manage {
            if let Some(meta) = metadata::of(&mut object) {
                meta.remove("managedFields");
            }
            resource.manage(None, &mut object, Part::Whole, cx, now)?;
        }
        Ok((object, plan))
    }

    /// 404 where the namespace is not there, 403 where it is being deleted.
    fn check_namespace(&self, resource: &Resource, namespace: &str, name: &str) -> Result<(), Status> {
        let Some(namespaces) = self.find("", "v1", "namespaces") else { return Ok(()) };
        let found = namespaces.get("", namespace)?;
        // Cheap before exact: few namespaces are ever on their way out.
        if !found.mentions("\"deletionTimestamp\"") || !metadata::is_deleting(&found.value()) {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(&resource.kind, name, &why);
        if let Some(details) = &mut status.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        Err(status)
    }
}

/// Sets the namespace of the path, which the object's own must not contradict.
pub(crate) fn place(meta: &mut serde_json::Map<String, Value>, namespace: &str) -> Result<(), Status> {
    let sent = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !sent.is_empty() && sent != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta.insert("namespace".into(), namespace.into());
    Ok(())
}

/// What is shown of an object that was not written.
pub(crate) fn dry(shown: Bytes) -> Bytes {
    // Nothing was written, so there is no version.
    let mut value: Value = serde_json::from_slice(&shown).unwrap_or_default();
    if let Some(meta) = metadata::of(&mut value) {
        meta.remove("resourceVersion");
    }
    value.to_string().into()
}

/// 413 for an object that is too large to be kept.
pub(crate) fn check_size(stored: &Bytes) -> Result<(), Status> {
    if stored.len() <= MAX_OBJECT {
        return Ok(());
    }
    Err(Status::too_large(format!(
        "etcdserver: request is too large: the object takes {} bytes, the limit is {MAX_OBJECT}",
        stored.len()
    )))
}

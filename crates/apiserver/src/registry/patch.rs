//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), Kubernetes' strategic merge patch, and server-side apply.

use super::{Part, Registry, Resource, WriteContext, Written, metadata, schema, update::Change};
use bytes::Bytes;
use orlop_api::{FieldError, Status};
use orlop_schema::Duplicate;
use serde_json::{Value, json};

/// The kinds of patch, by their content types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub(crate) fn parse(content_type: &str) -> Result<Self, Status> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
            )),
        }
    }
}

/// A patch, read.
pub(crate) struct Patch {
    pub kind: PatchType,
    value: Value,
    duplicates: Vec<Duplicate>,
}

impl Patch {
    pub(crate) fn read(kind: PatchType, bytes: &Bytes) -> Result<Self, Status> {
        let body = match kind {
            PatchType::Apply => schema::read_yaml(bytes)?,
            _ => schema::read_json(bytes)
                .map_err(|e| Status::bad_request(format!("error decoding patch: {}", e.message)))?,
        };
        Ok(Self { kind, value: body.value, duplicates: body.duplicates })
    }

    /// The patched object. For [`PatchType::Apply`] see [`Registry::patch`].
    pub(crate) fn apply(&self, resource: &Resource, object: &mut Value) -> Result<(), Status> {
        match self.kind {
            PatchType::Json => orlop_schema::patch::json_patch(object, &self.value)?,
            PatchType::Merge => orlop_schema::patch::merge_patch(object, &self.value)?,
            PatchType::Strategic | PatchType::Apply => resource.strategic(object, &self.value)?,
        }
        Ok(())
    }

    /// As [`Patch::apply`], for objects that have no type of the table (`Scale`): a strategic merge is a plain one there.
    pub(crate) fn apply_plain(&self, object: &mut Value) -> Result<(), Status> {
        match self.kind {
            PatchType::Json => orlop_schema::patch::json_patch(object, &self.value)?,
            _ => orlop_schema::patch::merge_patch(object, &self.value)?,
        }
        Ok(())
    }
}

impl Registry {
    /// Patches an object or its part.
    pub(crate) async fn patch(
        &self,
        resource: &Resource,
        part: Part,
        (namespace, name): (&str, &str),
        patch: Patch,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        if patch.kind == PatchType::Apply {
            return self.apply(resource, part, (namespace, name), patch, cx).await;
        }
        if cx.options.force {
            return Err(force_is_for_apply());
        }
        self.modify(resource, part, (namespace, name), cx, |_, old| {
            let mut object = old.clone();
            patch.apply(resource, &mut object)?;
            check_identity(resource, &object, old)?;
            let warnings = resource.conform(&mut object, &patch.duplicates, cx.options.field_validation)?;
            Ok(Change { object, warnings, managed: false })
        })
        .await
    }

    async fn apply(
        &self,
        resource: &Resource,
        part: Part,
        (namespace, name): (&str, &str),
        patch: Patch,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        let kind = &resource.kind;
        let mut config = patch.value;
        resource.check_kind(&mut config)?;
        let warnings =
            resource.conform_applied(&mut config, &patch.duplicates, cx.options.field_validation)?;
        let Some(meta) = metadata::of(&mut config) else {
            return Err(Status::bad_request("metadata is not an object"));
        };
        let sent = meta.get("name").and_then(Value::as_str).unwrap_or_default();
        if !sent.is_empty() && sent != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({sent}) does not match the name on the URL ({name})"
            )));
        }
        if meta.get("managedFields").and_then(Value::as_array).is_some_and(|m| !m.is_empty()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        meta.insert("name".into(), name.into());
        if kind.namespaced() {
            super::create::place(meta, namespace)?;
        }
        let exists = || resource.cache.get(&resource.cache.key(namespace, name)).is_some();
        for _ in 0..super::commit::TRIES {
            if exists() {
                let written = self
                    .modify(resource, part, (namespace, name), cx, |_, old| {
                        let mut object = resource.apply(old, &config, part, cx, self.now())?;
                        // What is compared with the stored version is what the client said, if anything.
                        let version = metadata::text(&config, "resourceVersion");
                        if let Some(meta) = metadata::of(&mut object) {
                            meta.remove("resourceVersion");
                            if !version.is_empty() {
                                meta.insert("resourceVersion".into(), version.into());
                            }
                        }
                        Ok(Change { object, warnings: warnings.clone(), managed: true })
                    })
                    .await;
                match written {
                    // It went away in between: then the apply creates it.
                    Err(status) if status.code == 404 && part == Part::Whole => continue,
                    other => return other,
                }
            }
            if part != Part::Whole {
                return Err(Status::not_found(kind, name));
            }
            if !metadata::text(&config, "uid").is_empty() {
                let why = "Precondition failed: the object does not exist";
                return Err(Status::conflict(kind, name, why));
            }
            let mut live = json!({
                "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name},
            });
            if kind.namespaced() {
                live["metadata"]["namespace"] = json!(namespace);
            }
            let object = resource.apply(&live, &config, part, cx, self.now())?;
            match self.create_value(resource, namespace, object, cx, false).await {
                Err(status) if status.reason == "AlreadyExists" => {}
                Err(status) => return Err(status),
                Ok(body) => return Ok(Written { body, created: true, warnings }),
            }
        }
        Err(Status::stale(kind, name))
    }
}

fn force_is_for_apply() -> Status {
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
    let mut status = Status::new(422, "Invalid", message);
    status.details = Some(json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [
        {"reason": "FieldValueForbidden", "message": "Forbidden: may not be specified for non-apply patch", "field": "force"}
    ]}));
    status
}

/// A patch must not make another object of it.
fn check_identity(resource: &Resource, object: &Value, old: &Value) -> Result<(), Status> {
    let kind = &resource.kind;
    let name = metadata::text(old, "name");
    for field in ["apiVersion", "kind"] {
        if object.get(field) != old.get(field) {
            let sent = object.get(field).cloned().unwrap_or_default();
            return Err(Status::bad_request(format!(
                "the {field} of the object ({}) does not match that of the patched one ({})",
                sent.as_str().unwrap_or_default(),
                old.get(field).and_then(Value::as_str).unwrap_or_default()
            )));
        }
    }
    for field in ["name", "namespace"] {
        let (sent, ours) = (metadata::text(object, field), metadata::text(old, field));
        if sent != ours {
            return Err(if field == "name" {
                let error = FieldError::invalid("metadata.name", sent, "field is immutable");
                Status::invalid(kind, name, &[error])
            } else {
                Status::bad_request(format!(
                    "the namespace of the object ({sent}) does not match the namespace on the URL ({ours})"
                ))
            });
        }
    }
    Ok(())
}

//! The `scale` subresource: autoscaling/v1 `Scale`, read from and written to the fields that the kind names.

use super::{
    Part, Registry, Resource, WriteContext, Written, metadata,
    patch::{Patch, PatchType},
    schema,
    update::Change,
};
use crate::admission::Request;
use bytes::Bytes;
use orlop_api::{FieldError, ScalePaths, Status, selector::Selector};
use serde_json::{Map, Value, json};

fn paths(resource: &Resource) -> Result<&ScalePaths, Status> {
    resource.kind.scale.as_ref().ok_or_else(Status::no_such_resource)
}

/// The `Scale` of an object.
fn view(paths: &ScalePaths, object: &Value) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let selector = match object.pointer(&paths.selector) {
        Some(Value::String(text)) => text.clone(),
        // A ReplicationController's selector is nothing but labels.
        Some(Value::Object(labels)) if labels.values().any(Value::is_string) => {
            let labels = json!({"matchLabels": labels});
            Selector::from_json(Some(&labels)).map(|s| s.to_string()).unwrap_or_default()
        }
        Some(other) => Selector::from_json(Some(other)).map(|s| s.to_string()).unwrap_or_default(),
        None => String::new(),
    };
    let mut meta = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get("metadata").and_then(|m| m.get(field)) {
            meta.insert(field.into(), value.clone());
        }
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas), "selector": selector},
    })
}

impl Registry {
    /// The `Scale` of an object.
    pub(crate) async fn scale(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Bytes, Status> {
        let paths = paths(resource)?;
        let object = resource.show_one(resource.get(namespace, name)?).await?;
        Ok(view(paths, &object.value()).to_string().into())
    }

    /// Replaces the `Scale` of an object.
    pub(crate) async fn update_scale(
        &self,
        resource: &Resource,
        at: (&str, &str),
        body: schema::Body,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        let sent = body.value;
        if sent.get("kind").and_then(Value::as_str).is_some_and(|k| k != "Scale") {
            return Err(Status::bad_request("the body cannot be handled as a Scale"));
        }
        let name = metadata::text(&sent, "name");
        if !name.is_empty() && name != at.1 {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                at.1
            )));
        }
        self.write_scale(resource, at, cx, |_| Ok(sent.clone())).await
    }

    /// Patches the `Scale` of an object.
    pub(crate) async fn patch_scale(
        &self,
        resource: &Resource,
        at: (&str, &str),
        patch: Patch,
        cx: &WriteContext,
    ) -> Result<Written, Status> {
        if patch.kind == PatchType::Apply && paths(resource).is_err() {
            return Err(Status::no_such_resource());
        }
        self.write_scale(resource, at, cx, |mut scale| {
            if let Some(meta) = metadata::of(&mut scale) {
                meta.remove("resourceVersion");
            }
            patch.apply_plain(&mut scale)?;
            Ok(scale)
        })
        .await
    }

    async fn write_scale(
        &self,
        resource: &Resource,
        at: (&str, &str),
        cx: &WriteContext,
        change: impl Fn(Value) -> Result<Value, Status> + Send + Sync,
    ) -> Result<Written, Status> {
        let paths = paths(resource)?;
        let mut written = self
            .modify(resource, Part::Other("scale"), at, cx, |_, old| {
                let scale = change(view(paths, old))?;
                let replicas = match scale.pointer("/spec/replicas") {
                    None | Some(Value::Null) => 0,
                    Some(value) => value.as_i64().filter(|n| i32::try_from(*n).is_ok()).ok_or_else(|| {
                        Status::bad_request("spec.replicas of a Scale is not a number of type int32")
                    })?,
                };
                if replicas < 0 {
                    let detail = "must be greater than or equal to 0";
                    let error = FieldError::invalid("spec.replicas", replicas, detail);
                    let mut status = Status::invalid(&resource.kind, at.1, &[error]);
                    status.message = status.message.replacen(&*resource.kind.kind, "Scale", 1);
                    return Err(status);
                }
                let mut object = old.clone();
                set(&mut object, &paths.spec_replicas, json!(replicas));
                if let Some(meta) = metadata::of(&mut object) {
                    // The client's version, if it said one, is what must still be there.
                    let version = metadata::text(&scale, "resourceVersion");
                    meta.remove("resourceVersion");
                    if !version.is_empty() {
                        meta.insert("resourceVersion".into(), version.into());
                    }
                }
                Ok(Change { object, warnings: Vec::new(), managed: false })
            })
            .await?;
        let value: Value = serde_json::from_slice(&written.body).unwrap_or_default();
        written.body = view(paths, &value).to_string().into();
        Ok(written)
    }
}

/// A write of a `Scale` as admission sees it.
fn asked<'a>(request: &Request<'a>, old: &'a Value) -> Request<'a> {
    Request { old: Some(old), object_kind: Some(("autoscaling", "v1", "Scale")), ..*request }
}

/// Admission's changing phase of the `Scale` of `new`.
pub(super) async fn mutate(
    registry: &Registry,
    resource: &Resource,
    request: &Request<'_>,
    new: &mut Value,
) -> Result<(), Status> {
    let paths = paths(resource)?;
    let old = view(paths, request.old.unwrap_or(&Value::Null));
    let mut scale = view(paths, new);
    registry.admission.mutate(&asked(request, &old), &mut scale, |_| {}).await?;
    if let Some(replicas) = scale.pointer("/spec/replicas").filter(|r| r.is_i64()) {
        set(new, &paths.spec_replicas, replicas.clone());
    }
    Ok(())
}

/// Admission's judging phase of the `Scale` of `new`.
pub(super) async fn validate(
    registry: &Registry,
    resource: &Resource,
    request: &Request<'_>,
    new: &Value,
) -> Result<(), Status> {
    let paths = paths(resource)?;
    let old = view(paths, request.old.unwrap_or(&Value::Null));
    registry.admission.validate(&asked(request, &old), Some(&view(paths, new))).await
}

/// Sets the value at a JSON pointer, making objects on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::kinds;

    #[test]
    fn a_scale_shows_the_numbers_and_the_selector_as_text() {
        let kind = kinds::find("apps", "v1", "deployments").unwrap();
        let object = json!({
            "metadata": {"name": "web", "namespace": "d", "resourceVersion": "4", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 2},
        });
        let scale = view(kind.scale.as_ref().unwrap(), &object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        assert!(scale["metadata"].get("labels").is_none());
        let kind = kinds::find("", "v1", "replicationcontrollers").unwrap();
        let object = json!({"spec": {"replicas": 1, "selector": {"b": "2", "a": "1"}}});
        assert_eq!(view(kind.scale.as_ref().unwrap(), &object)["status"]["selector"], "a=1,b=2");
    }
}

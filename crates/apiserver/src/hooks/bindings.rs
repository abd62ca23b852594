//! `pods/NAME/binding`: the scheduler's word, said once. It may also be posted to `bindings`, where its own name says which
//! pod is meant.

use crate::{
    discovery::Described,
    registry::{Part, SubresourceRequest, WriteContext, metadata, schema, update::Change},
    request::{Target, Verb, WriteOptions},
    response::{self, Response},
};
use bytes::Bytes;
use http::HeaderMap;
use orlop_api::{
    FieldError, Status,
    object::{list, map, text},
};
use serde_json::{Value, json};

const COLLECTION: &str = "bindings";

/// What discovery says of `bindings`.
pub(crate) fn described() -> Described {
    Described {
        group: String::new(),
        version: "v1".into(),
        name: COLLECTION.into(),
        singular: "binding".into(),
        namespaced: true,
        kind: (String::new(), "v1".into(), "Binding".into()),
        verbs: vec!["create"],
        short_names: Vec::new(),
        categories: Vec::new(),
    }
}

/// Where a binding that is posted to `bindings` belongs: at the pod of its name.
pub(crate) fn of_collection(
    target: &Target,
    verb: Verb,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<Target>, Status> {
    if (target.group.as_str(), target.version.as_str(), target.resource.as_str()) != ("", "v1", COLLECTION) {
        return Ok(None);
    }
    if verb != Verb::Create || !target.name.is_empty() || target.namespace.is_empty() {
        return Err(Status::method_not_allowed(
            "the server does not allow this method on the requested resource",
        ));
    }
    let binding = schema::read(headers, body)?.value;
    let name = metadata::text(&binding, "name").to_string();
    if name.is_empty() {
        return Err(Status::bad_request("name is required"));
    }
    let subresource = "binding".into();
    Ok(Some(Target { resource: "pods".into(), name, subresource, ..target.clone() }))
}

/// Binds a pod to the node that the body names.
pub(super) async fn bind(request: &SubresourceRequest) -> Result<Response, Status> {
    let registry = &request.registry;
    let resource = registry.resource(&request.target)?;
    let binding = schema::read(&request.parts.headers, &request.body)?.value;
    if binding.get("kind").and_then(Value::as_str).is_some_and(|k| k != "Binding") {
        return Err(Status::bad_request("the body cannot be handled as a Binding"));
    }
    let name = request.target.name.as_str();
    let sent = metadata::text(&binding, "name");
    if !sent.is_empty() && sent != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({name})"
        )));
    }
    let node = text(&binding, "/target/name");
    if node.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(Status::invalid(&resource.kind, name, &[error]));
    }
    let kind = text(&binding, "/target/kind");
    if !matches!(kind, "" | "Node") {
        let error = FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]);
        return Err(Status::invalid(&resource.kind, name, &[error]));
    }
    let options = WriteOptions::parse(&request.query, "scheduler")?;
    let cx = WriteContext { options, who: request.who.clone() };
    let now = metadata::format_time(registry.now());
    registry
        .modify(&resource, Part::System("binding"), (&request.target.namespace, name), &cx, |_, old| {
            let conflict = |why: &str| Err(Status::conflict(&resource.kind, name, why));
            if metadata::is_deleting(old) {
                return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let bound = text(old, "/spec/nodeName");
            if !bound.is_empty() {
                return conflict(&format!("pod {name} is already assigned to node {bound:?}"));
            }
            if !list(old, "/spec/schedulingGates").is_empty() {
                return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            let mut pod = old.clone();
            let uid = metadata::text(&binding, "uid");
            if !uid.is_empty() && uid != metadata::text(old, "uid") {
                let ours = metadata::text(old, "uid");
                return conflict(&format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {ours}"
                ));
            }
            pod["spec"]["nodeName"] = json!(node);
            for field in ["annotations", "labels"] {
                for (key, value) in map(&binding, &format!("/metadata/{field}")).into_iter().flatten() {
                    pod["metadata"][field][key] = value.clone();
                }
            }
            set_scheduled(&mut pod, &now);
            Ok(Change { object: pod, warnings: Vec::new(), managed: false })
        })
        .await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(response::json(201, &status))
}

/// The condition `PodScheduled` becomes true.
fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    let Some(status) = pod.as_object_mut().map(|p| p.entry("status").or_insert_with(|| json!({}))) else {
        return;
    };
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(conditions) => {
            conditions.retain(|c| text(c, "/type") != "PodScheduled");
            conditions.push(condition);
        }
        None => status["conditions"] = json!([condition]),
    }
}

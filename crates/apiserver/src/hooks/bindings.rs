//! `pods/NAME/binding`: the scheduler's word, said once. It may also be posted to `bindings`, where its own name says which
//! pod is meant.

use crate::{
    discovery::Described,
    registry::{
        Plan, SubresourceRequest,
        commit::{Outcome, TRIES},
        create::check_size,
        metadata, schema,
    },
    request::{Target, Verb, WriteOptions},
    response::{self, Response},
};
use bytes::Bytes;
use http::HeaderMap;
use orlop_api::{
    FieldError, Status,
    object::{map, text},
};
use orlop_store::Txn;
use serde_json::{Value, json, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap};

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
    let now = metadata::format_time(registry.now());
    let key = resource.cache.key(&request.target.namespace, name);
    let mut tries = 0;
    loop {
        let current = resource.cache.get(&key).ok_or_else(|| Status::not_found(&resource.kind, name))?;
        let bound = bound(current.stored(), &resource.cache.body_prefix, &binding, node, &now)
            .map_err(|why| Status::conflict(&resource.kind, name, &why))?;
        check_size(&bound)?;
        if options.dry_run {
            break;
        }
        let plan = Plan { txn: Txn::replace(key.as_str(), current.revision, bound), ..Plan::default() };
        match registry.commit(plan, &request.who).await? {
            Outcome::Done(_) => break,
            Outcome::Conflict if tries == TRIES => return Err(Status::stale(&resource.kind, name)),
            Outcome::Conflict => tries += 1,
        }
    }
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(response::json(201, &status))
}

/// The members of an object, unread.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// A bound pod as the store keeps it, out of one that is not; or why not. As in Kubernetes a binding is nobody's update: it is
/// written into the pod as it is, without a second look at the rest of it.
fn bound(stored: &[u8], prefix: &str, binding: &Value, node: &str, now: &str) -> Result<Bytes, String> {
    let odd = |e: serde_json::Error| format!("it cannot be read: {e}");
    let raw = |value: &Value| serde_json::value::to_raw_value(value).map_err(odd);
    let pod: Members<'_> = serde_json::from_slice(stored).map_err(odd)?;
    let member = |key: &str| match pod.get(key) {
        Some(text) => serde_json::from_str::<Option<Members<'_>>>(text.get()).map(Option::unwrap_or_default),
        None => Ok(Members::new()),
    };
    let mut metadata = member("metadata").map_err(odd)?;
    let mut spec = member("spec").map_err(odd)?;
    let mut status = member("status").map_err(odd)?;
    let read = |members: &Members<'_>, key: &str| {
        members.get(key).and_then(|text| serde_json::from_str::<Value>(text.get()).ok()).unwrap_or_default()
    };
    let uid = read(&metadata, "uid");
    let (ours, sent) = (uid.as_str().unwrap_or_default(), metadata::text(binding, "uid"));
    let name = read(&metadata, "name");
    let name = name.as_str().unwrap_or_default();
    if !read(&metadata, "deletionTimestamp").is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(bound) = read(&spec, "nodeName").as_str().filter(|n| !n.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {bound:?}"));
    }
    if read(&spec, "schedulingGates").as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    if !sent.is_empty() && sent != ours {
        return Err(format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {ours}"));
    }
    let mut given = Vec::new();
    for field in ["annotations", "labels"] {
        let Some(more) = map(binding, &format!("/metadata/{field}")).filter(|m| !m.is_empty()) else {
            continue;
        };
        let mut all = read(&metadata, field);
        for (key, value) in more {
            all[key] = value.clone();
        }
        given.push((field, raw(&all)?));
    }
    metadata.extend(given.iter().map(|(field, all)| (Cow::Borrowed(*field), &**all)));
    let node = raw(&json!(node))?;
    spec.insert("nodeName".into(), &node);
    let conditions = raw(&scheduled(read(&status, "conditions"), now))?;
    status.insert("conditions".into(), &conditions);
    let write = |members: &Members<'_>| serde_json::value::to_raw_value(members).map_err(odd);
    let (spec, status) = (write(&spec)?, write(&status)?);
    let mut rest = pod;
    rest.extend([(Cow::Borrowed("spec"), &*spec), (Cow::Borrowed("status"), &*status)]);
    rest.retain(|key, _| !matches!(&**key, "apiVersion" | "kind" | "metadata"));
    let metadata = write(&metadata)?;
    let rest = write(&rest)?;
    // Both are objects, the second one has members; the prefix goes up to the brace that opens the first.
    let (metadata, rest) = (metadata.get().trim_start_matches('{'), rest.get().trim_start_matches('{'));
    Ok([prefix, metadata, ",", rest].concat().into())
}

/// The conditions of a pod, among which `PodScheduled` is true.
fn scheduled(conditions: Value, now: &str) -> Value {
    let mut conditions = match conditions {
        Value::Array(conditions) => conditions,
        _ => Vec::new(),
    };
    conditions.retain(|c| text(c, "/type") != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    }));
    conditions.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"#;
    const NOW: &str = "2026-01-01T00:00:00Z";

    fn stored(pod: &Value) -> Bytes {
        crate::cache::codec::encode(PREFIX, pod)
    }

    fn bind(pod: &Value, binding: &Value) -> Result<Value, String> {
        let bytes = bound(&stored(pod), PREFIX, binding, "node-1", NOW)?;
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(bytes, stored(&value), "it is as the store keeps objects");
        Ok(value)
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u", "labels": {"a\"": "ä"}},
            "spec": {"containers": [{"name": "c", "args": ["{\"metadata\":", "\\"]}], "schedulingGates": []},
            "status": {"phase": "Pending", "conditions": [{"type": "X"}, {"type": "PodScheduled", "status": "False"}]}})
    }

    #[test]
    fn a_bound_pod_has_its_node_and_says_so_and_is_otherwise_as_it_was() {
        let mut want = pod();
        want["spec"]["nodeName"] = json!("node-1");
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": NOW});
        want["status"]["conditions"] = json!([{"type": "X"}, condition]);
        assert_eq!(bind(&pod(), &json!({"metadata": {"uid": "u"}})), Ok(want.clone()));
        let mut bare = pod();
        bare.as_object_mut().unwrap().remove("status");
        want["status"] = json!({"conditions": [condition]});
        assert_eq!(bind(&bare, &json!({})), Ok(want.clone()));
        let more = json!({"metadata": {"labels": {"zone": "z"}, "annotations": {"by": "me"}}});
        want["metadata"]["labels"]["zone"] = json!("z");
        want["metadata"]["annotations"] = json!({"by": "me"});
        assert_eq!(bind(&bare, &more), Ok(want), "a binding brings labels and annotations");
    }

    #[test]
    fn what_cannot_be_bound_is_told_why() {
        let with = |path: &str, value: Value| {
            let mut pod = pod();
            let (parent, key) = path.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[key] = value;
            bind(&pod, &json!({"metadata": {"uid": "u"}})).unwrap_err()
        };
        assert_eq!(
            with("/metadata/deletionTimestamp", json!(NOW)),
            "pod p is being deleted, cannot be assigned to a host"
        );
        assert_eq!(with("/spec/nodeName", json!("other")), "pod p is already assigned to node \"other\"");
        let gates = json!([{"name": "g"}]);
        assert_eq!(with("/spec/schedulingGates", gates), "pod p has non-empty .spec.schedulingGates");
        let other = "Precondition failed: UID in precondition: u, UID in object meta: v";
        assert_eq!(with("/metadata/uid", json!("v")), other);
    }
}

//! `pods/NAME/eviction` (policy/v1): a delete that may be refused. There are no disruption budgets yet, so it never is.

use crate::{
    registry::{SubresourceRequest, metadata, schema},
    request::DeleteOptions,
    response::{self, Response},
};
use orlop_api::Status;
use serde_json::{Value, json};

/// Evicts a pod.
pub(super) async fn evict(request: &SubresourceRequest) -> Result<Response, Status> {
    let registry = &request.registry;
    let resource = registry.resource(&request.target)?;
    let body = schema::read(&request.parts.headers, &request.body)?.value;
    if body.get("kind").and_then(Value::as_str).is_some_and(|k| k != "Eviction") {
        return Err(Status::bad_request("the body cannot be handled as an Eviction"));
    }
    let name = request.target.name.as_str();
    let sent = metadata::text(&body, "name");
    if !sent.is_empty() && sent != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    if let Ok(pod) = resource.get(&request.target.namespace, name) {
        resource.restrict(&request.who, "eviction", None, Some(&pod.value()))?;
    }
    let options = body.get("deleteOptions").filter(|o| !o.is_null()).cloned();
    let mut options = DeleteOptions::parse(&request.query, options)?;
    options.evicts = true;
    registry.delete(resource, (&request.target.namespace, name), &options, &request.who).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(response::json(201, &status))
}

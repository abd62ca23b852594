//! `log`, `exec`, `attach` and `portforward` of pods, and `proxy` of nodes: which container is meant, and what the node is
//! asked for.

use super::{node::Nodes, upgrade};
use crate::{
    registry::{Registry, SubresourceRequest},
    request::Query,
    response::{self, Body, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, StatusCode, header};
use http_body_util::{BodyExt, Full};
use orlop_api::{
    Status,
    object::{list, text},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Parameters of a log request that the node understands under the same names.
const LOG_PARAMETERS: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Names are made of letters, digits, dashes and dots; whatever else comes is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
/// Parameters of exec and attach, with their names at the node.
const STREAMS: &[(&str, &str)] =
    &[("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

fn names<'a>(pod: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(pod, pointer).iter().map(|c| text(c, "/name")).collect()
}

/// The container that is meant: the named one, or the only one.
fn container(pod: &Value, query: &Query) -> Result<String, Status> {
    let name = text(pod, "/metadata/name");
    let containers = names(pod, "/spec/containers");
    let init = names(pod, "/spec/initContainers");
    let ephemeral = names(pod, "/spec/ephemeralContainers");
    match query.get("container") {
        Some(wanted) if [&containers, &init, &ephemeral].iter().any(|list| list.contains(&wanted)) => {
            Ok(wanted.to_string())
        }
        Some(wanted) => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        None => match (containers.as_slice(), init.is_empty()) {
            ([one], _) => Ok((*one).to_string()),
            ([], _) => Err(Status::bad_request(format!("no containers in pod {name}"))),
            (_, true) => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            ))),
            (_, false) => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}] or one of the init containers: [{}]",
                containers.join(" "),
                init.join(" ")
            ))),
        },
    }
}

/// The node of a pod, or `None` where it has none yet.
fn node_of(registry: &Registry, pod: &Value) -> Result<Option<Value>, Status> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let nodes = registry.find("", "v1", "nodes").ok_or_else(Status::no_such_resource)?;
    Ok(Some(nodes.get("", name)?.value()))
}

/// A path of escaped segments and a query.
fn path(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        out.extend(utf8_percent_encode(segment, ESCAPED));
    }
    if !query.is_empty() {
        out.push('?');
        out.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
    }
    out
}

fn pod(request: &SubresourceRequest) -> Result<Value, Status> {
    let resource = request.registry.resource(&request.target)?;
    Ok(resource.get(&request.target.namespace, &request.target.name)?.value())
}

fn check_log_options(query: &Query) -> Result<(), Status> {
    for key in ["tailLines", "limitBytes", "sinceSeconds"] {
        let least = i64::from(key != "tailLines");
        if query.get(key).is_some_and(|v| !v.parse::<i64>().is_ok_and(|n| n >= least)) {
            let least = if key == "tailLines" { "greater than or equal to 0" } else { "greater than 0" };
            return Err(Status::new(
                422,
                "Invalid",
                format!("PodLogOptions \"\" is invalid: {key}: Invalid value: must be {least}"),
            ));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let message = "PodLogOptions \"\" is invalid: <nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        return Err(Status::new(422, "Invalid", message));
    }
    Ok(())
}

/// `pods/NAME/log`.
pub(crate) async fn log(nodes: &Nodes, request: SubresourceRequest) -> Result<Response, Status> {
    let pod = pod(&request)?;
    let container = container(&pod, &request.query)?;
    check_log_options(&request.query)?;
    // A pod without a node has said nothing yet.
    let Some(node) = node_of(&request.registry, &pod)? else { return Ok(response::text(200, "")) };
    let query: Vec<(&str, &str)> =
        LOG_PARAMETERS.iter().filter_map(|key| Some((*key, request.query.get(key)?))).collect();
    let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
    let uri = path(&["containerLogs", namespace, name, &container], &query);
    let asked = http::Request::get(uri)
        .body(Full::new(Bytes::new()))
        .map_err(|_| Status::bad_request("the path for the node is not valid"))?;
    let answer = nodes.send(&node, asked).await?;
    if answer.status() != StatusCode::OK {
        return Err(upgrade::refusal(answer).await);
    }
    Ok(pass(answer))
}

/// An answer of a node, passed on as it comes.
pub(super) fn pass(answer: http::Response<hyper::body::Incoming>) -> Response {
    let (parts, body) = answer.into_parts();
    let stream = body.into_data_stream().map(|chunk| chunk.map_err(Into::into));
    let mut response = Response::new(Body::stream(stream));
    *response.status_mut() = parts.status;
    let hop = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    for (name, value) in parts.headers.iter().filter(|(name, _)| !hop.contains(name)) {
        response.headers_mut().append(name, value.clone());
    }
    response
}

/// `pods/NAME/exec`, `…/attach` and `…/portforward`.
pub(crate) async fn connect(nodes: &Nodes, request: SubresourceRequest) -> Result<Response, Status> {
    let pod = pod(&request)?;
    let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
    let query = &request.query;
    let wanted: Vec<(&str, &str)> =
        STREAMS.iter().filter(|(ours, _)| query.flag(ours)).map(|(_, theirs)| (*theirs, "1")).collect();
    let uri = match request.target.subresource.as_str() {
        "portforward" => {
            let ports: Vec<(&str, &str)> = query.all("ports").map(|p| ("port", p)).collect();
            path(&["portForward", namespace, name], &ports)
        }
        verb => {
            let container = container(&pod, query)?;
            let mut pairs = wanted;
            if verb == "exec" {
                pairs.extend(query.all("command").map(|c| ("command", c)));
                if query.all("command").next().is_none() {
                    return Err(Status::bad_request(
                        "you must specify at least one command for the container",
                    ));
                }
            }
            if !pairs.iter().any(|(key, _)| matches!(*key, "input" | "output" | "error")) {
                return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
            }
            path(&[verb, namespace, name, &container], &pairs)
        }
    };
    let Some(node) = node_of(&request.registry, &pod)? else {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    };
    if !upgrade::is_wanted(&request.parts.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    upgrade::forward(nodes, &node, request.parts, &uri).await
}

/// `nodes/NAME/proxy/…`.
pub(crate) async fn node_proxy(nodes: &Nodes, request: SubresourceRequest) -> Result<Response, Status> {
    let resource = request.registry.resource(&request.target)?;
    let node = resource.get("", &request.target.name)?.value();
    let mut uri = format!("/{}", request.target.rest);
    if let Some(query) = request.parts.uri.query() {
        uri = format!("{uri}?{query}");
    }
    if upgrade::is_wanted(&request.parts.headers) {
        return upgrade::forward(nodes, &node, request.parts, &uri).await;
    }
    let mut asked = http::Request::builder()
        .method(request.parts.method.clone())
        .uri(uri)
        .body(Full::new(request.body))
        .map_err(|_| Status::bad_request("the path for the node is not valid"))?;
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = request.parts.headers.get(&name) {
            asked.headers_mut().insert(name, value.clone());
        }
    }
    Ok(pass(nodes.send(&node, asked).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_the_named_one_or_the_only_one() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let of = |pod: &Value, query: &str| container(pod, &Query::parse(query)).map_err(|s| s.message);
        assert_eq!(of(&one, ""), Ok("a".into()));
        assert_eq!(of(&one, "container=i"), Ok("i".into()));
        assert_eq!(of(&two, "container=b"), Ok("b".into()));
        assert_eq!(
            of(&two, ""),
            Err("a container name must be specified for pod p, choose one of: [a b]".into())
        );
        assert_eq!(of(&two, "container=c"), Err("container c is not valid for pod p".into()));
    }

    #[test]
    fn what_the_node_is_asked_for_is_escaped() {
        assert_eq!(
            path(&["exec", "default", "web-0", "c"], &[("command", "echo a&b"), ("output", "1")]),
            "/exec/default/web-0/c?command=echo+a%26b&output=1"
        );
        assert_eq!(path(&["a/../b"], &[]), "/a%2F..%2Fb");
    }
}

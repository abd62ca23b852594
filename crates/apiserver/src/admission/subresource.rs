//! Admission of subresources that a kind serves itself: of connections (`exec`, `proxy`), whose object is their options, and of
//! objects that are posted to one (`Binding`, `Eviction`, `TokenRequest`). Those that change the kind's own object are admitted
//! where that is written.

use super::{Operation, Options, Request};
use crate::{
    registry::{Subresource, SubresourceRequest, schema},
    request::{Query, Verb, WriteOptions},
};
use http::{HeaderValue, header};
use orlop_api::{Kind, Status};
use serde_json::{Value, json};

/// Subresources that open a connection, whatever the method.
const CONNECTIONS: &[&str] = &["attach", "exec", "portforward", "proxy"];

/// The options of a connection as an object (core/v1 `PodExecOptions` and its kin).
fn connect_options((group, version, kind): (&str, &str, &str), query: &Query, rest: &str) -> Value {
    let version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    let mut options = json!({"kind": kind, "apiVersion": version});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options[flag] = json!(true);
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = json!(container);
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports: Vec<i64> =
        query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    if !rest.is_empty() {
        options["path"] = json!(format!("/{rest}"));
    }
    options
}

/// Lets a request for a subresource in, or refuses it. What admission changes, the subresource gets.
pub(crate) async fn admit(
    kind: &Kind,
    subresource: &Subresource,
    request: &mut SubresourceRequest,
) -> Result<(), Status> {
    let connects = CONNECTIONS.contains(&subresource.name);
    if !connects && request.verb != Verb::Create {
        return Ok(());
    }
    let target = &request.target;
    let options = WriteOptions::parse(&request.query, "")?;
    let object_kind = if connects && subresource.name == "proxy" {
        // Discovery shows what is proxied; the options have a kind of their own.
        let name = if kind.plural == "nodes" { "NodeProxyOptions" } else { "PodProxyOptions" };
        ("", "v1", if kind.plural == "services" { "ServiceProxyOptions" } else { name })
    } else {
        subresource.kind
    };
    let mut object = if connects {
        connect_options(object_kind, &request.query, &target.rest)
    } else {
        schema::read(&request.parts.headers, &request.body)?.value
    };
    let asked = Request {
        registry: &request.registry,
        operation: if connects { Operation::Connect } else { Operation::Create },
        kind,
        subresource: subresource.name,
        object_kind: Some(object_kind),
        original: None,
        namespace: &target.namespace,
        name: &target.name,
        old: None,
        options: if connects { Options::None } else { Options::Write(&options) },
        who: &request.who,
        dry_run: options.dry_run,
    };
    let changed = request.registry.admission.admit(&asked, &mut object).await?;
    if changed && !connects {
        request.body = object.to_string().into();
        request.parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_judged_by_its_options() {
        let query = Query::parse("command=ls&command=-l&container=c&stdin=true&tty=false");
        let options = connect_options(("", "v1", "PodExecOptions"), &query, "");
        assert_eq!(
            options,
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "container": "c", "command": ["ls", "-l"]})
        );
        let options = connect_options(("", "v1", "NodeProxyOptions"), &Query::default(), "metrics");
        assert_eq!(options["path"], "/metrics");
    }
}

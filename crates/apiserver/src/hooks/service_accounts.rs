//! ServiceAccount: `token` makes short-lived tokens, bound to what they are used by (authentication.k8s.io/v1
//! `TokenRequest`).

use crate::{
    identity::node,
    registry::{Hooks, Registry, Subresource, SubresourceRequest, metadata, schema},
    response::{self, Response},
};
use async_trait::async_trait;
use orlop_api::{
    FieldError, Kind, Status,
    object::{int, list, text},
};
use orlop_pki::{Claims, ObjectRef, ServiceAccountKey, token::KubernetesClaims};
use serde_json::{Value, json};
use std::sync::Arc;

/// Seconds that a token is valid if the client does not say.
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest time that may be asked for.
const LEAST_SECONDS: i64 = 600;
/// The longest time that is given: a year.
const MOST_SECONDS: i64 = 365 * 24 * 3600;

pub(super) struct ServiceAccounts {
    pub key: Option<Arc<ServiceAccountKey>>,
    pub issuer: String,
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<ObjectRef>,
    node: Option<ObjectRef>,
    secret: Option<ObjectRef>,
}

fn reference(object: &Value) -> ObjectRef {
    ObjectRef { name: metadata::text(object, "name").into(), uid: metadata::text(object, "uid").into() }
}

/// Finds what the request binds the token to, and checks that it may be.
fn bound(
    registry: &Registry,
    kind: &Kind,
    namespace: &str,
    name: &str,
    spec: &Value,
) -> Result<Bound, Status> {
    let Some(wanted) = spec.get("boundObjectRef").filter(|r| r.is_object()) else {
        return Ok(Bound::default());
    };
    let (its_kind, its_name, uid) = (text(wanted, "/kind"), text(wanted, "/name"), text(wanted, "/uid"));
    let (plural, place) = match its_kind {
        "Pod" => ("pods", namespace),
        "Secret" => ("secrets", namespace),
        "Node" => ("nodes", ""),
        other => {
            let error =
                FieldError::not_supported("spec.boundObjectRef.kind", other, &["Pod", "Secret", "Node"]);
            return Err(Status::invalid(kind, name, &[error]));
        }
    };
    let resource = registry.find("", "v1", plural).ok_or_else(Status::no_such_resource)?;
    let object = resource.get(place, its_name)?.value();
    if !uid.is_empty() && uid != metadata::text(&object, "uid") {
        let ours = metadata::text(&object, "uid");
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated: {ours}"
        );
        return Err(Status::conflict(&resource.kind, its_name, &why));
    }
    let mut bound = Bound::default();
    match its_kind {
        "Pod" => {
            if text(&object, "/spec/serviceAccountName") != name {
                let detail = format!(
                    "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
                );
                let error = FieldError::invalid("spec.boundObjectRef", its_name, detail);
                return Err(Status::invalid(kind, name, &[error]));
            }
            let node = text(&object, "/spec/nodeName");
            let nodes = registry.find("", "v1", "nodes");
            bound.node = nodes.and_then(|n| n.get("", node).ok()).map(|n| reference(&n.value()));
            bound.pod = Some(reference(&object));
        }
        "Secret" => bound.secret = Some(reference(&object)),
        _ => bound.node = Some(reference(&object)),
    }
    Ok(bound)
}

#[async_trait]
impl Hooks for ServiceAccounts {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn subresources(&self) -> &'static [Subresource] {
        &[Subresource {
            name: "token",
            kind: ("authentication.k8s.io", "v1", "TokenRequest"),
            verbs: &["create"],
        }]
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        let Some(key) = &self.key else {
            return Err(Status::unavailable("this server was started without a key for tokens"));
        };
        let registry = &request.registry;
        let resource = registry.resource(&request.target)?;
        let (namespace, name) = (request.target.namespace.as_str(), request.target.name.as_str());
        let account = resource.get(namespace, name)?.value();
        let mut body = schema::read(&request.parts.headers, &request.body)?.value;
        if body.get("kind").and_then(Value::as_str).is_some_and(|k| k != "TokenRequest") || !body.is_object()
        {
            return Err(Status::bad_request("the body cannot be handled as a TokenRequest"));
        }
        if let Some(node) = node::name_of(&request.who) {
            let pod = |name: &str| Some(registry.find("", "v1", "pods")?.get(namespace, name).ok()?.value());
            node::restriction::check_token(node, &body, pod)
                .map_err(|why| Status::forbidden(&resource.kind, name, &why))?;
        }
        let spec = body.get("spec").cloned().unwrap_or_else(|| json!({}));
        let seconds = int(&spec, "/expirationSeconds").unwrap_or(DEFAULT_SECONDS);
        if seconds < LEAST_SECONDS {
            let detail = "may not specify a duration less than 10 minutes";
            let error = FieldError::invalid("spec.expirationSeconds", seconds, detail);
            return Err(Status::invalid(&resource.kind, name, &[error]));
        }
        let seconds = seconds.min(MOST_SECONDS);
        let mut audiences: Vec<String> =
            list(&spec, "/audiences").iter().filter_map(Value::as_str).map(str::to_string).collect();
        if audiences.is_empty() {
            audiences.push(self.issuer.clone());
        }
        let Bound { pod, node, secret } = bound(registry, &resource.kind, namespace, name, &spec)?;
        let now = registry.now();
        let ends = now.as_second() + seconds;
        // The token that every pod gets lives on for programs that do not read it anew, but its use is noted.
        let extended = pod.is_some()
            && seconds == super::service_account_admission::TOKEN_SECONDS
            && audiences == [self.issuer.clone()];
        let claims = Claims {
            aud: audiences.clone(),
            exp: if extended { now.as_second() + MOST_SECONDS } else { ends },
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes: KubernetesClaims {
                namespace: namespace.into(),
                serviceaccount: reference(&account),
                pod,
                node,
                secret,
                warnafter: extended.then_some(ends),
            },
        };
        let token = key.sign(&claims).map_err(|error| {
            tracing::error!(%error, "a token could not be signed");
            Status::internal("the token could not be signed")
        })?;
        let expires = jiff::Timestamp::from_second(ends).unwrap_or(now);
        body["kind"] = json!("TokenRequest");
        body["apiVersion"] = json!("authentication.k8s.io/v1");
        body["metadata"] = json!({
            "name": name, "namespace": namespace, "creationTimestamp": metadata::format_time(now),
        });
        let mut spec = spec;
        spec["audiences"] = json!(audiences);
        spec["expirationSeconds"] = json!(seconds);
        body["spec"] = spec;
        body["status"] = json!({"token": token, "expirationTimestamp": metadata::format_time(expires)});
        Ok(response::json(201, &body))
    }
}

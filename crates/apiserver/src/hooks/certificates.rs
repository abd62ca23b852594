//! CertificateSigningRequest: who asks is written down, and approving or signing takes a right over the signer
//! (Kubernetes documentation, "Certificates and Certificate Signing Requests").

use crate::{
    identity::{Attributes, Identity, authorize::Authorization},
    registry::{
        Cx, Hooks, Part, Plan, Subresource, SubresourceRequest, WriteContext, metadata,
        patch::{Patch, PatchType},
        schema,
        update::Change,
    },
    request::{Verb, WriteOptions, body},
    response::{self, Response},
};
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use orlop_api::{
    FieldError, Kind, Status,
    kinds::certificate_signing_request::{time_conditions, validate_decision},
    object::text,
};
use orlop_pki::signing_request;
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct Certificates {
    pub kind: Kind,
    pub authorization: Arc<Authorization>,
}

impl Certificates {
    /// Whether somebody may approve for a signer, or sign as it.
    fn check(&self, who: &Identity, verb: &str, deed: &str, request: &Value) -> Result<(), Status> {
        let signer = text(request, "/spec/signerName");
        let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
        let may = |name: &str| {
            let what = Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::default() };
            self.authorization.allows(who, &what)
        };
        if may(signer) || may(&format!("{domain}/*")) {
            return Ok(());
        }
        let why = format!("user not permitted to {deed} requests with signerName {signer:?}");
        Err(Status::forbidden(&self.kind, metadata::text(request, "name"), &why))
    }
}

#[async_trait]
impl Hooks for Certificates {
    fn admit_create(&self, cx: &Cx<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        for field in ["uid", "extra"] {
            spec.remove(field);
        }
        spec.insert("username".into(), json!(cx.who.user));
        spec.insert("groups".into(), json!(cx.who.groups));
        if !cx.who.uid.is_empty() {
            spec.insert("uid".into(), json!(cx.who.uid));
        }
        if !cx.who.extra.is_empty() {
            spec.insert("extra".into(), json!(cx.who.extra));
        }
        Ok(())
    }

    fn create(&self, _cx: &Cx<'_>, object: &mut Value, _plan: &mut Plan) -> Result<(), Status> {
        let name = metadata::text(object, "name");
        let pem = BASE64_STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
        let subject = signing_request::subject(&String::from_utf8_lossy(&pem)).map_err(|e| {
            let error = FieldError::invalid("spec.request", text(object, "/spec/request"), e.to_string());
            Status::invalid(&self.kind, name, &[error])
        })?;
        let masters = subject.organizations.iter().any(|o| o == crate::identity::MASTERS);
        if masters && text(object, "/spec/signerName") == CLIENT_SIGNER {
            let why = format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed");
            return Err(Status::forbidden(&self.kind, name, &why));
        }
        Ok(())
    }

    fn update_status(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
        time_conditions(new, old, &metadata::format_time(cx.registry.now()));
        let decided = |object: &Value| {
            let of = |field: &str| object.get("status").and_then(|s| s.get(field)).cloned();
            (of("certificate"), of("conditions"))
        };
        if decided(new) == decided(old) { Ok(()) } else { self.check(cx.who, "sign", "sign", old) }
    }

    fn subresources(&self) -> &'static [Subresource] {
        &[Subresource {
            name: "approval",
            kind: (GROUP, "v1", "CertificateSigningRequest"),
            verbs: &["get", "patch", "update"],
        }]
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        let registry = &request.registry;
        let found = registry.resource(&request.target)?;
        let resource = &*found;
        let name = request.target.name.as_str();
        let headers = &request.parts.headers;
        if request.verb == Verb::Get {
            return Ok(response::bytes(200, "application/json", resource.get("", name)?.body()));
        }
        let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let options = WriteOptions::parse(&request.query, agent)?;
        let cx = WriteContext { options, who: request.who.clone() };
        // What the client makes of the request as it is.
        let changed: Box<dyn Fn(&Value) -> Result<Value, Status> + Send + Sync> =
            if request.verb == Verb::Patch {
                let patch = Patch::read(PatchType::parse(&body::content_type(headers))?, &request.body)?;
                Box::new(move |old| {
                    let mut object = old.clone();
                    patch.apply(resource, &mut object)?;
                    resource.conform(&mut object, &[], Default::default())?;
                    Ok(object)
                })
            } else {
                let mut value = schema::read(headers, &request.body)?.value;
                resource.check_kind(&mut value)?;
                resource.conform(&mut value, &[], Default::default())?;
                let sent = metadata::text(&value, "name");
                if sent != name {
                    return Err(Status::bad_request(format!(
                        "the name of the object ({sent}) does not match the name on the URL ({name})"
                    )));
                }
                Box::new(move |_| Ok(value.clone()))
            };
        let written = registry
            .modify(resource, Part::System("approval"), ("", name), &cx, |_, old| {
                let sent = changed(old)?;
                let mut new = old.clone();
                // Whatever else it says about itself may be said with the decision.
                new["metadata"] = sent.get("metadata").cloned().unwrap_or_else(|| json!({}));
                if let Some(conditions) = sent.pointer("/status/conditions") {
                    new["status"]["conditions"] = conditions.clone();
                }
                time_conditions(&mut new, old, &metadata::format_time(registry.now()));
                let errors = validate_decision(&new, old, true);
                if !errors.is_empty() {
                    return Err(Status::invalid(&self.kind, name, &errors));
                }
                self.check(&cx.who, "approve", "approve", old)?;
                Ok(Change { object: new, warnings: Vec::new(), managed: false })
            })
            .await?;
        Ok(response::bytes(200, "application/json", written.body))
    }
}

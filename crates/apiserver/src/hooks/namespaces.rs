//! Namespace: deleted only when it is empty. A delete marks it; the namespace controller empties it and then takes away the
//! last of `spec.finalizers` through the `finalize` subresource.

use crate::{
    registry::{
        Cx, Hooks, Part, Subresource, SubresourceRequest, WriteContext, metadata, schema, update::Change,
    },
    request::{Verb, WriteOptions},
    response::{self, Response},
};
use async_trait::async_trait;
use orlop_api::Status;
use serde_json::{Value, json};

/// Namespaces that a cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct Namespaces;

fn finalizers(object: &Value) -> usize {
    orlop_api::object::len(object, "/spec/finalizers")
}

#[async_trait]
impl Hooks for Namespaces {
    fn admit_delete(&self, _cx: &Cx<'_>, object: &Value) -> Result<(), Status> {
        let name = metadata::text(object, "name");
        if IMMORTAL.contains(&name) {
            let mut status = Status::new(
                403,
                "Forbidden",
                format!("namespaces {name:?} is forbidden: this namespace may not be deleted"),
            );
            status.details = Some(json!({"name": name, "kind": "namespaces"}));
            return Err(status);
        }
        Ok(())
    }

    fn mark_deleted(&self, object: &mut Value) {
        object["status"]["phase"] = json!("Terminating");
    }

    fn holds(&self, object: &Value) -> bool {
        finalizers(object) > 0
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn deletes_collections(&self) -> bool {
        false
    }

    fn subresources(&self) -> &'static [Subresource] {
        &[Subresource { name: "finalize", kind: ("", "v1", "Namespace"), verbs: &["update"] }]
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        if request.verb != Verb::Update {
            return Err(Status::no_such_resource());
        }
        let registry = &request.registry;
        let resource = registry.resource(&request.target)?;
        let mut sent = schema::read(&request.parts.headers, &request.body)?.value;
        resource.check_kind(&mut sent)?;
        let finalizers = sent.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
        let options = WriteOptions::parse(&request.query, "finalize")?;
        let cx = WriteContext { options, who: request.who.clone() };
        let written = registry
            .modify(&resource, Part::System("finalize"), ("", &request.target.name), &cx, |_, old| {
                let mut object = old.clone();
                object["spec"]["finalizers"] = finalizers.clone();
                if let Some(meta) = metadata::of(&mut object) {
                    meta.remove("resourceVersion");
                    for field in ["resourceVersion", "uid"] {
                        let sent = metadata::text(&sent, field);
                        if !sent.is_empty() {
                            meta.insert(field.into(), sent.into());
                        }
                    }
                }
                Ok(Change { object, warnings: Vec::new(), managed: false })
            })
            .await?;
        Ok(response::bytes(200, "application/json", written.body))
    }
}

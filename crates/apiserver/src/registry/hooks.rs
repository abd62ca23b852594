//! What a kind may add to the generic registry on the server's side: admission, keys written in the same transaction,
//! subresources. The hooks themselves are in `crate::hooks`, one file a kind.

use super::Registry;
use crate::{
    Identity,
    request::{Query, Target, Verb, options::Propagation},
    response::Response,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use orlop_api::{FieldError, Status};
use orlop_store::Txn;
use serde_json::Value;
use std::sync::Arc;

/// What hooks may look at.
pub(crate) struct Cx<'a> {
    pub registry: &'a Registry,
    /// Who writes.
    pub who: &'a Identity,
}

/// A request for a subresource that a kind serves itself.
pub(crate) struct SubresourceRequest {
    pub registry: Arc<Registry>,
    /// Who asks.
    pub who: Arc<Identity>,
    pub verb: Verb,
    pub target: Target,
    pub query: Query,
    /// Method, URI and headers, and in the extensions what turns the connection over (`hyper::upgrade::OnUpgrade`).
    pub parts: Parts,
    pub body: Bytes,
}

/// A subresource as discovery lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what is sent.
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

/// A part of the kind's own object that is written apart from the rest, with rules of its own.
pub(crate) struct ObjectPart {
    pub name: &'static str,
    /// Makes the new object the old one but for the part.
    pub keep: fn(&mut Value, &Value),
    /// What is wrong with the change from the old object (the second).
    pub validate: fn(&Value, &Value) -> Vec<FieldError>,
}

/// A transaction in the making.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub txn: Txn,
    /// Keys of the transaction whose conflict is final, with the answer; a conflict on any other is tried again.
    pub wanted: Vec<(Arc<str>, Status)>,
}

/// What a kind adds. The defaults add nothing.
#[async_trait]
pub(crate) trait Hooks: Send + Sync {
    /// Waits for what a new object needs and what is on its way.
    async fn await_needs(&self, _registry: &Registry, _namespace: &str, _object: &Value) {}

    /// Admission of a new object, before defaults.
    fn admit_create(&self, _cx: &Cx<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// The last look at a valid new object; may write further keys.
    fn create(&self, _cx: &Cx<'_>, _object: &mut Value, _plan: &mut Plan) -> Result<(), Status> {
        Ok(())
    }

    /// The last look at a valid change; may write further keys.
    fn update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value, _plan: &mut Plan) -> Result<(), Status> {
        Ok(())
    }

    /// The last look at a valid change of the status.
    fn update_status(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) -> Result<(), Status> {
        Ok(())
    }

    /// The object goes for good: its further keys go with it.
    fn remove(&self, _old: &Value, _plan: &mut Plan) {}

    /// Whether the object may be deleted at all.
    fn admit_delete(&self, _cx: &Cx<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }

    /// What a delete changes besides `metadata`, where the object stays for now.
    fn mark_deleted(&self, _object: &mut Value) {}

    /// Whether something besides `metadata.finalizers` keeps a deleted object.
    fn holds(&self, _object: &Value) -> bool {
        false
    }

    /// What becomes of dependents when the client does not say.
    fn propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// Whether a delete answers with the object that is gone, instead of a `Status`.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// Whether all objects may be deleted at once.
    fn deletes_collections(&self) -> bool {
        true
    }

    /// Whether an update of what is not there creates it.
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Whether an update needs no `resourceVersion`.
    fn updates_blindly(&self) -> bool {
        true
    }

    /// Parts of the object that are subresources like `status`.
    fn parts(&self) -> &'static [ObjectPart] {
        &[]
    }

    /// Subresources besides `status`, `scale` and [`Hooks::parts`].
    fn subresources(&self) -> &'static [Subresource] {
        &[]
    }

    /// Serves one of [`Hooks::subresources`].
    async fn serve(&self, _request: SubresourceRequest) -> Result<Response, Status> {
        Err(Status::no_such_resource())
    }
}

/// A kind without hooks.
pub(crate) struct Plain;

#[async_trait]
impl Hooks for Plain {}

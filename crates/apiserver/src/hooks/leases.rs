//! Lease, and other small objects that their writers do not want to create first: Event, Endpoints. A Lease with the annotation
//! [`FENCED`] has an entry beside it that is written when somebody takes it, for the writes of its holder to depend on.

use crate::registry::{Cx, Hooks, Plan, metadata};
use bytes::Bytes;
use orlop_api::Status;
use orlop_store::Op;
use serde_json::Value;

/// The annotation of Leases that have a fence.
pub const FENCED: &str = "orlop.dev/fenced";

/// The key of a Lease's fence.
pub(crate) fn fence_key(namespace: &str, name: &str) -> String {
    format!("/registry/orlop.dev/fences/{namespace}/{name}")
}

/// Lease.
pub(super) struct Leases;

fn key(lease: &Value) -> Option<String> {
    let fenced = lease.pointer("/metadata/annotations")?.get(FENCED)?;
    (fenced == "true").then(|| fence_key(metadata::text(lease, "namespace"), metadata::text(lease, "name")))
}

fn holder(lease: &Value) -> &str {
    lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default()
}

/// What is another one in each term: also who leads again, without anybody else in between, begins a new one.
fn term(lease: &Value) -> [Option<&Value>; 3] {
    ["/spec/holderIdentity", "/spec/leaseTransitions", "/spec/acquireTime"].map(|field| lease.pointer(field))
}

/// Writes the fence.
fn raise(lease: &Value, plan: &mut Plan) {
    if let Some(key) = key(lease) {
        plan.txn.ops.push(Op::Put(key.into(), Bytes::copy_from_slice(holder(lease).as_bytes())));
    }
}

impl Hooks for Leases {
    fn create(&self, _cx: &Cx<'_>, object: &mut Value, plan: &mut Plan) -> Result<(), Status> {
        raise(object, plan);
        Ok(())
    }

    fn update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value, plan: &mut Plan) -> Result<(), Status> {
        let taken = term(new) != term(old) && !holder(new).is_empty();
        if taken || key(old).is_none() {
            raise(new, plan);
        }
        Ok(())
    }

    fn remove(&self, old: &Value, plan: &mut Plan) {
        if let Some(key) = key(old) {
            plan.txn.ops.push(Op::Delete(key.into()));
        }
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn updates_blindly(&self) -> bool {
        false
    }
}

/// Kinds that an update creates.
pub(super) struct CreatedByUpdate {
    /// Whether an update needs no `resourceVersion`: a Lease is held only by who knows what was there before.
    pub blindly: bool,
}

impl Hooks for CreatedByUpdate {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn updates_blindly(&self) -> bool {
        self.blindly
    }
}

//! PersistentVolumeClaimResize: a claim may grow only if its storage class says that its volumes can.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{flag, text},
    quantity::Quantity,
};
use serde_json::Value;

pub(super) struct PersistentVolumeClaimResize;

fn storage(claim: &Value) -> Quantity {
    claim
        .pointer("/spec/resources/requests/storage")
        .and_then(|q| Quantity::from_json(q).ok())
        .unwrap_or_default()
}

impl Plugin for PersistentVolumeClaimResize {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is("", "persistentvolumeclaims")
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(()) };
        if storage(new) <= storage(old) {
            return Ok(());
        }
        let name = text(new, "/spec/storageClassName");
        let class = request.look_up(("storage.k8s.io", "v1", "storageclasses"), "", name);
        if class.is_some_and(|c| flag(&c, "/allowVolumeExpansion")) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

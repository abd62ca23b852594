//! ServiceAccount: a pod gets its service account, which must exist, and what comes with it.

use crate::{
    admission::{Operation, Plugin, Request},
    hooks::service_account_admission as account,
    registry::metadata,
};
use orlop_api::Status;
use serde_json::Value;

pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods")
    }

    fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if account::is_mirror(pod) || !pod.get("spec").is_some_and(Value::is_object) {
            return Ok(());
        }
        let (namespace, name) = (request.namespace, account::name(pod));
        let found = request.look_up(("", "v1", "serviceaccounts"), namespace, name).ok_or_else(|| {
            request.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))
        })?;
        let random = (request.registry.random)();
        account::admit(pod, &found, metadata::suffix_of(random));
        Ok(())
    }
}

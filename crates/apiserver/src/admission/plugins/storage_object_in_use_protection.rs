//! StorageObjectInUseProtection: volumes and claims get the finalizer that keeps them while they are in use. A controller takes
//! it away.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::Status;
use serde_json::{Value, json};

const FINALIZERS: [(&str, &str); 2] = [
    ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("persistentvolumes", "kubernetes.io/pv-protection"),
];

pub(super) struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && FINALIZERS.iter().any(|(plural, _)| request.is("", plural))
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let Some((_, finalizer)) = FINALIZERS.iter().find(|(plural, _)| request.is("", plural)) else {
            return Ok(());
        };
        protect(object, finalizer);
        Ok(())
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    let Some(meta) = orlop_api::object::child(object, "metadata") else { return };
    match meta.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) if list.iter().any(|f| f == finalizer) => {}
        Some(list) => list.push(json!(finalizer)),
        None => meta["finalizers"] = json!([finalizer]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_is_added_once() {
        let mut claim = json!({"metadata": {"finalizers": ["mine"]}});
        protect(&mut claim, "p");
        protect(&mut claim, "p");
        assert_eq!(claim["metadata"]["finalizers"], json!(["mine", "p"]));
    }
}

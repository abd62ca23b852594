//! What definitions and custom objects add to the registry: a definition that is deleted stays until its objects are gone, and
//! meanwhile nobody makes new ones.

use crate::registry::{Cx, Hooks, metadata};
use async_trait::async_trait;
use orlop_api::Status;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

/// Of CustomResourceDefinitions.
pub(crate) struct Definitions;

#[async_trait]
impl Hooks for Definitions {
    fn mark_deleted(&self, object: &mut Value) {
        let Some(meta) = metadata::of(object) else { return };
        let finalizers = meta.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut()
            && !finalizers.iter().any(|f| f == orlop_custom::definition::FINALIZER)
        {
            finalizers.push(orlop_custom::definition::FINALIZER.into());
        }
    }

    /// The first delete only marks it.
    fn holds(&self, object: &Value) -> bool {
        !metadata::is_deleting(object)
    }

    fn updates_blindly(&self) -> bool {
        false
    }
}

/// Of custom objects.
#[derive(Default)]
pub(crate) struct CustomResources {
    terminating: AtomicBool,
}

impl CustomResources {
    /// Their definition is being deleted.
    pub(crate) fn terminate(&self) {
        self.terminating.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Hooks for CustomResources {
    fn admit_create(&self, _cx: &Cx<'_>, _object: &mut Value) -> Result<(), Status> {
        if self.terminating.load(Ordering::Acquire) {
            return Err(Status::method_not_allowed(
                "create not allowed while custom resource definition is terminating",
            ));
        }
        Ok(())
    }

    fn updates_blindly(&self) -> bool {
        false
    }
}

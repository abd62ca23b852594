//! Kinds of which a delete answers with the object, as clients of Kubernetes have always seen it: storage, templates, quotas.

use crate::registry::Hooks;

/// See the module.
pub(super) struct Returned;

impl Hooks for Returned {
    fn returns_deleted(&self) -> bool {
        true
    }
}

//! Lease, and other small objects that their writers do not want to create first: Event, Endpoints.

use crate::registry::Hooks;

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

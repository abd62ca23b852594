//! Job and ReplicationController: their pods outlive them unless the client says otherwise, a promise of batch/v1 and core/v1
//! that is kept.

use crate::{registry::Hooks, request::options::Propagation};

pub(super) struct Orphaning;

impl Hooks for Orphaning {
    fn propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

//! Job: its pods outlive it unless the client says otherwise, a promise of batch/v1 that is kept.

use crate::{registry::Hooks, request::options::Propagation};

pub(super) struct Jobs;

impl Hooks for Jobs {
    fn propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

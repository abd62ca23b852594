//! Admission: what a cluster's owner lets into the state, beyond what is valid. A write passes here twice: first everything
//! that may change the object (plugins, then webhooks), then, when the object is complete and valid, everything that may only
//! refuse it. Never writes to the store: what a rule wants written goes into the transaction of the object itself.

// What webhooks and policies will read is filled in already.
#[allow(dead_code)]
pub(crate) mod notes;
mod plugins;
#[allow(dead_code)]
mod request;
pub(crate) mod subresource;

pub(crate) use request::{Operation, Options, Request};

use orlop_api::Status;
use serde_json::Value;

/// A built-in rule. What it needs to know besides the request it reads from the registry's caches, so it never waits.
pub(crate) trait Plugin: Send + Sync {
    /// Whether it has a say. Cheap: every write asks every plugin.
    fn handles(&self, request: &Request<'_>) -> bool;

    /// Changes the object, before it is checked. Runs again after webhooks have changed the object, so it must be idempotent.
    fn mutate(&self, _request: &Request<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Judges the valid object; there is none in a delete.
    fn validate(&self, _request: &Request<'_>, _object: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}

/// All that has a say, in order.
pub(crate) struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self { plugins: plugins::all() }
    }

    fn interested<'a>(&'a self, request: &'a Request<'a>) -> impl Iterator<Item = &'a dyn Plugin> {
        self.plugins.iter().map(|p| &**p).filter(|p| p.handles(request))
    }

    /// The changing phase. Tells whether the object may have changed.
    pub(crate) async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        let mut changed = false;
        for plugin in self.interested(request) {
            plugin.mutate(request, object)?;
            changed = true;
        }
        Ok(changed)
    }

    /// The judging phase. `object` is absent in a delete.
    pub(crate) async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        for plugin in self.interested(request) {
            plugin.validate(request, object)?;
        }
        Ok(())
    }

    /// Both phases of a delete.
    pub(crate) async fn delete(&self, request: &Request<'_>) -> Result<(), Status> {
        self.validate(request, None).await
    }

    /// Both phases of a request that writes no object of the registry: of a connection or a subresource of its own. Tells
    /// whether the object may have changed.
    pub(crate) async fn admit(&self, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        let changed = self.mutate(request, object).await?;
        self.validate(request, Some(object)).await?;
        Ok(changed)
    }
}

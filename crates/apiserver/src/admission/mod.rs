//! Admission: what a cluster's owner lets into the state, beyond what is valid. A write passes here twice: first everything
//! that may change the object (plugins, policies, webhooks; who wishes so once more), then, when the object is complete and valid, everything that may only
//! refuse it (plugins, policies, webhooks, and at last quotas). Never writes to the store: what a rule wants written goes into
//! the transaction of the object itself.

pub(crate) mod expressions;
mod matching;
pub(crate) mod notes;
mod plugins;
mod policies;
pub(crate) mod quota;
mod request;
mod rounds;
pub(crate) mod subresource;
pub(crate) mod type_check;
mod view;
pub(crate) mod webhooks;

pub(crate) use request::{Operation, Options, Request};

use crate::{config::LostNodes, identity::Authorizer};
use expressions::Expressions;
use orlop_api::Status;
use policies::{Evaluator, mutating, validating};
use rounds::Round;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use webhooks::Phase;

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

/// What the changing phase did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mutated {
    /// The object may have changed.
    pub changed: bool,
    /// Others than the server itself changed it: it may not even be of its type any more.
    pub by_others: bool,
}

/// All that has a say, in order.
pub(crate) struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
    pub expressions: Expressions,
    pub quotas: quota::Quotas,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
}

impl Chain {
    pub(crate) fn new(lost_nodes: LostNodes) -> Self {
        Self {
            plugins: plugins::all(lost_nodes),
            expressions: Expressions::default(),
            quotas: quota::Quotas::default(),
            authorizer: OnceLock::new(),
        }
    }

    /// Says whom expressions ask what somebody may do.
    pub(crate) fn ask(&self, authorizer: Arc<dyn Authorizer>) {
        // The first one stays: there is one a server.
        let _ = self.authorizer.set(authorizer);
    }

    fn interested<'a>(&'a self, request: &'a Request<'a>) -> impl Iterator<Item = &'a dyn Plugin> {
        self.plugins.iter().map(|p| &**p).filter(|p| p.handles(request))
    }

    fn caller(&self) -> webhooks::Caller<'_> {
        webhooks::Caller { expressions: &self.expressions, authorizer: self.authorizer.get() }
    }

    fn evaluator(&self) -> Evaluator<'_> {
        Evaluator { expressions: &self.expressions, authorizer: self.authorizer.get() }
    }

    fn mutate_by_plugins(&self, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        let mut interested = false;
        for plugin in self.interested(request) {
            plugin.mutate(request, object)?;
            interested = true;
        }
        Ok(interested)
    }

    /// The changing phase. `complete` fills in defaults before policies and webhooks see the object.
    pub(crate) async fn mutate(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        complete: impl Fn(&mut Value) + Sync,
    ) -> Result<Mutated, Status> {
        let changed = self.mutate_by_plugins(request, object)?;
        let (policies, hooks) = (mutating::exist(request), webhooks::exist(request, Phase::Mutating));
        if !policies && !hooks {
            return Ok(Mutated { changed, by_others: false });
        }
        complete(object);
        let by_others =
            Box::pin(self.mutate_by_others(request, object, &complete, (policies, hooks))).await?;
        Ok(Mutated { changed: true, by_others })
    }

    /// Lets policies and webhooks change the object. After a change the server's own rules run again, then once more those that
    /// wish so and have not seen the last change.
    async fn mutate_by_others(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        complete: &(impl Fn(&mut Value) + Sync),
        (policies, hooks): (bool, bool),
    ) -> Result<bool, Status> {
        let (evaluator, caller) = (self.evaluator(), self.caller());
        let mut invocations =
            if policies { evaluator.invocations(request, object) } else { mutating::Invocations::default() };
        let mut hooks = if hooks { webhooks::interested(request, Phase::Mutating) } else { Vec::new() };
        let rerun = |object: &mut Value| -> Result<bool, Status> {
            complete(object);
            let before = object.clone();
            self.mutate_by_plugins(request, object)?;
            Ok(*object != before)
        };
        let by_policies = evaluator.mutate(&mut invocations, request, object, complete, Round::First).await?;
        let by_hooks = caller.mutate(&mut hooks, request, Some(object), Round::First).await?;
        if by_policies.is_none() && by_hooks.is_none() {
            return Ok(false);
        }
        let by_plugins = rerun(object)?;
        let round = Round::after(by_policies, by_plugins || by_hooks.is_some());
        let policies_again = evaluator.mutate(&mut invocations, request, object, complete, round).await?;
        let round = Round::after(by_hooks, by_plugins || policies_again.is_some());
        let hooks_again = caller.mutate(&mut hooks, request, Some(object), round).await?;
        if policies_again.is_some() || hooks_again.is_some() {
            rerun(object)?;
        }
        Ok(true)
    }

    /// The judging phase. `object` is absent in a delete.
    pub(crate) async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        for plugin in self.interested(request) {
            plugin.validate(request, object)?;
        }
        if validating::exist(request) {
            let evaluator = self.evaluator();
            Box::pin(evaluator.validate(request, object)).await?;
        }
        if webhooks::exist(request, Phase::Validating) {
            let caller = self.caller();
            Box::pin(caller.validate(request, object)).await?;
        }
        Ok(())
    }

    /// Both phases of a delete.
    pub(crate) async fn delete(&self, request: &Request<'_>) -> Result<(), Status> {
        if webhooks::exist(request, Phase::Mutating) {
            let caller = self.caller();
            let mut hooks = webhooks::interested(request, Phase::Mutating);
            Box::pin(caller.mutate(&mut hooks, request, None, Round::First)).await?;
        }
        self.validate(request, None).await
    }

    /// Both phases of a request that writes no object of the registry: of a connection or a subresource of its own. Tells
    /// whether the object may have changed.
    pub(crate) async fn admit(&self, request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
        let changed = self.mutate(request, object, |_| {}).await?.changed;
        self.validate(request, Some(object)).await?;
        Ok(changed)
    }
}

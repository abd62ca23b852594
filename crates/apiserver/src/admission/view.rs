//! A write as webhooks and policies see it whose rules name another version of the resource (`matchPolicy: Equivalent`): the object
//! and the one before it are converted for them, and what they changed is converted back.

use super::Request;
use crate::registry::Resource;
use orlop_api::Status;
use serde_json::Value;
use std::sync::Arc;

/// The objects of a request in another version.
pub(super) struct View {
    own: Arc<Resource>,
    theirs: Arc<Resource>,
    /// The object of a subresource (`Scale`) has no versions of the resource.
    plain: bool,
    pub object: Option<Value>,
    old: Option<Value>,
}

impl View {
    /// The request's objects in `version`.
    ///
    /// # Errors
    /// Where they cannot be converted.
    pub(super) async fn new(
        version: &str,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<Self, Status> {
        let kind = request.kind;
        let find = |version: &str| {
            let found = request.registry.find(&kind.group, version, &kind.plural);
            found.ok_or_else(|| {
                Status::internal(format!("{} are not served in {version} any more", kind.plural))
            })
        };
        let (own, theirs) = (find(&kind.version)?, find(version)?);
        let mut view = Self { own, theirs, plain: request.object_kind.is_some(), object: None, old: None };
        view.object = view.there(object).await?;
        view.old = view.there(request.old).await?;
        Ok(view)
    }

    async fn there(&self, object: Option<&Value>) -> Result<Option<Value>, Status> {
        Ok(match object.filter(|o| o.is_object()) {
            Some(object) if !self.plain => Some(self.own.convert_to(&self.theirs, object).await?),
            other => other.cloned(),
        })
    }

    /// An object of theirs in the request's own version.
    pub(super) async fn back(&self, object: Value) -> Result<Value, Status> {
        if self.plain { Ok(object) } else { self.theirs.convert_to(&self.own, &object).await }
    }

    /// The request as they see it.
    pub(super) fn request<'v>(&'v self, request: &Request<'v>) -> Request<'v> {
        Request { kind: &self.theirs.kind, original: Some(request.kind), old: self.old.as_ref(), ..*request }
    }
}

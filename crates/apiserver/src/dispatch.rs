//! From a request that has been let in to the part of the server that does the work, and from its result to an answer.

use crate::{
    ApiServer,
    admission::{notes, subresource},
    component_status,
    hooks::bindings,
    identity::reviews,
    pipeline::Admitted,
    registry::{
        Part, Resource, SubresourceRequest, WriteContext, Written,
        delete::{Deleted, success},
        patch::{Patch, PatchType},
        schema,
        selection::Selection,
        table::{self, IncludeObject, Shape},
    },
    request::{DeleteOptions, ListOptions, Negotiated, Query, Target, Verb, WriteOptions, body, negotiate},
    resource_metrics,
    response::{self, Body, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use orlop_api::{Status, kinds};
use orlop_schema::protobuf;
use serde_json::{Value, json};
use std::sync::Arc;

fn agent(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown")
}

/// Whether the JSON is meant for a person: asked for, or a program that people use by hand.
pub(crate) fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        Some(_) => query.flag("pretty"),
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent(headers).starts_with(p)),
    }
}

fn not_allowed() -> Status {
    Status::method_not_allowed("the server does not allow this method on the requested resource")
}

impl ApiServer {
    /// Does what is asked.
    pub(crate) async fn dispatch(self: &Arc<Self>, request: Admitted) -> Result<Response, Status> {
        if let Some(route) = self.elsewhere(&request) {
            return self.pass_on(&route, request).await;
        }
        let Some(target) = request.info.target.clone() else {
            return self.nonresource(&request).await;
        };
        if let Some(review) = reviews::find(&target) {
            return self.review(review, &request, &target);
        }
        if let Some(kind) = resource_metrics::find(&target) {
            return self.resource_metrics(&kind, &target, &request).await;
        }
        if component_status::is_meant(&target) {
            return self.component_status(&target, &request).await;
        }
        let (verb, headers) = (request.info.verb, &request.parts.headers);
        let target = bindings::of_collection(&target, verb, headers, &request.body)?.unwrap_or(target);
        let resource = self.registry.resource(&target)?;
        // Lists and watches say themselves how new what they show must be; a get may, too.
        let says = match verb {
            Verb::List | Verb::Watch => true,
            Verb::Get => request.query.get("resourceVersion").is_some(),
            _ => false,
        };
        if !says {
            self.registry.catch_up().await?;
        }
        let mut answer = self.resource(&resource, target, request).await?;
        if let Some(warning) = &resource.warning {
            notes::annotate("k8s.io/deprecated", "true");
            response::warn(&mut answer, warning);
        }
        Ok(answer)
    }

    /// Does what is asked of a resource.
    async fn resource(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        target: Target,
        request: Admitted,
    ) -> Result<Response, Status> {
        match target.subresource.as_str() {
            "" => self.object(resource, &target, request).await,
            "status" if resource.kind.has_status => self.part(resource, &target, Part::Status, request).await,
            "scale" if resource.kind.scale.is_some() => self.scale(resource, &target, request).await,
            name => {
                if let Some(part) = resource.part(name) {
                    return self.part(resource, &target, Part::Other(part.name), request).await;
                }
                let found = resource.hooks.subresources().iter().find(|s| s.name == name);
                let found = found.ok_or_else(Status::no_such_resource)?;
                // A proxied request may have any method, also one that is no verb of the API (OPTIONS).
                let any = found.name == "proxy" && request.info.verb == Verb::Other;
                if !any && !found.verbs.contains(&request.info.verb.name()) {
                    return Err(not_allowed());
                }
                let mut request = SubresourceRequest {
                    registry: self.registry.clone(),
                    who: request.who,
                    verb: request.info.verb,
                    target,
                    query: request.query,
                    parts: request.parts,
                    body: request.body,
                };
                subresource::admit(&resource.kind, found, &mut request).await?;
                resource.hooks.serve(request).await
            }
        }
    }

    async fn object(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        target: &Target,
        request: Admitted,
    ) -> Result<Response, Status> {
        let (headers, query) = (&request.parts.headers, &request.query);
        let at = (target.namespace.as_str(), target.name.as_str());
        let misplaced = resource.kind.namespaced() && at.0.is_empty();
        match request.info.verb {
            Verb::Get => {
                let view = self.view(resource, headers, query)?;
                if let Some(version) = query.get("resourceVersion") {
                    let version = crate::request::options::parse_revision(version)?;
                    self.registry.wait_fresh(orlop_store::Revision(version)).await?;
                }
                Ok(view.object(200, &resource.show_one(resource.get(at.0, at.1)?).await?.body()))
            }
            Verb::List => {
                let view = self.view(resource, headers, query)?;
                let options = ListOptions::parse(query, false)?;
                let selection = Selection::new(resource, at.0, &options)?;
                let listing = self.registry.list(resource, &selection, &options).await?;
                let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
                if let Some(next) = &listing.next {
                    metadata["continue"] = json!(next.encode());
                }
                if let Some(remaining) = listing.remaining {
                    metadata["remainingItemCount"] = json!(remaining);
                }
                Ok(view.list(listing.objects, &metadata))
            }
            Verb::Watch => self.watch(resource, target, headers, query).await,
            Verb::Create if !at.1.is_empty() || misplaced => Err(not_allowed()),
            Verb::Create => {
                let view = self.view(resource, headers, query)?;
                let cx = self.write_context(&request, query)?;
                let body = schema::read(headers, &request.body)?;
                let written = self.registry.create(resource, at.0, body, &cx).await?;
                Ok(view.written(written))
            }
            Verb::Update if at.1.is_empty() => Err(not_allowed()),
            Verb::Update => {
                let view = self.view(resource, headers, query)?;
                let cx = self.write_context(&request, query)?;
                let body = schema::read(headers, &request.body)?;
                let written = self.registry.update(resource, Part::Whole, at, body, &cx).await?;
                Ok(view.written(written))
            }
            Verb::Patch if at.1.is_empty() => Err(not_allowed()),
            Verb::Patch => self.patch(resource, Part::Whole, at, &request).await,
            Verb::Delete => {
                let view = self.view(resource, headers, query)?;
                let options = delete_options(headers, query, &request.body)?;
                match self.registry.delete(resource, at, &options, &request.who).await? {
                    Deleted::Marked(body) => Ok(view.object(200, &body)),
                    Deleted::Gone(body) if resource.hooks.returns_deleted() => Ok(view.object(200, &body)),
                    Deleted::Gone(body) => {
                        let status = success(resource, at.1, &body).to_string();
                        Ok(response::encoded(200, status.into(), view.negotiated))
                    }
                }
            }
            Verb::DeleteCollection if misplaced || !resource.hooks.deletes_collections() => {
                Err(not_allowed())
            }
            Verb::DeleteCollection => {
                let view = self.view(resource, headers, query)?;
                let list = ListOptions::parse(query, false)?;
                let options = delete_options(headers, query, &request.body)?;
                let selection = Selection::new(resource, at.0, &list)?;
                let objects = self
                    .registry
                    .delete_collection(resource, &selection, &list, &options, &request.who)
                    .await?;
                let metadata = json!({"resourceVersion": self.registry.caches.applied().to_string()});
                Ok(view.list(objects, &metadata))
            }
            Verb::Other => Err(not_allowed()),
        }
    }

    /// A part of an object that is read and written in the form of the whole.
    async fn part(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        target: &Target,
        part: Part,
        request: Admitted,
    ) -> Result<Response, Status> {
        let at = (target.namespace.as_str(), target.name.as_str());
        let (headers, query) = (&request.parts.headers, &request.query);
        match request.info.verb {
            Verb::Get => {
                let object = resource.show_one(resource.get(at.0, at.1)?).await?;
                Ok(self.view(resource, headers, query)?.object(200, &object.body()))
            }
            Verb::Update => {
                let view = self.view(resource, headers, query)?;
                let cx = self.write_context(&request, query)?;
                let body = schema::read(headers, &request.body)?;
                let written = self.registry.update(resource, part, at, body, &cx).await?;
                Ok(view.written(written))
            }
            Verb::Patch => self.patch(resource, part, at, &request).await,
            _ => Err(not_allowed()),
        }
    }

    async fn scale(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        target: &Target,
        request: Admitted,
    ) -> Result<Response, Status> {
        let at = (target.namespace.as_str(), target.name.as_str());
        let headers = &request.parts.headers;
        let negotiated = negotiate::negotiate(headers, pretty(headers, &request.query))?;
        let include = IncludeObject::parse(request.query.get("includeObject"));
        let shape = Shape { form: negotiated.form, meta: negotiated.meta, include, now: self.registry.now() };
        let shown =
            |body: &Bytes| response::encoded(200, table::one(&kinds::scale::kind(), body, shape), negotiated);
        let cx = self.write_context(&request, &request.query)?;
        let written = match request.info.verb {
            Verb::Get => {
                return Ok(shown(&self.registry.scale(resource, at.0, at.1).await?));
            }
            Verb::Update => {
                let body = schema::read(headers, &request.body)?;
                self.registry.update_scale(resource, at, body, &cx).await?
            }
            Verb::Patch => {
                let kind = PatchType::parse(&body::content_type(headers))?;
                let patch = Patch::read(kind, &request.body)?;
                self.registry.patch_scale(resource, at, patch, &cx).await?
            }
            _ => return Err(not_allowed()),
        };
        Ok(shown(&written.body))
    }

    async fn patch(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        part: Part,
        at: (&str, &str),
        request: &Admitted,
    ) -> Result<Response, Status> {
        let headers = &request.parts.headers;
        let view = self.view(resource, headers, &request.query)?;
        let kind = PatchType::parse(&body::content_type(headers))?;
        let mut cx = self.write_context(request, &request.query)?;
        cx.options.patch = true;
        if kind == PatchType::Apply && request.query.get("fieldManager").is_none() {
            return Err(missing_manager());
        }
        let patch = Patch::read(kind, &request.body)?;
        let written = self.registry.patch(resource, part, at, patch, &cx).await?;
        Ok(view.written(written))
    }

    async fn watch(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        target: &Target,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<Response, Status> {
        let view = self.view(resource, headers, query)?;
        if view.negotiated.protobuf {
            return Err(negotiate::not_acceptable());
        }
        let mut options = ListOptions::parse(query, true)?;
        if !target.name.is_empty() {
            options.field_selector = Some(format!("metadata.name={}", target.name));
        }
        let selection = Selection::new(resource, &target.namespace, &options)?;
        let stream =
            self.registry.watch(resource, selection, &options, view.shape, self.stop.clone()).await?;
        let mut response = Response::new(Body::stream(stream));
        let content_type = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        Ok(response)
    }

    fn write_context(&self, request: &Admitted, query: &Query) -> Result<WriteContext, Status> {
        let mut options = WriteOptions::parse(query, agent(&request.parts.headers))?;
        if matches!(request.info.verb, Verb::Update | Verb::Patch) {
            options.no_create = self.may_not_create(&request.who, &request.info);
        }
        Ok(WriteContext { options, who: request.who.clone() })
    }

    fn view<'a>(
        &self,
        resource: &'a Resource,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<View<'a>, Status> {
        let negotiated = negotiate::negotiate(headers, pretty(headers, query))?;
        if negotiated.protobuf && !protobuf::speaks(&resource.kind.api_version(), &resource.kind.kind) {
            return Err(negotiate::not_acceptable());
        }
        let include = IncludeObject::parse(query.get("includeObject"));
        let shape = Shape { form: negotiated.form, meta: negotiated.meta, include, now: self.registry.now() };
        Ok(View { resource, negotiated, shape })
    }
}

fn delete_options(headers: &HeaderMap, query: &Query, bytes: &Bytes) -> Result<DeleteOptions, Status> {
    let body: Option<Value> = if bytes.is_empty() {
        None
    } else {
        Some(schema::read(headers, bytes)?.value).filter(|v| !v.is_null())
    };
    DeleteOptions::parse(query, body)
}

fn missing_manager() -> Status {
    let message =
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    let mut status = Status::new(422, "Invalid", message);
    status.details = Some(json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [
        {"reason": "FieldValueRequired", "message": "Required value: is required for apply patch", "field": "fieldManager"}
    ]}));
    status
}

/// How this client sees objects of a kind.
struct View<'a> {
    resource: &'a Resource,
    negotiated: Negotiated,
    shape: Shape,
}

impl View<'_> {
    fn object(&self, code: u16, body: &Bytes) -> Response {
        response::encoded(code, table::one(&self.resource.kind, body, self.shape), self.negotiated)
    }

    fn list(&self, objects: Vec<Arc<crate::cache::object::Object>>, metadata: &Value) -> Response {
        response::pieces(table::many(&self.resource.kind, objects, metadata, self.shape), self.negotiated)
    }

    fn written(&self, written: Written) -> Response {
        let mut response = self.object(if written.created { 201 } else { 200 }, &written.body);
        for warning in &written.warnings {
            response::warn(&mut response, warning);
        }
        response
    }
}

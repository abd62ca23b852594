//! The way of every request: who asks, whether they may, whether it is their turn, then the work, guarded against panics
//! and against taking too long.

use crate::{
    ApiServer, Identity,
    admission::notes,
    audit::{self, Ended, Record},
    flow_control::Asked,
    identity::{Attributes, Authorizer, Decision, authorize, impersonate::Wanted},
    request::{Query, RequestInfo, Verb, body},
    response::{self, Body, Response},
};
use bytes::Bytes;
use futures::FutureExt;
use http::{Method, request::Parts};
use orlop_api::{NameRule, Status};
use parking_lot::Mutex;
use std::{
    any::Any,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// Who is at the other end.
#[derive(Clone)]
pub(crate) enum Peer {
    /// A part of this process.
    InProcess(Arc<Identity>),
    /// Somebody who showed this certificate.
    Certificate(Arc<Identity>),
    /// A node that showed its certificate, over or not.
    Node(Arc<NodePeer>),
    /// Somebody without a certificate.
    Stranger,
}

/// A node at the other end.
pub(crate) struct NodePeer {
    /// Whom it may act as.
    pub who: Arc<Identity>,
    /// Its name.
    pub name: String,
    /// When its certificate was issued, in seconds since the epoch.
    pub issued: i64,
}

/// Among an answer's extensions: a place for what must live as long as the connection that this answer turns over.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<Box<dyn Send>>>>);

impl Held {
    /// Keeps `what` until the connection has ended.
    pub(crate) fn put(&self, what: impl Send + 'static) {
        self.0.lock().push(Box::new(what));
    }
}

/// Among the extensions of a request for another server: what that one is told besides who asks.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The other end of the connection.
    pub from: Option<IpAddr>,
    /// The name of the request.
    pub id: Arc<str>,
}

/// How a request is followed on its way: by its name, and where it is noted.
struct Trail {
    id: Arc<str>,
    record: OnceLock<Arc<Record>>,
    /// The other end of the connection.
    from: Option<IpAddr>,
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// A request that has been let in.
pub(crate) struct Admitted {
    pub who: Arc<Identity>,
    pub info: RequestInfo,
    pub query: Query,
    pub parts: Parts,
    pub body: Bytes,
}

/// Subresources that stream or hand the connection over.
const STREAMS: &[&str] = &["log", "exec", "attach", "portforward", "proxy"];

/// Subresources of pods through which something is done inside them.
const CONNECTIONS: &[&str] = &["attach", "exec", "portforward"];

/// Whether a request takes as long as it takes.
fn is_long(info: &RequestInfo) -> bool {
    info.verb == Verb::Watch
        || info.target.as_ref().is_some_and(|t| STREAMS.contains(&t.subresource.as_str()))
}

/// The fields that the selectors of a list or watch pin to a value; labels among them, as `metadata.labels[KEY]`.
fn pinned_fields(info: &RequestInfo, query: &str) -> Vec<(String, String)> {
    if !matches!(info.verb, Verb::List | Verb::Watch) {
        return Vec::new();
    }
    let query = Query::parse(query);
    let pinned = |selector: &str| {
        let requirements = query.get(selector).unwrap_or_default().split(',');
        requirements
            .filter_map(|requirement| {
                let (key, value) = requirement.split_once('=')?;
                let value = value.strip_prefix('=').unwrap_or(value);
                (!key.ends_with('!')).then(|| (key.trim().to_string(), value.trim().to_string()))
            })
            .collect::<Vec<_>>()
    };
    let labels = pinned("labelSelector").into_iter();
    let labels = labels.map(|(key, value)| (format!("metadata.labels[{key}]"), value));
    pinned("fieldSelector")
        .into_iter()
        .filter(|(field, _)| !field.starts_with("metadata.labels["))
        .chain(labels)
        .collect()
}

/// The one object that a list or watch can see, if it can see one only.
fn pinned_name(fields: &[(String, String)]) -> &str {
    let name = fields.iter().find(|(field, _)| field == "metadata.name").map_or("", |(_, value)| value);
    let is_name = orlop_api::name::object_name(NameRule::PathSegment, name).is_empty();
    if is_name { name } else { "" }
}

/// A method as rules about paths write it.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "other",
    }
}

impl ApiServer {
    /// Answers a request, whatever happens. `from` is the other end of its connection.
    pub(crate) async fn respond<B>(
        self: &Arc<Self>,
        request: http::Request<B>,
        peer: Peer,
        from: Option<IpAddr>,
    ) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default());
        let long = is_long(&info);
        let elsewhere = self.is_elsewhere(&info);
        let label = self.metrics.label(&info, !elsewhere);
        let head = parts.method == Method::HEAD;
        let trail = Trail { id: audit::id(&parts.headers), record: OnceLock::new(), from };
        if elsewhere {
            parts.extensions.insert(Caller { from, id: trail.id.clone() });
        }
        let work = Box::pin(self.admit_and_work(parts, body, info, peer, &trail));
        let guarded = AssertUnwindSafe(work).catch_unwind();
        let (outcome, notes) = notes::collect(async {
            if long {
                Ok(guarded.await)
            } else {
                tokio::time::timeout(self.config.limits.timeout, guarded).await
            }
        })
        .await;
        let mut ended = Ended::Answered;
        let mut response = match outcome {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(status))) => response::status(&status),
            Ok(Err(panic)) => {
                tracing::error!(?label, "a request panicked");
                ended = Ended::Panicked(panic_text(&*panic));
                response::status(&Status::internal("the request could not be handled"))
            }
            Err(_elapsed) => {
                response::status(&Status::timeout("request did not complete within the allotted timeout"))
            }
        };
        for warning in &notes.warnings {
            response::warn(&mut response, warning);
        }
        audit::name_request(&mut response, &trail.id);
        if let (Some(auditor), Some(record)) = (&self.auditor, trail.record.get()) {
            auditor.finish(record, &mut response, (ended, long), notes.annotations).await;
        }
        if head {
            *response.body_mut() = Body::from(Bytes::new());
        }
        if response.body().streams() {
            let guard = self.metrics.stream(&label);
            response.body_mut().hold(guard);
        }
        self.metrics.observe(label, response.status().as_u16(), started.elapsed());
        response
    }

    async fn admit_and_work<B>(
        self: &Arc<Self>,
        parts: Parts,
        body: B,
        info: RequestInfo,
        peer: Peer,
        trail: &Trail,
    ) -> Result<Response, Status>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let identified = self.authenticator.identify(&peer, &parts.headers);
        let record = match &self.auditor {
            Some(auditor) => {
                let who = identified.as_ref().ok();
                auditor.begin(&trail.id, who, (&info, &parts, trail.from)).await
            }
            None => None,
        };
        let record = record.map(|record| &**trail.record.get_or_init(|| record));
        let who = self.impersonated(identified?, &parts, record)?;
        if is_long(&info) && info.verb != Verb::Watch {
            return self.permit_and_work(who, parts, body, info, record).await;
        }
        let (mark, seat) = {
            let verb = if info.target.is_some() { info.verb.name() } else { method_name(&parts.method) };
            let asked = Asked { who: &who, verb, target: info.target.as_ref(), path: parts.uri.path() };
            self.flow_control.enter(&asked).await
        };
        let outcome = match seat {
            Ok(seat) => self.permit_and_work(who, parts, body, info, record).await.map(|mut response| {
                // What is made while it is sent is work too; a stream has only begun.
                if response.body().has_pieces() {
                    response.body_mut().hold(seat);
                }
                response
            }),
            Err(status) => Err(status),
        };
        let mut response = outcome.unwrap_or_else(|status| response::status(&status));
        if let Some(mark) = mark {
            mark.put(&mut response);
        }
        Ok(response)
    }

    async fn permit_and_work<B>(
        self: &Arc<Self>,
        who: Arc<Identity>,
        parts: Parts,
        body: B,
        info: RequestInfo,
        record: Option<&Record>,
    ) -> Result<Response, Status>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.authorize(&who, &info, &parts, record)?;
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        // Also for a watch: what it takes as long as it takes is the answer.
        let body = tokio::time::timeout(self.config.limits.timeout, body::read(body)).await.unwrap_or_else(
            |_| Err(Status::timeout("request did not complete within the allotted timeout")),
        )?;
        if let Some(record) = record {
            record.sent(&parts.headers, &body);
        }
        self.dispatch(Admitted { who, info, query, parts, body }).await
    }

    fn authorize(
        &self,
        who: &Identity,
        info: &RequestInfo,
        parts: &Parts,
        record: Option<&Record>,
    ) -> Result<(), Status> {
        let method;
        let fields = pinned_fields(info, parts.uri.query().unwrap_or_default());
        let attributes = match &info.target {
            Some(t) => Attributes {
                verb: info.verb.name(),
                group: &t.group,
                resource: &t.resource,
                subresource: &t.subresource,
                namespace: t.governing_namespace(),
                name: if t.name.is_empty() { pinned_name(&fields) } else { &t.name },
                path: parts.uri.path(),
                fields: &fields,
            },
            None => {
                method = parts.method.as_str().to_ascii_lowercase();
                Attributes { verb: &method, path: parts.uri.path(), ..Attributes::default() }
            }
        };
        match (self.authorization.decide(who, &attributes), record) {
            (Decision::Allow(_), None) => {}
            (Decision::Allow(why), Some(record)) => record.authorized("allow", why.to_string()),
            (Decision::NoOpinion(reason), record) => {
                let status = authorize::forbidden(who, &attributes, &reason);
                if let Some(record) = record {
                    record.authorized("forbid", reason);
                }
                return Err(status);
            }
        }
        // A WebSocket is opened by a GET, but what comes over it is no reading.
        if attributes.verb == "get"
            && attributes.resource == "pods"
            && CONNECTIONS.contains(&attributes.subresource)
        {
            self.permit(who, &Attributes { verb: "create", ..attributes })?;
        }
        Ok(())
    }

    fn permit(&self, who: &Identity, what: &Attributes<'_>) -> Result<(), Status> {
        match self.authorization.decide(who, what) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(authorize::forbidden(who, what, &reason)),
        }
    }

    /// Why an update or apply of what is not there may not create it.
    pub(crate) fn may_not_create(&self, who: &Identity, info: &RequestInfo) -> Option<Box<Status>> {
        let target = info.target.as_ref()?;
        let create = Attributes {
            verb: "create",
            group: &target.group,
            resource: &target.resource,
            namespace: &target.namespace,
            name: &target.name,
            ..Attributes::default()
        };
        self.permit(who, &create).err().map(Box::new)
    }

    /// The identity that the client wants to act as (`Impersonate-User` and the like), if it may.
    fn impersonated(
        &self,
        who: Arc<Identity>,
        parts: &Parts,
        record: Option<&Record>,
    ) -> Result<Arc<Identity>, Status> {
        let Some(wanted) = Wanted::read(&parts.headers)? else { return Ok(who) };
        for right in wanted.rights() {
            if let Decision::NoOpinion(reason) = self.authorization.decide(&who, &right) {
                return Err(authorize::forbidden(&who, &right, &reason));
            }
        }
        let wanted = Arc::new(wanted.identity());
        if let Some(record) = record {
            record.impersonates(&wanted);
        }
        Ok(wanted)
    }
}

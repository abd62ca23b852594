//! An API server in memory, just enough of one for tests of the agent: objects by path, status patches, deletes, lists, and
//! watches that tell of every change.

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// See the module.
pub(crate) struct FakeApi {
    /// Objects by path: `/api/v1/namespaces/default/pods/web`.
    objects: Mutex<BTreeMap<String, Value>>,
    revision: Mutex<u64>,
    changes: broadcast::Sender<(String, Value)>,
    /// All writes: method, path, body.
    pub writes: Mutex<Vec<(Method, String, Value)>>,
    /// Requests that fail, once for each time they stand here, by method.
    pub failing: Mutex<Vec<Method>>,
}

impl FakeApi {
    /// A server and a client of it.
    pub fn start() -> (Arc<Self>, Client) {
        let api = Arc::new(Self {
            objects: Mutex::default(),
            revision: Mutex::new(1),
            changes: broadcast::channel(1024).0,
            writes: Mutex::default(),
            failing: Mutex::default(),
        });
        let server = api.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        });
        (api, Client::new(service, "default"))
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().get(path).cloned()
    }

    /// Puts an object in or replaces it.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let kind = {
            let mut objects = self.objects.lock();
            let mut revision = self.revision.lock();
            *revision += 1;
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            let old = objects.insert(path.into(), object.clone());
            if old.is_some() { "MODIFIED" } else { "ADDED" }
        };
        let _ = self.changes.send((path.into(), json!({"type": kind, "object": object})));
        object
    }

    /// Changes the object at a path.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut object) = self.get(path) {
            change(&mut object);
            self.put(path, object);
        }
    }

    /// Takes an object away at once.
    pub fn remove(&self, path: &str) {
        let object = self.objects.lock().remove(path);
        if let Some(mut object) = object {
            *self.revision.lock() += 1;
            object["metadata"]["resourceVersion"] = self.revision.lock().to_string().into();
            let _ = self.changes.send((path.into(), json!({"type": "DELETED", "object": object})));
        }
    }

    /// Reasons of the events written about pods.
    pub fn event_reasons(&self) -> Vec<String> {
        let writes = self.writes.lock();
        let events = writes.iter().filter(|(m, p, _)| *m == Method::POST && p.ends_with("/events"));
        events.filter_map(|(_, _, body)| body["reason"].as_str().map(String::from)).collect()
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path().to_string();
        let query = parts.uri.query().unwrap_or_default();
        if parts.method != Method::GET {
            self.writes.lock().push((parts.method.clone(), path.clone(), body.clone()));
        }
        let fails = {
            let mut failing = self.failing.lock();
            failing.iter().position(|m| *m == parts.method).map(|at| failing.remove(at))
        };
        if fails.is_some() {
            return status(500, "InternalError");
        }
        match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(&path, query),
            Method::GET => self.read(&path, query),
            Method::POST => self.create(&path, body),
            Method::PATCH => self.patch(&path, &body),
            Method::DELETE => self.delete(&path, &body),
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn read(&self, path: &str, query: &str) -> Answer {
        if let Some(object) = self.get(path) {
            return answer(200, &object);
        }
        // A collection ends with its resource's name.
        if path.rsplit('/').next().is_some_and(|last| last.ends_with('s') && !last.contains('.')) {
            let objects = self.objects.lock();
            let items: Vec<&Value> = objects
                .iter()
                .filter(|(p, o)| is_in(path, p) && selected(query, o))
                .map(|(_, o)| o)
                .collect();
            let revision = self.revision.lock().to_string();
            return answer(
                200,
                &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
            );
        }
        status(404, "NotFound")
    }

    fn watch(&self, path: &str, query: &str) -> Answer {
        let (path, query) = (path.to_string(), query.to_string());
        let from: u64 = parameter(&query, "resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        // What changed between the list and now is told first.
        let now = self.changes.subscribe();
        let missed: Vec<Value> = {
            let objects = self.objects.lock();
            let newer = |o: &Value| {
                o["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0u64) > from
            };
            let all = objects.iter().filter(|(p, o)| is_in(&path, p) && selected(&query, o) && newer(o));
            all.map(|(_, o)| json!({"type": "MODIFIED", "object": o})).collect()
        };
        let live = BroadcastStream::new(now).filter_map(move |change| {
            let wanted = change.ok().filter(|(p, c)| is_in(&path, p) && selected(&query, &c["object"]));
            futures::future::ready(wanted.map(|(_, change)| change))
        });
        let lines = futures::stream::iter(missed).chain(live).map(|change| {
            let mut line = change.to_string();
            line.push('\n');
            Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    }

    fn create(&self, path: &str, mut body: Value) -> Answer {
        if path.ends_with("/token") {
            let expires = jiff::Timestamp::now() + std::time::Duration::from_secs(3600);
            body["status"] = json!({"token": "a-token", "expirationTimestamp": expires.to_string()});
            return answer(201, &body);
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
        let at = format!("{path}/{name}");
        if self.get(&at).is_some() {
            return status(409, "AlreadyExists");
        }
        body["metadata"]["uid"] = format!("uid-{name}").into();
        answer(201, &self.put(&at, body))
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer {
        let path = path.trim_end_matches("/status");
        let Some(mut object) = self.get(path) else { return status(404, "NotFound") };
        let uid = patch["metadata"]["uid"].as_str();
        if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) {
            return status(409, "Conflict");
        }
        merge(&mut object, patch);
        answer(200, &self.put(path, object))
    }

    fn delete(&self, path: &str, body: &Value) -> Answer {
        let Some(object) = self.get(path) else { return status(404, "NotFound") };
        let uid = body["preconditions"]["uid"].as_str();
        if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) {
            return status(409, "Conflict");
        }
        self.remove(path);
        answer(200, &object)
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
}

/// Whether an object's path is in a collection, in its namespace or in any.
fn is_in(collection: &str, path: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    if parent == collection {
        return true;
    }
    let Some((root, resource)) = collection.rsplit_once('/') else { return false };
    parent
        .strip_prefix(&format!("{root}/namespaces/"))
        .is_some_and(|rest| rest.split('/').nth(1) == Some(resource))
}

/// The two field selectors that the agent uses.
fn selected(query: &str, object: &Value) -> bool {
    let selector = parameter(query, "fieldSelector").unwrap_or_default().replace("%3D", "=");
    match selector.split_once('=') {
        Some(("metadata.name", name)) => object["metadata"]["name"] == name,
        Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
        _ => true,
    }
}

/// A strategic merge, for the lists that the agent patches.
fn merge(into: &mut Value, patch: &Value) {
    let (Some(object), Some(fields)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (name, value) in fields {
        match value {
            Value::Null => {
                object.remove(name);
            }
            Value::Array(new) if name == "conditions" => {
                let list = object.entry(name).or_insert_with(|| json!([]));
                let list = list.as_array_mut().expect("conditions are a list");
                for condition in new {
                    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
                        Some(old) => merge(old, condition),
                        None => list.push(condition.clone()),
                    }
                }
            }
            Value::Array(new) => {
                let plain = new.iter().filter(|v| v.get("$patch").is_none()).cloned().collect();
                object.insert(name.clone(), Value::Array(plain));
            }
            Value::Object(_) => merge(object.entry(name).or_insert_with(|| json!({})), value),
            _ => {
                object.insert(name.clone(), value.clone());
            }
        }
    }
}

fn answer(code: u16, body: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(body.to_string()));
    Response::builder().status(code).body(BodyExt::boxed_unsync(body)).expect("an answer")
}

fn status(code: u16, reason: &str) -> Answer {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code}),
    )
}

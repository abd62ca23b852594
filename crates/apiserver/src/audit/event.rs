//! One line of the audit log: an `Event` of audit.k8s.io/v1 as JSON. Pure; runs where it is written, not where requests wait.

use super::policy::{Level, Stage};
use crate::{
    Identity,
    registry::schema,
    request::{RequestInfo, body},
    response::Response,
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, header};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, io::Read, net::IpAddr, sync::Arc};

/// What is known of a request when it comes.
#[derive(Clone)]
pub(super) struct Facts {
    pub id: Arc<str>,
    pub uri: String,
    pub verb: String,
    /// `None`: who asked could not prove who they are.
    pub user: Option<Arc<Identity>>,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub reference: Option<Reference>,
    pub received: Timestamp,
}

/// What a request is about.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty", rename = "apiGroup")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty", rename = "apiVersion")]
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl Reference {
    /// What a path says; `None` for one that is no resource.
    pub(super) fn of(info: &RequestInfo) -> Option<Self> {
        let target = info.target.as_ref()?;
        // To Kubernetes a namespace is in itself.
        let is_namespace = target.group.is_empty() && target.resource == "namespaces";
        let namespace = if is_namespace { &target.name } else { &target.namespace };
        Some(Self {
            resource: target.resource.clone(),
            namespace: namespace.clone(),
            name: target.name.clone(),
            group: target.group.clone(),
            version: target.version.clone(),
            subresource: target.subresource.clone(),
            ..Self::default()
        })
    }

    /// Adds what the object in the body says of itself.
    fn learn(&mut self, object: &Value) {
        for (key, known) in [
            ("namespace", &mut self.namespace),
            ("name", &mut self.name),
            ("uid", &mut self.uid),
            ("resourceVersion", &mut self.resource_version),
        ] {
            if known.is_empty()
                && let Some(said) = object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str)
            {
                *known = said.to_string();
            }
        }
    }
}

/// A body, as it went over the wire.
#[derive(Clone)]
pub(super) struct Content {
    headers: HeaderMap,
    bytes: Bytes,
}

impl Content {
    pub(super) fn new(of: &HeaderMap, bytes: &Bytes) -> Self {
        let mut headers = HeaderMap::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            if let Some(value) = of.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        Self { headers, bytes: bytes.clone() }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it says, if it can be read.
    fn value(&self) -> Option<Value> {
        let packed = self.headers.get(header::CONTENT_ENCODING).is_some_and(|v| v == "gzip");
        let bytes = if packed {
            let mut plain = Vec::new();
            GzDecoder::new(&self.bytes[..]).read_to_end(&mut plain).ok()?;
            Bytes::from(plain)
        } else {
            self.bytes.clone()
        };
        let kind = body::content_type(&self.headers);
        if kind.ends_with("patch+yaml") {
            return schema::read_yaml(&bytes).ok().map(|body| body.value);
        }
        if kind.ends_with("patch+json") {
            return serde_json::from_slice(&bytes).ok();
        }
        schema::read(&self.headers, &bytes).ok().map(|body| body.value)
    }
}

/// How a request was answered.
#[derive(Clone)]
pub(super) struct Answer {
    pub code: u16,
    pub content: Option<Content>,
    /// What is noted in place of what the answer says.
    pub message: Option<String>,
}

impl Answer {
    /// What of an answer can matter to a line of this level.
    pub(super) fn of(response: &mut Response, level: Level, facts: &Facts) -> Self {
        let code = response.status().as_u16();
        let is_shown = level == Level::RequestResponse && facts.reference.is_some();
        let part = facts.reference.as_ref().is_some_and(|r| !r.subresource.is_empty());
        if is_shown {
            response.body_mut().gather();
        }
        // What fails, removes or does something is answered with a `Status`.
        let may_be_status = code >= 400 || facts.verb.starts_with("delete") || part;
        let content = response.body().whole().filter(|_| is_shown || may_be_status);
        Self { code, content: content.map(|b| Content::new(response.headers(), b)), message: None }
    }
}

/// What one line says.
pub(super) struct Entry {
    pub facts: Facts,
    pub level: Level,
    pub omit_managed_fields: bool,
    pub stage: Stage,
    pub at: Timestamp,
    pub answer: Option<Answer>,
    pub impersonated: Option<Arc<Identity>>,
    pub annotations: BTreeMap<String, String>,
    pub request: Option<Content>,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

impl<'a> User<'a> {
    fn new(who: Option<&'a Identity>) -> Self {
        match who {
            Some(who) => Self {
                username: &who.user,
                uid: &who.uid,
                groups: &who.groups,
                extra: Some(&who.extra).filter(|e| !e.is_empty()),
            },
            None => Self { username: "", uid: "", groups: &[], extra: None },
        }
    }
}

/// Fields in the order in which Kubernetes writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

fn micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Takes managed fields out of an object, of a list's items and of a table's rows.
fn omit_managed_fields(value: &mut Value) {
    let of_one = |value: &mut Value| {
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    of_one(value);
    for (list, inner) in [("items", None), ("rows", Some("object"))] {
        for entry in value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match inner {
                Some(key) => entry.get_mut(key).into_iter().for_each(of_one),
                None => of_one(entry),
            }
        }
    }
}

/// What is said of an answer in few words: all of a `Status`, else the code.
fn status(answer: &Answer, object: Option<&Value>) -> Value {
    let mut status = Map::new();
    status.insert("metadata".into(), Map::new().into());
    let said = object.filter(|o| o.get("kind").and_then(Value::as_str) == Some("Status"));
    if let Some(said) = said.and_then(Value::as_object) {
        for key in ["status", "message", "reason", "details"] {
            status.extend(said.get(key).map(|value| (key.to_string(), value.clone())));
        }
    }
    if let Some(message) = &answer.message {
        status.insert("message".into(), message.clone().into());
    }
    status.insert("code".into(), answer.code.into());
    status.into()
}

impl Entry {
    /// About how much memory it holds.
    pub(super) fn size(&self) -> usize {
        let bodies = [self.request.as_ref(), self.answer.as_ref().and_then(|a| a.content.as_ref())];
        1024 + bodies.into_iter().flatten().map(Content::len).sum::<usize>()
    }

    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let Facts { id, uri, verb, user, source_ips, user_agent, reference, received } = &self.facts;
        let (mut request, mut reference) = (None, reference.clone());
        if let Some(reference) = &mut reference {
            request = self.request.as_ref().and_then(Content::value);
            request.iter().for_each(|object| reference.learn(object));
        }
        let response = self.answer.as_ref().and_then(|a| a.content.as_ref()).and_then(Content::value);
        let response_status = self.answer.as_ref().map(|answer| status(answer, response.as_ref()));
        let shown = |object: Option<Value>, level: Level| {
            let fits = self.level >= level && reference.is_some();
            let mut object = object.filter(|o| fits && (o.is_object() || o.is_array()))?;
            if self.omit_managed_fields {
                omit_managed_fields(&mut object);
            }
            Some(object)
        };
        let (request_object, response_object) =
            (shown(request, Level::Request), shown(response, Level::RequestResponse));
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.level.name(),
            audit_id: id,
            stage: self.stage.name(),
            request_uri: uri,
            verb,
            user: User::new(user.as_deref()),
            impersonated_user: self.impersonated.as_deref().map(|who| User::new(Some(who))),
            source_ips,
            user_agent,
            object_ref: reference,
            response_status,
            request_object,
            response_object,
            request_received_timestamp: micro(*received),
            stage_timestamp: micro(self.at),
            annotations: &self.annotations,
        };
        // Strings, numbers and string keys only: there is nothing that could not be written.
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Where a request came from: what proxies on its way say, then the other end of the connection.
pub(super) fn source_ips(headers: &HeaderMap, from: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut ips: Vec<IpAddr> =
        text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    if let Ok(real) = text("x-real-ip").trim().parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    if let Some(from) = from.map(|ip| ip.to_canonical())
        && ips.last() != Some(&from)
    {
        ips.push(from);
    }
    ips.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    fn entry(level: Level) -> Entry {
        let body = |value: Value| {
            Content::new(&headers(&[("content-type", "application/json")]), &Bytes::from(value.to_string()))
        };
        Entry {
            facts: Facts {
                id: "id-1".into(),
                uri: "/api/v1/namespaces/n/configmaps?dryRun=All".into(),
                verb: "create".into(),
                user: Some(Arc::new(Identity::new("jane", &["dev"]))),
                source_ips: vec!["10.0.0.1".into()],
                user_agent: "kubectl".into(),
                reference: Some(Reference {
                    resource: "configmaps".into(),
                    namespace: "n".into(),
                    version: "v1".into(),
                    ..Reference::default()
                }),
                received: Timestamp::from_microsecond(1).unwrap(),
            },
            level,
            omit_managed_fields: true,
            stage: Stage::ResponseComplete,
            at: Timestamp::from_microsecond(1_500_000).unwrap(),
            answer: Some(Answer {
                code: 201,
                content: Some(body(
                    json!({"kind": "ConfigMap", "metadata": {"name": "c", "managedFields": []}}),
                )),
                message: None,
            }),
            impersonated: None,
            annotations: BTreeMap::from([("a".into(), "b".into())]),
            request: Some(body(json!({"kind": "ConfigMap", "metadata": {"name": "c"}}))),
        }
    }

    #[test]
    fn a_line_reads_as_kubernetes_writes_it() {
        let line = String::from_utf8(entry(Level::Metadata).line()).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-1","#,
                r#""stage":"ResponseComplete","requestURI":"/api/v1/namespaces/n/configmaps?dryRun=All","verb":"create","#,
                r#""user":{"username":"jane","groups":["dev","system:authenticated"]},"sourceIPs":["10.0.0.1"],"#,
                r#""userAgent":"kubectl","objectRef":{"resource":"configmaps","namespace":"n","name":"c","apiVersion":"v1"},"#,
                r#""responseStatus":{"code":201,"metadata":{}},"requestReceivedTimestamp":"1970-01-01T00:00:00.000001Z","#,
                r#""stageTimestamp":"1970-01-01T00:00:01.500000Z","annotations":{"a":"b"}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn bodies_are_shown_from_their_levels_on() {
        let of = |level| serde_json::from_slice::<Value>(&entry(level).line()).unwrap();
        let (request, both) = (of(Level::Request), of(Level::RequestResponse));
        assert_eq!(request["requestObject"]["metadata"]["name"], "c");
        assert_eq!(request.get("responseObject"), None);
        assert_eq!(both["responseObject"], json!({"kind": "ConfigMap", "metadata": {"name": "c"}}));
    }

    #[test]
    fn a_failure_is_told_with_its_status() {
        let mut failed = entry(Level::Metadata);
        let status = orlop_api::Status::unauthorized().to_json();
        let json = headers(&[("content-type", "application/json")]);
        let content = Content::new(&json, &Bytes::from(status.to_string()));
        failed.answer = Some(Answer { code: 401, content: Some(content), message: None });
        let line: Value = serde_json::from_slice(&failed.line()).unwrap();
        assert_eq!(line["responseStatus"]["reason"], "Unauthorized");
        assert_eq!(
            (&line["responseStatus"]["status"], &line["responseStatus"]["code"]),
            (&json!("Failure"), &json!(401))
        );
    }

    #[test]
    fn proxies_on_the_way_are_named_before_the_other_end() {
        let from: IpAddr = "::ffff:10.0.0.9".parse().unwrap();
        let of = |pairs: &[(&'static str, &str)]| source_ips(&headers(pairs), Some(from));
        assert_eq!(of(&[]), ["10.0.0.9"]);
        assert_eq!(of(&[("x-forwarded-for", "1.1.1.1, nonsense, 10.0.0.9")]), ["1.1.1.1", "10.0.0.9"]);
        assert_eq!(of(&[("x-real-ip", "2.2.2.2")]), ["2.2.2.2", "10.0.0.9"]);
    }

    #[test]
    fn managed_fields_leave_lists_and_tables() {
        let mut list = json!({"items": [{"metadata": {"managedFields": []}}]});
        let mut table = json!({"rows": [{"object": {"metadata": {"managedFields": [], "name": "x"}}}]});
        omit_managed_fields(&mut list);
        omit_managed_fields(&mut table);
        assert_eq!(list, json!({"items": [{"metadata": {}}]}));
        assert_eq!(table, json!({"rows": [{"object": {"metadata": {"name": "x"}}}]}));
    }
}

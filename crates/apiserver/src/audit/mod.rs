//! The audit log (Kubernetes documentation, "Auditing"): who did what, when, from where, and what came of it, as a policy wants it.
//! Notes what passes by; never decides about a request, and never keeps one waiting for longer than [`log::PATIENCE`].

mod event;
mod log;
mod policy;
mod rotation;
mod webhook;

use crate::{
    Config, Error, Identity,
    identity::Attributes,
    metrics::AuditCounters,
    pipeline::Held,
    registry::Clock,
    request::{RequestInfo, Verb},
    response::Response,
};
use bytes::Bytes;
use event::{Answer, Content, Entry, Reference};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use jiff::Timestamp;
use log::Log;
use parking_lot::Mutex;
pub use policy::{BadPolicy, Policy};
use policy::{Decision, Level, Stage};
pub use rotation::Rotation;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};
use webhook::Outbox;
pub use webhook::{Batches, Receiver, Undelivered, Webhook};

/// The header that tells by which name a request is noted.
pub(crate) const ID: &str = "audit-id";
/// Longer names of requests are cut off.
const LONGEST_ID: usize = 64;
const LONGEST_AGENT: usize = 1024;

/// Where the log goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file that is put aside when it is large.
    File {
        /// Where it is.
        path: PathBuf,
        /// When it is put aside, and for how long.
        rotation: Rotation,
    },
}

/// What is noted, and where.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// What is noted of which requests.
    pub policy: Policy,
    /// Where it is written.
    pub destination: Option<Destination>,
    /// To whom it is sent.
    pub webhook: Option<Webhook>,
}

/// The name of a request in the log: the client's own, or a new one.
pub(crate) fn id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(ID).and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty());
    match given {
        Some(given) => given.chars().take(LONGEST_ID).collect::<String>().into(),
        None => {
            let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            (&*id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())).into()
        }
    }
}

/// Tells the client the name of its request.
pub(crate) fn name_request(response: &mut Response, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(ID, value);
    }
}

/// A request that is noted. What is found out on its way is added to it.
pub(crate) struct Record {
    facts: event::Facts,
    decision: Decision,
    /// How somebody tried to prove who they are, who could not.
    attempted: Option<String>,
    found: Mutex<Found>,
}

/// What is found out about a request while it is worked on.
#[derive(Default)]
struct Found {
    impersonated: Option<Arc<Identity>>,
    annotations: BTreeMap<String, String>,
    request: Option<Content>,
}

impl Record {
    /// Who the client acts as.
    pub(crate) fn impersonates(&self, who: &Arc<Identity>) {
        self.found.lock().impersonated = Some(who.clone());
    }

    /// What authorization said, and why.
    pub(crate) fn authorized(&self, decision: &str, reason: String) {
        let annotations = &mut self.found.lock().annotations;
        annotations.insert("authorization.k8s.io/decision".into(), decision.into());
        annotations.insert("authorization.k8s.io/reason".into(), reason);
    }

    /// The body that the client sent.
    pub(crate) fn sent(&self, headers: &HeaderMap, body: &Bytes) {
        if self.facts.reference.is_some() && !body.is_empty() {
            self.found.lock().request = Some(Content::new(headers, body));
        }
    }

    fn entry(&self, stage: Stage, at: Timestamp, answer: Option<Answer>) -> Entry {
        let mut entry = Entry {
            facts: self.facts.clone(),
            level: self.decision.level,
            omit_managed_fields: self.decision.omit_managed_fields,
            stage,
            at,
            answer,
            impersonated: None,
            annotations: BTreeMap::new(),
            request: None,
        };
        // At first nothing has been found out, also when the line is written later.
        if stage != Stage::RequestReceived {
            let found = self.found.lock();
            entry.impersonated.clone_from(&found.impersonated);
            entry.annotations.clone_from(&found.annotations);
            entry.request.clone_from(&found.request);
        }
        entry
    }
}

/// How a request ended.
pub(crate) enum Ended {
    /// With an answer.
    Answered,
    /// With a panic that said this.
    Panicked(String),
}

/// Notes requests.
pub(crate) struct Auditor {
    policy: Policy,
    log: Log,
    clock: Clock,
}

impl Auditor {
    /// Opens the log, if the configuration wants one.
    pub(crate) fn open(config: &Config, counters: AuditCounters) -> Result<Option<Arc<Self>>, Error> {
        let Some(AuditConfig { policy, destination, webhook }) = config.audit.clone() else {
            return Ok(None);
        };
        let clock = config.clock.clone();
        let outbox = webhook.map(|webhook| Outbox::open(webhook, counters.clone()));
        let log = Log::open(destination, outbox, clock.clone(), counters)
            .map_err(|e| Error::Config(format!("opening the audit log: {e}")))?;
        Ok(Some(Arc::new(Self { policy, log, clock })))
    }

    /// Begins to note a request, if the policy wants that. `who` is `None` for somebody who could not prove who they are.
    pub(crate) async fn begin(
        &self,
        id: &Arc<str>,
        who: Option<&Arc<Identity>>,
        request: (&RequestInfo, &Parts, Option<IpAddr>),
    ) -> Option<Arc<Record>> {
        let (info, parts, from) = request;
        let reference = Reference::of(info);
        let method = parts.method.as_str().to_ascii_lowercase();
        let verb = if info.verb == Verb::Other { &method } else { info.verb.name() };
        let mut asked = Attributes { verb, path: parts.uri.path(), ..Attributes::default() };
        if let Some(of) = &reference {
            (asked.group, asked.resource, asked.subresource) = (&of.group, &of.resource, &of.subresource);
            (asked.namespace, asked.name) = (&of.namespace, &of.name);
        }
        let decision = self.policy.decide(who.map(|who| &**who), &asked);
        if decision.level == Level::None {
            return None;
        }
        let uri = parts.uri.path_and_query().map_or(parts.uri.path(), |p| p.as_str()).to_string();
        let record = Arc::new(Record {
            facts: event::Facts {
                id: id.clone(),
                uri,
                verb: verb.to_string(),
                user: who.cloned(),
                source_ips: event::source_ips(&parts.headers, from),
                user_agent: agent(&parts.headers),
                reference,
                received: (self.clock)(),
            },
            decision,
            attempted: who.is_none().then(|| attempted(&parts.headers)),
            found: Mutex::default(),
        });
        if who.is_some() {
            self.note(&record, Stage::RequestReceived, record.facts.received, None).await;
        }
        Some(record)
    }

    async fn note(&self, record: &Record, stage: Stage, at: Timestamp, answer: Option<Answer>) {
        if record.decision.notes(stage) {
            self.log.write(record.entry(stage, at, answer)).await;
        }
    }

    /// Notes how a request ended; the end of one that lasts is noted when its answer has been sent.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        record: &Arc<Record>,
        response: &mut Response,
        (ended, lasts): (Ended, bool),
        annotations: Vec<(String, String)>,
    ) {
        record.found.lock().annotations.extend(annotations);
        let mut answer = Answer::of(response, record.decision.level, &record.facts);
        let now = (self.clock)();
        if record.attempted.is_some() {
            // As Kubernetes does: somebody who is turned away at the door is noted once.
            answer = Answer { message: record.attempted.clone(), content: None, ..answer };
            return self.note(record, Stage::ResponseStarted, now, Some(answer)).await;
        }
        if let Ended::Panicked(why) = ended {
            answer = Answer { message: Some(format!("APIServer panic'd: {why}")), ..answer };
            return self.note(record, Stage::Panic, now, Some(answer)).await;
        }
        if lasts {
            self.note(record, Stage::ResponseStarted, now, Some(answer.clone())).await;
        }
        let held = response.extensions_mut().remove::<Held>();
        if held.is_none() && !response.body().streams() {
            return self.note(record, Stage::ResponseComplete, now, Some(answer)).await;
        }
        let ending = Ending { auditor: self.clone(), record: record.clone(), answer };
        match held {
            Some(held) => held.put(ending),
            None => response.body_mut().hold(ending),
        }
    }

    /// Waits until what has been noted is written.
    pub(crate) async fn flush(&self) {
        self.log.flush().await;
    }
}

/// What is noted of somebody who could not prove who they are.
fn attempted(headers: &HeaderMap) -> String {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let scheme = authorization.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "basic" | "bearer" => format!("Authentication failed, attempted: {scheme}"),
        _ => "Authentication failed, no credentials provided".into(),
    }
}

/// Lives as long as an answer is being sent; its end is the end of the request.
struct Ending {
    auditor: Arc<Auditor>,
    record: Arc<Record>,
    answer: Answer,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.record.decision.notes(Stage::ResponseComplete) {
            let now = (self.auditor.clock)();
            let entry = self.record.entry(Stage::ResponseComplete, now, Some(self.answer.clone()));
            self.auditor.log.write_or_defer(entry);
        }
    }
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let agent = agent.unwrap_or_default();
    match agent.char_indices().nth(LONGEST_AGENT) {
        Some((end, _)) => format!("{}...TRUNCATED", &agent[..end]),
        None => agent.into_owned(),
    }
}

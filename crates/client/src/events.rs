//! Events (core/v1): what happened to an object, for people. Repeats of one event become a count on the first. Sending never
//! blocks the caller, and events are dropped rather than queued without end.

use crate::{Clock, api_reason};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};
use tokio::sync::mpsc;

/// How many events may wait to be sent.
const WAITING: usize = 1024;
/// How many sent events are remembered for counting repeats.
const REMEMBERED: usize = 2048;

/// Whether an event is worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Somebody may want to act.
    Warning,
}

#[derive(Clone)]
struct Happening {
    about: ObjectReference,
    event_type: EventType,
    reason: &'static str,
    message: String,
}

/// Sends events. Clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    send: mpsc::Sender<Happening>,
}

/// A reference to an object, for its events.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource,
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    ObjectReference {
        api_version: Some(K::api_version(&kind).into_owned()),
        kind: Some(K::kind(&kind).into_owned()),
        name: object.meta().name.clone(),
        namespace: object.namespace(),
        uid: object.uid(),
        resource_version: object.resource_version(),
        ..ObjectReference::default()
    }
}

impl Recorder {
    /// A recorder that says the events come from `component` (on `host`, if it is a node). Runs in the background until
    /// dropped.
    pub fn new(client: Client, component: &'static str, host: Option<String>, clock: Clock) -> Self {
        let (send, mut waiting) = mpsc::channel::<Happening>(WAITING);
        tokio::spawn(async move {
            let mut sent = Sent::default();
            while let Some(happening) = waiting.recv().await {
                let source = EventSource { component: Some(component.into()), host: host.clone() };
                if let Err(error) = deliver(&client, &mut sent, source, happening, (clock)()).await {
                    tracing::debug!(%error, "an event was not delivered");
                }
            }
        });
        Self { send }
    }

    /// Records that something happened to an object.
    pub fn event<K>(
        &self,
        object: &K,
        event_type: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) where
        K: Resource,
        K::DynamicType: Default,
    {
        self.event_about(reference(object), event_type, reason, message);
    }

    /// The same for a part of an object, or one known by reference only.
    pub fn event_about(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let _ = self.send.try_send(Happening { about, event_type, reason, message: message.into() });
    }
}

/// The events sent lately, by what makes two of them the same.
#[derive(Default)]
struct Sent {
    events: HashMap<u64, (String, i32)>,
    order: VecDeque<u64>,
    /// How many were sent: two events about one object at the same time must not get the same name.
    count: u64,
}

impl Sent {
    fn remember(&mut self, same: u64, name: String, count: i32) {
        if self.events.insert(same, (name, count)).is_none() {
            self.order.push_back(same);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.events.remove(&oldest);
            }
        }
    }
}

fn sameness(h: &Happening) -> u64 {
    let mut hasher = DefaultHasher::new();
    let a = &h.about;
    (&a.kind, &a.namespace, &a.name, &a.uid, &a.field_path, h.event_type, h.reason, &h.message)
        .hash(&mut hasher);
    hasher.finish()
}

async fn deliver(
    client: &Client,
    sent: &mut Sent,
    source: EventSource,
    happening: Happening,
    now: jiff::Timestamp,
) -> Result<(), kube::Error> {
    // Events about cluster-scoped objects live in the default namespace.
    let namespace = happening.about.namespace.clone().unwrap_or_else(|| "default".into());
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let same = sameness(&happening);
    if let Some((name, count)) = sent.events.get(&same).cloned() {
        let patch = json!({"count": count + 1, "lastTimestamp": Time(now)});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                sent.remember(same, name, count + 1);
                return Ok(());
            }
            // It has expired: begin anew.
            Err(error) if api_reason(&error) == Some("NotFound") => {}
            Err(error) => return Err(error),
        }
    }
    let object_name = happening.about.name.clone().unwrap_or_default();
    sent.count += 1;
    let name = format!("{object_name}.{:x}", (now.as_nanosecond() as u64).wrapping_add(sent.count));
    let mut event = Event {
        type_: Some(format!("{:?}", happening.event_type)),
        reason: Some(happening.reason.into()),
        message: Some(truncated(happening.message)),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        source: Some(source),
        involved_object: happening.about,
        ..Event::default()
    };
    event.metadata.name = Some(name.clone());
    event.metadata.namespace = Some(namespace);
    api.create(&PostParams::default(), &event).await?;
    sent.remember(same, name, 1);
    Ok(())
}

/// Kubernetes takes at most 1,024 bytes of message.
fn truncated(mut message: String) -> String {
    if message.len() > 1024 {
        let cut = (0..=1021).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(cut);
        message.push_str("...");
    }
    message
}

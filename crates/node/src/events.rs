//! Events about pods and the node in the kubelet's words. Repeats are counted by the recorder; what floods is held back here,
//! as client-go's spam filter does.

use crate::{back_off::elapsed, pod::PodExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;
use orlop_client::{Clock, EventType, Recorder, events::reference};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Events about one object that may come at once, and how soon after that each further one.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Objects whose allowance is remembered.
const REMEMBERED: usize = 4096;

/// Sends events. Clones share one allowance.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
    node: ObjectReference,
    clock: Clock,
    allowances: Arc<Mutex<HashMap<String, Allowance>>>,
}

/// A bucket of tokens: an event takes one, time brings them back.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f64,
    at: Timestamp,
}

impl Allowance {
    fn full(at: Timestamp) -> Self {
        Self { left: BURST, at }
    }

    fn take(&mut self, now: Timestamp) -> bool {
        let back = elapsed(self.at, now).as_secs_f64() / REFILL.as_secs_f64();
        self.left = (self.left + back).min(BURST);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

impl Events {
    pub fn new(client: Client, node: &str, clock: Clock) -> Self {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            // As the kubelet has it: `kubectl describe node` looks for events by this.
            uid: Some(node.into()),
            ..ObjectReference::default()
        };
        let recorder = Recorder::new(client, "kubelet", Some(node.into()), clock.clone());
        Self { recorder, node: about, clock, allowances: Arc::default() }
    }

    /// Something about this node.
    pub fn node(&self, reason: &'static str, message: impl Into<String>) {
        self.recorder.event_about(self.node.clone(), EventType::Normal, reason, message);
    }

    /// Something about this node that somebody may want to see to.
    pub fn node_warning(&self, reason: &'static str, message: impl Into<String>) {
        self.recorder.event_about(self.node.clone(), EventType::Warning, reason, message);
    }

    /// Events about a pod.
    pub fn of_pod(&self, pod: &Pod) -> PodEvents {
        let mut about = reference(pod);
        about.resource_version = None;
        let spec = pod.spec_ref();
        let init = spec.init_containers.iter().flatten().map(|c| c.name.clone()).collect();
        let main = spec.containers.iter().map(|c| c.name.clone()).collect();
        PodEvents { events: self.clone(), about, init, main }
    }

    fn send(&self, about: ObjectReference, event_type: EventType, reason: &'static str, message: String) {
        let now = (self.clock)();
        let key = about.uid.clone().unwrap_or_default();
        let allowed = {
            let mut all = self.allowances.lock();
            if all.len() > REMEMBERED {
                all.clear();
            }
            all.entry(key).or_insert_with(|| Allowance::full(now)).take(now)
        };
        if allowed {
            self.recorder.event_about(about, event_type, reason, message);
        }
    }
}

/// Sends events about one pod.
#[derive(Clone)]
pub(crate) struct PodEvents {
    events: Events,
    about: ObjectReference,
    init: Vec<String>,
    main: Vec<String>,
}

impl PodEvents {
    fn about(&self, container: Option<&str>) -> ObjectReference {
        let mut about = self.about.clone();
        about.field_path = container.map(|name| {
            let among = |names: &[String]| names.iter().any(|n| n == name);
            let list = if among(&self.init) {
                "initContainers"
            } else if among(&self.main) {
                "containers"
            } else {
                // These alone come later.
                "ephemeralContainers"
            };
            format!("spec.{list}{{{name}}}")
        });
        about
    }

    /// As it should be.
    pub fn normal(&self, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.events.send(self.about(container), EventType::Normal, reason, message.into());
    }

    /// Somebody may want to act.
    pub fn warning(&self, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.events.send(self.about(container), EventType::Warning, reason, message.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_and_trickles_later() {
        let start = Timestamp::from_second(1000).expect("in range");
        let mut allowance = Allowance::full(start);
        assert_eq!((0..100).filter(|_| allowance.take(start)).count(), 25);
        assert!(!allowance.take(start + Duration::from_secs(299)));
        assert!(allowance.take(start + Duration::from_secs(301)));
        let later = start + Duration::from_secs(365 * 24 * 3600);
        assert_eq!((0..100).filter(|_| allowance.take(later)).count(), 25);
    }
}

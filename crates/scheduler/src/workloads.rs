//! Which pods belong together where a pod does not say itself how it wants to be spread: those that its Services and its controller
//! select. Kubernetes' default topology spread constraints count these.

use crate::matcher::{Labels, PodSelector};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use orlop_api::selector::{Operator, Requirement, Selector};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A workload by kind, namespace and name.
type Name = (&'static str, String, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Workloads {
    services: HashMap<String, BTreeMap<String, Labels>>,
    controllers: HashMap<Name, Selector>,
    /// Answers, by namespace, labels and controller; until something changes.
    known: HashMap<(String, Labels, String), Option<Arc<PodSelector>>>,
}

/// The kinds whose selectors count.
pub const KINDS: [&str; 3] = ["ReplicationController", "ReplicaSet", "StatefulSet"];

impl Workloads {
    /// Takes in what a Service selects; `None` if it is gone or selects nothing.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        let all = self.services.entry(namespace.to_string()).or_default();
        let selector = selector.filter(|s| !s.is_empty());
        let changed = match selector {
            Some(selector) => all.insert(name.to_string(), selector.clone()) != Some(selector),
            None => all.remove(name).is_some(),
        };
        if all.is_empty() {
            self.services.remove(namespace);
        }
        if changed {
            self.known.clear();
        }
    }

    /// Takes in what a controller of one of [`KINDS`] selects; `None` if it is gone.
    pub fn set_controller(
        &mut self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        selector: Option<Selector>,
    ) {
        let key = (kind, namespace.to_string(), name.to_string());
        let changed = match selector {
            Some(selector) => self.controllers.insert(key, selector.clone()) != Some(selector),
            None => self.controllers.remove(&key).is_some(),
        };
        if changed {
            self.known.clear();
        }
    }

    /// The pods that belong together with a pod; `None` if nothing selects it.
    pub fn selector(&mut self, pod: &Pod) -> Option<Arc<PodSelector>> {
        if self.services.is_empty() && self.controllers.is_empty() {
            return None;
        }
        let mut owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.find(|o| o.controller == Some(true));
        let namespace = pod.namespace().unwrap_or_default();
        let uid = owner.map(|o| o.uid.clone()).unwrap_or_default();
        let key = (namespace, pod.labels().clone(), uid);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let (namespace, labels) = (key.0.as_str(), &key.1);
        let mut requirements: Vec<Requirement> = Vec::new();
        let services = self.services.get(namespace).into_iter().flat_map(BTreeMap::values);
        let mut merged = Labels::new();
        for selector in services {
            if selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
                merged.extend(selector.clone());
            }
        }
        for (label, value) in &merged {
            requirements.extend(Requirement::new(label, Operator::Equals, &[value]));
        }
        if let Some(owner) = owner
            && let Some(kind) = KINDS.into_iter().find(|k| *k == owner.kind)
            && let Some(selector) = self.controllers.get(&(kind, namespace.to_string(), owner.name.clone()))
        {
            requirements.extend(selector.requirements().iter().cloned());
        }
        let text: Vec<String> = requirements.iter().map(ToString::to_string).collect();
        let answer = match Selector::parse(&text.join(",")) {
            Ok(selector) if !requirements.is_empty() => {
                Some(Arc::new(PodSelector::in_namespace(namespace, selector)))
            }
            _ => None,
        };
        if self.known.len() > 16_384 {
            self.known.clear();
        }
        self.known.insert(key, answer.clone());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_belong_together_by_services_and_controller() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "a",
            "labels": {"app": "web", "hash": "1"}, "ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": "web-1", "uid": "u", "controller": true}]}}))
        .unwrap();
        let mut workloads = Workloads::default();
        assert!(workloads.selector(&pod).is_none());
        let app = Labels::from([("app".to_string(), "web".to_string())]);
        workloads.set_service("a", "web", Some(app.clone()));
        workloads.set_service("a", "other", Some(Labels::from([("app".into(), "db".into())])));
        let spaces = Default::default();
        let found = workloads.selector(&pod).unwrap();
        assert!(found.matches("a", &app, &spaces) && !found.matches("b", &app, &spaces));
        workloads.set_controller("ReplicaSet", "a", "web-1", Selector::parse("hash=1").ok());
        let found = workloads.selector(&pod).unwrap();
        assert!(!found.matches("a", &app, &spaces), "both count");
        assert!(found.matches("a", pod.labels(), &spaces));
        workloads.set_service("a", "web", None);
        workloads.set_controller("ReplicaSet", "a", "web-1", None);
        assert!(workloads.selector(&pod).is_none());
    }
}

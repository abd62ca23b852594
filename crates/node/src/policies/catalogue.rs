//! Policies, pods and namespaces as last heard of, carried into the network's index. Pure.

use super::facts;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::runtime::watcher::Event;
use orlop_network::policy::{Index, ObjectName, PolicyRules};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

/// See the module.
pub(super) struct Catalogue {
    index: Index,
    /// Resource versions of the policies.
    versions: BTreeMap<ObjectName, String>,
    /// The sandbox that a pod's addresses were given to, by the pod's uid.
    sandboxes: HashMap<String, String>,
    /// Those that are heard again while a list is made anew.
    policies_seen: Option<HashSet<ObjectName>>,
    pods_seen: Option<HashSet<String>>,
    namespaces_seen: Option<HashSet<String>>,
    /// Which kinds were heard of in full: policies, pods, namespaces.
    complete: [bool; 3],
    changed: bool,
}

impl Catalogue {
    pub fn new(node: String) -> Self {
        Self {
            index: Index::new(node),
            versions: BTreeMap::new(),
            sandboxes: HashMap::new(),
            policies_seen: None,
            pods_seen: None,
            namespaces_seen: None,
            complete: [false; 3],
            changed: false,
        }
    }

    /// Whether all kinds were heard of in full: before that, what is not known may still be there.
    pub fn is_complete(&self) -> bool {
        self.complete == [true; 3]
    }

    /// Whether the rules may not be the same any more as at the last call of `rules`.
    pub fn has_news(&self) -> bool {
        self.changed
    }

    /// The rules of this node.
    pub fn rules(&mut self) -> PolicyRules {
        self.changed = false;
        self.index.rules()
    }

    /// The rules are to be told again.
    pub fn unsettle(&mut self) {
        self.changed = true;
    }

    /// Takes in what was heard of policies.
    pub fn policy(&mut self, event: Event<NetworkPolicy>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let Some(policy) = facts::policy(&object) else { return };
                let name = policy.name.clone();
                if let Some(seen) = &mut self.policies_seen {
                    seen.insert(name.clone());
                }
                self.versions.insert(name, object.metadata.resource_version.unwrap_or_default());
                self.changed |= self.index.set_policy(policy);
            }
            Event::Delete(object) => {
                if let (Some(namespace), Some(name)) = (object.metadata.namespace, object.metadata.name) {
                    self.remove_policy(&ObjectName { namespace, name });
                }
            }
            Event::Init => self.policies_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.policies_seen.take().unwrap_or_default();
                let gone: Vec<_> =
                    self.index.policy_names().filter(|name| !seen.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_policy(name));
                self.complete[0] = true;
            }
        }
    }

    fn remove_policy(&mut self, name: &ObjectName) {
        self.versions.remove(name);
        self.changed |= self.index.remove_policy(name);
    }

    /// Takes in what was heard of pods.
    pub fn pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let Some(pod) = facts::pod(&object) else { return };
                if let Some(seen) = &mut self.pods_seen {
                    seen.insert(pod.uid.clone());
                }
                self.changed |= self.index.set_pod(pod);
            }
            Event::Delete(object) => {
                let uid = object.metadata.uid.unwrap_or_default();
                self.changed |= self.index.remove_pod(&uid);
            }
            Event::Init => self.pods_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.pods_seen.take().unwrap_or_default();
                let gone: Vec<_> =
                    self.index.pod_uids().filter(|uid| !seen.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.changed |= self.index.remove_pod(&uid);
                }
                self.complete[1] = true;
            }
        }
    }

    /// Takes in what was heard of namespaces.
    pub fn namespace(&mut self, event: Event<Namespace>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let Some((name, labels)) = facts::namespace(&object) else { return };
                if let Some(seen) = &mut self.namespaces_seen {
                    seen.insert(name.clone());
                }
                self.changed |= self.index.set_namespace(&name, labels);
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.changed |= self.index.remove_namespace(&name);
            }
            Event::Init => self.namespaces_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.namespaces_seen.take().unwrap_or_default();
                let gone: Vec<_> =
                    self.index.namespace_names().filter(|name| !seen.contains(*name)).cloned().collect();
                for name in gone {
                    self.changed |= self.index.remove_namespace(&name);
                }
                self.complete[2] = true;
            }
        }
    }

    /// Whether a namespace's policies are known exactly as they were listed.
    pub fn knows(&self, namespace: &str, listed: &BTreeMap<ObjectName, String>) -> bool {
        let first = ObjectName { namespace: namespace.to_owned(), name: String::new() };
        let known = self.versions.range(first..).take_while(|(name, _)| name.namespace == namespace);
        known.eq(listed.iter())
    }

    /// This node gave a pod's sandbox these addresses.
    pub fn place(&mut self, pod: &Pod, sandbox: &str, addresses: &[IpAddr]) {
        let Some(facts) = facts::pod(pod) else { return };
        self.sandboxes.insert(facts.uid.clone(), sandbox.to_owned());
        self.index.place(facts, addresses.to_vec());
        self.changed = true;
    }

    /// This node took a sandbox's addresses back.
    pub fn unplace(&mut self, uid: &str, sandbox: &str) {
        if self.sandboxes.get(uid).is_some_and(|known| known == sandbox) {
            self.sandboxes.remove(uid);
            self.changed |= self.index.unplace(uid);
        }
    }
}

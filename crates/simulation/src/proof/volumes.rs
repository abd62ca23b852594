//! What must hold of claims and volumes after every commit: a claim keeps its volume and nobody else gets it, a pod is where its volumes
//! are, a stateful pod has the claims of its own name, and those go only when somebody said so. Pure.

use super::facts::{Meta, PodFacts, labels};
use orlop_api::{
    local_volume::NODE_LABEL,
    object::{list, text},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const BIND_COMPLETED: &str = "/metadata/annotations/pv.kubernetes.io~1bind-completed";

#[derive(Debug)]
struct ClaimFacts {
    meta: Meta,
    volume: String,
    bound: bool,
    /// Somebody owns it, and takes it along.
    owned: bool,
}

#[derive(Debug)]
struct VolumeFacts {
    /// The node that has it; empty where any may.
    node: String,
    /// The uid of the claim that it is for.
    claim: String,
}

/// What the history has shown of claims and volumes.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    claims: BTreeMap<(String, String), ClaimFacts>,
    volumes: BTreeMap<String, VolumeFacts>,
    /// Namespaces that are being deleted.
    leaving: BTreeSet<String>,
}

impl Volumes {
    pub(super) fn namespace(&mut self, name: &str, namespace: Option<&Value>) {
        if namespace.is_some_and(|n| Meta::of(n).deleting) {
            self.leaving.insert(name.into());
        } else {
            self.leaving.remove(name);
        }
    }

    pub(super) fn volume(&mut self, name: &str, volume: Option<&Value>) {
        let Some(volume) = volume else {
            self.volumes.remove(name);
            return;
        };
        let node = labels(volume.pointer("/metadata/labels")).get(NODE_LABEL).cloned().unwrap_or_default();
        let claim = text(volume, "/spec/claimRef/uid").into();
        self.volumes.insert(name.into(), VolumeFacts { node, claim });
    }

    pub(super) fn claim(&mut self, namespace: &str, name: &str, claim: Option<&Value>) -> Vec<String> {
        let mut wrong = Vec::new();
        let key = (namespace.to_string(), name.to_string());
        let before = self.claims.remove(&key);
        let meta = claim.map(Meta::of);
        let goes = meta.as_ref().is_none_or(|m| m.deleting);
        if let Some(before) = &before
            && goes
            && !before.meta.deleting
            && !before.owned
            && !self.leaving.contains(namespace)
        {
            wrong.push(format!("claim {namespace}/{name} goes, though nothing says so"));
        }
        let (Some(claim), Some(meta)) = (claim, meta) else { return wrong };
        let facts = ClaimFacts {
            volume: text(claim, "/spec/volumeName").into(),
            // What the scheduler goes by; the status follows.
            bound: !text(claim, "/spec/volumeName").is_empty() && !text(claim, BIND_COMPLETED).is_empty(),
            owned: !list(claim, "/metadata/ownerReferences").is_empty(),
            meta,
        };
        if let Some(before) = before.filter(|b| b.meta.uid == facts.meta.uid && !b.volume.is_empty())
            && before.volume != facts.volume
        {
            let (old, new) = (before.volume, &facts.volume);
            wrong.push(format!("claim {namespace}/{name} had the volume {old}, and now {new:?}"));
        }
        let volume = self.volumes.get(&facts.volume);
        if facts.bound && !goes && volume.is_none_or(|v| v.claim != facts.meta.uid) {
            let whose = volume.map_or("nobody", |v| &v.claim);
            wrong.push(format!("claim {namespace}/{name} is bound to {}, which is {whose}'s", facts.volume));
        }
        self.claims.insert(key, facts);
        wrong
    }

    /// A pod was given a node.
    pub(super) fn bound(&self, pod: &PodFacts) -> Vec<String> {
        let Meta { namespace, name, controller, .. } = &pod.meta;
        let mut wrong = Vec::new();
        for claim in &pod.claims {
            let of_set = controller.as_ref().is_some_and(|(kind, _)| kind == "StatefulSet");
            if of_set && !claim.ends_with(&format!("-{name}")) {
                wrong.push(format!("{namespace}/{name} has the claim {claim} of somebody else"));
            }
            let known = self.claims.get(&(namespace.clone(), claim.clone())).filter(|c| c.bound);
            match known.map(|c| self.volumes.get(&c.volume)) {
                None => {
                    wrong.push(format!("{namespace}/{name} has a node before its claim {claim} is bound"))
                }
                Some(Some(volume)) if !volume.node.is_empty() && volume.node != pod.node => {
                    let (here, there) = (&pod.node, &volume.node);
                    wrong.push(format!("{namespace}/{name} is on {here}, its claim {claim} on {there}"));
                }
                Some(_) => {}
            }
        }
        wrong
    }
}

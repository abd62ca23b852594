//! What a node may do: the identity `system:node:NAME` in the group `system:nodes` (Kubernetes documentation, "Using Node
//! Authorization" and "NodeRestriction").

pub(crate) mod graph;
pub(crate) mod restriction;

use super::{
    Attributes, Authorizer, Decision, Identity,
    authorize::{Because, Held},
};
use graph::{Graph, Kind};
use orlop_api::{
    local_volume::NODE_LABEL,
    orlop_v1::GROUP as GROUP_OF_NETWORKS,
    rbac::{PolicyRule, Request},
};
use std::sync::Arc;

const PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";

/// The name of the node that `who` is; empty where it does not say which; `None` where it is none.
pub(crate) fn name_of(who: &Identity) -> Option<&str> {
    who.is_in(GROUP).then(|| who.user.strip_prefix(PREFIX).unwrap_or_default())
}

/// The authorizer.
pub(crate) struct NodeAuthorizer {
    pub(crate) graph: Arc<Graph>,
    /// What all nodes may do, whatever runs on them: the rules of the role `system:node`.
    rules: Vec<PolicyRule>,
}

type Answer = Result<(), String>;

fn only(verbs: &[&str], verb: &str, otherwise: &str) -> Answer {
    if verbs.contains(&verb) { Ok(()) } else { Err(otherwise.into()) }
}

fn no_subresource(what: &Attributes<'_>, otherwise: &str) -> Answer {
    if what.subresource.is_empty() { Ok(()) } else { Err(otherwise.into()) }
}

impl NodeAuthorizer {
    pub(crate) fn new(rules: Vec<PolicyRule>) -> Self {
        Self { graph: Arc::default(), rules }
    }

    /// Whether something that runs on the node needs the object.
    fn related(&self, node: &str, kind: Kind, what: &Attributes<'_>) -> Answer {
        if what.name.is_empty() {
            return Err("No Object name found".into());
        }
        if self.graph.leads_to(kind, what.namespace, what.name, node) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, kind: Kind, what: &Attributes<'_>) -> Answer {
        only(&["get"], what.verb, "can only get individual resources of this type")?;
        no_subresource(what, "cannot get subresource")?;
        self.related(node, kind, what)
    }

    fn read(&self, node: &str, kind: Kind, what: &Attributes<'_>) -> Answer {
        only(&["get", "list", "watch"], what.verb, "can only read resources of this type")?;
        no_subresource(what, "cannot read subresource")?;
        if what.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        self.related(node, kind, what)
    }

    fn own_node(&self, node: &str, what: &Attributes<'_>) -> Answer {
        match (what.subresource, what.verb) {
            // Which node is written is for the restriction to see: a create has no name here.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if what.name == node => Ok(()),
            ("", "get" | "list" | "watch") => {
                Err(format!("node '{node}' cannot read '{}', only its own Node object", what.name))
            }
            _ => self.static_rules(what),
        }
    }

    fn own_pods(&self, node: &str, what: &Attributes<'_>) -> Answer {
        match (what.subresource, what.verb) {
            ("", "get") => self.related(node, Kind::Pod, what),
            ("", "list" | "watch") => {
                let on_node =
                    what.fields.iter().any(|(field, value)| field == "spec.nodeName" && value == node);
                if on_node {
                    Ok(())
                } else if what.name.is_empty() {
                    Err("can only list/watch pods with spec.nodeName field selector".into())
                } else {
                    self.related(node, Kind::Pod, what)
                }
            }
            _ => self.static_rules(what),
        }
    }

    fn own_lease(&self, node: &str, what: &Attributes<'_>) -> Answer {
        let verbs = ["get", "create", "update", "patch", "delete"];
        only(&verbs, what.verb, "can only get, create, update, patch, or delete a node lease")?;
        if what.namespace != LEASES {
            return Err(format!("can only access leases in the \"{LEASES}\" system namespace"));
        }
        if what.verb != "create" && what.name != node {
            return Err("can only access node lease with the same name as the requesting node".into());
        }
        Ok(())
    }

    fn own_csi_node(&self, node: &str, what: &Attributes<'_>) -> Answer {
        let verbs = ["get", "create", "update", "patch", "delete"];
        only(&verbs, what.verb, "can only get, create, update, patch, or delete a CSINode")?;
        no_subresource(what, "cannot authorize CSINode subresources")?;
        if what.verb != "create" && what.name != node {
            return Err("can only access CSINode with the same name as the requesting node".into());
        }
        Ok(())
    }

    /// Besides the volumes of its pods a node sees those that are directories of its own, and lets go of them when they are gone.
    fn volumes(&self, node: &str, what: &Attributes<'_>) -> Answer {
        let own = |(field, value): &(String, String)| {
            let label = field.strip_prefix("metadata.labels[").and_then(|f| f.strip_suffix(']'));
            label == Some(NODE_LABEL) && value == node
        };
        match what.verb {
            "list" | "watch" if what.subresource.is_empty() && what.fields.iter().any(own) => Ok(()),
            "patch" | "update" if what.subresource.is_empty() => self.related(node, Kind::LocalVolume, what),
            _ => self.get(node, Kind::Volume, what),
        }
    }

    fn own_slices(&self, node: &str, what: &Attributes<'_>) -> Answer {
        no_subresource(what, "cannot authorize ResourceSlice subresources")?;
        match what.verb {
            // Whose devices are offered is for the restriction to see.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::Slice, what),
            "list" | "watch" | "deletecollection" => {
                let mut fields = what.fields.iter();
                if fields.any(|(field, value)| field == "spec.nodeName" && value == node) {
                    return Ok(());
                }
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into())
            }
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch,                 delete, deletecollection"
                .into()),
        }
    }

    /// Besides what all nodes may see of attachments, a node says what became of those of its own pods.
    fn own_attachments(&self, node: &str, what: &Attributes<'_>) -> Answer {
        if what.subresource != "status" {
            return self.static_rules(what);
        }
        only(&["update", "patch"], what.verb, "can only update status subresource")?;
        // The name is the pod's and the network's, and a network's has no dots.
        let pod = what.name.rsplit_once('.').map_or("", |(pod, _)| pod);
        self.related(node, Kind::Pod, &Attributes { name: pod, ..what.clone() })
    }

    fn static_rules(&self, what: &Attributes<'_>) -> Answer {
        let request = if what.resource.is_empty() {
            Request::Path { verb: what.verb, path: what.path }
        } else {
            Request::Resource {
                verb: what.verb,
                group: what.group,
                resource: what.resource,
                subresource: what.subresource,
                name: what.name,
            }
        };
        if self.rules.iter().any(|rule| rule.allows(request)) { Ok(()) } else { Err(String::new()) }
    }

    fn answer(&self, node: &str, what: &Attributes<'_>) -> Answer {
        match (what.group, what.resource) {
            ("", "secrets") => self.read(node, Kind::Secret, what),
            ("", "configmaps") => self.read(node, Kind::ConfigMap, what),
            ("", "persistentvolumeclaims") if what.subresource == "status" => {
                only(&["update", "patch"], what.verb, "can only update status subresource")?;
                self.related(node, Kind::Claim, what)
            }
            ("", "persistentvolumeclaims") => self.get(node, Kind::Claim, what),
            ("", "persistentvolumes") => self.volumes(node, what),
            ("", "serviceaccounts") => {
                // The account itself says how its tokens are used to pull images.
                if !matches!((what.verb, what.subresource), ("create", "token") | ("get", "")) {
                    return Err("can only create tokens for individual service accounts".into());
                }
                self.related(node, Kind::ServiceAccount, what)
            }
            ("", "nodes") => self.own_node(node, what),
            ("", "pods") => self.own_pods(node, what),
            ("coordination.k8s.io", "leases") => self.own_lease(node, what),
            ("storage.k8s.io", "csinodes") => self.own_csi_node(node, what),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::ResourceClaim, what),
            ("resource.k8s.io", "resourceslices") => self.own_slices(node, what),
            (GROUP_OF_NETWORKS, "networkattachments") => self.own_attachments(node, what),
            _ => self.static_rules(what),
        }
    }
}

impl Authorizer for NodeAuthorizer {
    fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        let answer = match name_of(who) {
            None => Err(String::new()),
            Some("") => Err(format!("unknown node for user {:?}", who.user)),
            Some(node) => self.answer(node, what),
        };
        match answer {
            Ok(()) => Decision::Allow(Because::Unsaid),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    fn held(&self, who: &Identity, _namespace: &str) -> Held {
        // What follows from the pods on the node is no rule.
        Held { incomplete: name_of(who).is_some(), ..Held::default() }
    }
}

#[cfg(test)]
mod tests;

//! What the pods of each node need, found by what is needed: a question whether a node may see an object is one look. Fed with
//! every change of pods, persistent volumes and slices of devices in the order of the store; decides nothing.

use crate::cache::{Index, slim};
use orlop_api::{
    local_volume::NODE_LABEL,
    object::{list, map, text},
};
use orlop_store::{Change, Entry};
use parking_lot::RwLock;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

const PODS: &str = "/registry/core/pods/";
const VOLUMES: &str = "/registry/core/persistentvolumes/";
const SLICES: &str = "/registry/resource.k8s.io/resourceslices/";

/// What a pod may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume: needed through the claim that it is bound to, or a directory of the node.
    Volume,
    /// A PersistentVolume that is a directory of the node.
    LocalVolume,
    /// A claim for devices.
    ResourceClaim,
    /// A ResourceSlice: of the node that it names.
    Slice,
}

type Needs = BTreeSet<(Kind, String)>;

#[derive(Default)]
struct State {
    /// By `NAMESPACE/NAME`: the node, and what the pod needs in its namespace.
    pods: HashMap<String, (Arc<str>, Needs)>,
    /// By kind and `NAMESPACE/NAME`: the nodes, each with the number of its pods.
    needed: HashMap<(Kind, String), HashMap<Arc<str>, usize>>,
    /// By the volume's name: its claim, `NAMESPACE/NAME`.
    claims: HashMap<String, String>,
    /// By the volume's name: the node that it is a directory of.
    directories: HashMap<String, String>,
    /// By the slice's name: its node.
    slices: HashMap<String, String>,
}

/// Which node needs what.
#[derive(Default)]
pub(crate) struct Graph {
    state: RwLock<State>,
}

/// What a pod needs of its namespace.
fn needs(pod: &Value) -> Needs {
    let mut found = Needs::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            found.insert((kind, name.to_string()));
        }
    };
    add(Kind::Pod, text(pod, "/metadata/name"));
    // What a node made out of a file needs nothing of the API.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return found;
    }
    add(Kind::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for secret in list(pod, "/spec/imagePullSecrets") {
        add(Kind::Secret, text(secret, "/name"));
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(pod, &format!("/spec/{containers}")) {
            for from in list(container, "/envFrom") {
                add(Kind::ConfigMap, text(from, "/configMapRef/name"));
                add(Kind::Secret, text(from, "/secretRef/name"));
            }
            for variable in list(container, "/env") {
                add(Kind::ConfigMap, text(variable, "/valueFrom/configMapKeyRef/name"));
                add(Kind::Secret, text(variable, "/valueFrom/secretKeyRef/name"));
            }
        }
    }
    // Those made out of templates are in the status before a pod is bound.
    for claim in list(pod, "/spec/resourceClaims").iter().chain(list(pod, "/status/resourceClaimStatuses")) {
        add(Kind::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    for volume in list(pod, "/spec/volumes") {
        add(Kind::Secret, text(volume, "/secret/secretName"));
        add(Kind::ConfigMap, text(volume, "/configMap/name"));
        add(Kind::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if map(volume, "/ephemeral").is_some() {
            add(Kind::Claim, &format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")));
        }
        for source in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            add(Kind::Secret, text(volume, &format!("/{source}/secretRef/name")));
        }
        add(Kind::Secret, text(volume, "/azureFile/secretName"));
        add(Kind::Secret, text(volume, "/csi/nodePublishSecretRef/name"));
        for source in list(volume, "/projected/sources") {
            add(Kind::Secret, text(source, "/secret/name"));
            add(Kind::ConfigMap, text(source, "/configMap/name"));
        }
    }
    found
}

fn contains(value: &[u8], text: &str) -> bool {
    value.windows(text.len()).any(|w| w == text.as_bytes())
}

impl State {
    fn forget(&mut self, pod: &str) {
        let Some((node, needs)) = self.pods.remove(pod) else { return };
        let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
        for (kind, name) in needs {
            let key = (kind, format!("{namespace}/{name}"));
            if let Some(nodes) = self.needed.get_mut(&key) {
                if let Some(count) = nodes.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&node);
                    }
                }
                if nodes.is_empty() {
                    self.needed.remove(&key);
                }
            }
        }
    }

    fn take_pod(&mut self, pod: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return self.forget(pod) };
        // A pod is read when it is bound; what it needs does not change, unless containers are added to it.
        if self.pods.contains_key(pod) && !contains(value, "\"ephemeralContainers\"")
            || !contains(value, "\"nodeName\"")
        {
            return;
        }
        let Some(object) = slim::value(value, &[slim::MANAGED_FIELDS]) else { return };
        let node = text(&object, "/spec/nodeName");
        if node.is_empty() {
            return;
        }
        self.forget(pod);
        let (node, needs): (Arc<str>, _) = (node.into(), needs(&object));
        let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
        for (kind, name) in &needs {
            let nodes = self.needed.entry((*kind, format!("{namespace}/{name}"))).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        self.pods.insert(pod.to_string(), (node, needs));
    }

    fn take_slice(&mut self, slice: &str, value: Option<&[u8]>) {
        let object = value.and_then(|v| serde_json::from_slice::<Value>(v).ok()).unwrap_or_default();
        match text(&object, "/spec/nodeName") {
            "" => drop(self.slices.remove(slice)),
            node => drop(self.slices.insert(slice.to_string(), node.to_string())),
        }
    }

    fn take_volume(&mut self, volume: &str, value: Option<&[u8]>) {
        let object = value.and_then(|v| serde_json::from_slice::<Value>(v).ok()).unwrap_or_default();
        match map(&object, "/metadata/labels").and_then(|l| l.get(NODE_LABEL)).and_then(Value::as_str) {
            None => drop(self.directories.remove(volume)),
            Some(node) => drop(self.directories.insert(volume.to_string(), node.to_string())),
        }
        match text(&object, "/spec/claimRef/name") {
            "" => drop(self.claims.remove(volume)),
            claim => {
                let claim = format!("{}/{claim}", text(&object, "/spec/claimRef/namespace"));
                self.claims.insert(volume.to_string(), claim);
            }
        }
    }
}

impl Graph {
    /// Whether a pod on the node needs the object, or the object is of the node.
    pub(crate) fn leads_to(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let state = self.state.read();
        let local = || state.directories.get(name).is_some_and(|of| of == node);
        let key = match kind {
            Kind::LocalVolume => return local(),
            Kind::Volume if local() => return true,
            Kind::Volume => match state.claims.get(name) {
                Some(claim) => (Kind::Claim, claim.clone()),
                None => return false,
            },
            Kind::Slice => return state.slices.get(name).is_some_and(|of| of == node),
            kind => (kind, format!("{namespace}/{name}")),
        };
        state.needed.get(&key).is_some_and(|nodes| nodes.contains_key(node))
    }
}

/// Feeds pods into the graph.
pub(crate) struct PodFeed(pub Arc<Graph>);
/// Feeds persistent volumes into the graph.
pub(crate) struct VolumeFeed(pub Arc<Graph>);
/// Feeds slices of devices into the graph.
pub(crate) struct SliceFeed(pub Arc<Graph>);

fn value(change: &Change) -> Option<&[u8]> {
    (!change.deleted).then_some(&*change.entry.value)
}

impl Index for PodFeed {
    fn key_prefix(&self) -> &str {
        PODS
    }

    fn fill(&self, entries: &[Entry]) {
        let mut state = self.0.state.write();
        state.pods.clear();
        state.needed.clear();
        for entry in entries {
            state.take_pod(&entry.key[PODS.len()..], Some(&entry.value));
        }
    }

    fn apply(&self, change: &Change) {
        self.0.state.write().take_pod(&change.entry.key[PODS.len()..], value(change));
    }
}

impl Index for VolumeFeed {
    fn key_prefix(&self) -> &str {
        VOLUMES
    }

    fn fill(&self, entries: &[Entry]) {
        let mut state = self.0.state.write();
        state.claims.clear();
        state.directories.clear();
        for entry in entries {
            state.take_volume(&entry.key[VOLUMES.len()..], Some(&entry.value));
        }
    }

    fn apply(&self, change: &Change) {
        self.0.state.write().take_volume(&change.entry.key[VOLUMES.len()..], value(change));
    }
}

impl Index for SliceFeed {
    fn key_prefix(&self) -> &str {
        SLICES
    }

    fn fill(&self, entries: &[Entry]) {
        let mut state = self.0.state.write();
        state.slices.clear();
        for entry in entries {
            state.take_slice(&entry.key[SLICES.len()..], Some(&entry.value));
        }
    }

    fn apply(&self, change: &Change) {
        self.0.state.write().take_slice(&change.entry.key[SLICES.len()..], value(change));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in crate::identity) fn put(graph: &Graph, pod: &str, object: Option<&Value>) {
        let text = object.map(Value::to_string);
        graph.state.write().take_pod(pod, text.as_deref().map(str::as_bytes));
    }

    pub(in crate::identity) fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "resourceClaims": [{"name": "d", "resourceClaimName": "devices"}, {"name": "t", "resourceClaimTemplateName": "t"}],
            "nodeName": node, "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "e", "ephemeral": {}},
                {"name": "s", "projected": {"sources": [{"configMap": {"name": "root-ca"}}, {"secret": {"name": "projected"}}]}}],
        }, "status": {"resourceClaimStatuses": [{"name": "t", "resourceClaimName": "p-t-x"}]}})
    }

    pub(in crate::identity) fn put_slice(graph: &Graph, slice: &str, node: &str) {
        let object = json!({"spec": {"nodeName": node}}).to_string();
        graph.state.write().take_slice(slice, Some(object.as_bytes()));
    }

    #[test]
    fn a_node_is_led_to_what_its_pods_need_while_they_are_there() {
        let graph = Graph::default();
        put(&graph, "n/p", Some(&json!({"metadata": {"name": "p"}, "spec": {}})));
        put(&graph, "n/p", Some(&pod("a")));
        let claim = json!({"spec": {"claimRef": {"namespace": "n", "name": "data"}}}).to_string();
        graph.state.write().take_volume("pv", Some(claim.as_bytes()));
        let needed = [
            (Kind::Pod, "p"),
            (Kind::ServiceAccount, "robot"),
            (Kind::Secret, "pull"),
            (Kind::Secret, "env"),
            (Kind::Secret, "projected"),
            (Kind::ConfigMap, "all"),
            (Kind::ConfigMap, "root-ca"),
            (Kind::Claim, "data"),
            (Kind::Claim, "p-e"),
            (Kind::ResourceClaim, "devices"),
            (Kind::ResourceClaim, "p-t-x"),
        ];
        for (kind, name) in needed {
            assert!(graph.leads_to(kind, "n", name, "a"), "{kind:?} {name}");
            assert!(!graph.leads_to(kind, "n", name, "b") && !graph.leads_to(kind, "m", name, "a"), "{name}");
        }
        assert!(graph.leads_to(Kind::Volume, "", "pv", "a") && !graph.leads_to(Kind::Volume, "", "pv", "b"));
        assert!(!graph.leads_to(Kind::LocalVolume, "", "pv", "a"), "it is not a directory of the node");
        let directory = json!({"metadata": {"labels": {NODE_LABEL: "b"}}}).to_string();
        graph.state.write().take_volume("mine", Some(directory.as_bytes()));
        for kind in [Kind::Volume, Kind::LocalVolume] {
            assert!(graph.leads_to(kind, "", "mine", "b") && !graph.leads_to(kind, "", "mine", "a"));
        }
        put(&graph, "n/p", None);
        for (kind, name) in needed {
            assert!(!graph.leads_to(kind, "n", name, "a"), "{kind:?} {name}");
        }
        assert!(graph.state.read().needed.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_slice_is_of_the_node_that_it_names_while_it_is_there() {
        let graph = Graph::default();
        put_slice(&graph, "s", "a");
        put_slice(&graph, "everywhere", "");
        assert!(graph.leads_to(Kind::Slice, "", "s", "a") && !graph.leads_to(Kind::Slice, "", "s", "b"));
        assert!(
            !graph.leads_to(Kind::Slice, "", "everywhere", "")
                && !graph.leads_to(Kind::Slice, "", "none", "a")
        );
        graph.state.write().take_slice("s", None);
        assert!(!graph.leads_to(Kind::Slice, "", "s", "a"));
    }

    #[test]
    fn a_container_that_is_added_later_may_need_more() {
        let graph = Graph::default();
        let mut object = pod("a");
        put(&graph, "n/p", Some(&object));
        let debug = json!([{"name": "d", "envFrom": [{"secretRef": {"name": "late"}}]}]);
        object["spec"]["ephemeralContainers"] = debug;
        put(&graph, "n/p", Some(&object));
        assert!(
            graph.leads_to(Kind::Secret, "n", "late", "a") && graph.leads_to(Kind::Secret, "n", "env", "a")
        );
    }
}

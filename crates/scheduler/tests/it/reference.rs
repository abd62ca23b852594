//! The filters written straight from Kubernetes' documentation, looking at every pod of every node each time. Slow, and plain enough
//! to be believed.

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use kube::ResourceExt;
use orlop_api::{node_affinity, pod_resources, selector::Selector, taint};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub struct Reference {
    pub nodes: Vec<Arc<Node>>,
    /// With the name of its node.
    pub pods: Vec<(Arc<Pod>, String)>,
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap()
}

impl Reference {
    /// The nodes that a pod fits, by name.
    pub fn fits(&self, pod: &Pod) -> Vec<String> {
        let all = self.nodes.iter().filter(|n| self.fits_node(pod, n));
        let mut names: Vec<String> = all.map(|n| n.name_any()).collect();
        names.sort();
        names
    }

    fn fits_node(&self, pod: &Pod, node: &Node) -> bool {
        let tolerates_all = spec(pod).tolerations.iter().flatten().any(|t| t.key.is_none());
        let cordoned = !tolerates_all && node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        !cordoned
            && tolerated(pod, node)
            && node_affinity::allows(spec(pod), &node.name_any(), node.labels())
            && self.has_room(pod, node)
            && self.spread(pod, node)
            && self.near(pod, node)
            && self.apart(pod, node)
    }

    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().filter(move |(_, on)| on == node).map(|(p, _)| p)
    }

    fn has_room(&self, pod: &Pod, node: &Node) -> bool {
        let name = node.name_any();
        let offered = pod_resources::Resources::of(node.status.as_ref().unwrap().allocatable.as_ref());
        let mut taken = pod_resources::requests(spec(pod));
        let mine = taken.clone();
        for other in self.on(&name) {
            taken.add(&pod_resources::requests(spec(other)));
        }
        let ports = |p: &Pod| -> BTreeSet<i32> {
            let all = spec(p).containers.iter().flat_map(|c| c.ports.iter().flatten());
            all.filter_map(|p| p.host_port).collect()
        };
        self.on(&name).count() < offered.get("pods").value() as usize
            && mine.0.iter().all(|(name, _)| taken.get(name) <= offered.get(name))
            && self.on(&name).all(|other| ports(other).is_disjoint(&ports(pod)))
    }

    fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|n| n.name_any() == name)
    }

    /// Whether a term of one pod means another.
    fn means(&self, term: &PodAffinityTerm, of: &Pod, other: &Pod) -> bool {
        let namespace = other.namespace().unwrap();
        let listed = term.namespaces.iter().flatten().any(|n| *n == namespace);
        let selected = term
            .namespace_selector
            .as_ref()
            .is_some_and(|s| Selector::of(Some(s)).unwrap().matches_labels(self.namespaces.get(&namespace)));
        let own = term.namespaces.as_ref().is_none_or(Vec::is_empty)
            && term.namespace_selector.is_none()
            && of.namespace().unwrap() == namespace;
        (listed || selected || own)
            && Selector::of(term.label_selector.as_ref()).unwrap().matches(other.labels())
    }

    /// Pods that are on a node of the same domain.
    fn around<'a>(&'a self, key: &'a str, node: &'a Node) -> impl Iterator<Item = &'a Arc<Pod>> {
        let here = node.labels().get(key);
        self.pods
            .iter()
            .filter(move |(_, on)| {
                let there = self.node(on).and_then(|n| n.labels().get(key));
                here.is_some() && there == here
            })
            .map(|(p, _)| p)
    }

    fn near(&self, pod: &Pod, node: &Node) -> bool {
        let terms = required(pod, true);
        if terms.is_empty() {
            return true;
        }
        if terms.iter().any(|t| !node.labels().contains_key(&t.topology_key)) {
            return false;
        }
        let all_mean = |other: &Pod| terms.iter().all(|t| self.means(t, pod, other));
        let satisfied = terms.iter().all(|t| self.around(&t.topology_key, node).any(|p| all_mean(p)));
        let anywhere = self
            .nodes
            .iter()
            .any(|n| terms.iter().any(|t| self.around(&t.topology_key, n).any(|p| all_mean(p))));
        satisfied || (!anywhere && all_mean(pod))
    }

    fn apart(&self, pod: &Pod, node: &Node) -> bool {
        let mine = required(pod, false);
        let free = mine.iter().all(|t| !self.around(&t.topology_key, node).any(|p| self.means(t, pod, p)));
        let let_in = self.pods.iter().all(|(other, on)| {
            let Some(there) = self.node(on) else { return true };
            required(other, false).iter().all(|t| {
                let (here, there) = (node.labels().get(&t.topology_key), there.labels().get(&t.topology_key));
                here.is_none() || here != there || !self.means(t, other, pod)
            })
        });
        free && let_in
    }

    fn spread(&self, pod: &Pod, node: &Node) -> bool {
        let all: Vec<&TopologySpreadConstraint> = spec(pod)
            .topology_spread_constraints
            .iter()
            .flatten()
            .filter(|c| c.when_unsatisfiable == "DoNotSchedule")
            .collect();
        all.iter().all(|constraint| {
            let selector = Selector::of(constraint.label_selector.as_ref()).unwrap();
            let counts = |n: &Node| {
                let affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
                let taints = constraint.node_taints_policy.as_deref() == Some("Honor");
                all.iter().all(|c| n.labels().contains_key(&c.topology_key))
                    && (!affinity || node_affinity::allows(spec(pod), &n.name_any(), n.labels()))
                    && (!taints || tolerated(pod, n))
            };
            let mut domains: BTreeMap<&String, i64> = BTreeMap::new();
            for n in self.nodes.iter().filter(|n| counts(n)) {
                let matching = self.on(n.metadata.name.as_ref().unwrap()).filter(|p| {
                    p.metadata.deletion_timestamp.is_none()
                        && p.namespace() == pod.namespace()
                        && selector.matches(p.labels())
                });
                *domains.entry(&n.labels()[&constraint.topology_key]).or_default() += matching.count() as i64;
            }
            let Some(here) = node.labels().get(&constraint.topology_key) else { return false };
            let few = (domains.len() as i64) < i64::from(constraint.min_domains.unwrap_or(1));
            let least = if few { 0 } else { domains.values().min().copied().unwrap_or(0) };
            let own = i64::from(selector.matches(pod.labels()));
            domains.get(here).copied().unwrap_or(0) + own - least <= i64::from(constraint.max_skew)
        })
    }
}

fn tolerated(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taint::blocks_scheduling(taints, spec(pod).tolerations.as_deref().unwrap_or_default()).is_none()
}

fn required(pod: &Pod, near: bool) -> Vec<PodAffinityTerm> {
    let Some(affinity) = &spec(pod).affinity else { return Vec::new() };
    let terms = if near {
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
    } else {
        affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
    };
    terms.unwrap_or_default()
}

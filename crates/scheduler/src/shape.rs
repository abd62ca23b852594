//! What the scheduler needs to know of a pod, worked out once for all pods of a template: a [`Shape`]. It knows no node.

use crate::matcher::{Constraint, Term};
use k8s_openapi::{
    api::core::v1::{
        Container, Pod, PodAffinityTerm, PodSpec, PreferredSchedulingTerm, Toleration,
        WeightedPodAffinityTerm,
    },
    apimachinery::pkg::api::resource::Quantity as Amount,
};
use kube::ResourceExt;
use orlop_api::{pod_resources, quantity::Quantity};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

/// A resource by its number in [`Resources`].
pub type Resource = u32;
/// Thousandths of a processor.
pub const CPU: Resource = 0;
/// Bytes.
pub const MEMORY: Resource = 1;
/// Bytes.
pub const STORAGE: Resource = 2;

/// What a container that asks for no processor or memory is taken to use when nodes are compared.
const ASSUMED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

/// Names of resources, numbered.
#[derive(Clone, Debug)]
pub struct Resources {
    ids: HashMap<String, Resource>,
    names: Vec<String>,
}

impl Default for Resources {
    fn default() -> Self {
        let names: Vec<String> = ["cpu", "memory", "ephemeral-storage"].map(String::from).into();
        let ids = names.iter().zip(0..).map(|(n, id)| (n.clone(), id)).collect();
        Self { ids, names }
    }
}

impl Resources {
    /// The number of a resource.
    pub fn id(&mut self, name: &str) -> Resource {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as Resource;
        self.names.push(name.to_string());
        self.ids.insert(name.to_string(), id);
        id
    }

    /// The name of a number.
    pub fn name(&self, id: Resource) -> &str {
        self.names.get(id as usize).map_or("", String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none; there always is.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The amounts of a resource list, without the number of pods.
    pub fn amounts(&mut self, list: &pod_resources::Resources) -> Vec<(Resource, i64)> {
        let all = list.0.iter().filter(|(name, _)| name.as_str() != "pods");
        let amount = |name: &str, q: &Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
        all.map(|(name, q)| (self.id(name), amount(name, q))).collect()
    }
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Empty or 0.0.0.0: all addresses.
    pub address: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn collides(&self, other: &Self) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0";
        self.protocol == other.protocol
            && self.port == other.port
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

/// How a pod on a node treats pods to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ownership {
    /// It wants none of them near.
    RequiresApart,
    /// It could not have come without them near.
    RequiresNear,
    /// It likes them near, or, below zero, does not.
    Prefers(i64),
}

/// See the module.
#[derive(Debug)]
pub struct Shape {
    /// Two pods with the same number have all of this in common.
    pub id: u32,
    /// A pod of this shape.
    example: Arc<Pod>,
    /// Its namespace.
    pub namespace: String,
    /// What it asks for; nothing that is zero.
    pub requests: Vec<(Resource, i64)>,
    /// Processor and memory by which nodes are compared: never nothing, so that pods without requests spread too.
    pub counted: [i64; 2],
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// The images of its containers, with their tag.
    pub images: Vec<String>,
    /// How many containers it has.
    pub containers: usize,
    /// The only nodes that can be meant, where its required node affinity names them all.
    pub pins: Option<Vec<String>>,
    /// Required pod affinity.
    pub near: Vec<Term>,
    /// Required pod anti-affinity.
    pub apart: Vec<Term>,
    /// Preferred pod affinity, and with weights below zero anti-affinity.
    pub prefers: Vec<(i64, Term)>,
    /// Its own topology spread constraints.
    pub spread: Vec<Constraint>,
    /// Whether some volume of it is a claim.
    pub has_claims: bool,
}

static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// The spec of a pod; an empty one where it has none.
pub fn spec_of(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The priority of a pod.
pub fn priority_of(pod: &Pod) -> i32 {
    spec_of(pod).priority.unwrap_or(0)
}

impl Shape {
    /// The spec that all pods of this shape have in common.
    pub fn spec(&self) -> &PodSpec {
        spec_of(&self.example)
    }

    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or_default()
    }

    /// Its preferred node affinity.
    pub fn preferred_nodes(&self) -> &[PreferredSchedulingTerm] {
        let affinity = self.spec().affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let preferred =
            affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        preferred.unwrap_or_default()
    }

    /// How much of a resource it asks for.
    pub fn request(&self, resource: Resource) -> i64 {
        self.requests.iter().find(|(r, _)| *r == resource).map_or(0, |(_, amount)| *amount)
    }

    /// What it has to say about pods to come.
    pub fn owned(&self) -> impl Iterator<Item = (Ownership, &Term)> {
        let apart = self.apart.iter().map(|t| (Ownership::RequiresApart, t));
        let near = self.near.iter().map(|t| (Ownership::RequiresNear, t));
        let prefers = self.prefers.iter().map(|(weight, t)| (Ownership::Prefers(*weight), t));
        apart.chain(near).chain(prefers)
    }

    fn compile(id: u32, pod: &Arc<Pod>, resources: &mut Resources) -> Self {
        let spec = spec_of(pod);
        let (namespace, labels) = (pod.namespace().unwrap_or_default(), pod.labels());
        let mut requests = resources.amounts(&pod_resources::requests(spec));
        requests.retain(|(_, amount)| *amount != 0);
        let counted = pod_resources::requests(&with_assumed(spec));
        let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let term = |t: &PodAffinityTerm| Term::new(t, &namespace, labels);
        let liked = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let shunned = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let weigh = |w: &WeightedPodAffinityTerm, sign: i64| {
            (sign * i64::from(w.weight), Term::new(&w.pod_affinity_term, &namespace, labels))
        };
        let required =
            |terms: Option<&Vec<PodAffinityTerm>>| terms.into_iter().flatten().map(term).collect::<Vec<_>>();
        let near_terms = near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let apart_terms = apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let spread = spec.topology_spread_constraints.iter().flatten();
        let volumes = spec.volumes.iter().flatten();
        Self {
            id,
            example: pod.clone(),
            requests,
            counted: [counted.milli_cpu(), counted.memory()],
            ports: host_ports(spec),
            images: all().filter_map(|c| c.image.as_deref()).map(with_tag).collect(),
            containers: all().count(),
            pins: pins(spec),
            near: required(near_terms),
            apart: required(apart_terms),
            prefers: liked
                .into_iter()
                .flatten()
                .map(|w| weigh(w, 1))
                .chain(shunned.into_iter().flatten().map(|w| weigh(w, -1)))
                .collect(),
            spread: spread.into_iter().map(|c| Constraint::new(c, &namespace, labels)).collect(),
            has_claims: volumes
                .into_iter()
                .any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()),
            namespace,
        }
    }
}

/// The spec with [`ASSUMED`] for what containers do not ask for.
fn with_assumed(spec: &PodSpec) -> PodSpec {
    let assume = |containers: &[Container]| {
        let each = containers.iter().map(|c| {
            let mut resources = c.resources.clone().unwrap_or_default();
            let requests = resources.requests.get_or_insert_default();
            for (name, amount) in ASSUMED {
                let quantity =
                    if name == "cpu" { Amount(format!("{amount}m")) } else { Amount(amount.to_string()) };
                requests.entry(name.to_string()).or_insert(quantity);
            }
            Container {
                resources: Some(resources),
                restart_policy: c.restart_policy.clone(),
                ..Container::default()
            }
        });
        each.collect::<Vec<_>>()
    };
    PodSpec {
        containers: assume(&spec.containers),
        init_containers: spec.init_containers.as_deref().map(assume),
        overhead: spec.overhead.clone(),
        resources: spec.resources.clone(),
        ..PodSpec::default()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| pod_resources::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(HostPort {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                address: p.host_ip.clone().unwrap_or_default(),
                port: p.host_port.filter(|p| *p > 0)?,
            })
        })
        .collect()
}

/// An image's name as nodes report it: with a tag.
pub fn with_tag(image: &str) -> String {
    let tagged = match (image.rfind(':'), image.rfind('/')) {
        (Some(colon), Some(slash)) => colon > slash,
        (colon, _) => colon.is_some(),
    };
    if tagged { image.to_string() } else { format!("{image}:latest") }
}

/// The nodes that required node affinity names, if every term of it names some.
fn pins(spec: &PodSpec) -> Option<Vec<String>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut all = Vec::new();
    for term in terms {
        let mut named: Option<Vec<String>> = None;
        for field in term.match_fields.iter().flatten() {
            if field.key == "metadata.name" && field.operator == "In" {
                let values = field.values.clone().unwrap_or_default();
                named = Some(match named {
                    None => values,
                    Some(before) => before.into_iter().filter(|n| values.contains(n)).collect(),
                });
            }
        }
        all.extend(named?);
    }
    all.sort();
    all.dedup();
    Some(all)
}

/// The labels that `matchLabelKeys` and `mismatchLabelKeys` of a spec look at.
fn label_keys(spec: &PodSpec) -> Vec<&String> {
    let mut keys = Vec::new();
    for constraint in spec.topology_spread_constraints.iter().flatten() {
        keys.extend(constraint.match_label_keys.iter().flatten());
    }
    let Some(affinity) = &spec.affinity else { return keys };
    let mut terms = Vec::new();
    if let Some(a) = &affinity.pod_affinity {
        terms.extend(a.required_during_scheduling_ignored_during_execution.iter().flatten());
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|w| &w.pod_affinity_term));
    }
    if let Some(a) = &affinity.pod_anti_affinity {
        terms.extend(a.required_during_scheduling_ignored_during_execution.iter().flatten());
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|w| &w.pod_affinity_term));
    }
    for term in terms {
        keys.extend(term.match_label_keys.iter().flatten());
        keys.extend(term.mismatch_label_keys.iter().flatten());
    }
    keys
}

/// All shapes that are in use.
#[derive(Debug, Default)]
pub struct Shapes {
    by_hash: HashMap<u64, Vec<Arc<Shape>>>,
    count: usize,
    next: u32,
    sweep_at: usize,
}

impl Shapes {
    /// The shape of a pod.
    pub fn of(&mut self, pod: &Arc<Pod>, resources: &mut Resources) -> Arc<Shape> {
        let hash = hash(pod);
        let known = self.by_hash.get(&hash).into_iter().flatten();
        if let Some(shape) = known.into_iter().find(|s| same(&s.example, pod)) {
            return shape.clone();
        }
        if self.count >= self.sweep_at.max(1024) {
            self.sweep();
        }
        self.next = self.next.wrapping_add(1);
        let shape = Arc::new(Shape::compile(self.next, pod, resources));
        self.by_hash.entry(hash).or_default().push(shape.clone());
        self.count += 1;
        shape
    }

    /// Forgets what nobody uses any more.
    fn sweep(&mut self) {
        self.by_hash.retain(|_, shapes| {
            shapes.retain(|s| Arc::strong_count(s) > 1);
            !shapes.is_empty()
        });
        self.count = self.by_hash.values().map(Vec::len).sum();
        self.sweep_at = self.count * 2;
    }
}

/// The values that a pod has for the labels that its own terms look at.
fn own_labels(pod: &Pod) -> Vec<(&String, Option<&String>)> {
    label_keys(spec_of(pod)).into_iter().map(|k| (k, pod.labels().get(k))).collect()
}

fn hash(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    let spec = spec_of(pod);
    pod.metadata.namespace.hash(&mut hasher);
    own_labels(pod).hash(&mut hasher);
    spec.node_selector.hash(&mut hasher);
    for t in spec.tolerations.iter().flatten() {
        (&t.key, &t.operator, &t.value, &t.effect).hash(&mut hasher);
    }
    for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
        c.image.hash(&mut hasher);
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        for (name, amount) in requests.into_iter().flatten() {
            (name, &amount.0).hash(&mut hasher);
        }
        for port in c.ports.iter().flatten() {
            (port.host_port, &port.protocol).hash(&mut hasher);
        }
    }
    for constraint in spec.topology_spread_constraints.iter().flatten() {
        (&constraint.topology_key, constraint.max_skew).hash(&mut hasher);
        selector_hash(constraint.label_selector.as_ref(), &mut hasher);
    }
    if let Some(affinity) = &spec.affinity {
        // Small where it is there at all; equality below is what counts.
        let near = affinity.pod_affinity.as_ref();
        let apart = affinity.pod_anti_affinity.as_ref();
        let near = near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let apart = apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        for term in near.into_iter().chain(apart).flatten() {
            term.topology_key.hash(&mut hasher);
            selector_hash(term.label_selector.as_ref(), &mut hasher);
        }
        if let Some(pins) = pins(spec) {
            pins.hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn selector_hash(
    selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    hasher: &mut DefaultHasher,
) {
    let labels: Option<&BTreeMap<String, String>> = selector.and_then(|s| s.match_labels.as_ref());
    labels.hash(hasher);
}

/// Whether two pods are alike in all that makes a shape.
fn same(a: &Pod, b: &Pod) -> bool {
    let containers = |a: &[Container], b: &[Container]| {
        a.len() == b.len()
            && a.iter().zip(b).all(|(a, b)| {
                a.image == b.image
                    && a.restart_policy == b.restart_policy
                    && a.resources == b.resources
                    && a.ports == b.ports
            })
    };
    let claims = |spec: &PodSpec| {
        let mut volumes = spec.volumes.iter().flatten();
        volumes.any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
    };
    let (x, y) = (spec_of(a), spec_of(b));
    a.metadata.namespace == b.metadata.namespace
        && x.node_selector == y.node_selector
        && x.tolerations == y.tolerations
        && x.affinity == y.affinity
        && x.topology_spread_constraints == y.topology_spread_constraints
        && x.overhead == y.overhead
        && x.resources == y.resources
        && containers(&x.containers, &y.containers)
        && containers(
            x.init_containers.as_deref().unwrap_or_default(),
            y.init_containers.as_deref().unwrap_or_default(),
        )
        && claims(x) == claims(y)
        && own_labels(a) == own_labels(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Arc<Pod> {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "a", "labels": {"app": "web"}}, "spec": spec});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pods_of_a_template_share_a_shape_and_others_do_not() {
        let (mut shapes, mut resources) = (Shapes::default(), Resources::default());
        let asks = |cpu: &str| json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]});
        let one = shapes.of(&pod(asks("1")), &mut resources);
        assert_eq!(one.id, shapes.of(&pod(asks("1")), &mut resources).id);
        assert_ne!(one.id, shapes.of(&pod(asks("2")), &mut resources).id);
        let mut tolerant = asks("1");
        tolerant["tolerations"] = json!([{"operator": "Exists", "tolerationSeconds": 3}]);
        assert_ne!(one.id, shapes.of(&pod(tolerant), &mut resources).id);
    }

    #[test]
    fn containers_that_ask_for_nothing_count_for_something() {
        let (mut shapes, mut resources) = (Shapes::default(), Resources::default());
        let spec = json!({"containers": [{"name": "a"},
            {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}], "overhead": {"cpu": "50m"}});
        let shape = shapes.of(&pod(spec), &mut resources);
        assert_eq!(shape.requests, [(CPU, 1050), (MEMORY, 1 << 30)]);
        assert_eq!(shape.counted, [1150, (1 << 30) + (200 << 20)]);
    }

    #[test]
    fn a_pod_is_pinned_where_every_term_names_nodes() {
        let with = |terms: Value| {
            pins(spec_of(&pod(json!({"containers": [], "affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))))
        };
        let name =
            |n: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [n]}]});
        assert_eq!(with(json!([name("b"), name("a")])), Some(vec!["a".to_string(), "b".to_string()]));
        let label = json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]});
        assert_eq!(with(json!([name("b"), label])), None);
    }

    #[test]
    fn images_have_a_tag() {
        for (image, want) in
            [("a", "a:latest"), ("r:5000/a", "r:5000/a:latest"), ("r:5000/a:1", "r:5000/a:1")]
        {
            assert_eq!(with_tag(image), want);
        }
    }
}

//! Claims of pods: VolumeBinding, VolumeZone, VolumeRestrictions and NodeVolumeLimits. Says which nodes a pod's volumes rule out, and what has to be
//! done before it can be bound to one. Pure; claims are bound by others.

use crate::{
    decision::Vetoes,
    plugin::{Plugin, Refusal},
    profile::Profile,
    shape::spec_of,
    snapshot::Snapshot,
    volume_limits::{self, Attachable, Crowd, Handle, Limits},
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, TopologySelectorTerm},
    storage::v1::{CSINode, StorageClass, VolumeAttachment},
};
use kube::ResourceExt;
use orlop_api::{node_affinity, quantity::Quantity, selector::Selector};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// On a claim: the node that its first consumer will run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: both directions of the bind stand.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes that say where they can be used.
const ZONE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A claim by namespace and name.
pub type ClaimName = (String, String);

/// What is to be done with a claim before its pod is bound to a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Preparation {
    /// Let this volume be its.
    Take(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>),
    /// Say for which node a volume is needed.
    Select(Arc<PersistentVolumeClaim>),
    /// Wait until it is bound.
    Await(Arc<PersistentVolumeClaim>),
}

impl Preparation {
    /// The claim.
    pub fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Self::Take(_, claim) | Self::Select(claim) | Self::Await(claim) => claim,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: HashMap<ClaimName, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// Uids of pods that use a claim and have a node, with the node.
    users: HashMap<ClaimName, BTreeMap<String, String>>,
    /// The claims that pods of a node use.
    used_on: HashMap<String, BTreeSet<ClaimName>>,
    limits: Limits,
    /// Volumes that are being given to claims.
    promised: HashMap<String, ClaimName>,
}

/// The claims that a pod uses, with whether they are made for it alone.
pub fn claims_of(pod: &Pod) -> Vec<(ClaimName, bool)> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = spec_of(pod).volumes.iter().flatten();
    volumes
        .filter_map(|v| {
            let (name, own) = match (&v.persistent_volume_claim, &v.ephemeral) {
                (Some(claim), _) => (claim.claim_name.clone(), false),
                (None, Some(_)) => (format!("{}-{}", pod.name_any(), v.name), true),
                (None, None) => return None,
            };
            Some(((namespace.clone(), name), own))
        })
        .collect()
}

/// Whether a claim has its volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && claim.annotations().contains_key(BIND_COMPLETED)
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|n| !n.is_empty())
}

fn class_name(claim: &PersistentVolumeClaim) -> &str {
    let old = claim.annotations().get("volume.beta.kubernetes.io/storage-class");
    let new = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref());
    old.or(new).map_or("", String::as_str)
}

/// The claims of a pod sorted by what they need.
#[derive(Default)]
struct Needs {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Those that are bound when it is known where they are needed.
    late: Vec<Arc<PersistentVolumeClaim>>,
}

impl Volumes {
    /// Takes in a claim; `None` if it is gone.
    pub fn set_claim(&mut self, name: ClaimName, claim: Option<Arc<PersistentVolumeClaim>>) {
        match claim {
            Some(claim) => {
                if is_bound(&claim) {
                    self.promised.retain(|_, to| *to != name);
                }
                self.claims.insert(name, claim);
            }
            None => {
                self.claims.remove(&name);
            }
        }
    }

    /// Takes in a volume; `None` if it is gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        match volume {
            Some(volume) => self.volumes.insert(name.to_string(), volume),
            None => self.volumes.remove(name),
        };
    }

    /// Takes in a storage class; `None` if it is gone.
    pub fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => self.classes.insert(name.to_string(), class),
            None => self.classes.remove(name),
        };
    }

    /// Takes in how many volumes a node can have attached; `None` if nobody says so any more.
    pub fn set_csi_node(&mut self, name: &str, node: Option<&CSINode>) {
        self.limits.set_node(name, node);
    }

    /// Takes in that a volume is attached to a node; `None` if no more.
    pub fn set_attachment(&mut self, name: &str, attachment: Option<&VolumeAttachment>) {
        self.limits.set_attachment(name, attachment);
    }

    /// Notes that a pod uses its claims on a node, or, being gone, no more.
    pub fn set_user(&mut self, pod: &Pod, node: Option<&str>) {
        let uid = pod.uid().unwrap_or_default();
        for (claim, _) in claims_of(pod) {
            let users = self.users.entry(claim.clone()).or_default();
            let old = match node {
                Some(node) => users.insert(uid.clone(), node.to_string()),
                None => users.remove(&uid),
            };
            if let Some(old) = old.filter(|old| !users.values().any(|n| n == old))
                && let Some(used) = self.used_on.get_mut(&old)
            {
                used.remove(&claim);
                if used.is_empty() {
                    self.used_on.remove(&old);
                }
            }
            if users.is_empty() {
                self.users.remove(&claim);
            }
            if let Some(node) = node {
                self.used_on.entry(node.to_string()).or_default().insert(claim);
            }
        }
    }

    /// What the volumes of a pod have against it or against nodes.
    pub fn vetoes(&self, pod: &Pod, snapshot: &Snapshot, profile: &Profile) -> Vetoes {
        let mut vetoes = Vetoes::default();
        if claims_of(pod).is_empty() {
            return vetoes;
        }
        let binding = profile.filters.has(Plugin::VolumeBinding);
        let needs = match self.needs(pod) {
            Ok(needs) => needs,
            Err(words) if binding => {
                vetoes.before = Some((Plugin::VolumeBinding, words));
                return vetoes;
            }
            Err(_) => Needs::default(),
        };
        let alone = profile.filters.has(Plugin::VolumeRestrictions) && self.is_used_alone(pod);
        let nodes = snapshot.nodes();
        let places = self.looks_at_nodes(&needs);
        let brings = if profile.filters.has(Plugin::NodeVolumeLimits) {
            self.attachables(claims_of(pod).iter().map(|(name, _)| name))
        } else {
            BTreeSet::new()
        };
        let limited = self.limits.matter_to(&brings);
        if !alone && !places && !limited {
            return vetoes;
        }
        for id in nodes.by_name() {
            let Some(node) = nodes.object(id) else { continue };
            let zone = || {
                let on = profile.filters.has(Plugin::VolumeZone);
                (on && self.zone_conflict(&needs, node))
                    .then(|| Refusal::always(Plugin::VolumeZone, "node(s) had no available volume zone"))
            };
            let crowds = if limited { self.crowds(nodes.name(id), &brings) } else { Vec::new() };
            let refusal = if alone {
                let words = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
                Some(Refusal::always(Plugin::VolumeRestrictions, words))
            } else if !crowds.is_empty() {
                // Who leaves makes room, but only where nothing else of the volumes stands against the node.
                if !(places && ((binding && self.conflict(&needs, node).is_some()) || zone().is_some())) {
                    vetoes.crowds.insert(id, crowds);
                }
                Some(volume_limits::refusal())
            } else {
                let words = if binding { self.conflict(&needs, node) } else { None };
                words.map(|w| Refusal::always(Plugin::VolumeBinding, w)).or_else(zone)
            };
            if let Some(refusal) = refusal {
                vetoes.nodes.insert(id, refusal);
            }
        }
        vetoes
    }

    /// Whether some claim of a pod belongs to one pod alone, and another has it.
    fn is_used_alone(&self, pod: &Pod) -> bool {
        claims_of(pod).iter().any(|(name, _)| {
            let claim = self.claims.get(name);
            let modes = claim.and_then(|c| c.spec.as_ref()).and_then(|s| s.access_modes.as_ref());
            let alone = modes.into_iter().flatten().any(|m| m == "ReadWriteOncePod");
            let uid = pod.uid().unwrap_or_default();
            alone && self.users.get(name).is_some_and(|all| all.keys().any(|u| *u != uid))
        })
    }

    /// The volume that a claim means to its CSI driver, whether it is there or to be made; `None` if none is attached for it.
    fn attachable(&self, name: &ClaimName) -> Option<Attachable> {
        let claim = self.claims.get(name)?;
        match volume_name(claim).and_then(|n| self.volumes.get(n)) {
            Some(volume) => attachable(volume),
            None => {
                let driver = self.classes.get(class_name(claim))?.provisioner.clone();
                Some(Attachable { driver, handle: Handle::Due(name.0.clone(), name.1.clone()) })
            }
        }
    }

    fn attachables<'a>(&self, claims: impl Iterator<Item = &'a ClaimName>) -> BTreeSet<Attachable> {
        claims.filter_map(|name| self.attachable(name)).collect()
    }

    /// What does not fit of volumes that a pod would bring to a node.
    fn crowds(&self, node: &str, brings: &BTreeSet<Attachable>) -> Vec<Crowd> {
        if !brings.iter().any(|a| self.limits.most(node, &a.driver).is_some()) {
            return Vec::new();
        }
        let mut held: BTreeMap<Attachable, Vec<String>> = BTreeMap::new();
        for name in self.used_on.get(node).into_iter().flatten() {
            let Some(volume) = self.attachable(name) else { continue };
            let users = self.users.get(name).into_iter().flatten();
            let here = users.filter(|(_, on)| *on == node).map(|(uid, _)| uid.clone());
            held.entry(volume).or_default().extend(here);
        }
        let attached = self.limits.attached(node).filter_map(|n| self.volumes.get(n));
        for volume in attached.filter_map(|v| attachable(v)) {
            held.entry(volume).or_default();
        }
        Crowd::all(&self.limits, node, brings, &held)
    }

    fn needs(&self, pod: &Pod) -> Result<Needs, String> {
        let mut needs = Needs::default();
        let mut immediate = false;
        for (name, own) in claims_of(pod) {
            let claim_name = &name.1;
            let Some(claim) = self.claims.get(&name) else {
                return Err(if own {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{claim_name}\""
                    )
                } else {
                    format!("persistentvolumeclaim \"{claim_name}\" not found")
                });
            };
            let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
            if phase == Some("Lost") {
                let volume = volume_name(claim).unwrap_or_default();
                return Err(format!(
                    "persistentvolumeclaim \"{claim_name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{claim_name}\" is being deleted"));
            }
            if own
                && !claim
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|o| Some(&o.uid) == pod.metadata.uid.as_ref())
            {
                return Err(format!(
                    "PVC {}/{claim_name} was not created for pod {}/{} (pod is not owner)",
                    name.0,
                    name.0,
                    pod.name_any()
                ));
            }
            let class = self.classes.get(class_name(claim));
            let waits =
                class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
            if is_bound(claim) {
                needs.bound.push(claim.clone());
            } else if waits && volume_name(claim).is_none() {
                needs.late.push(claim.clone());
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        Ok(needs)
    }

    /// Whether the answer depends on the node at all.
    fn looks_at_nodes(&self, needs: &Needs) -> bool {
        let bound = needs.bound.iter().any(|claim| {
            let volume = volume_name(claim).and_then(|n| self.volumes.get(n));
            volume.is_none_or(|v| {
                v.spec.as_ref().is_some_and(|s| s.node_affinity.is_some())
                    || ZONE_LABELS.iter().any(|l| v.labels().contains_key(*l))
            })
        });
        bound
            || needs.late.iter().any(|claim| {
                let class = self.classes.get(class_name(claim));
                claim.annotations().contains_key(SELECTED_NODE)
                    || class.is_none_or(|c| {
                        c.provisioner == NO_PROVISIONER
                            || c.allowed_topologies.as_ref().is_some_and(|t| !t.is_empty())
                    })
            })
    }

    fn conflict(&self, needs: &Needs, node: &Node) -> Option<&'static str> {
        for claim in &needs.bound {
            let Some(volume) = volume_name(claim).and_then(|n| self.volumes.get(n)) else {
                return Some("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
            };
            if !reaches(volume, node) {
                return Some("node(s) didn't match PersistentVolume's node affinity");
            }
        }
        match self.prepare_late(needs, node) {
            Some(_) => None,
            None => Some("node(s) didn't find available persistent volumes to bind"),
        }
    }

    fn zone_conflict(&self, needs: &Needs, node: &Node) -> bool {
        needs.bound.iter().any(|claim| {
            let Some(volume) = volume_name(claim).and_then(|n| self.volumes.get(n)) else { return false };
            ZONE_LABELS.iter().any(|label| match volume.labels().get(*label) {
                // A volume of several zones names them all.
                Some(zones) => {
                    let here = node.labels().get(*label);
                    !zones.split("__").any(|zone| here.is_some_and(|h| h == zone))
                }
                None => false,
            })
        })
    }

    /// What to do on a node with the claims that wait for one; `None` if there is nothing for some of them.
    fn prepare_late(&self, needs: &Needs, node: &Node) -> Option<Vec<Preparation>> {
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        let mut all = Vec::new();
        for claim in &needs.late {
            match claim.annotations().get(SELECTED_NODE) {
                Some(selected) if *selected != node.name_any() => return None,
                Some(_) => {
                    all.push(Preparation::Select(claim.clone()));
                    continue;
                }
                None => {}
            }
            if let Some(volume) = self.matching(claim, node, &taken) {
                taken.insert(volume.metadata.name.as_deref().unwrap_or_default());
                all.push(Preparation::Take(volume.clone(), claim.clone()));
                continue;
            }
            let class = self.classes.get(class_name(claim))?;
            let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
            if class.provisioner == NO_PROVISIONER || !allows(topologies, node) {
                return None;
            }
            all.push(Preparation::Select(claim.clone()));
        }
        Some(all)
    }

    /// The smallest free volume that does for a claim on a node.
    fn matching(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        node: &Node,
        taken: &BTreeSet<&str>,
    ) -> Option<&Arc<PersistentVolume>> {
        let spec = claim.spec.as_ref()?;
        let wanted = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
        let wanted = wanted.map(Quantity::of).unwrap_or_default();
        let selector = spec.selector.as_ref().map(|s| Selector::of(Some(s)));
        let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_string();
        let own = (claim.namespace().unwrap_or_default(), claim.name_any());
        let does = |volume: &&Arc<PersistentVolume>| {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let Some(offer) = &volume.spec else { return false };
            let promised = self.promised.get(name).is_some_and(|to| *to != own);
            let reference = offer.claim_ref.as_ref();
            let free = reference.is_none_or(|r| {
                r.namespace.as_deref() == Some(own.0.as_str())
                    && r.name.as_deref() == Some(own.1.as_str())
                    && r.uid.as_ref().is_none_or(|uid| claim.metadata.uid.as_ref() == Some(uid))
            });
            let modes = offer.access_modes.as_deref().unwrap_or_default();
            let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
            free && !promised
                && !taken.contains(name)
                && volume.metadata.deletion_timestamp.is_none()
                && (reference.is_some() || phase.is_none_or(|p| p == "Available"))
                && offer.storage_class_name.as_deref().unwrap_or_default() == class_name(claim)
                && mode(offer.volume_mode.as_ref()) == mode(spec.volume_mode.as_ref())
                && spec.access_modes.iter().flatten().all(|m| modes.contains(m))
                && capacity(volume) >= wanted
                && selector.as_ref().is_none_or(|s| s.as_ref().is_ok_and(|s| s.matches(volume.labels())))
                && reaches(volume, node)
        };
        self.volumes
            .values()
            .filter(does)
            .min_by_key(|v| (v.spec.as_ref().is_none_or(|s| s.claim_ref.is_none()), capacity(v)))
    }

    /// What has to be done for a pod that goes to a node before it is bound there; volumes for it are set aside.
    pub fn reserve(&mut self, pod: &Pod, node: &Node) -> Vec<Preparation> {
        let Ok(needs) = self.needs(pod) else { return Vec::new() };
        let all = self.prepare_late(&needs, node).unwrap_or_default();
        for preparation in &all {
            if let Preparation::Take(volume, claim) = preparation {
                let name = (claim.namespace().unwrap_or_default(), claim.name_any());
                self.promised.insert(volume.name_any(), name);
            }
        }
        all
    }

    /// Gives back what was set aside.
    pub fn unreserve(&mut self, preparations: &[Preparation]) {
        for preparation in preparations {
            if let Preparation::Take(volume, _) = preparation {
                self.promised.remove(&volume.name_any());
            }
        }
    }
}

/// What a volume is to its CSI driver; `None` if it is no such volume.
fn attachable(volume: &PersistentVolume) -> Option<Attachable> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some(Attachable { driver: source.driver.clone(), handle: Handle::Made(source.volume_handle.clone()) })
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    capacity.map(Quantity::of).unwrap_or_default()
}

/// Whether a volume can be used on a node.
fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required.as_ref());
    required.is_none_or(|r| {
        r.node_selector_terms.iter().any(|t| node_affinity::term_matches(t, &node.name_any(), node.labels()))
    })
}

/// Whether volumes of a class may be made for a node.
fn allows(topologies: &[TopologySelectorTerm], node: &Node) -> bool {
    topologies.is_empty()
        || topologies.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
            expressions.iter().all(|e| node.labels().get(&e.key).is_some_and(|v| e.values.contains(v)))
        })
}

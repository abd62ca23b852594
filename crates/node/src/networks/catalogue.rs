//! Networks, attachments and this node's sandboxes as last heard of, and what follows from them: the kernel's networks, what is
//! said of attachments, and names. Pure.

use super::facts::{AttachmentFacts, AttachmentName, NetworkFacts, ready_condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use orlop_api::orlop_v1::{Network, NetworkAttachment, NetworkAttachmentStatus};
use orlop_client::Event;
use orlop_dns::{EndpointRecord, Rank, ServiceRecord, ServiceTarget};
use orlop_network::overlay::{Member, Overlay, Remote, interface_name, member_mac};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
};

/// A sandbox of this node that has a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sandbox {
    id: String,
    netns: PathBuf,
}

/// What was made of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is connected.
    Connected,
    /// Why it is not.
    Failed(String),
}

/// What is to be written of an attachment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub name: AttachmentName,
    /// Only if it is still this one.
    pub uid: String,
    pub status: NetworkAttachmentStatus,
}

/// See the module.
pub(super) struct Catalogue {
    node: String,
    address: IpAddr,
    networks: BTreeMap<String, NetworkFacts>,
    attachments: BTreeMap<AttachmentName, AttachmentFacts>,
    /// By the uid of the pod.
    sandboxes: HashMap<String, Sandbox>,
    /// What the kernel made of members, by their id.
    made: BTreeMap<String, Made>,
    /// Those that are heard again while a list is made anew.
    networks_seen: Option<HashSet<String>>,
    attachments_seen: Option<HashSet<AttachmentName>>,
    /// What was heard of in full: networks, attachments, sandboxes that were there before.
    complete: [bool; 3],
    changed: bool,
}

impl Catalogue {
    pub fn new(node: String, address: IpAddr) -> Self {
        Self {
            node,
            address,
            networks: BTreeMap::new(),
            attachments: BTreeMap::new(),
            sandboxes: HashMap::new(),
            made: BTreeMap::new(),
            networks_seen: None,
            attachments_seen: None,
            complete: [false; 3],
            // Even without any network, those of an earlier run must go.
            changed: true,
        }
    }

    /// Whether all was heard of in full: before that, what is not known may still be there.
    pub fn is_complete(&self) -> bool {
        self.complete == [true; 3]
    }

    /// Whether something changed since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Takes in what was heard of networks.
    pub fn network(&mut self, event: Event<Network>) {
        match event {
            Event::Apply(network) | Event::InitApply(network) => {
                let name = network.name_any();
                if let Some(seen) = &mut self.networks_seen {
                    seen.insert(name.clone());
                }
                match NetworkFacts::of(&network) {
                    Some(facts) if self.networks.get(&name) == Some(&facts) => {}
                    Some(facts) => {
                        self.networks.insert(name, facts);
                        self.changed = true;
                    }
                    None => self.changed |= self.networks.remove(&name).is_some(),
                }
            }
            Event::Delete(network) => self.changed |= self.networks.remove(&network.name_any()).is_some(),
            Event::Init => self.networks_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.networks_seen.take().unwrap_or_default();
                self.networks.retain(|name, _| seen.contains(name));
                self.complete[0] = true;
                self.changed = true;
            }
        }
    }

    /// Takes in what was heard of attachments.
    pub fn attachment(&mut self, event: Event<NetworkAttachment>) {
        match event {
            Event::Apply(attachment) | Event::InitApply(attachment) => {
                let name = AttachmentName::of(&attachment);
                if let Some(seen) = &mut self.attachments_seen {
                    seen.insert(name.clone());
                }
                match AttachmentFacts::of(attachment) {
                    Some(facts) if self.attachments.get(&name) == Some(&facts) => {}
                    Some(facts) => {
                        self.attachments.insert(name, facts);
                        self.changed = true;
                    }
                    None => self.changed |= self.attachments.remove(&name).is_some(),
                }
            }
            Event::Delete(attachment) => {
                self.changed |= self.attachments.remove(&AttachmentName::of(&attachment)).is_some();
            }
            Event::Init => self.attachments_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.attachments_seen.take().unwrap_or_default();
                self.attachments.retain(|name, _| seen.contains(name));
                self.complete[1] = true;
                self.changed = true;
            }
        }
    }

    /// All sandboxes that were there before are placed.
    pub fn adopted(&mut self) {
        self.complete[2] = true;
        self.changed = true;
    }

    /// A pod has a sandbox now.
    pub fn place(&mut self, pod_uid: &str, sandbox: &str, netns: PathBuf) {
        let placed = Sandbox { id: sandbox.to_owned(), netns };
        if self.sandboxes.get(pod_uid) != Some(&placed) {
            self.sandboxes.insert(pod_uid.to_owned(), placed);
            self.changed = true;
        }
    }

    /// A sandbox has ended. An earlier one's end takes nothing away from its successor.
    pub fn release(&mut self, pod_uid: &str, sandbox: &str) {
        if self.sandboxes.get(pod_uid).is_some_and(|known| known.id == sandbox) {
            self.sandboxes.remove(pod_uid);
            self.changed = true;
        }
    }

    /// A member: of an attachment, in the sandbox that its pod has now.
    fn member_id(facts: &AttachmentFacts, sandbox: &Sandbox) -> String {
        format!("{} {}", facts.uid, sandbox.id)
    }

    /// The networks of this node as the kernel is to have them.
    pub fn overlays(&self) -> Vec<Overlay> {
        let mut overlays: BTreeMap<&str, Overlay> = BTreeMap::new();
        for (name, network) in &self.networks {
            let overlay = Overlay {
                id: network.id,
                subnets: network.subnets.clone(),
                open: network.open,
                members: Vec::new(),
                remotes: Vec::new(),
            };
            overlays.insert(name, overlay);
        }
        for facts in self.attachments.values() {
            let Some(overlay) = overlays.get_mut(facts.network.as_str()) else { continue };
            if let Some(sandbox) = self.sandboxes.get(&facts.pod_uid) {
                overlay.members.push(Member {
                    id: Self::member_id(facts, sandbox),
                    mac: member_mac(&facts.uid),
                    netns: sandbox.netns.clone(),
                    interface: interface_name(&facts.network),
                    addresses: facts.addresses.clone(),
                });
            } else if let Some((mac, node)) = facts.elsewhere(&self.node, self.address) {
                overlay.remotes.push(Remote { mac, node });
            }
        }
        overlays.into_values().collect()
    }

    /// What the kernel made of these networks.
    pub fn made(&mut self, overlays: &[Overlay], failed: &BTreeMap<String, String>) {
        let members = overlays.iter().flat_map(|overlay| &overlay.members);
        self.made = members
            .map(|member| {
                let failure = failed.get(&member.id).cloned();
                (member.id.clone(), failure.map_or(Made::Connected, Made::Failed))
            })
            .collect();
    }

    /// What became of a pod's connection to a network; `None` as long as that is not known.
    pub fn outcome(&self, pod_uid: &str, sandbox: &str, network: &str) -> Option<&Made> {
        let here = self.sandboxes.get(pod_uid).filter(|here| here.id == sandbox)?;
        let facts = self.attachments.values().find(|a| a.pod_uid == pod_uid && a.network == network)?;
        self.made.get(&Self::member_id(facts, here))
    }

    /// Why a pod is not connected to a network, for people.
    pub fn reason(&self, pod_uid: &str, sandbox: &str, network: &str) -> String {
        match self.outcome(pod_uid, sandbox, network) {
            Some(Made::Failed(why)) => why.clone(),
            _ if !self.is_complete() => "the networks of the cluster are not known yet".into(),
            _ if !self.networks.contains_key(network) => "there is no such network".into(),
            _ => "it has no addresses there yet".into(),
        }
    }

    /// How many pods of this node are to be in each network, by whether they are connected.
    pub fn counts(&self) -> BTreeMap<(String, bool), usize> {
        let mut counts = BTreeMap::new();
        for facts in self.attachments.values() {
            let Some(here) = self.sandboxes.get(&facts.pod_uid) else { continue };
            let connected = self.made.get(&Self::member_id(facts, here)) == Some(&Made::Connected);
            *counts.entry((facts.network.clone(), connected)).or_default() += 1;
        }
        counts
    }

    /// What is to be said of attachments of this node and stands there otherwise.
    pub fn statements(&self, now: Timestamp) -> Vec<Statement> {
        let mut statements = Vec::new();
        for (name, facts) in &self.attachments {
            let known = facts.status.as_ref();
            let made = self.sandboxes.get(&facts.pod_uid).map(|here| Self::member_id(facts, here));
            let status = match made.and_then(|id| self.made.get(&id)) {
                Some(made) => self.status(facts, made, now),
                // It was here, and is no longer.
                None if self.is_complete()
                    && !self.sandboxes.contains_key(&facts.pod_uid)
                    && known.is_some_and(|known| known.node_name.as_deref() == Some(&self.node))
                    && facts.is_ready() =>
                {
                    let mut status = known.cloned().unwrap_or_default();
                    let message = "the pod's sandbox is not there";
                    status.conditions =
                        vec![condition(known, now, "False", "SandboxNotReady", message.into())];
                    status
                }
                None => continue,
            };
            if known != Some(&status) {
                statements.push(Statement { name: name.clone(), uid: facts.uid.clone(), status });
            }
        }
        statements
    }

    fn status(&self, facts: &AttachmentFacts, made: &Made, now: Timestamp) -> NetworkAttachmentStatus {
        let known = facts.status.as_ref();
        let ready = match made {
            Made::Connected => condition(known, now, "True", "Connected", String::new()),
            Made::Failed(why) => condition(known, now, "False", "NotConnected", why.clone()),
        };
        let [a, b, c, d, e, f] = member_mac(&facts.uid);
        NetworkAttachmentStatus {
            node_name: Some(self.node.clone()),
            node_addresses: vec![self.address.to_string()],
            mac_address: Some(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")),
            interface: Some(interface_name(&facts.network)),
            conditions: vec![ready],
        }
    }

    /// The names of all connected members: of each network and namespace, those who are in it.
    pub fn names(&self) -> BTreeMap<(String, String), ServiceRecord> {
        let mut names: BTreeMap<(String, String), ServiceRecord> = BTreeMap::new();
        for (name, facts) in self.attachments.iter().filter(|(_, facts)| facts.is_ready()) {
            let key = (facts.network.clone(), name.namespace.clone());
            let record = names.entry(key).or_insert_with(|| ServiceRecord {
                namespace: facts.network.clone(),
                name: name.namespace.clone(),
                target: ServiceTarget::Headless { endpoints: Vec::new() },
            });
            if let ServiceTarget::Headless { endpoints } = &mut record.target {
                endpoints.extend(facts.addresses.iter().map(|address| EndpointRecord {
                    address: *address,
                    hostname: Some(facts.pod.clone()),
                    ports: Vec::new(),
                    rank: Rank::default(),
                    pointer: true,
                }));
            }
        }
        names
    }
}

/// `Ready`, with the time of its last change.
fn condition(
    known: Option<&NetworkAttachmentStatus>,
    now: Timestamp,
    status: &str,
    reason: &str,
    message: String,
) -> Condition {
    let before = known.and_then(ready_condition).filter(|before| before.status == status);
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
        observed_generation: None,
    }
}

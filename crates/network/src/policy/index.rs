//! What is known of policies, pods and namespaces, and the rules of one node that follow from it. A change costs what it touches:
//! sets that it does not concern stay as they are.

use super::{
    block,
    memo::{Memo, Numbers, same_or_new},
    model::{Direction, Labels, NamedPort, ObjectName, Peer, Pod, Policy, PortMatch, Ports, Rule, Selector},
    rules::{Chain, ChainRule, Content, CounterOf, PeerTest, PolicyRules, PortTest},
};
use crate::Protocol;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// The longest name that a chain or counter is given; the kernel takes 255 bytes.
const LONGEST_NAME: usize = 200;
/// The longest comment that a set is given; the kernel takes 127 bytes.
const LONGEST_COMMENT: usize = 120;

/// See the module.
pub struct Index {
    node: String,
    namespaces: HashMap<String, Labels>,
    pods: HashMap<String, Pod>,
    /// Addresses that this node gave, by the pod's uid: they count more than what the API says.
    placed: HashMap<String, Vec<IpAddr>>,
    /// Pods of `placed` that the API does not have any more.
    gone: BTreeSet<String>,
    policies: BTreeMap<ObjectName, Policy>,
    peers: Memo<Peers, Members>,
    ports: Memo<(Protocol, String), PortMembers>,
    blocks: Numbers<Vec<block::Range>>,
    groups: Numbers<Vec<ObjectName>>,
}

/// Pods that some peers of a rule mean, by (the namespaces that they are in, the pods there).
type Peers = BTreeSet<(Whose, Selector)>;

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Whose {
    This(String),
    Labelled(Selector),
}

/// Addresses of both families.
#[derive(Clone, Default)]
struct Members {
    v4: Arc<BTreeSet<IpAddr>>,
    v6: Arc<BTreeSet<IpAddr>>,
}

#[derive(Clone, Default)]
struct PortMembers {
    v4: Arc<BTreeSet<(IpAddr, Protocol, u16)>>,
    v6: Arc<BTreeSet<(IpAddr, Protocol, u16)>>,
}

impl Index {
    /// Knows nothing yet. `node` is the node whose rules are wanted.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            placed: HashMap::new(),
            gone: BTreeSet::new(),
            policies: BTreeMap::new(),
            peers: Memo::new(),
            ports: Memo::new(),
            blocks: Numbers::new(),
            groups: Numbers::new(),
        }
    }

    /// Takes in a policy; whether anything changed.
    pub fn set_policy(&mut self, policy: Policy) -> bool {
        if self.policies.get(&policy.name) == Some(&policy) {
            return false;
        }
        self.policies.insert(policy.name.clone(), policy);
        true
    }

    /// Forgets a policy; whether it was known.
    pub fn remove_policy(&mut self, name: &ObjectName) -> bool {
        self.policies.remove(name).is_some()
    }

    /// Names of all policies.
    pub fn policy_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.policies.keys()
    }

    /// Takes in a namespace's labels; whether anything changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        let before = self.namespaces.insert(name.to_owned(), labels);
        let after = self.namespaces.get(name);
        if before.as_ref() == after {
            return false;
        }
        self.namespace_changed(name, &before.unwrap_or_default());
        true
    }

    /// Forgets a namespace; whether it was known.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        let Some(before) = self.namespaces.remove(name) else { return false };
        self.namespace_changed(name, &before);
        true
    }

    fn namespace_changed(&mut self, name: &str, before: &Labels) {
        let nothing = Labels::new();
        let after = self.namespaces.get(name).unwrap_or(&nothing);
        self.peers.forget(|peers| {
            peers.iter().any(|(whose, _)| match whose {
                Whose::This(_) => false,
                Whose::Labelled(selector) => selector.matches(before) != selector.matches(after),
            })
        });
    }

    /// Takes in a pod as the API has it; whether anything changed.
    pub fn set_pod(&mut self, pod: Pod) -> bool {
        self.gone.remove(&pod.uid);
        if self.pods.get(&pod.uid) == Some(&pod) {
            return false;
        }
        self.touch(&pod);
        if let Some(before) = self.pods.insert(pod.uid.clone(), pod) {
            self.touch(&before);
        }
        true
    }

    /// Forgets a pod, unless it still has its address on this node; whether anything changed.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        if self.placed.contains_key(uid) {
            self.gone.insert(uid.to_owned());
            return false;
        }
        let Some(before) = self.pods.remove(uid) else { return false };
        self.touch(&before);
        true
    }

    /// Uids of all pods that the API has.
    pub fn pod_uids(&self) -> impl Iterator<Item = &String> {
        self.pods.keys().filter(|uid| !self.gone.contains(*uid))
    }

    /// Names of all namespaces.
    pub fn namespace_names(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    /// Takes in that this node gave a pod its addresses.
    pub fn place(&mut self, pod: Pod, addresses: Vec<IpAddr>) {
        let uid = pod.uid.clone();
        self.touch(&pod);
        let known = self.pods.entry(uid.clone()).or_insert(pod).clone();
        self.touch(&known);
        // Whoever the API says has such an address has not.
        let rivals: Vec<Pod> = self
            .pods
            .values()
            .filter(|other| other.uid != uid && other.addresses.iter().any(|a| addresses.contains(a)))
            .cloned()
            .collect();
        for rival in &rivals {
            self.touch(rival);
        }
        self.placed.insert(uid, addresses);
    }

    /// Takes in that this node took a pod's addresses back; whether it had any.
    pub fn unplace(&mut self, uid: &str) -> bool {
        if self.placed.remove(uid).is_none() {
            return false;
        }
        if self.gone.remove(uid) {
            self.remove_pod(uid);
        } else if let Some(pod) = self.pods.get(uid).cloned() {
            self.touch(&pod);
        }
        true
    }

    /// Has everything found out again that a pod may be part of.
    fn touch(&mut self, pod: &Pod) {
        let nothing = Labels::new();
        let labels = self.namespaces.get(&pod.name.namespace).unwrap_or(&nothing);
        self.peers.forget(|peers| is_meant(peers, pod, labels));
        self.ports.forget(|(protocol, name)| {
            pod.ports.iter().any(|port| port.protocol == *protocol && port.name == *name)
        });
    }

    /// The addresses that a pod has, as far as policies are about them.
    fn addresses(&self, pod: &Pod) -> Vec<IpAddr> {
        if pod.host_network {
            return Vec::new();
        }
        match self.placed.get(&pod.uid) {
            Some(addresses) => addresses.clone(),
            None => pod.addresses.iter().copied().filter(|a| !self.is_placed(*a)).collect(),
        }
    }

    fn is_placed(&self, address: IpAddr) -> bool {
        self.placed.values().any(|addresses| addresses.contains(&address))
    }

    /// The rules of this node. Sets that are as they were are the same objects.
    pub fn rules(&mut self) -> PolicyRules {
        let mut rules = PolicyRules::default();
        let mut local: Vec<(Vec<IpAddr>, Pod)> = self
            .pods
            .values()
            .filter(|pod| pod.node == self.node || self.placed.contains_key(&pod.uid))
            .map(|pod| (self.addresses(pod), pod.clone()))
            .filter(|(addresses, _)| !addresses.is_empty())
            .collect();
        local.sort_by(|(_, one), (_, other)| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
        for direction in Direction::ALL {
            for (addresses, pod) in &local {
                let first = ObjectName { namespace: pod.name.namespace.clone(), name: String::new() };
                let group: Vec<ObjectName> = self
                    .policies
                    .range(first..)
                    .take_while(|(name, _)| name.namespace == pod.name.namespace)
                    .filter(|(_, policy)| policy.selects(pod, direction))
                    .map(|(name, _)| name.clone())
                    .collect();
                if group.is_empty() {
                    continue;
                }
                for address in addresses {
                    let chain = self.group_chain(&mut rules, direction, address.is_ipv6(), &group);
                    rules.pods.insert((direction, *address), chain);
                }
            }
        }
        self.peers.sweep();
        self.ports.sweep();
        self.blocks.sweep();
        self.groups.sweep();
        rules
    }

    /// The chain of pods that all of these policies select, made if it is not there.
    fn group_chain(
        &mut self,
        rules: &mut PolicyRules,
        direction: Direction,
        v6: bool,
        group: &Vec<ObjectName>,
    ) -> String {
        let name = format!("{}-pods-{}{}", direction.name(), self.groups.of(group), family(v6));
        if rules.chains.contains_key(&name) {
            return name;
        }
        let mut steps: Vec<ChainRule> = Vec::new();
        let mut counters = Vec::new();
        for policy in group {
            steps.push(ChainRule::Jump(self.policy_chain(rules, direction, v6, policy)));
            counters.push(counter(rules, policy, direction, false));
        }
        steps.push(ChainRule::Drop { counters });
        rules.chains.insert(name.clone(), Chain { direction, v6, rules: steps });
        name
    }

    fn policy_chain(
        &mut self,
        rules: &mut PolicyRules,
        direction: Direction,
        v6: bool,
        policy: &ObjectName,
    ) -> String {
        let name = bounded(format!("{}{}-{policy}", direction.name(), family(v6)));
        if rules.chains.contains_key(&name) {
            return name;
        }
        let known = self.policies.get(policy).and_then(|p| p.rules(direction)).unwrap_or_default().to_vec();
        let counter = counter(rules, policy, direction, true);
        let mut steps = Vec::new();
        for rule in &known {
            let peers = self.peer_tests(rules, v6, &policy.namespace, rule);
            let ports = self.port_tests(rules, v6, &rule.ports);
            for peers in &peers {
                for port in &ports {
                    let step = ChainRule::Accept {
                        peers: peers.clone(),
                        port: port.clone(),
                        counter: counter.clone(),
                    };
                    if !steps.contains(&step) {
                        steps.push(step);
                    }
                }
            }
        }
        rules.chains.insert(name.clone(), Chain { direction, v6, rules: steps });
        name
    }

    /// One test for all pods that a rule means, one for all blocks. `[None]`: everybody is meant.
    fn peer_tests(
        &mut self,
        rules: &mut PolicyRules,
        v6: bool,
        namespace: &str,
        rule: &Rule,
    ) -> Vec<Option<PeerTest>> {
        if rule.peers.is_empty() {
            return vec![None];
        }
        let (mut pods, mut blocks) = (Peers::new(), Vec::new());
        for peer in &rule.peers {
            match peer {
                Peer::Pods { namespaces, pods: selector } => {
                    let whose = match namespaces {
                        None => Whose::This(namespace.to_owned()),
                        Some(selector) => Whose::Labelled(selector.clone()),
                    };
                    pods.insert((whose, selector.clone()));
                }
                Peer::Block { cidr, except } => blocks.push((*cidr, except.as_slice())),
            }
        }
        let mut tests = Vec::new();
        if !pods.is_empty() {
            let set = format!("peers-{}{}", self.peers.number(&pods), family(v6));
            let found = self.members(&pods);
            let members = if v6 { found.v6 } else { found.v4 };
            let comment = described(&pods);
            rules.sets.entry(set.clone()).or_insert(Content::Addresses { v6, comment, members });
            tests.push(Some(PeerTest { set }));
        }
        let mut ranges = block::ranges(blocks.into_iter());
        ranges.retain(|(first, _)| first.is_ipv6() == v6);
        if !ranges.is_empty() {
            let set = format!("blocks-{}{}", self.blocks.of(&ranges), family(v6));
            rules.sets.entry(set.clone()).or_insert(Content::Ranges { v6, members: Arc::new(ranges) });
            tests.push(Some(PeerTest { set }));
        }
        tests
    }

    fn members(&mut self, peers: &Peers) -> Members {
        if let Some(known) = self.peers.values.get(peers) {
            return known.clone();
        }
        let nothing = Labels::new();
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for pod in self.pods.values() {
            let labels = self.namespaces.get(&pod.name.namespace).unwrap_or(&nothing);
            if is_meant(peers, pod, labels) {
                for address in self.addresses(pod) {
                    if address.is_ipv6() { &mut v6 } else { &mut v4 }.insert(address);
                }
            }
        }
        let before = self.peers.before.get(peers).cloned().unwrap_or_default();
        let found = Members { v4: same_or_new(before.v4, v4), v6: same_or_new(before.v6, v6) };
        self.peers.values.insert(peers.clone(), found.clone());
        found
    }

    /// Tests that together let through what the ports mean. `[None]`: everything is meant.
    fn port_tests(
        &mut self,
        rules: &mut PolicyRules,
        v6: bool,
        ports: &[PortMatch],
    ) -> Vec<Option<PortTest>> {
        if ports.is_empty() {
            return vec![None];
        }
        let tests = ports.iter().map(|port| match &port.ports {
            Ports::All => PortTest::Any(port.protocol),
            Ports::Range(first, last) => PortTest::Range(port.protocol, *first, *last),
            Ports::Named(name) => {
                let key = (port.protocol, name.clone());
                let set = format!("port-{}-{name}{}", port.protocol, family(v6));
                self.ports.number(&key);
                let found = self.port_members(&key);
                let members = if v6 { found.v6 } else { found.v4 };
                rules.sets.entry(set.clone()).or_insert(Content::Ports { v6, members });
                PortTest::Named(set)
            }
        });
        tests.map(Some).collect()
    }

    fn port_members(&mut self, key: &(Protocol, String)) -> PortMembers {
        if let Some(known) = self.ports.values.get(key) {
            return known.clone();
        }
        let is_it = |port: &&NamedPort| port.protocol == key.0 && port.name == key.1;
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for pod in self.pods.values() {
            for port in pod.ports.iter().filter(is_it) {
                for address in self.addresses(pod) {
                    let members = if address.is_ipv6() { &mut v6 } else { &mut v4 };
                    members.insert((address, port.protocol, port.port));
                }
            }
        }
        let before = self.ports.before.get(key).cloned().unwrap_or_default();
        let found = PortMembers { v4: same_or_new(before.v4, v4), v6: same_or_new(before.v6, v6) };
        self.ports.values.insert(key.clone(), found.clone());
        found
    }
}

fn is_meant(peers: &Peers, pod: &Pod, namespace_labels: &Labels) -> bool {
    peers.iter().any(|(whose, selector)| {
        let inside = match whose {
            Whose::This(namespace) => pod.name.namespace == *namespace,
            Whose::Labelled(selector) => selector.matches(namespace_labels),
        };
        inside && selector.matches(&pod.labels)
    })
}

fn counter(rules: &mut PolicyRules, policy: &ObjectName, direction: Direction, allowed: bool) -> String {
    let what = if allowed { "allowed" } else { "denied" };
    let name = bounded(format!("{}-{what}-{policy}", direction.name()));
    rules.counters.entry(name.clone()).or_insert_with(|| CounterOf {
        policy: policy.clone(),
        direction,
        allowed,
    });
    name
}

fn family(v6: bool) -> &'static str {
    if v6 { "-6" } else { "-4" }
}

/// What a set of peers means, for people who list the table.
fn described(peers: &Peers) -> String {
    let all: Vec<String> = peers
        .iter()
        .map(|(whose, pods)| match whose {
            Whose::This(namespace) => format!("{pods} of {namespace}"),
            Whose::Labelled(selector) => format!("{pods} of namespaces {selector}"),
        })
        .collect();
    let mut text = all.join("; ");
    if text.len() > LONGEST_COMMENT {
        let end = (0..=LONGEST_COMMENT - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// A name that the kernel takes: names of objects are ASCII, and a long one ends in a hash of the whole.
fn bounded(name: String) -> String {
    if name.len() <= LONGEST_NAME {
        return name;
    }
    // FNV-1a: a pair of names that meet here share 184 bytes and were made to.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}{hash:016x}", name.get(..LONGEST_NAME - 16).unwrap_or_default())
}

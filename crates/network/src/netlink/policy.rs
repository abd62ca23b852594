//! The table of policies, `inet orlop-INSTANCE-policy`: its fixed chains and maps, and rules carried to the kernel. It stays in force
//! when its owner ends, until somebody builds it anew, in one step, or removes it.
//!
//! Both chains hang on `forward`: what the node itself sends or gets never passes there. The one of sources comes first; what it
//! accepts still passes the one of destinations.

use super::{allow_large_batches, kernel};
use crate::{
    Error, Protocol,
    layout::{check_instance, node_link_name},
    policy::{Chain, ChainRule, Change, Content, CounterOf, Direction, Element, PolicyRules, PortTest},
};
use nlink::{
    Connection, Nftables,
    netlink::nftables::{
        BaseChain, Chain as KernelChain, ChainName, CmpOp, CtState, Expr, Family, FilterHook, LookupExpr,
        MetaKey, Object, ObjectState, PayloadBase, Priority, RangeOp, Register, Rule, Set, SetElement,
        SetKeyType, Transaction, Verdict,
    },
};
use std::{collections::BTreeMap, net::IpAddr};

const FAMILY: Family = Family::Inet;
/// Before the chains that reject what no Service has, so that policies see it first; after connection tracking.
const EGRESS_PRIORITY: i32 = -20;
const INGRESS_PRIORITY: i32 = -19;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// Elements a message: a netlink attribute holds 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// What policies let through and what not, since the table was built.
pub type PolicyCounts = Vec<(CounterOf, u64)>;

/// The policies' table of one instance.
pub struct PolicyTable {
    conn: Connection<Nftables>,
    name: String,
    /// What the kernel has, once it was told.
    applied: Option<PolicyRules>,
}

impl PolicyTable {
    /// Opens a netlink socket. A table that is there stays as it is until the first `apply`.
    ///
    /// # Errors
    /// [`Error::Config`] for an instance that makes no name, kernel errors.
    pub fn open(instance: &str) -> Result<Self, Error> {
        check_instance(instance)?;
        let conn = Connection::<Nftables>::new().map_err(kernel("opening a netlink socket for nftables"))?;
        allow_large_batches(&conn);
        Ok(Self { conn, name: table_name(instance), applied: None })
    }

    /// Makes the kernel's rules these, in one step: by the change alone where it is known what is there.
    ///
    /// # Errors
    /// Kernel errors; then the rules are as they were.
    pub async fn apply(&mut self, wanted: PolicyRules) -> Result<(), Error> {
        if let Some(applied) = &self.applied {
            let change = applied.change_to(&wanted);
            if change.is_empty() {
                return Ok(());
            }
            let batch = self.changed(self.conn.transaction(), &change, applied, &wanted)?;
            match batch.commit(&self.conn).await {
                Ok(()) => {
                    self.applied = Some(wanted);
                    return Ok(());
                }
                // Somebody else changed or removed the table: it is ours alone, so make it right as a whole.
                Err(error) => {
                    tracing::warn!(%error, "the policies' rules were changed by somebody else; building them anew");
                }
            }
        }
        self.applied = None;
        self.rebuild(&wanted).await?;
        self.applied = Some(wanted);
        Ok(())
    }

    /// Builds the table again if somebody removed it; whether that was so.
    ///
    /// # Errors
    /// Kernel errors.
    pub async fn repair(&mut self) -> Result<bool, Error> {
        let Some(applied) = &self.applied else { return Ok(false) };
        if self.exists().await? {
            return Ok(false);
        }
        self.rebuild(applied).await?;
        Ok(true)
    }

    /// What was counted since the table was built.
    ///
    /// # Errors
    /// Kernel errors.
    pub async fn counts(&self) -> Result<PolicyCounts, Error> {
        let Some(applied) = &self.applied else { return Ok(Vec::new()) };
        if applied.counters.is_empty() {
            return Ok(Vec::new());
        }
        let step = kernel(format!("reading the counters of table {}", self.name));
        let objects = self.conn.list_objects_in(&self.name, FAMILY).await.map_err(step)?;
        let counted = objects.into_iter().filter_map(|object| {
            let of = applied.counters.get(&object.name)?;
            match object.state {
                ObjectState::Counter { packets, .. } => Some((of.clone(), packets)),
                _ => None,
            }
        });
        Ok(counted.collect())
    }

    /// Removes an instance's table if it is there.
    pub(crate) async fn remove(instance: &str) -> Result<(), Error> {
        let name = table_name(instance);
        let step = || kernel(format!("removing table {name}"));
        let conn = Connection::<Nftables>::new().map_err(step())?;
        conn.del_table_if_exists(name.as_str(), FAMILY).await.map(drop).map_err(step())
    }

    async fn exists(&self) -> Result<bool, Error> {
        let step = kernel(format!("looking for table {}", self.name));
        let tables = self.conn.list_tables_in(FAMILY).await.map_err(step)?;
        Ok(tables.iter().any(|table| table.name == self.name))
    }

    async fn rebuild(&self, wanted: &PolicyRules) -> Result<(), Error> {
        let mut batch = self.conn.transaction();
        if self.exists().await? {
            batch = batch.del_table(&self.name, FAMILY);
        }
        let nothing = PolicyRules::default();
        let batch = self.changed(self.skeleton(batch)?, &nothing.change_to(wanted), &nothing, wanted)?;
        batch.commit(&self.conn).await.map_err(kernel(format!("building table {}", self.name)))
    }

    fn skeleton(&self, mut batch: Transaction) -> Result<Transaction, Error> {
        batch = batch.add_table_with_comment(&self.name, FAMILY, 0, Some("NetworkPolicies of Orlop"));
        for direction in Direction::ALL {
            for v6 in [false, true] {
                batch = batch.add_set(self.pods(direction, v6));
            }
        }
        for v6 in [false, true] {
            batch = batch.add_set(self.itself(v6));
        }
        for (direction, priority) in
            [(Direction::Egress, EGRESS_PRIORITY), (Direction::Ingress, INGRESS_PRIORITY)]
        {
            let base = BaseChain::filter(FilterHook::Forward, Priority::Custom(priority));
            batch = batch.add_chain(self.chain(direction.name())?.base(base));
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let rule = || self.rule(direction.name());
            let known = CtState::ESTABLISHED | CtState::RELATED;
            batch = batch.add_rule(rule().match_ct_state(known).accept());
            for v6 in [false, true] {
                let length = if v6 { 4 } else { 1 };
                // A pod that reaches itself through a Service.
                let rule_of_itself = of_family(rule(), v6)
                    .expr(address(v6, false, 0))
                    .expr(address(v6, true, length))
                    .expr(LookupExpr::new(itself_name(v6), word(0)))
                    .accept();
                batch = batch.add_rule(rule_of_itself);
            }
            for v6 in [false, true] {
                let own_is_destination = direction == Direction::Ingress;
                let lookup = LookupExpr::new(pods_name(direction, v6), word(0)).dreg(Register::Verdict);
                batch = batch
                    .add_rule(of_family(rule(), v6).expr(address(v6, own_is_destination, 0)).expr(lookup));
            }
        }
        Ok(batch)
    }

    fn changed(
        &self,
        mut batch: Transaction,
        change: &Change,
        before: &PolicyRules,
        wanted: &PolicyRules,
    ) -> Result<Transaction, Error> {
        for name in &change.new_sets {
            if let Some(content) = wanted.sets.get(name) {
                batch = batch.add_set(self.set(name, content));
            }
        }
        for name in &change.new_counters {
            batch = batch.add_object(&Object::counter(&self.name, name).family(FAMILY));
        }
        for name in &change.new_chains {
            batch = batch.add_chain(self.chain(name)?);
        }
        for name in &change.written_chains {
            let Some(chain) = wanted.chains.get(name) else { continue };
            if !change.new_chains.contains(name) {
                batch = batch.flush_chain(&self.name, name, FAMILY);
            }
            for rule in &chain.rules {
                batch = batch.add_rule(self.encode_rule(name, chain, rule)?);
            }
        }
        for (name, elements) in by_set(&change.removed) {
            if let Some(content) = before.sets.get(name) {
                let set = self.set(name, content);
                for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    batch = batch.del_set_elements(&set, &encode(chunk));
                }
            }
        }
        for (name, elements) in by_set(&change.added) {
            if let Some(content) = wanted.sets.get(name) {
                let set = self.set(name, content);
                for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    batch = batch.add_set_elements(&set, &encode(chunk));
                }
            }
        }
        for (direction, address, chain) in &change.unled {
            let element = [led(*address, chain)?];
            batch = batch.del_set_elements(&self.pods(*direction, address.is_ipv6()), &element);
        }
        for (direction, address, chain) in &change.led {
            let element = [led(*address, chain)?];
            batch = batch.add_set_elements(&self.pods(*direction, address.is_ipv6()), &element);
        }
        let (old, new) = (isolated(before), isolated(wanted));
        for address in old.keys().filter(|address| !new.contains_key(*address)) {
            batch = batch.del_set_elements(&self.itself(address.is_ipv6()), &[twice(*address)]);
        }
        for address in new.keys().filter(|address| !old.contains_key(*address)) {
            batch = batch.add_set_elements(&self.itself(address.is_ipv6()), &[twice(*address)]);
        }
        // Those that jump before those that are jumped to.
        for name in &change.old_chains {
            batch = batch.flush_chain(&self.name, name, FAMILY);
        }
        for name in &change.old_chains {
            batch = batch.del_chain(&self.name, name, FAMILY);
        }
        for name in &change.old_sets {
            batch = batch.del_set(&self.name, name, FAMILY);
        }
        for name in &change.old_counters {
            let kind = nlink::netlink::nftables::ObjectType::Counter;
            batch = batch.del_object(&self.name, name, kind, FAMILY);
        }
        Ok(batch)
    }

    fn encode_rule(&self, name: &str, chain: &Chain, rule: &ChainRule) -> Result<Rule, Error> {
        let own_is_destination = chain.direction == Direction::Ingress;
        Ok(match rule {
            ChainRule::Jump(to) => self.rule(name).jump(chain_name(to)?),
            ChainRule::Drop { counters } => {
                counters.iter().fold(self.rule(name), |rule, counter| rule.counter_named(counter)).drop()
            }
            ChainRule::Accept { peers, port, counter } => {
                let mut made = self.rule(name);
                if let Some(peers) = peers {
                    made = of_family(made, chain.v6)
                        .expr(address(chain.v6, !own_is_destination, 0))
                        .expr(LookupExpr::new(peers.set.as_str(), word(0)));
                }
                made = match port {
                    None => made,
                    Some(PortTest::Any(protocol)) => made.match_l4proto(number(*protocol)),
                    Some(PortTest::Range(protocol, first, last)) => {
                        let made = made.match_l4proto(number(*protocol)).expr(port_at(0));
                        let (from, to) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
                        if from == to {
                            made.expr(Expr::Cmp { sreg: word(0), op: CmpOp::Eq, data: from })
                        } else {
                            made.expr(Expr::Range { sreg: word(0), op: RangeOp::Eq, from, to })
                        }
                    }
                    Some(PortTest::Named(set)) => {
                        let length = if chain.v6 { 4 } else { 1 };
                        of_family(made, chain.v6)
                            .expr(address(chain.v6, true, 0))
                            .expr(Expr::Meta { dreg: word(length), key: MetaKey::L4Proto })
                            .expr(port_at(length + 1))
                            .expr(LookupExpr::new(set.as_str(), word(0)))
                    }
                };
                made.counter_named(counter).accept()
            }
        })
    }

    fn rule(&self, chain: &str) -> Rule {
        Rule::new(&self.name, chain).family(FAMILY)
    }

    fn chain(&self, name: &str) -> Result<KernelChain, Error> {
        Ok(KernelChain::new(self.name.as_str(), name).map_err(kernel("naming a chain"))?.family(FAMILY))
    }

    fn set(&self, name: &str, content: &Content) -> Set {
        let set = Set::new(&self.name, name).family(FAMILY);
        match content {
            Content::Addresses { v6, comment, .. } => {
                set.key_type(address_type(*v6)).comment(comment.as_str())
            }
            Content::Ranges { v6, .. } => set.key_type(address_type(*v6)).interval(),
            Content::Ports { v6, .. } => set.key_type(SetKeyType::Concat(vec![
                address_type(*v6),
                SetKeyType::InetProto,
                SetKeyType::InetService,
            ])),
        }
    }

    fn pods(&self, direction: Direction, v6: bool) -> Set {
        Set::new(&self.name, &pods_name(direction, v6)).family(FAMILY).key_type(address_type(v6)).vmap()
    }

    fn itself(&self, v6: bool) -> Set {
        let key = SetKeyType::Concat(vec![address_type(v6), address_type(v6)]);
        Set::new(&self.name, itself_name(v6)).family(FAMILY).key_type(key)
    }
}

fn table_name(instance: &str) -> String {
    format!("{}-policy", node_link_name(instance))
}

fn pods_name(direction: Direction, v6: bool) -> String {
    format!("pods-{}-{}", direction.name(), if v6 { 6 } else { 4 })
}

fn itself_name(v6: bool) -> &'static str {
    if v6 { "itself-6" } else { "itself-4" }
}

fn chain_name(name: &str) -> Result<ChainName, Error> {
    ChainName::new(name).map_err(kernel("naming a chain"))
}

/// Addresses of the pods that policies isolate.
fn isolated(rules: &PolicyRules) -> BTreeMap<IpAddr, ()> {
    rules.pods.keys().map(|(_, address)| (*address, ())).collect()
}

fn address_type(v6: bool) -> SetKeyType {
    if v6 { SetKeyType::Ipv6Addr } else { SetKeyType::Ipv4Addr }
}

fn of_family(rule: Rule, v6: bool) -> Rule {
    let protocol = if v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
    rule.expr(Expr::Meta { dreg: word(0), key: MetaKey::NfProto }).expr(Expr::Cmp {
        sreg: word(0),
        op: CmpOp::Eq,
        data: vec![protocol],
    })
}

/// Loads the packet's source or destination.
fn address(v6: bool, destination: bool, into: usize) -> Expr {
    let (offset, len) = match (v6, destination) {
        (false, false) => (12, 4),
        (false, true) => (16, 4),
        (true, false) => (8, 16),
        (true, true) => (24, 16),
    };
    Expr::Payload { dreg: word(into), base: PayloadBase::Network, offset, len }
}

/// Loads the destination port, which is at the same place in TCP, UDP and SCTP.
fn port_at(into: usize) -> Expr {
    Expr::Payload { dreg: word(into), base: PayloadBase::Transport, offset: 2, len: 2 }
}

/// A word of the data registers. There are 16; callers use constants below 8.
fn word(at: usize) -> Register {
    Register::word(at).unwrap_or(Register::Reg32_15)
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn key(address: IpAddr) -> SetElement {
    match address {
        IpAddr::V4(address) => SetElement::ipv4(address),
        IpAddr::V6(address) => SetElement::ipv6(address),
    }
}

fn twice(address: IpAddr) -> SetElement {
    SetElement::concat([key(address), key(address)])
}

fn led(address: IpAddr, chain: &str) -> Result<SetElement, Error> {
    Ok(key(address).verdict(Verdict::GotoTo(chain_name(chain)?)))
}

fn by_set(elements: &[(String, Element)]) -> impl Iterator<Item = (&str, &[(String, Element)])> {
    elements.chunk_by(|a, b| a.0 == b.0).filter_map(|chunk| Some((chunk.first()?.0.as_str(), chunk)))
}

fn encode(elements: &[(String, Element)]) -> Vec<SetElement> {
    let one = |element: &Element| match element {
        Element::Address(address) => key(*address),
        Element::Range(IpAddr::V4(first), IpAddr::V4(last)) => SetElement::ipv4_range(*first, *last),
        Element::Range(first, last) => {
            SetElement::range(key(*first).key().to_vec(), key(*last).key().to_vec())
        }
        Element::Port(address, protocol, port) => SetElement::concat([
            key(*address),
            SetElement::inet_proto(number(*protocol)),
            SetElement::port(*port),
        ]),
    };
    elements.iter().map(|(_, element)| one(element)).collect()
}

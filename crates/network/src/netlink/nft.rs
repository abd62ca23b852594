//! The nftables table: its fixed chains and maps, the chains that pick endpoints, and elements carried to and from the
//! kernel. Everything is in one table of our own; no other is looked at.
//!
//! Rules that look several fields up at once are written with registers: a register is a word of 4 bytes, and a key of
//! several fields is several words in a row. All of them are such that `nft list ruleset` can show them (version 1.0.6
//! aborts on a key that contains the result of another look-up).

use super::{
    elements::{self, REFUSE, decode, is_live, renewed},
    kernel,
};
use crate::{
    Error,
    layout::{Layout, link_prefix, node_link_name},
    ruleset::{Branch, Change, Key, Lookup, Map, Pick, Ruleset, Value},
};
use nlink::{
    Connection, Nftables,
    netlink::{
        nftables::{
            BaseChain, Chain, ChainName, CtDirection, CtKey, CtStatus, DynsetExpr, DynsetOp, Expr, Family,
            FibFlags, FilterHook, LookupExpr, MetaKey, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN,
            NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE, NatHook, NumgenKind, PayloadBase, Priority, RawExpr,
            Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction,
        },
        types::route::RouteType,
    },
};
use std::{net::Ipv4Addr, os::fd::AsRawFd, time::Duration};

/// Raised whenever a chain's rules or a map's type changes: a table of another version is built anew.
const VERSION: u32 = 2;
/// Elements a message: a netlink attribute holds 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// The largest transaction: some half a million elements.
const MAX_BATCH_BYTES: libc::c_int = 64 << 20;
/// The most affinities that are remembered.
const MAX_AFFINITIES: u32 = 1 << 18;
const FAMILY: Family = Family::Ip;
const NFPROTO_IPV4: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;
const ICMP_HOST_UNREACHABLE: u8 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;

/// The word that an endpoint's address is put into; its port goes into the next one.
const ENDPOINT: usize = 8;

const AFFINITY: &str = "affinity";
const NODE: &str = "node";
const NODE_OUTSIDE: &str = "node-outside";

/// The table of one instance.
pub(crate) struct Table {
    conn: Connection<Nftables>,
    layout: Layout,
    name: String,
}

impl Table {
    /// Opens a netlink socket.
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        let conn = Connection::<Nftables>::new().map_err(kernel("opening a netlink socket for nftables"))?;
        allow_large_batches(&conn);
        Ok(Self { conn, layout: layout.clone(), name: layout.table() })
    }

    /// What is in the kernel, if the table there was made for the same layout by the same version.
    pub async fn read(&self) -> Result<Option<Ruleset>, Error> {
        let step = || kernel(format!("reading table {}", self.name));
        let tables = self.conn.list_tables_in(FAMILY).await.map_err(step())?;
        let known = tables
            .iter()
            .any(|table| table.name == self.name && table.comment.as_deref() == Some(&self.label()));
        if !known {
            return Ok(None);
        }
        let mut rules = Ruleset::default();
        for map in Map::ALL {
            let elements =
                self.conn.list_set_elements(&self.name, &map.name(), FAMILY).await.map_err(step())?;
            for element in elements {
                let Some((key, value)) = decode(map, &element) else { return Ok(None) };
                rules.insert(map, key, value);
            }
        }
        Ok(Some(rules))
    }

    /// Makes the table anew with these rules in one transaction. Affinities that are there are kept.
    pub async fn rebuild(&self, rules: &Ruleset) -> Result<(), Error> {
        let step = || kernel(format!("building table {}", self.name));
        let tables = self.conn.list_tables_in(FAMILY).await.map_err(step())?;
        let mut batch = self.conn.transaction();
        let mut affinities = Vec::new();
        if tables.iter().any(|table| table.name == self.name) {
            affinities = self.conn.list_set_elements(&self.name, AFFINITY, FAMILY).await.unwrap_or_default();
            batch = batch.del_table(&self.name, FAMILY);
        }
        batch = self.skeleton(batch)?;
        batch = self.change(batch, &Ruleset::default().change_to(rules))?;
        let kept: Vec<SetElement> =
            affinities.iter().filter(|affinity| is_live(affinity, rules)).filter_map(renewed).collect();
        for chunk in kept.chunks(ELEMENTS_PER_MESSAGE) {
            batch = batch.add_set_elements(&self.affinity_set(), chunk);
        }
        batch.commit(&self.conn).await.map_err(step())
    }

    /// Makes a change in one transaction.
    pub async fn apply(&self, change: &Change) -> Result<(), Error> {
        let batch = self.change(self.conn.transaction(), change)?;
        batch.commit(&self.conn).await.map_err(kernel(format!("changing table {}", self.name)))
    }

    /// Forgets affinities to endpoints that are none of their targets' any more. Returns how many.
    pub async fn forget_stale_affinities(&self, rules: &Ruleset) -> Result<usize, Error> {
        let step = || kernel(format!("forgetting affinities of table {}", self.name));
        let all = self.conn.list_set_elements(&self.name, AFFINITY, FAMILY).await.map_err(step())?;
        let set = self.affinity_set();
        let mut forgotten = 0;
        for affinity in all.iter().filter(|affinity| !is_live(affinity, rules)) {
            // One by one: one that has just expired would fail a whole batch.
            match self.conn.del_set_elements(&set, &[SetElement::new(affinity.key().to_vec())]).await {
                Ok(()) => forgotten += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(step()(error)),
            }
        }
        Ok(forgotten)
    }

    /// Removes an instance's table if it is there.
    pub async fn remove(instance: &str) -> Result<(), Error> {
        let name = node_link_name(instance);
        let step = || kernel(format!("removing table {name}"));
        let conn = Connection::<Nftables>::new().map_err(step())?;
        conn.del_table_if_exists(name.as_str(), FAMILY).await.map(drop).map_err(step())
    }

    fn label(&self) -> String {
        let Layout { pod_range, cluster_range, service_range, dns_address, .. } = &self.layout;
        format!("v{VERSION} {pod_range} {cluster_range} {service_range} {dns_address}")
    }

    fn change(&self, mut batch: Transaction, change: &Change) -> Result<Transaction, Error> {
        for branch in &change.new_branches {
            batch = batch.add_chain(self.chain(&branch.to_string())?);
            for rule in self.branch_rules(*branch) {
                batch = batch.add_rule(rule);
            }
        }
        for (map, elements) in by_map(&change.remove) {
            let set = self.set(map);
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let elements = encode(chunk)?;
                batch = batch.del_set_elements(&set, &elements);
            }
        }
        for (map, elements) in by_map(&change.add) {
            let set = self.set(map);
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let elements = encode(chunk)?;
                batch = batch.add_set_elements(&set, &elements);
            }
        }
        for branch in &change.old_branches {
            let name = branch.to_string();
            batch = batch.flush_chain(&self.name, &name, FAMILY).del_chain(&self.name, &name, FAMILY);
        }
        Ok(batch)
    }

    fn skeleton(&self, mut batch: Transaction) -> Result<Transaction, Error> {
        batch = batch.add_table_with_comment(&self.name, FAMILY, 0, Some(&self.label()));
        for map in Map::ALL {
            batch = batch.add_set(self.set(map));
        }
        batch = batch.add_set(self.affinity_set());
        for name in [REFUSE, NODE, NODE_OUTSIDE] {
            batch = batch.add_chain(self.chain(name)?);
        }
        let nat = |hook, priority| BaseChain::nat(hook, priority);
        for (name, base) in [
            ("guard", BaseChain::filter(FilterHook::Prerouting, Priority::Raw)),
            ("forward", BaseChain::filter(FilterHook::Forward, Priority::Filter)),
            ("leave", BaseChain::filter(FilterHook::Output, Priority::Filter)),
            ("prerouting", nat(NatHook::Prerouting, Priority::DstNat)),
            ("output", nat(NatHook::Output, Priority::DstNat)),
            ("input", nat(NatHook::Input, Priority::SrcNat)),
            ("postrouting", nat(NatHook::Postrouting, Priority::SrcNat)),
        ] {
            batch = batch.add_chain(self.chain(name)?.base(base));
        }
        for rule in self.fixed_rules()? {
            batch = batch.add_rule(rule);
        }
        Ok(batch)
    }

    fn fixed_rules(&self) -> Result<Vec<Rule>, Error> {
        let Layout { pod_range, cluster_range, service_range, dns_address, .. } = &self.layout;
        let (pod_links, gateway) = (link_prefix(&self.layout.instance), self.layout.gateway());
        let node_link = self.layout.node_link();
        let (cluster, cluster_bits) = (cluster_range.network(), cluster_range.prefix_len());
        let chain = |name: &str| ChainName::new(name).map_err(kernel("naming a chain"));
        let node_address = |rule: Rule| {
            rule.match_daddr_v4_not(*dns_address, 32).match_fib_type(FibFlags::DADDR, RouteType::Local)
        };
        let unserved = |name: &str| -> Result<Rule, Error> {
            Ok(self
                .rule(name)
                .match_daddr_v4_not(*dns_address, 32)
                .match_daddr_v4(service_range.network(), service_range.prefix_len())
                .goto(chain(REFUSE)?))
        };
        Ok(vec![
            // Pod links route 127.0.0.0/8 for node ports; pods must not reach the node's loopback by it.
            self.rule("guard")
                .match_iif_prefix(&pod_links)
                .match_daddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8)
                .drop(),
            // ICMP redirects would make pods bypass the address translation (type 5).
            self.rule("leave").match_oif_prefix(&pod_links).match_l4proto(1).match_icmp_type(5).drop(),
            // The node's own link leads nowhere.
            self.rule("forward").match_oif(&node_link).reject_icmp(ICMP_HOST_UNREACHABLE),
            // In this hook a packet that was just sent to an endpoint still shows the link that it was first routed to.
            self.rule("leave").match_ct_status(CtStatus::DST_NAT).accept(),
            self.rule("leave").match_oif(&node_link).reject_icmp(ICMP_HOST_UNREACHABLE),
            self.rule(REFUSE).match_l4proto(6).reject_tcp_reset(),
            self.rule(REFUSE).reject_icmp(ICMP_PORT_UNREACHABLE),
            // Services, for clients outside first.
            verdict(self.rule("prerouting").match_saddr_v4_not(cluster, cluster_bits), Lookup::Outside),
            verdict(self.rule("prerouting"), Lookup::Inside),
            node_address(self.rule("prerouting").match_saddr_v4_not(cluster, cluster_bits))
                .jump(chain(NODE_OUTSIDE)?),
            node_address(self.rule("prerouting")).jump(chain(NODE)?),
            unserved("prerouting")?,
            verdict(self.rule("output"), Lookup::Inside),
            node_address(self.rule("output")).jump(chain(NODE)?),
            unserved("output")?,
            verdict(self.rule(NODE_OUTSIDE), Lookup::OutsideNode),
            host_port(self.rule(NODE), Map::HostAddressPorts),
            host_port(self.rule(NODE), Map::HostPorts),
            verdict(self.rule(NODE), Lookup::InsideNode),
            sticky(self.rule("postrouting"), Map::Sticky),
            sticky(self.rule("postrouting"), Map::StickyNode),
            sticky(self.rule("input"), Map::Sticky),
            sticky(self.rule("input"), Map::StickyNode),
            // A pod that reached itself through a service must answer through the node, and so must one that was reached by
            // 127.0.0.1:PORT.
            twice(self.rule("postrouting").match_oif_prefix(&pod_links)).snat(gateway, None),
            self.rule("postrouting")
                .match_oif_prefix(&pod_links)
                .match_saddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8)
                .snat(gateway, None),
            self.rule("postrouting").match_oif_prefix(&pod_links).accept(),
            // Pods to the world.
            self.rule("postrouting")
                .match_saddr_v4(pod_range.network(), pod_range.prefix_len())
                .match_daddr_v4_not(cluster, cluster_bits)
                .masquerade(),
            // From outside to an endpoint elsewhere: the answer must come back here.
            remote(
                self.rule("postrouting")
                    .match_saddr_v4_not(cluster, cluster_bits)
                    .match_ct_status(CtStatus::DST_NAT),
            )
            .masquerade(),
        ])
    }

    fn branch_rules(&self, branch: Branch) -> Vec<Rule> {
        let chain = branch.to_string();
        match branch {
            Branch::Pick(Pick { lookup, count, sticky }) => {
                let known = || {
                    let (rule, next) = load_target(self.rule(&chain), Lookup::Inside);
                    rule.expr(load_source(next))
                        .expr(LookupExpr::new(AFFINITY, word(0)).dreg(word(ENDPOINT)))
                        .expr(dnat(ENDPOINT))
                };
                let (rule, next) = load_target(self.rule(&chain), lookup);
                let draw = rule
                    .expr(Expr::Numgen {
                        dreg: word(next),
                        kind: NumgenKind::Random,
                        modulus: count,
                        offset: 0,
                    })
                    .expr(map_lookup(Map::Endpoints(lookup)).dreg(word(ENDPOINT)))
                    .expr(dnat(ENDPOINT));
                if sticky { vec![known(), draw] } else { vec![draw] }
            }
            Branch::Remember(seconds) => {
                // What the connection was opened to, and by whom: where it now goes.
                let update = DynsetExpr::new(DynsetOp::Update, AFFINITY, word(0))
                    .sreg_data(word(ENDPOINT))
                    .timeout(Duration::from_secs(seconds.into()));
                let (rule, next) = load_opened(self.rule(&chain), true);
                let rule = rule
                    .expr(load_source(next))
                    .expr(Expr::Payload {
                        dreg: word(ENDPOINT),
                        base: PayloadBase::Network,
                        offset: 16,
                        len: 4,
                    })
                    .expr(Expr::Payload {
                        dreg: word(ENDPOINT + 1),
                        base: PayloadBase::Transport,
                        offset: 2,
                        len: 2,
                    });
                vec![rule.expr(update)]
            }
        }
    }

    fn rule(&self, chain: &str) -> Rule {
        Rule::new(&self.name, chain).family(FAMILY)
    }

    fn chain(&self, name: &str) -> Result<Chain, Error> {
        Ok(Chain::new(self.name.as_str(), name).map_err(kernel("naming a chain"))?.family(FAMILY))
    }

    fn set(&self, map: Map) -> Set {
        use SetKeyType::{InetProto, InetService, Ipv4Addr, Mark};
        let endpoint = || SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService]));
        let target = |node_port: bool| {
            if node_port { vec![InetProto, InetService] } else { vec![Ipv4Addr, InetProto, InetService] }
        };
        let (key, data) = match map {
            Map::Verdicts(lookup) => (target(lookup.is_node_port()), Some(SetDataType::Verdict)),
            Map::Endpoints(lookup) => {
                ([target(lookup.is_node_port()), vec![Mark]].concat(), Some(endpoint()))
            }
            Map::Sticky => (target(false), Some(SetDataType::Verdict)),
            Map::StickyNode => (target(true), Some(SetDataType::Verdict)),
            Map::HostAddressPorts => (target(false), Some(endpoint())),
            Map::HostPorts => (target(true), Some(endpoint())),
            Map::Hairpin => (vec![Ipv4Addr, Ipv4Addr], None),
            Map::Remote => (target(false), None),
        };
        let set = Set::new(&self.name, &map.name()).family(FAMILY).key_type(SetKeyType::Concat(key));
        match data {
            Some(data) => set.map(data),
            None => set,
        }
    }

    fn affinity_set(&self) -> Set {
        use SetKeyType::{InetProto, InetService, Ipv4Addr};
        Set::new(&self.name, AFFINITY)
            .family(FAMILY)
            .key_type(SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService, Ipv4Addr]))
            .map(SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService])))
            .dynamic()
            .per_element_timeouts()
            .size(MAX_AFFINITIES)
    }
}

/// A transaction is one message to the kernel; the usual limit holds some two thousand elements. Where the limit cannot be
/// raised, a large change fails with `EMSGSIZE`.
fn allow_large_batches(conn: &Connection<Nftables>) {
    // SAFETY: the socket is open for the call, and the option's value is an int that outlives it.
    unsafe {
        libc::setsockopt(
            conn.socket().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            std::ptr::from_ref(&MAX_BATCH_BYTES).cast(),
            size_of_val(&MAX_BATCH_BYTES) as libc::socklen_t,
        );
    }
}

/// Puts the packet's target into words 0 and on: address, protocol, port; or protocol, port. Returns the next word too.
fn load_target(rule: Rule, lookup: Lookup) -> (Rule, usize) {
    load_key(rule, !lookup.is_node_port())
}

fn load_key(rule: Rule, with_address: bool) -> (Rule, usize) {
    let (rule, next) = if with_address {
        (rule.expr(Expr::Payload { dreg: word(0), base: PayloadBase::Network, offset: 16, len: 4 }), 1)
    } else {
        (rule, 0)
    };
    let rule = rule
        .expr(Expr::Meta { dreg: word(next), key: MetaKey::L4Proto })
        // The destination port is at the same place in TCP, UDP and SCTP; of another protocol no key exists.
        .expr(Expr::Payload { dreg: word(next + 1), base: PayloadBase::Transport, offset: 2, len: 2 });
    (rule, next + 2)
}

/// The same of what the packet's connection was opened to, before any translation.
fn load_opened(rule: Rule, with_address: bool) -> (Rule, usize) {
    let opened = |key, to| Expr::CtDirectional { dreg: word(to), key, direction: CtDirection::Original };
    let (rule, next) = if with_address { (rule.expr(opened(CtKey::DstIp, 0)), 1) } else { (rule, 0) };
    let rule = rule
        .expr(Expr::Meta { dreg: word(next), key: MetaKey::L4Proto })
        .expr(opened(CtKey::ProtoDst, next + 1));
    (rule, next + 2)
}

fn load_source(into: usize) -> Expr {
    Expr::Payload { dreg: word(into), base: PayloadBase::Network, offset: 12, len: 4 }
}

fn verdict(rule: Rule, from: Lookup) -> Rule {
    load_target(rule, from).0.expr(map_lookup(Map::Verdicts(from)).dreg(Register::Verdict))
}

fn sticky(rule: Rule, map: Map) -> Rule {
    let rule = rule.match_ct_status(CtStatus::DST_NAT);
    load_opened(rule, map == Map::Sticky).0.expr(map_lookup(map).dreg(Register::Verdict))
}

fn host_port(rule: Rule, map: Map) -> Rule {
    let (rule, _) = load_key(rule, map == Map::HostAddressPorts);
    rule.expr(map_lookup(map).dreg(word(ENDPOINT))).expr(dnat(ENDPOINT))
}

fn twice(rule: Rule) -> Rule {
    rule.expr(load_source(0))
        .expr(Expr::Payload { dreg: word(1), base: PayloadBase::Network, offset: 16, len: 4 })
        .expr(map_lookup(Map::Hairpin))
}

fn remote(rule: Rule) -> Rule {
    load_key(rule, true).0.expr(map_lookup(Map::Remote))
}

/// Looks up the key that begins in word 0.
fn map_lookup(map: Map) -> LookupExpr {
    LookupExpr::new(map.name(), word(0))
}

/// Sends the packet to the address in word `at` and the port in the next one. Written raw: the library's own form takes
/// constants only.
fn dnat(at: usize) -> Expr {
    let mut data = Vec::with_capacity(32);
    for (attribute, value) in [
        (NFTA_NAT_TYPE, NFT_NAT_DNAT),
        (NFTA_NAT_FAMILY, NFPROTO_IPV4),
        (NFTA_NAT_REG_ADDR_MIN, word(at).wire()),
        (NFTA_NAT_REG_PROTO_MIN, word(at + 1).wire()),
    ] {
        data.extend_from_slice(&8_u16.to_ne_bytes());
        data.extend_from_slice(&attribute.to_ne_bytes());
        data.extend_from_slice(&value.to_be_bytes());
    }
    RawExpr::new("nat", data).into()
}

/// A word of the data registers. There are 16; callers use constants below 10.
fn word(at: usize) -> Register {
    Register::word(at).unwrap_or(Register::Reg32_15)
}

type Element = (Map, Key, Value);

fn by_map(elements: &[Element]) -> impl Iterator<Item = (Map, &[Element])> {
    elements.chunk_by(|a, b| a.0 == b.0).filter_map(|chunk| Some((chunk.first()?.0, chunk)))
}

fn encode(elements: &[Element]) -> Result<Vec<SetElement>, Error> {
    elements.iter().map(|(_, key, value)| elements::encode(*key, *value)).collect()
}

//! The nftables table of one address family: its fixed chains and maps, the chains that pick endpoints, and elements carried to and from the
//! kernel. Everything is in one table of our own a family; no other is looked at.
//!
//! Rules that look several fields up at once are written with registers: a register is a word of 4 bytes, and a key of
//! several fields is several words in a row. All of them are such that `nft list ruleset` can show them (version 1.0.6
//! aborts on a key that contains the result of another look-up).

use super::{
    elements::{self, REFUSE, decode, is_live, is_stale, renewed},
    kernel,
};
use crate::{
    Error,
    family::Family as AddressFamily,
    layout::{Side, link_prefix, node_link_name},
    ruleset::{Branch, Change, Key, Lookup, Map, Pick, Ruleset, Value},
    service_rules::StaleAffinities,
};
use ipnet::IpNet;
use nlink::{
    Connection, Nftables,
    netlink::{
        nftables::{
            BaseChain, Chain, ChainName, CtDirection, CtKey, CtStatus, DynsetExpr, DynsetOp, Expr, Family,
            FibFlags, FilterHook, LookupExpr, MetaKey, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN,
            NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE, NatHook, NumgenKind, PayloadBase, Priority, RawExpr,
            Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction, Verdict,
        },
        types::route::RouteType,
    },
};
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    time::Duration,
};

/// Raised whenever a chain's rules or a map's type changes: a table of another version is built anew.
const VERSION: u32 = 3;
/// Elements a message: a netlink attribute holds 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// The largest transaction: some half a million elements.
const MAX_BATCH_BYTES: libc::c_int = 64 << 20;
/// The most affinities that are remembered.
const MAX_AFFINITIES: u32 = 1 << 18;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const NFT_NAT_DNAT: u32 = 1;
const ICMPV6: u8 = 58;

/// The word that an endpoint's address begins in, behind the longest key; its port follows.
const ENDPOINT: usize = 10;

const AFFINITY: &str = "affinity";
const NODE: &str = "node";
const NODE_OUTSIDE: &str = "node-outside";

/// The table of one instance in one family.
pub(crate) struct Table {
    conn: Connection<Nftables>,
    instance: String,
    side: Side,
    packet: Packet,
    name: String,
}

impl Table {
    /// Opens a netlink socket.
    pub fn open(instance: &str, side: &Side) -> Result<Self, Error> {
        let conn = Connection::<Nftables>::new().map_err(kernel("opening a netlink socket for nftables"))?;
        allow_large_batches(&conn);
        let packet = Packet(side.family());
        Ok(Self {
            conn,
            instance: instance.into(),
            side: side.clone(),
            packet,
            name: node_link_name(instance),
        })
    }

    /// What is in the kernel, if the table there was made for the same layout by the same version.
    pub async fn read(&self) -> Result<Option<Ruleset>, Error> {
        let step = || kernel(format!("reading table {}", self.name));
        let tables = self.conn.list_tables_in(self.family()).await.map_err(step())?;
        let known = tables
            .iter()
            .any(|table| table.name == self.name && table.comment.as_deref() == Some(&self.label()));
        if !known {
            return Ok(None);
        }
        let mut rules = Ruleset::default();
        for map in Map::ALL {
            let elements =
                self.conn.list_set_elements(&self.name, &map.name(), self.family()).await.map_err(step())?;
            for element in elements {
                let Some((key, value)) = decode(self.side.family(), map, &element) else { return Ok(None) };
                rules.elements.insert((map, key), value);
            }
        }
        Ok(Some(rules))
    }

    /// Makes the table anew with these rules in one transaction. Affinities that are there are kept.
    pub async fn rebuild(&self, rules: &Ruleset) -> Result<(), Error> {
        let step = || kernel(format!("building table {}", self.name));
        let tables = self.conn.list_tables_in(self.family()).await.map_err(step())?;
        let mut batch = self.conn.transaction();
        let mut affinities = Vec::new();
        if tables.iter().any(|table| table.name == self.name) {
            affinities =
                self.conn.list_set_elements(&self.name, AFFINITY, self.family()).await.unwrap_or_default();
            batch = batch.del_table(&self.name, self.family());
        }
        batch = self.skeleton(batch)?;
        batch = self.change(batch, &rules.as_change())?;
        let kept: Vec<SetElement> = affinities
            .iter()
            .filter(|affinity| is_live(self.side.family(), affinity, rules))
            .filter_map(renewed)
            .collect();
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

    /// Forgets these affinities.
    pub async fn forget_affinities(&self, stale: &StaleAffinities) -> Result<(), Error> {
        let step = || kernel(format!("forgetting affinities of table {}", self.name));
        let all = self.conn.list_set_elements(&self.name, AFFINITY, self.family()).await.map_err(step())?;
        let set = self.affinity_set();
        for affinity in all.iter().filter(|affinity| is_stale(self.side.family(), affinity, stale)) {
            // One by one: one that has just expired would fail a whole batch.
            match self.conn.del_set_elements(&set, &[SetElement::new(affinity.key().to_vec())]).await {
                Err(error) if !error.is_not_found() => return Err(step()(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes an instance's table of a family if it is there.
    pub async fn remove(instance: &str, family: AddressFamily) -> Result<(), Error> {
        let name = node_link_name(instance);
        let step = || kernel(format!("removing table {name}"));
        let conn = Connection::<Nftables>::new().map_err(step())?;
        let family = Packet(family).table_family();
        conn.del_table_if_exists(name.as_str(), family).await.map(drop).map_err(step())
    }

    fn family(&self) -> Family {
        self.packet.table_family()
    }

    fn label(&self) -> String {
        let Side { pod_range, cluster_range, service_range, dns_address } = &self.side;
        format!("v{VERSION} {pod_range} {cluster_range} {service_range} {dns_address}")
    }

    fn change(&self, mut batch: Transaction, change: &Change) -> Result<Transaction, Error> {
        for branch in &change.new_branches {
            batch = batch.add_chain(self.chain(&branch.to_string())?);
            for rule in self.branch_rules(*branch, change)? {
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
            batch = batch.flush_chain(&self.name, &name, self.family()).del_chain(
                &self.name,
                &name,
                self.family(),
            );
        }
        Ok(batch)
    }

    fn skeleton(&self, mut batch: Transaction) -> Result<Transaction, Error> {
        batch = batch.add_table_with_comment(&self.name, self.family(), 0, Some(&self.label()));
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
        let Side { pod_range, cluster_range, service_range, dns_address } = &self.side;
        let (pod_links, gateway) = (link_prefix(&self.instance), self.side.gateway());
        let (node_link, packet) = (&self.name, self.packet);
        let (cluster, cluster_bits) = (cluster_range.network(), cluster_range.prefix_len());
        let one = self.side.family().bits();
        let chain = |name: &str| ChainName::new(name).map_err(kernel("naming a chain"));
        let from_outside = |name: &str| self.rule(name).match_saddr_not(cluster, cluster_bits);
        let node_address = |rule: Rule| {
            rule.match_daddr_not(*dns_address, one).match_fib_type(FibFlags::DADDR, RouteType::Local)
        };
        let unserved = |name: &str| -> Result<Rule, Error> {
            Ok(self
                .rule(name)
                .match_daddr_not(*dns_address, one)
                .match_daddr(service_range.network(), service_range.prefix_len())
                .goto(chain(REFUSE)?))
        };
        let mut rules = self.link_rules(&pod_links);
        rules.extend([
            // The node's own link leads nowhere.
            packet.reject_host(self.rule("forward").match_oif(node_link)),
            // In this hook a packet that was just sent to an endpoint still shows the link that it was first routed to.
            self.rule("leave").match_ct_status(CtStatus::DST_NAT).accept(),
            packet.reject_host(self.rule("leave").match_oif(node_link)),
            self.rule(REFUSE).match_l4proto(6).reject_tcp_reset(),
            packet.reject_port(self.rule(REFUSE)),
            // Who may ask, then Services, for clients outside first.
            packet.verdict(self.rule("prerouting"), Map::Guards),
            packet.verdict(from_outside("prerouting"), Map::Verdicts(Lookup::Outside)),
            packet.verdict(self.rule("prerouting"), Map::Verdicts(Lookup::Inside)),
            node_address(from_outside("prerouting")).jump(chain(NODE_OUTSIDE)?),
            node_address(self.rule("prerouting")).jump(chain(NODE)?),
            unserved("prerouting")?,
            packet.verdict(self.rule("output"), Map::Guards),
            packet.verdict(self.rule("output"), Map::Verdicts(Lookup::Inside)),
            node_address(self.rule("output")).jump(chain(NODE)?),
            unserved("output")?,
            packet.verdict(self.rule(NODE_OUTSIDE), Map::Verdicts(Lookup::OutsideNode)),
            packet.host_port(self.rule(NODE), Map::HostAddressPorts),
            packet.host_port(self.rule(NODE), Map::HostPorts),
            packet.verdict(self.rule(NODE), Map::Verdicts(Lookup::InsideNode)),
            packet.sticky(self.rule("postrouting"), Map::Sticky),
            packet.sticky(self.rule("postrouting"), Map::StickyNode),
            packet.sticky(self.rule("input"), Map::Sticky),
            packet.sticky(self.rule("input"), Map::StickyNode),
            // A pod that reached itself through a service must answer through the node, and so must one that was reached by
            // 127.0.0.1:PORT.
            snat(packet.twice(self.rule("postrouting").match_oif_prefix(&pod_links)), gateway),
        ]);
        if self.packet.0 == AddressFamily::V4 {
            let looped = self
                .rule("postrouting")
                .match_oif_prefix(&pod_links)
                .match_saddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8);
            rules.push(snat(looped, gateway));
        }
        rules.extend([
            self.rule("postrouting").match_oif_prefix(&pod_links).accept(),
            // Pods to the world.
            self.rule("postrouting")
                .match_saddr(pod_range.network(), pod_range.prefix_len())
                .match_daddr_not(cluster, cluster_bits)
                .masquerade(),
            // From outside to an endpoint elsewhere: the answer must come back here.
            packet.remote(from_outside("postrouting").match_ct_status(CtStatus::DST_NAT)).masquerade(),
        ]);
        Ok(rules)
    }

    /// What pods may not do, whoever they speak to.
    fn link_rules(&self, pod_links: &str) -> Vec<Rule> {
        let from_pod = || self.rule("guard").match_iif_prefix(pod_links);
        let redirect = self.rule("leave").match_oif_prefix(pod_links);
        match self.packet.0 {
            AddressFamily::V4 => vec![
                // Pod links route 127.0.0.0/8 for node ports; pods must not reach the node's loopback by it.
                from_pod().match_daddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8).drop(),
                // ICMP redirects would make pods bypass the address translation (type 5).
                redirect.match_l4proto(1).match_icmp_type(5).drop(),
            ],
            AddressFamily::V6 => vec![
                // A pod cannot pose as another. (Of IPv4 the links' `rp_filter` sees to it.)
                from_pod().match_fib_missing(FibFlags::SADDR | FibFlags::IIF).drop(),
                // The same as type 5 of IPv4.
                redirect.match_l4proto(ICMPV6).match_icmpv6_type(137).drop(),
            ],
        }
    }

    fn branch_rules(&self, branch: Branch, change: &Change) -> Result<Vec<Rule>, Error> {
        let chain = branch.to_string();
        let packet = self.packet;
        Ok(match branch {
            Branch::Pick(Pick { lookup, count, sticky }) => {
                let known = || {
                    let (rule, next) = packet.load_key(self.rule(&chain), true);
                    rule.expr(packet.load_source(next))
                        .expr(LookupExpr::new(AFFINITY, word(0)).dreg(word(ENDPOINT)))
                        .expr(packet.dnat(ENDPOINT))
                };
                let (rule, next) = packet.load_key(self.rule(&chain), !lookup.is_node_port());
                let draw = rule
                    .expr(Expr::Numgen {
                        dreg: word(next),
                        kind: NumgenKind::Random,
                        modulus: count,
                        offset: 0,
                    })
                    .expr(map_lookup(Map::Endpoints(lookup)).dreg(word(ENDPOINT)))
                    .expr(packet.dnat(ENDPOINT));
                if sticky { vec![known(), draw] } else { vec![draw] }
            }
            Branch::Remember(seconds) => {
                // What the connection was opened to, and by whom: where it now goes.
                let update = DynsetExpr::new(DynsetOp::Update, AFFINITY, word(0))
                    .sreg_data(word(ENDPOINT))
                    .timeout(Duration::from_secs(seconds.into()));
                let (rule, next) = packet.load_opened(self.rule(&chain), true);
                let rule = rule
                    .expr(packet.load_source(next))
                    .expr(packet.load_destination(ENDPOINT))
                    .expr(load_port(ENDPOINT + packet.address_words()));
                vec![rule.expr(update)]
            }
            Branch::Sources(digest) => {
                let ranges = change.sources.get(&digest).ok_or_else(|| Error::Kernel {
                    step: format!("making chain {chain}"),
                    why: "its ranges are not known".into(),
                })?;
                let allow = |range: &IpNet| {
                    self.rule(&chain)
                        .match_saddr(range.network(), range.prefix_len())
                        .expr(Expr::Verdict(Verdict::Return))
                };
                ranges.iter().map(allow).chain([self.rule(&chain).drop()]).collect()
            }
        })
    }

    fn rule(&self, chain: &str) -> Rule {
        Rule::new(&self.name, chain).family(self.family())
    }

    fn chain(&self, name: &str) -> Result<Chain, Error> {
        Ok(Chain::new(self.name.as_str(), name).map_err(kernel("naming a chain"))?.family(self.family()))
    }

    fn set(&self, map: Map) -> Set {
        use SetKeyType::{InetProto, InetService, Mark};
        let address = || self.packet.address_type();
        let endpoint = || SetDataType::Value(SetKeyType::Concat(vec![address(), InetService]));
        let target = |node_port: bool| {
            if node_port { vec![InetProto, InetService] } else { vec![address(), InetProto, InetService] }
        };
        let (key, data) = match map {
            Map::Verdicts(lookup) => (target(lookup.is_node_port()), Some(SetDataType::Verdict)),
            Map::Endpoints(lookup) => {
                ([target(lookup.is_node_port()), vec![Mark]].concat(), Some(endpoint()))
            }
            Map::Sticky | Map::Guards => (target(false), Some(SetDataType::Verdict)),
            Map::StickyNode => (target(true), Some(SetDataType::Verdict)),
            Map::HostAddressPorts => (target(false), Some(endpoint())),
            Map::HostPorts => (target(true), Some(endpoint())),
            Map::Hairpin => (vec![address(), address()], None),
            Map::Remote => (target(false), None),
        };
        let set = Set::new(&self.name, &map.name()).family(self.family()).key_type(SetKeyType::Concat(key));
        match data {
            Some(data) => set.map(data),
            None => set,
        }
    }

    fn affinity_set(&self) -> Set {
        use SetKeyType::{InetProto, InetService};
        let address = || self.packet.address_type();
        Set::new(&self.name, AFFINITY)
            .family(self.family())
            .key_type(SetKeyType::Concat(vec![address(), InetProto, InetService, address()]))
            .map(SetDataType::Value(SetKeyType::Concat(vec![address(), InetService])))
            .dynamic()
            .per_element_timeouts()
            .size(MAX_AFFINITIES)
    }
}

/// A transaction is one message to the kernel; the usual limit holds some two thousand elements. Where the limit cannot be
/// raised, a large change fails with `EMSGSIZE`.
pub(super) fn allow_large_batches(conn: &Connection<Nftables>) {
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

/// How a packet of a family is read and rewritten.
#[derive(Clone, Copy)]
struct Packet(AddressFamily);

impl Packet {
    fn table_family(self) -> Family {
        match self.0 {
            AddressFamily::V4 => Family::Ip,
            AddressFamily::V6 => Family::Ip6,
        }
    }

    fn address_type(self) -> SetKeyType {
        match self.0 {
            AddressFamily::V4 => SetKeyType::Ipv4Addr,
            AddressFamily::V6 => SetKeyType::Ipv6Addr,
        }
    }

    /// Words that an address takes.
    fn address_words(self) -> usize {
        match self.0 {
            AddressFamily::V4 => 1,
            AddressFamily::V6 => 4,
        }
    }

    fn load_address(self, into: usize, offset4: u32, offset6: u32) -> Expr {
        let (offset, len) = match self.0 {
            AddressFamily::V4 => (offset4, 4),
            AddressFamily::V6 => (offset6, 16),
        };
        Expr::Payload { dreg: word(into), base: PayloadBase::Network, offset, len }
    }

    fn load_source(self, into: usize) -> Expr {
        self.load_address(into, 12, 8)
    }

    fn load_destination(self, into: usize) -> Expr {
        self.load_address(into, 16, 24)
    }

    /// Puts the packet's target into words 0 and on: address, protocol, port; or protocol, port. Returns the next word too.
    fn load_key(self, rule: Rule, with_address: bool) -> (Rule, usize) {
        let (rule, next) = if with_address {
            (rule.expr(self.load_destination(0)), self.address_words())
        } else {
            (rule, 0)
        };
        let rule =
            rule.expr(Expr::Meta { dreg: word(next), key: MetaKey::L4Proto }).expr(load_port(next + 1));
        (rule, next + 2)
    }

    /// The same of what the packet's connection was opened to, before any translation.
    fn load_opened(self, rule: Rule, with_address: bool) -> (Rule, usize) {
        let opened = |key, to| Expr::CtDirectional { dreg: word(to), key, direction: CtDirection::Original };
        let address = match self.0 {
            AddressFamily::V4 => CtKey::DstIp,
            AddressFamily::V6 => CtKey::DstIp6,
        };
        let (rule, next) =
            if with_address { (rule.expr(opened(address, 0)), self.address_words()) } else { (rule, 0) };
        let rule = rule
            .expr(Expr::Meta { dreg: word(next), key: MetaKey::L4Proto })
            .expr(opened(CtKey::ProtoDst, next + 1));
        (rule, next + 2)
    }

    /// What a verdict map says of the packet's target.
    fn verdict(self, rule: Rule, map: Map) -> Rule {
        let with_address = !matches!(map, Map::Verdicts(lookup) if lookup.is_node_port());
        self.load_key(rule, with_address).0.expr(map_lookup(map).dreg(Register::Verdict))
    }

    fn sticky(self, rule: Rule, map: Map) -> Rule {
        let rule = rule.match_ct_status(CtStatus::DST_NAT);
        self.load_opened(rule, map == Map::Sticky).0.expr(map_lookup(map).dreg(Register::Verdict))
    }

    fn host_port(self, rule: Rule, map: Map) -> Rule {
        let (rule, _) = self.load_key(rule, map == Map::HostAddressPorts);
        rule.expr(map_lookup(map).dreg(word(ENDPOINT))).expr(self.dnat(ENDPOINT))
    }

    fn twice(self, rule: Rule) -> Rule {
        rule.expr(self.load_source(0))
            .expr(self.load_destination(self.address_words()))
            .expr(map_lookup(Map::Hairpin))
    }

    fn remote(self, rule: Rule) -> Rule {
        self.load_key(rule, true).0.expr(map_lookup(Map::Remote))
    }

    fn reject_host(self, rule: Rule) -> Rule {
        match self.0 {
            AddressFamily::V4 => rule.reject_icmp(1),
            AddressFamily::V6 => rule.reject_icmpv6(3),
        }
    }

    fn reject_port(self, rule: Rule) -> Rule {
        match self.0 {
            AddressFamily::V4 => rule.reject_icmp(3),
            AddressFamily::V6 => rule.reject_icmpv6(4),
        }
    }

    /// Sends the packet to the address in the words from `at` on and the port behind it. Written raw: the library's own form
    /// takes constants only.
    fn dnat(self, at: usize) -> Expr {
        let family = match self.0 {
            AddressFamily::V4 => NFPROTO_IPV4,
            AddressFamily::V6 => NFPROTO_IPV6,
        };
        let mut data = Vec::with_capacity(32);
        for (attribute, value) in [
            (NFTA_NAT_TYPE, NFT_NAT_DNAT),
            (NFTA_NAT_FAMILY, family),
            (NFTA_NAT_REG_ADDR_MIN, word(at).wire()),
            (NFTA_NAT_REG_PROTO_MIN, word(at + self.address_words()).wire()),
        ] {
            data.extend_from_slice(&8_u16.to_ne_bytes());
            data.extend_from_slice(&attribute.to_ne_bytes());
            data.extend_from_slice(&value.to_be_bytes());
        }
        RawExpr::new("nat", data).into()
    }
}

/// The destination port is at the same place in TCP, UDP and SCTP; of another protocol no key exists.
fn load_port(into: usize) -> Expr {
    Expr::Payload { dreg: word(into), base: PayloadBase::Transport, offset: 2, len: 2 }
}

fn snat(rule: Rule, to: IpAddr) -> Rule {
    match to {
        IpAddr::V4(to) => rule.snat(to, None),
        IpAddr::V6(to) => rule.snat_v6(to, None),
    }
}

/// Looks up the key that begins in word 0.
fn map_lookup(map: Map) -> LookupExpr {
    LookupExpr::new(map.name(), word(0))
}

/// A word of the data registers. There are 16; callers use no more.
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

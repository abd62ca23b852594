//! The nftables table that keeps networks apart: what is in an isolated one neither comes out nor is reached from outside, and what goes
//! through the gateway of an open one comes back the same way.

use super::kernel;
use crate::{
    Error,
    layout::node_link_name,
    overlay::{Overlay, bridge_name},
};
use nlink::{
    Connection, Nftables,
    netlink::nftables::{BaseChain, Chain, Family, FilterHook, NatHook, Priority, Rule},
};

const FAMILY: Family = Family::Inet;

/// The table of one instance.
pub(crate) struct FenceTable {
    conn: Connection<Nftables>,
    name: String,
    /// What the rules in the kernel were made for; unknown at first.
    made_for: Option<Vec<(u32, bool, String)>>,
}

impl FenceTable {
    /// Opens a netlink socket.
    pub fn open(instance: &str) -> Result<Self, Error> {
        let conn = Connection::<Nftables>::new().map_err(kernel("opening a netlink socket for nftables"))?;
        Ok(Self { conn, name: table_name(instance), made_for: None })
    }

    /// Makes the rules those of these networks, in one transaction; nothing where they are already.
    pub async fn set(&mut self, instance: &str, overlays: &[Overlay]) -> Result<(), Error> {
        let here: Vec<&Overlay> = overlays.iter().filter(|overlay| !overlay.members.is_empty()).collect();
        let key: Vec<_> = here.iter().map(|o| (o.id, o.open, format!("{:?}", o.subnets))).collect();
        if self.made_for.as_ref() == Some(&key) {
            return Ok(());
        }
        self.made_for = None;
        let step = || kernel(format!("building table {}", self.name));
        let tables = self.conn.list_tables_in(FAMILY).await.map_err(step())?;
        let mut batch = self.conn.transaction();
        if tables.iter().any(|table| table.name == self.name) {
            batch = batch.del_table(&self.name, FAMILY);
        }
        if !here.is_empty() {
            batch = batch.add_table(&self.name, FAMILY);
            for (name, base) in [
                ("forward", BaseChain::filter(FilterHook::Forward, Priority::Filter)),
                ("input", BaseChain::filter(FilterHook::Input, Priority::Filter)),
                ("postrouting", BaseChain::nat(NatHook::Postrouting, Priority::SrcNat)),
            ] {
                let chain = Chain::new(self.name.as_str(), name).map_err(kernel("naming a chain"))?;
                batch = batch.add_chain(chain.family(FAMILY).base(base));
            }
            for overlay in &here {
                for rule in self.rules(overlay, &bridge_name(instance, overlay.id)) {
                    batch = batch.add_rule(rule);
                }
            }
        }
        batch.commit(&self.conn).await.map_err(step())?;
        self.made_for = Some(key);
        Ok(())
    }

    fn rules(&self, overlay: &Overlay, bridge: &str) -> Vec<Rule> {
        let rule = |chain: &str| Rule::new(&self.name, chain).family(FAMILY);
        if !overlay.open {
            // Packets between members pass here too where bridges are filtered (`br_netfilter`): in and out are the bridge then.
            return vec![
                rule("forward").match_iif(bridge).match_oif_not(bridge).drop(),
                rule("forward").match_oif(bridge).match_iif_not(bridge).drop(),
                rule("input").match_iif(bridge).drop(),
            ];
        }
        let ranges = overlay.subnets.iter().flat_map(|(range, _)| {
            let (network, bits) = (range.network(), range.prefix_len());
            [
                rule("postrouting").match_oif(bridge).match_saddr_not(network, bits).masquerade(),
                rule("postrouting").match_oif_not(bridge).match_saddr(network, bits).masquerade(),
            ]
        });
        ranges.collect()
    }

    /// Removes an instance's table if it is there.
    pub async fn remove(instance: &str) -> Result<(), Error> {
        let name = table_name(instance);
        let step = || kernel(format!("removing table {name}"));
        let conn = Connection::<Nftables>::new().map_err(step())?;
        conn.del_table_if_exists(name.as_str(), FAMILY).await.map(drop).map_err(step())
    }
}

fn table_name(instance: &str) -> String {
    format!("{}-nets", node_link_name(instance))
}

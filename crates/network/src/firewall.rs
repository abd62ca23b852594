//! The rules in force and the rules wanted: takes service ports and host ports, and brings the kernel's tables to them by the
//! smallest change. It encodes nothing itself.

use crate::{
    Error, HostPort, ServicePort,
    family::Family,
    layout::Layout,
    netlink::{Links, Table, delete_stale_udp_flows},
    ruleset::Ruleset,
    service_rules::{News, ServiceRules},
};
use std::net::IpAddr;

/// The firewall of one node: a table for each address family.
pub(crate) struct Firewall {
    sides: Vec<Side>,
}

struct Side {
    family: Family,
    table: Table,
    rules: ServiceRules,
    /// The kernel has something else than it should: the table must be made anew.
    doubtful: bool,
}

impl Firewall {
    /// Takes over the tables that are there, with their rules, or makes empty ones. A table of a family that the network does
    /// not have any more goes.
    pub async fn open(layout: &Layout) -> Result<Self, Error> {
        let mut sides = Vec::new();
        for family in Family::ALL {
            let Some(side) = layout.side(family) else {
                Table::remove(&layout.instance, family).await?;
                continue;
            };
            let table = Table::open(&layout.instance, side)?;
            let found = match table.read().await? {
                Some(rules) => rules,
                None => {
                    table.rebuild(&Ruleset::default()).await?;
                    Ruleset::default()
                }
            };
            let rules = ServiceRules::new(side.clone(), found);
            sides.push(Side { family, table, rules, doubtful: false });
        }
        Ok(Self { sides })
    }

    /// Sets the host ports of all pods on this node.
    pub async fn set_host_ports(
        &mut self,
        links: &Links,
        pods: &[(IpAddr, Vec<HostPort>)],
    ) -> Result<(), Error> {
        for side in &mut self.sides {
            let news =
                side.rules.set_host_ports(pods.iter().map(|(address, ports)| (*address, ports.as_slice())));
            side.carry_out(links, news).await?;
        }
        Ok(())
    }

    /// Sets the services.
    pub async fn set_services(&mut self, links: &Links, services: &[ServicePort]) -> Result<(), Error> {
        for side in &mut self.sides {
            let news = side.rules.set_services(services);
            side.carry_out(links, news).await?;
        }
        Ok(())
    }
}

impl Side {
    async fn carry_out(&mut self, links: &Links, news: News) -> Result<(), Error> {
        if news.change.is_empty() && !self.doubtful {
            return Ok(());
        }
        let applied = if self.doubtful {
            self.table.rebuild(self.rules.rules()).await
        } else if let Err(error) = self.table.apply(&news.change).await {
            // Somebody else changed or removed the table: it is ours alone, so make it right as a whole.
            tracing::warn!(%error, "the service rules were changed by somebody else; building them anew");
            self.table.rebuild(self.rules.rules()).await
        } else {
            Ok(())
        };
        self.doubtful = applied.is_err();
        applied?;
        if !news.stale_affinities.is_empty()
            && let Err(error) = self.table.forget_affinities(&news.stale_affinities).await
        {
            tracing::warn!(%error, "clients with session affinity may be sent to endpoints that are gone");
        }
        if !news.stale_udp.is_empty()
            && let Err(error) = delete_stale_udp_flows(links, self.family, &news.stale_udp).await
        {
            tracing::warn!(%error, "UDP clients may keep sending to endpoints that are gone");
        }
        Ok(())
    }
}

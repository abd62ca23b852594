//! The rules in force and the rules wanted: takes service ports and host ports, and brings the kernel's table to them by the
//! smallest change. It encodes nothing itself.

use crate::{
    Error, HostPort, ServicePort,
    layout::Layout,
    netlink::{Links, Table, delete_stale_udp_flows},
    ruleset::{Map, Ruleset},
    service_rules::{changed_udp_targets, host_port_rules, service_rules},
};
use std::net::Ipv4Addr;

/// The firewall of one node.
pub(crate) struct Firewall {
    layout: Layout,
    table: Table,
    /// What the kernel has.
    applied: Ruleset,
    /// What is wanted for Services; what was found until they are told for the first time.
    services: Ruleset,
    /// What is wanted for host ports.
    host_ports: Ruleset,
}

impl Firewall {
    /// Takes over the table that is there, with its rules, or makes an empty one.
    pub async fn open(layout: &Layout) -> Result<Self, Error> {
        let table = Table::open(layout)?;
        let applied = match table.read().await? {
            Some(rules) => rules,
            None => {
                table.rebuild(&Ruleset::default()).await?;
                Ruleset::default()
            }
        };
        let services = applied.without(&[Map::HostPorts, Map::HostAddressPorts]);
        Ok(Self { layout: layout.clone(), table, applied, services, host_ports: Ruleset::default() })
    }

    /// Sets the host ports of all pods on this node.
    pub async fn set_host_ports(
        &mut self,
        links: &Links,
        pods: &[(Ipv4Addr, Vec<HostPort>)],
    ) -> Result<(), Error> {
        self.host_ports = host_port_rules(pods.iter().map(|(address, ports)| (*address, ports.as_slice())));
        self.reconcile(links).await
    }

    /// Sets the services.
    pub async fn set_services(&mut self, links: &Links, services: &[ServicePort]) -> Result<(), Error> {
        self.services = service_rules(&self.layout, services, &self.applied);
        self.reconcile(links).await
    }

    async fn reconcile(&mut self, links: &Links) -> Result<(), Error> {
        let wanted = self.services.union(&self.host_ports);
        let change = self.applied.change_to(&wanted);
        if change.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.table.apply(&change).await {
            // Somebody else changed or removed the table: it is ours alone, so make it right as a whole.
            tracing::warn!(%error, "the service rules were changed by somebody else; building them anew");
            self.table.rebuild(&wanted).await?;
        }
        if change.loses_sticky_endpoint(&self.applied)
            && let Err(error) = self.table.forget_stale_affinities(&wanted).await
        {
            tracing::warn!(%error, "clients with session affinity may be sent to endpoints that are gone");
        }
        let stale = changed_udp_targets(&self.applied, &wanted);
        self.applied = wanted;
        if !stale.is_empty()
            && let Err(error) = delete_stale_udp_flows(links, &stale).await
        {
            tracing::warn!(%error, "UDP clients may keep sending to endpoints that are gone");
        }
        Ok(())
    }
}

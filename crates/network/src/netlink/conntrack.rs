//! Tracked UDP connections. UDP has no end that the kernel sees, so a client that keeps sending would keep its old endpoint
//! for ever: flows to endpoints that are gone are deleted.

use super::{Links, kernel};
use crate::{Error, family::Family, service_rules::UdpTarget};
use nlink::{
    Connection,
    netlink::{
        Netfilter,
        netfilter::{ConntrackFilter, IpProtocol},
        types::AddressFamily,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Deletes flows to the given targets whose answering side is not one of the given endpoints. Returns how many.
pub(crate) async fn delete_stale_udp_flows(
    links: &Links,
    family: Family,
    targets: &BTreeMap<UdpTarget, BTreeSet<(IpAddr, u16)>>,
) -> Result<usize, Error> {
    let step = || kernel("deleting stale UDP flows");
    let conn = Connection::<Netfilter>::new().map_err(step())?;
    let local: BTreeSet<IpAddr> = links.local_addresses().await?.into_iter().collect();
    let number = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let filter = ConntrackFilter::new().proto(IpProtocol::Udp).family(number);
    let mut deleted = 0;
    for flow in conn.get_conntrack_matching(&filter).await.map_err(step())? {
        let (Some(to), Some(port)) = (flow.orig.dst_ip, flow.orig.dst_port) else { continue };
        let (Some(answering), Some(answering_port)) = (flow.reply.src_ip, flow.reply.src_port) else {
            continue;
        };
        let on_node = || if local.contains(&to) { targets.get(&(None, port)) } else { None };
        let Some(endpoints) = targets.get(&(Some(to), port)).or_else(on_node) else { continue };
        if endpoints.contains(&(answering, answering_port)) {
            continue;
        }
        match conn.del_conntrack_entry(&flow).await {
            Ok(()) => deleted += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(step()(error)),
        }
    }
    Ok(deleted)
}

//! The ways in for packets, without sockets: for fuzzing. No part of what this crate offers.

use crate::{
    DnsConfig, DnsIndex, Upstreams, Zones,
    forward::Heard,
    index::Addresses,
    limits::{Clients, Limiter},
    metrics::Metrics,
    responder::{Door, Origin, Responder, Step},
    wire::read_reply,
};
use std::{net::SocketAddr, sync::Arc, time::Instant};

/// What answers, without a server around it.
pub struct Answering(Responder);

impl Answering {
    /// For these zones, and for clients of 10.42.0.0/16.
    #[must_use]
    pub fn new(zones: Zones) -> Option<Self> {
        let metrics = Arc::new(Metrics::new(zones.cluster.domain()));
        let nobody = Upstreams::Servers(vec![]);
        let forwarder =
            crate::forward::Forwarder::new(nobody, vec![], &[], DnsConfig::CACHE_BYTES, metrics.clone())
                .ok()?;
        Some(Self(Responder {
            cluster: zones.cluster,
            below: zones.below,
            exported: zones.exported,
            own_ranges: vec!["10.42.0.0/16".parse().ok()?],
            clients: Clients::new(vec!["10.42.0.0/16".parse().ok()?]),
            limiter: Limiter::new(Instant::now()),
            forwarder: Arc::new(forwarder),
            metrics,
            ttl: 5,
            servers: Addresses::of(["10.43.0.10".parse().ok()?]),
            export_servers: Addresses::default(),
            turn: Default::default(),
        }))
    }

    /// The answer to a packet of a pod, or of a stranger at the other door. `upstream` is what somebody else is heard to say,
    /// if he must be asked.
    #[must_use]
    pub fn answer(&self, packet: &[u8], stranger: bool, tcp: bool, upstream: &[u8]) -> Option<Vec<u8>> {
        let (door, from): (_, SocketAddr) = if stranger {
            (Door::Exported, ([192, 0, 2, 1], 5353).into())
        } else {
            (Door::Cluster, ([10, 42, 0, 2], 5353).into())
        };
        let origin = Origin { door, from, tcp, at: Instant::now() };
        let mut out = Vec::new();
        let mut step = self.0.respond(packet, &origin, None, &mut out);
        if matches!(step, Step::Ask { .. }) {
            let heard = read_reply(upstream).map(|reply| Heard { reply: Arc::new(reply), age: 1 });
            step = self.0.respond(packet, &origin, Some(heard), &mut out);
        }
        matches!(step, Step::Reply).then_some(out)
    }
}

/// Index of names for fuzzing and benches: this many Services `service-N` in namespace `default`.
#[must_use]
pub fn index_of(services: usize) -> Option<DnsIndex> {
    use crate::{PortRecord, Protocol, Rank, ServiceRecord, ServiceTarget};
    let index = DnsIndex::new("cluster.local").ok()?;
    for number in 0..services {
        let address = std::net::Ipv4Addr::from(0x0a2b_0000_u32.wrapping_add(number as u32 + 256));
        let ports = vec![PortRecord { name: "http".into(), protocol: Protocol::Tcp, port: 80 }];
        index.set_service(ServiceRecord {
            namespace: "default".into(),
            name: format!("service-{number}"),
            target: ServiceTarget::Cluster { addresses: vec![address.into()], ports, rank: Rank::default() },
        });
    }
    Some(index)
}

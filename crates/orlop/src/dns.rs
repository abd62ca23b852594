//! The node's DNS server: what is said about it on the command line, and its sockets.

use crate::Error;
use clap::Args;
use ipnet::IpNet;
use orlop_dns::{DnsConfig, DnsIndex, DnsServer, Layout, StubDomain, Upstreams, Zones};
use orlop_node::services::{ExportedZone, Names};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The port of DNS.
const PORT: u16 = 53;
/// Time to live of the cluster's names, in seconds.
const TTL: u32 = 5;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DnsArguments {
    /// A domain whose names are asked elsewhere than at the machine's own resolvers; may be repeated
    #[arg(long, value_name = "DOMAIN=SERVER[,SERVER]", value_parser = stub)]
    dns_stub: Vec<StubDomain>,
    /// A server for all other names, instead of those in /etc/resolv.conf; may be repeated
    #[arg(long, value_name = "SERVER", value_parser = server)]
    dns_upstream: Vec<SocketAddr>,
    /// A zone in which strangers find Services: those of a namespace as SERVICE.ZONE, or those of all namespaces that ask
    /// for it as SERVICE.NAMESPACE.ZONE; may be repeated
    #[arg(long, value_name = "ZONE[=NAMESPACE]", value_parser = exported)]
    dns_export: Vec<Export>,
    /// Where strangers may ask; may be repeated [default: the node's address, port 53, if a zone is exported]
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = listen)]
    dns_export_listen: Vec<SocketAddr>,
}

/// A zone for strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Export {
    zone: String,
    namespace: Option<String>,
}

/// What the cluster and this node are.
pub(crate) struct DnsPlan<'a> {
    pub domain: &'a str,
    /// Where the cluster's clients ask.
    pub addresses: Vec<IpAddr>,
    /// The node's own address.
    pub node: IpAddr,
    /// Ranges of pods: they may ask.
    pub pods: Vec<IpNet>,
    /// Ranges of Services.
    pub services: Vec<IpNet>,
}

impl DnsArguments {
    /// Takes the sockets. What is last is the zone of the networks that people make.
    pub fn open(&self, plan: DnsPlan<'_>) -> Result<(DnsServer, Names, Arc<DnsIndex>), Error> {
        let cluster = DnsIndex::new(plan.domain).map_err(Error::at("reading the cluster's domain"))?;
        let exported = self.dns_export.iter().map(|export| {
            let layout = if export.namespace.is_some() { Layout::OneNamespace } else { Layout::Namespaces };
            let index =
                DnsIndex::with_layout(&export.zone, layout).map_err(Error::at("reading --dns-export"))?;
            Ok(ExportedZone { index: Arc::new(index), namespace: export.namespace.clone() })
        });
        let networks = DnsIndex::with_layout(&format!("net.{}", plan.domain), Layout::Networks)
            .map_err(Error::at("reading the cluster's domain"))?;
        let networks = Arc::new(networks);
        let names = Names { cluster: Arc::new(cluster), exported: exported.collect::<Result<_, Error>>()? };
        let strangers = match self.dns_export_listen.as_slice() {
            [] if names.exported.is_empty() => vec![],
            [] => vec![SocketAddr::new(plan.node, PORT)],
            given => given.to_vec(),
        };
        let config = DnsConfig {
            listen: plan.addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect(),
            export_listen: strangers,
            clients: plan.pods.clone(),
            own_ranges: [plan.pods, plan.services].concat(),
            upstreams: match self.dns_upstream.as_slice() {
                [] => Upstreams::ResolvConf("/etc/resolv.conf".into()),
                servers => Upstreams::Servers(servers.to_vec()),
            },
            stubs: self.dns_stub.clone(),
            ttl: TTL,
            cache_bytes: DnsConfig::CACHE_BYTES,
        };
        let zones = Zones {
            cluster: names.cluster.clone(),
            below: Some(networks.clone()),
            exported: names.exported.iter().map(|zone| zone.index.clone()).collect(),
        };
        let server = DnsServer::bind(config, zones).map_err(Error::at("starting the cluster's DNS"))?;
        Ok((server, names, networks))
    }
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    address.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is no address, with or without a port"))
}

/// Likewise, of this machine.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = server(text)?;
    if address.ip().is_unspecified() {
        return Err("name one address: answers must come from the one that was asked".into());
    }
    Ok(address)
}

fn stub(text: &str) -> Result<StubDomain, String> {
    let (domain, servers) = text.split_once('=').ok_or("it looks like corp.example.com=192.0.2.53")?;
    let servers = servers.split(',').map(|text| server(text.trim())).collect::<Result<_, _>>()?;
    // What is said about the domain name itself is found when it is used.
    Ok(StubDomain { domain: domain.trim().to_owned(), servers })
}

fn exported(text: &str) -> Result<Export, String> {
    let (zone, namespace) = match text.split_once('=') {
        Some((_, "")) => return Err("a namespace comes after \"=\"".into()),
        Some((zone, namespace)) => (zone, Some(namespace.to_owned())),
        None => (text, None),
    };
    DnsIndex::with_layout(zone, Layout::Namespaces).map_err(|error| error.to_string())?;
    Ok(Export { zone: zone.to_owned(), namespace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_stubs_and_zones_are_read_and_nonsense_is_not() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(server("192.0.2.1"), Ok(address("192.0.2.1:53")));
        assert_eq!(server("fd00::1"), Ok(address("[fd00::1]:53")));
        assert_eq!(server("[fd00::1]:5353"), Ok(address("[fd00::1]:5353")));
        let servers = vec![address("192.0.2.1:53"), address("192.0.2.2:5353")];
        assert_eq!(
            stub("corp.example=192.0.2.1, 192.0.2.2:5353"),
            Ok(StubDomain { domain: "corp.example".into(), servers })
        );
        let zone = "example.com".to_owned();
        assert_eq!(
            exported("example.com=shop"),
            Ok(Export { zone: zone.clone(), namespace: Some("shop".into()) })
        );
        assert_eq!(exported("example.com"), Ok(Export { zone, namespace: None }));
        assert!(stub("corp.example").is_err() && stub("corp.example=me").is_err());
        assert!(exported("").is_err() && exported("a..b").is_err() && exported("a=").is_err());
        assert!(listen("0.0.0.0").is_err() && listen("[::]:53").is_err() && listen("127.0.0.1:5353").is_ok());
    }
}

//! Variables that tell a container of the Services of its namespace (Kubernetes documentation, "Service", "Environment
//! variables").

use k8s_openapi::api::core::v1::Service;
use std::{collections::BTreeMap, sync::Arc};

/// The namespace and name of the API's own Service, which every container is told of.
pub(crate) const MASTER: (&str, &str) = ("default", "kubernetes");

/// The variables for a pod in `namespace`; `links` is `enableServiceLinks`. `services` holds at least those of the namespace and
/// the API's.
pub(crate) fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        if links && of == namespace {
            chosen.insert(name, service);
        } else if (of, name) == MASTER {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut all = BTreeMap::new();
    for (name, service) in chosen {
        add(&mut all, name, service);
    }
    all
}

fn add(all: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else { return };
    if address.is_empty() || address == "None" {
        return;
    }
    let prefix = shout(name);
    all.insert(format!("{prefix}_SERVICE_HOST"), address.into());
    all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.insert(format!("{prefix}_SERVICE_PORT_{}", shout(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            all.insert(format!("{prefix}_PORT"), url.clone());
        }
        let stem = format!("{prefix}_PORT_{}_{protocol}", port.port);
        all.insert(format!("{stem}_PROTO"), protocol.to_lowercase());
        all.insert(format!("{stem}_PORT"), port.port.to_string());
        all.insert(format!("{stem}_ADDR"), address.into());
        all.insert(stem, url);
    }
}

fn shout(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

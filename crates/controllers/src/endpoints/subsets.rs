//! Endpoints (core/v1): the older form that some clients still read. At most 1,000 addresses, as in Kubernetes.

use super::slices;
use crate::{Cluster, Error, pods};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use kube::{
    ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use orlop_client::{Key, found};
use std::{collections::BTreeMap, sync::Arc};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const CAPACITY: usize = 1000;

/// Addresses grouped by the ports they answer on.
fn desired(service: &Service, all: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let v6 = spec.ip_families.as_ref().and_then(|f| f.first()).is_some_and(|f| f == "IPv6");
    let mut groups: Vec<EndpointSubset> = Vec::new();
    for pod in all.iter().filter(|p| publish || !pods::is_terminating(p)).take(CAPACITY) {
        let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
        let Some(ip) = ips.map(|p| p.ip.clone()).find(|ip| ip.contains(':') == v6) else { continue };
        let address = EndpointAddress {
            ip,
            hostname: slices::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            target_ref: Some(slices::target(pod)),
        };
        let ports: Vec<EndpointPort> = slices::ports_on(service, pod)
            .into_iter()
            .map(|p| EndpointPort {
                name: p.name.filter(|n| !n.is_empty()),
                port: p.port.unwrap_or_default(),
                protocol: p.protocol,
                app_protocol: p.app_protocol,
            })
            .collect();
        let ports = Some(ports).filter(|p| !p.is_empty());
        let at = groups.iter().position(|g| g.ports == ports).unwrap_or_else(|| {
            groups.push(EndpointSubset { ports, ..EndpointSubset::default() });
            groups.len() - 1
        });
        let list = if publish || pods::is_ready(pod) {
            &mut groups[at].addresses
        } else {
            &mut groups[at].not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    for group in &mut groups {
        for list in [&mut group.addresses, &mut group.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    groups.sort_by_key(|g| serde_json::to_string(&g.ports).unwrap_or_default());
    groups
}

/// Makes the Endpoints of a service say what its pods are.
pub(super) async fn write(cluster: &Cluster, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let subsets = Some(desired(service, pods)).filter(|s| !s.is_empty());
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(slices::HEADLESS.into(), String::new());
    }
    let api = cluster.api::<Endpoints>(&namespace);
    let written = match cluster.endpoints.get(&namespace, &name) {
        Some(old) if old.subsets == subsets && *old.labels() == labels => return Ok(()),
        Some(old) => {
            let mut changed = (*old).clone();
            changed.subsets = subsets;
            changed.metadata.labels = Some(labels);
            api.replace(&name, &PostParams::default(), &changed).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            api.create(&PostParams::default(), &Endpoints { metadata, subsets }).await
        }
    };
    cluster.endpoints.observe(written.map_err(Error::at("writing Endpoints"))?);
    Ok(())
}

/// Removes the Endpoints that a service leaves behind.
pub(super) async fn remove(cluster: &Cluster, key: &Key) -> Result<(), Error> {
    let Some(old) = cluster.endpoints.get(&key.namespace, &key.name) else { return Ok(()) };
    if old.labels().get(MANAGED_BY).is_none_or(|m| m != MANAGER) {
        return Ok(());
    }
    let api = cluster.api::<Endpoints>(&key.namespace);
    found(api.delete(&key.name, &DeleteParams::default()).await).map_err(Error::at("deleting Endpoints"))?;
    cluster.endpoints.forget(&old);
    Ok(())
}

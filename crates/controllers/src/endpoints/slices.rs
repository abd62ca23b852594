//! EndpointSlices (discovery.k8s.io/v1). Endpoints stay in the slice they are in, so that one pod's change is one small write.

use crate::{Cluster, Error, ownership, pods};
use k8s_openapi::api::{
    core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{
    ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use orlop_client::{Key, found};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Most endpoints in a slice: Kubernetes' default, which keeps an update small.
const PER_SLICE: usize = 100;

/// Which slice an endpoint may be in.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    address_type: &'static str,
    ports: Vec<EndpointPort>,
}

/// The ports of a service on a pod: named target ports are looked up in its containers; one that the pod lacks is left out.
pub(super) fn ports_on(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let resolved = all.iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: Some(target_port(port, pod)?),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| orlop_api::pod_resources::is_sidecar(c));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let fits = |p: &&ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.into_iter().find(fits).map(|p| p.container_port)
        }
    }
}

/// Host name of a pod in the service's DNS zone.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|h| named && !h.is_empty())
}

/// The reference from an endpoint to its pod.
pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// The endpoints of a service, each with the group it belongs to.
fn desired(cluster: &Cluster, service: &Service, pods: &[Arc<Pod>]) -> Vec<(Group, Endpoint)> {
    let spec = service.spec.clone().unwrap_or_default();
    let families = spec.ip_families.unwrap_or_else(|| vec!["IPv4".into()]);
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut all = Vec::new();
    for pod in pods {
        let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
        for ip in ips.filter_map(|p| p.ip.parse::<IpAddr>().ok()) {
            let address_type = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            if !families.iter().any(|f| f == address_type) {
                continue;
            }
            let (ready, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
            let zone = node.as_deref().and_then(|n| cluster.nodes.get("", n)?.labels().get(ZONE).cloned());
            let endpoint = Endpoint {
                addresses: vec![ip.to_string()],
                conditions: Some(EndpointConditions {
                    ready: Some(publish || (ready && !terminating)),
                    serving: Some(ready),
                    terminating: Some(terminating),
                }),
                hostname: hostname(service, pod),
                node_name: node,
                target_ref: Some(target(pod)),
                zone,
                ..Endpoint::default()
            };
            all.push((Group { address_type, ports: ports_on(service, pod) }, endpoint));
        }
    }
    all.sort_by(|(_, a), (_, b)| a.addresses.cmp(&b.addresses));
    all
}

fn uid(endpoint: &Endpoint) -> (&[String], Option<&String>) {
    (&endpoint.addresses, endpoint.target_ref.as_ref().and_then(|r| r.uid.as_ref()))
}

/// What to do with slices.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<(Group, Vec<Endpoint>)>,
    /// Index of an existing slice, and its endpoints.
    update: Vec<(usize, Vec<Endpoint>)>,
    delete: Vec<usize>,
}

/// Endpoints stay where they are; new ones fill what has room; what is empty goes, unless it is the last.
fn plan(existing: &[(Group, Vec<Endpoint>)], mut desired: Vec<(Group, Endpoint)>, empty: &Group) -> Plan {
    let mut kept: Vec<Vec<Endpoint>> = Vec::new();
    for (group, endpoints) in existing {
        let mut here = Vec::new();
        for old in endpoints {
            if let Some(i) = desired.iter().position(|(g, e)| g == group && uid(e) == uid(old)) {
                here.push(desired.remove(i).1);
            }
        }
        kept.push(here);
    }
    let mut new: Vec<(Group, Vec<Endpoint>)> = Vec::new();
    for (group, endpoint) in desired {
        let room = existing.iter().zip(&mut kept).find(|((g, _), k)| *g == group && k.len() < PER_SLICE);
        if let Some((_, here)) = room {
            here.push(endpoint);
        } else if let Some((_, here)) = new.iter_mut().find(|(g, e)| *g == group && e.len() < PER_SLICE) {
            here.push(endpoint);
        } else {
            new.push((group, vec![endpoint]));
        }
    }
    let mut plan = Plan { create: new, ..Plan::default() };
    let nothing = kept.iter().all(Vec::is_empty) && plan.create.is_empty();
    // A service without endpoints keeps one slice that says so.
    let placeholder = nothing.then(|| existing.iter().position(|(g, _)| g == empty)).flatten();
    if nothing && placeholder.is_none() {
        plan.create.push((empty.clone(), Vec::new()));
    }
    for (i, here) in kept.into_iter().enumerate() {
        if here.is_empty() && placeholder != Some(i) {
            plan.delete.push(i);
        } else if here != existing[i].1 {
            plan.update.push((i, here));
        }
    }
    plan
}

fn ours(cluster: &Cluster, key: &Key) -> Vec<Arc<EndpointSlice>> {
    let mut slices: Vec<_> = cluster
        .endpoint_slices
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|s| s.labels().get(SERVICE) == Some(&key.name))
        .filter(|s| s.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER))
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .collect();
    slices.sort_by_key(|s| s.name_any());
    slices
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Makes the slices of a service say what its pods are.
pub(super) async fn write(cluster: &Cluster, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let namespace = service.namespace().unwrap_or_default();
    let existing = ours(cluster, &Key::of(service));
    let as_groups: Vec<(Group, Vec<Endpoint>)> = existing
        .iter()
        .map(|s| {
            let address_type = if s.address_type == "IPv6" { "IPv6" } else { "IPv4" };
            let group = Group { address_type, ports: s.ports.clone().unwrap_or_default() };
            (group, s.endpoints.clone().unwrap_or_default())
        })
        .collect();
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let only_v6 = families.iter().all(|f| f == "IPv6") && !families.is_empty();
    let empty = Group { address_type: if only_v6 { "IPv6" } else { "IPv4" }, ports: Vec::new() };
    let plan = plan(&as_groups, desired(cluster, service, pods), &empty);
    let api = cluster.api::<EndpointSlice>(&namespace);
    let labels = labels(service);

    for (group, endpoints) in plan.create {
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.name_any())),
                namespace: Some(namespace.clone()),
                labels: Some(labels.clone()),
                owner_references: Some(vec![ownership::controller_reference(service)]),
                ..ObjectMeta::default()
            },
            address_type: group.address_type.into(),
            endpoints: Some(endpoints),
            ports: Some(group.ports),
        };
        let made = api
            .create(&PostParams::default(), &slice)
            .await
            .map_err(Error::at("creating an EndpointSlice"))?;
        cluster.endpoint_slices.observe(made);
    }
    let mut changes: BTreeMap<usize, Vec<Endpoint>> = plan.update.into_iter().collect();
    for (i, slice) in existing.iter().enumerate() {
        if plan.delete.contains(&i) {
            found(api.delete(&slice.name_any(), &DeleteParams::default()).await)
                .map_err(Error::at("deleting an EndpointSlice"))?;
            cluster.endpoint_slices.forget(slice);
            continue;
        }
        let endpoints = changes.remove(&i);
        if endpoints.is_none() && *slice.labels() == labels {
            continue;
        }
        let mut changed = (**slice).clone();
        changed.metadata.labels = Some(labels.clone());
        if let Some(endpoints) = endpoints {
            changed.endpoints = Some(endpoints);
        }
        let written = api
            .replace(&slice.name_any(), &PostParams::default(), &changed)
            .await
            .map_err(Error::at("writing an EndpointSlice"))?;
        cluster.endpoint_slices.observe(written);
    }
    Ok(())
}

/// Removes what a service leaves behind.
pub(super) async fn remove(cluster: &Cluster, key: &Key) -> Result<(), Error> {
    let api = cluster.api::<EndpointSlice>(&key.namespace);
    for slice in ours(cluster, key) {
        found(api.delete(&slice.name_any(), &DeleteParams::default()).await)
            .map_err(Error::at("deleting an EndpointSlice"))?;
        cluster.endpoint_slices.forget(&slice);
    }
    super::subsets::remove(cluster, key).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(port: i32) -> Group {
        Group {
            address_type: "IPv4",
            ports: vec![EndpointPort { port: Some(port), ..EndpointPort::default() }],
        }
    }

    fn endpoint(address: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", address / 256, address % 256)],
            ..Endpoint::default()
        }
    }

    fn empty() -> Group {
        Group { address_type: "IPv4", ports: vec![] }
    }

    #[test]
    fn endpoints_stay_in_their_slice_and_new_ones_fill_it_up() {
        let existing = [(group(80), vec![endpoint(1), endpoint(2)])];
        let desired = vec![(group(80), endpoint(2)), (group(80), endpoint(3))];
        let plan = plan(&existing, desired, &empty());
        assert_eq!(plan, Plan { update: vec![(0, vec![endpoint(2), endpoint(3)])], ..Plan::default() });
    }

    #[test]
    fn a_full_slice_gets_a_second_one_and_other_ports_one_of_their_own() {
        let desired: Vec<_> =
            (0..150).map(|i| (group(80), endpoint(i))).chain([(group(81), endpoint(999))]).collect();
        let plan = plan(&[], desired, &empty());
        let sizes: Vec<usize> = plan.create.iter().map(|(_, e)| e.len()).collect();
        assert_eq!(sizes, [100, 50, 1]);
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let first = plan(&[], vec![], &empty());
        assert_eq!(first.create, [(empty(), vec![])]);
        let again = plan(&[(empty(), vec![])], vec![], &empty());
        assert_eq!(again, Plan::default());
    }
}

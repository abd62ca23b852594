//! EndpointSlices (discovery.k8s.io/v1). Endpoints stay in the slice they are in, so that one pod's change is one small write.

use crate::{Cluster, Error, ownership, pods};
use k8s_openapi::api::{
    core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort},
    discovery::v1::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    },
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{
    ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use orlop_api::{
    balancer,
    endpoint_notes::{self, EndpointNote},
};
use orlop_client::{Key, found};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

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

/// What nodes cannot see in a slice and DNS needs to know, by address: ranks of pods, and ports of their nodes.
fn notes(service: &Service, pods: &[Arc<Pod>]) -> BTreeMap<String, EndpointNote> {
    let mut notes = BTreeMap::new();
    for pod in pods {
        let mut note = EndpointNote::of(pod.annotations());
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let all: Vec<&ContainerPort> = containers.flat_map(|c| c.ports.iter().flatten()).collect();
        if all.iter().any(|port| port.host_port.is_some_and(|number| number > 0)) {
            for port in ports_on(service, pod) {
                let leads = |p: &&&ContainerPort| {
                    Some(p.container_port) == port.port
                        && p.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
                };
                let number = all.iter().find(leads).and_then(|p| u16::try_from(p.host_port?).ok());
                if let Some(number) = number.filter(|number| *number > 0) {
                    note.ports.insert(port.name.unwrap_or_default(), number);
                }
            }
        }
        if !note.is_empty() {
            let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
            notes.extend(ips.map(|ip| (ip.ip.clone(), note.clone())));
        }
    }
    notes
}

/// Those of a slice.
fn notes_of(endpoints: &[Endpoint], notes: &BTreeMap<String, EndpointNote>) -> Option<String> {
    if notes.is_empty() {
        return None;
    }
    let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let noted = addresses.filter_map(|address| Some((address.clone(), notes.get(address)?.clone())));
    endpoint_notes::write(&noted.collect())
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
            let is_ready = publish || (ready && !terminating);
            let endpoint = Endpoint {
                hints: hints(spec.traffic_distribution.as_deref(), is_ready, zone.as_ref(), node.as_ref()),
                addresses: vec![ip.to_string()],
                conditions: Some(EndpointConditions {
                    ready: Some(is_ready),
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

/// Where an endpoint is meant for (`trafficDistribution`): ready ones for their own zone, or their own node.
fn hints(
    distribution: Option<&str>,
    ready: bool,
    zone: Option<&String>,
    node: Option<&String>,
) -> Option<EndpointHints> {
    let near = matches!(distribution, Some("PreferClose" | "PreferSameZone" | "PreferSameNode"));
    if !near || !ready {
        return None;
    }
    let node = node.filter(|_| distribution == Some("PreferSameNode"));
    (zone.is_some() || node.is_some()).then(|| EndpointHints {
        for_zones: zone.map(|name| vec![ForZone { name: name.clone() }]),
        for_nodes: node.map(|name| vec![ForNode { name: name.clone() }]),
    })
}

/// The weights of pods that say so, by address, as they stand in a slice's annotation.
fn weights(pods: &[Arc<Pod>]) -> BTreeMap<String, u16> {
    let weighed = pods.iter().filter_map(|pod| {
        let weight = balancer::weight(pod.annotations().get(balancer::WEIGHT).map(String::as_str));
        (weight != 1).then_some((pod, weight))
    });
    let addresses = |pod: &Pod| -> Vec<String> {
        pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone()).collect()
    };
    weighed.flat_map(|(pod, weight)| addresses(pod).into_iter().map(move |ip| (ip, weight))).collect()
}

/// A slice's annotation: what of the weights concerns it.
fn weights_of(endpoints: &[Endpoint], weights: &BTreeMap<String, u16>) -> Option<String> {
    let addresses: BTreeSet<&String> = endpoints.iter().filter_map(|e| e.addresses.first()).collect();
    let known = addresses.into_iter().filter_map(|a| Some(format!("{a}={}", weights.get(a)?)));
    let text = known.collect::<Vec<_>>().join(",");
    (!text.is_empty()).then_some(text)
}

/// The annotations of a slice with these weights and notes; those of others stay.
fn annotations(
    before: Option<&BTreeMap<String, String>>,
    weights: Option<String>,
    notes: Option<String>,
) -> Option<BTreeMap<String, String>> {
    let mut all = before.cloned().unwrap_or_default();
    for (key, value) in [(balancer::WEIGHTS, weights), (endpoint_notes::OF_SLICE, notes)] {
        match value {
            Some(text) => all.insert(key.into(), text),
            None => all.remove(key),
        };
    }
    (!all.is_empty()).then_some(all)
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

/// Endpoints stay where they are; new ones fill what has room; what is empty goes, unless it is the last of its family.
/// `empty` are the slices, one a family, of a service that has no endpoints.
fn plan(existing: &[(Group, Vec<Endpoint>)], mut desired: Vec<(Group, Endpoint)>, empty: &[Group]) -> Plan {
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
    // A family without endpoints keeps one slice that says so.
    let mut placeholders = Vec::new();
    for empty in empty {
        let of_family = |group: &Group| group.address_type == empty.address_type;
        let something = existing.iter().zip(&kept).any(|((g, _), k)| of_family(g) && !k.is_empty())
            || plan.create.iter().any(|(g, _)| of_family(g));
        if something {
            continue;
        }
        match existing.iter().position(|(g, _)| g == empty) {
            Some(at) => placeholders.push(at),
            None => plan.create.push((empty.clone(), Vec::new())),
        }
    }
    for (i, here) in kept.into_iter().enumerate() {
        if here.is_empty() && !placeholders.contains(&i) {
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
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone());
    let families = families.filter(|f| !f.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
    let empty: Vec<Group> = families
        .iter()
        .map(|family| Group {
            address_type: if family == "IPv6" { "IPv6" } else { "IPv4" },
            ports: Vec::new(),
        })
        .collect();
    let weights = weights(pods);
    let plan = plan(&as_groups, desired(cluster, service, pods), &empty);
    let api = cluster.api::<EndpointSlice>(&namespace);
    let labels = labels(service);
    let notes = notes(service, pods);

    for (group, endpoints) in plan.create {
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.name_any())),
                namespace: Some(namespace.clone()),
                labels: Some(labels.clone()),
                annotations: annotations(
                    None,
                    weights_of(&endpoints, &weights),
                    notes_of(&endpoints, &notes),
                ),
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
        let now = endpoints.as_ref().or(slice.endpoints.as_ref()).map(Vec::as_slice).unwrap_or_default();
        let before = slice.metadata.annotations.as_ref();
        let annotations = annotations(before, weights_of(now, &weights), notes_of(now, &notes));
        if endpoints.is_none()
            && *slice.labels() == labels
            && annotations.as_ref() == before.filter(|all| !all.is_empty())
        {
            continue;
        }
        let mut changed = (**slice).clone();
        changed.metadata.labels = Some(labels.clone());
        changed.metadata.annotations = annotations;
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
        let plan = plan(&existing, desired, &[empty()]);
        assert_eq!(plan, Plan { update: vec![(0, vec![endpoint(2), endpoint(3)])], ..Plan::default() });
    }

    #[test]
    fn a_full_slice_gets_a_second_one_and_other_ports_one_of_their_own() {
        let desired: Vec<_> =
            (0..150).map(|i| (group(80), endpoint(i))).chain([(group(81), endpoint(999))]).collect();
        let plan = plan(&[], desired, &[empty()]);
        let sizes: Vec<usize> = plan.create.iter().map(|(_, e)| e.len()).collect();
        assert_eq!(sizes, [100, 50, 1]);
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let first = plan(&[], vec![], &[empty()]);
        assert_eq!(first.create, [(empty(), vec![])]);
        let again = plan(&[(empty(), vec![])], vec![], &[empty()]);
        assert_eq!(again, Plan::default());
    }

    #[test]
    fn each_family_of_a_service_has_a_slice_even_if_only_one_has_endpoints() {
        let empty6 = Group { address_type: "IPv6", ports: vec![] };
        let both = [empty(), empty6.clone()];
        let first = plan(&[], vec![(group(80), endpoint(1))], &both);
        assert_eq!(first.create, [(group(80), vec![endpoint(1)]), (empty6.clone(), vec![])]);
        let existing = [(group(80), vec![endpoint(1)]), (empty6, vec![])];
        assert_eq!(plan(&existing, vec![(group(80), endpoint(1))], &both), Plan::default());
        // A family that the service does not have any more has none.
        assert_eq!(plan(&existing, vec![(group(80), endpoint(1))], &both[..1]).delete, [1]);
    }

    #[test]
    fn ready_endpoints_are_meant_for_their_own_zone_or_node_where_the_service_says_so() {
        let (zone, node) = ("a".to_owned(), "n1".to_owned());
        let names = |distribution: Option<&str>, ready, zone: Option<&String>| {
            let hints = hints(distribution, ready, zone, Some(&node))?;
            let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
            Some(
                zones
                    .chain(hints.for_nodes.into_iter().flatten().map(|node| node.name))
                    .collect::<Vec<_>>()
                    .join(","),
            )
        };
        for (distribution, ready, zone, expected) in [
            (None, true, Some(&zone), None),
            (Some("PreferClose"), true, Some(&zone), Some("a")),
            (Some("PreferSameZone"), true, Some(&zone), Some("a")),
            (Some("PreferSameNode"), true, Some(&zone), Some("a,n1")),
            (Some("PreferSameNode"), true, None, Some("n1")),
            (Some("PreferSameZone"), true, None, None),
            (Some("PreferSameZone"), false, Some(&zone), None),
        ] {
            assert_eq!(names(distribution, ready, zone).as_deref(), expected, "{distribution:?} {ready}");
        }
    }

    #[test]
    fn only_weights_of_a_slices_own_endpoints_are_told_in_it() {
        let weights = [("10.0.0.1".to_owned(), 30), ("10.0.0.9".to_owned(), 5)].into();
        assert_eq!(weights_of(&[endpoint(2), endpoint(1)], &weights).as_deref(), Some("10.0.0.1=30"));
        assert_eq!(weights_of(&[endpoint(2)], &weights), None);
        let mine: BTreeMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(annotations(Some(&mine), None, None), Some(mine.clone()));
        assert_eq!(annotations(None, Some("x=2".into()), None).unwrap()[balancer::WEIGHTS], "x=2");
        let both = annotations(Some(&mine), Some("x=2".into()), Some("{}".into())).unwrap();
        assert_eq!((both.len(), &*both[endpoint_notes::OF_SLICE]), (mine.len() + 2, "{}"));
        assert_eq!(annotations(Some(&both), None, None), Some(mine.clone()));
    }
}

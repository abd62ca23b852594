//! Service: addresses and node ports. Each one that a Service holds is a key of its own, written in the same transaction as
//! the Service; what a Service holds is read off the Service alone.

use super::Allocations;
use crate::{
    registry::{Cx, Hooks, Plan, Random, Subresource, SubresourceRequest, metadata},
    response::Response,
    streaming,
};
use async_trait::async_trait;
use bytes::Bytes;
use orlop_api::{
    FieldError, Kind, Status, kinds,
    kinds::service::{families, needs_cluster_ip, needs_node_port},
    object::{int, list, text},
};
use orlop_store::{Condition, Expect, Op};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

pub(super) struct Services {
    pub allocations: Arc<Allocations>,
    pub random: Random,
}

/// The keys of what a Service holds, with where in the Service it stands.
fn held(service: &Value) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    if needs_cluster_ip(service) {
        for (at, ip) in list(service, "/spec/clusterIPs").iter().enumerate() {
            if let Some(ip) = ip.as_str().and_then(|s| s.parse::<IpAddr>().ok()) {
                keys.insert(Allocations::address_key(ip), format!("spec.clusterIPs[{at}]"));
            }
        }
    }
    for (at, port) in list(service, "/spec/ports").iter().enumerate() {
        if let Some(number) = int(port, "/nodePort").and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
            let key = Allocations::port_key(protocol(port), number);
            keys.entry(key).or_insert_with(|| format!("spec.ports[{at}].nodePort"));
        }
    }
    let health =
        int(service, "/spec/healthCheckNodePort").and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    if let Some(number) = health {
        keys.insert(Allocations::port_key("TCP", number), "spec.healthCheckNodePort".into());
    }
    keys
}

fn protocol(port: &Value) -> &str {
    match text(port, "/protocol") {
        "" => "TCP",
        other => other,
    }
}

impl Services {
    fn kind(&self) -> Result<Arc<Kind>, Status> {
        kinds::find("", "v1", "services").ok_or_else(|| Status::internal("there is no kind Service"))
    }

    fn invalid(&self, service: &Value, error: FieldError) -> Status {
        match self.kind() {
            Ok(kind) => Status::invalid(&kind, metadata::text(service, "name"), &[error]),
            Err(status) => status,
        }
    }

    /// Settles which families a Service has, and chooses an address of each that has none.
    fn choose_addresses(&self, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        families::settle(service, old, &self.allocations.families()).map_err(|errors| match self.kind() {
            Ok(kind) => Status::invalid(&kind, metadata::text(service, "name"), &errors),
            Err(status) => status,
        })?;
        if !needs_cluster_ip(service) || text(service, "/spec/clusterIP") == "None" {
            return Ok(());
        }
        let mut addresses = list(service, "/spec/clusterIPs").to_vec();
        for family in list(service, "/spec/ipFamilies").iter().skip(addresses.len()) {
            let family = family.as_str().unwrap_or_default();
            let Some(address) = self.allocations.free_address(family, (self.random)() as u64) else {
                return Err(Status::internal("failed to allocate a serviceIP: range is full"));
            };
            addresses.push(json!(address.to_string()));
        }
        if let Some(first) = addresses.first() {
            service["spec"]["clusterIP"] = first.clone();
            service["spec"]["clusterIPs"] = json!(addresses);
        }
        Ok(())
    }

    /// Chooses node ports where they are needed and none is given.
    fn choose_ports(&self, service: &mut Value) -> Result<(), Status> {
        if needs_node_port(service) {
            let ports = list(service, "/spec/ports").to_vec();
            let mut chosen: Vec<u16> = ports
                .iter()
                .filter_map(|p| int(p, "/nodePort"))
                .filter_map(|n| u16::try_from(n).ok())
                .collect();
            for at in 0..ports.len() {
                let port = &service["spec"]["ports"][at];
                if int(port, "/nodePort").unwrap_or(0) != 0 {
                    continue;
                }
                let number = match self.sibling(service, at) {
                    Some(number) => number,
                    None => self.free_port(&[protocol(port)], &chosen)?,
                };
                chosen.push(number);
                service["spec"]["ports"][at]["nodePort"] = json!(number);
            }
        }
        let needs_health_check = text(service, "/spec/type") == "LoadBalancer"
            && text(service, "/spec/externalTrafficPolicy") == "Local";
        if needs_health_check && int(service, "/spec/healthCheckNodePort").unwrap_or(0) == 0 {
            service["spec"]["healthCheckNodePort"] = json!(self.free_port(&["TCP"], &[])?);
        }
        Ok(())
    }

    /// The node port of the same port number with another protocol: one number serves both.
    fn sibling(&self, service: &Value, at: usize) -> Option<u16> {
        let ports = list(service, "/spec/ports");
        let port = ports.get(at)?;
        let number = ports
            .iter()
            .filter(|p| p["port"] == port["port"] && protocol(p) != protocol(port))
            .find_map(|p| int(p, "/nodePort").filter(|n| *n != 0))?;
        let number = u16::try_from(number).ok()?;
        let taken =
            ports.iter().any(|p| int(p, "/nodePort") == Some(number.into()) && protocol(p) == protocol(port));
        if taken { None } else { Some(number) }
    }

    fn free_port(&self, protocols: &[&str], not: &[u16]) -> Result<u16, Status> {
        self.allocations
            .free_port(protocols, (self.random)() as u64, not)
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    /// Addresses and ports that the client names must lie in the ranges.
    fn check_ranges(&self, service: &Value, before: &BTreeMap<String, String>) -> Result<(), Status> {
        for (key, path) in held(service) {
            if before.contains_key(&key) {
                continue;
            }
            if path.starts_with("spec.clusterIPs") {
                let given = service["spec"]["clusterIPs"].clone();
                let ip = key.rsplit('/').next().unwrap_or_default().to_string();
                let range = ip.parse().ok().and_then(|ip| Some((ip, self.allocations.range_of(ip)?)));
                let Some((address, range)) = range else { continue };
                if !range.contains(address) {
                    let range = range.net();
                    let detail = format!(
                        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                    );
                    return Err(self.invalid(service, FieldError::invalid("spec.clusterIPs", given, detail)));
                }
            } else {
                let number: u16 = key.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or_default();
                let ports = self.allocations.ports();
                if !ports.contains(&number) {
                    let detail = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        ports.start(),
                        ports.end()
                    );
                    return Err(self.invalid(service, FieldError::invalid(path, number, detail)));
                }
            }
        }
        Ok(())
    }

    /// Takes what `new` holds and `old` did not, and lets go of the rest. `asked` are the keys that the client named.
    fn exchange(
        &self,
        new: &Value,
        old: &BTreeMap<String, String>,
        asked: &BTreeMap<String, String>,
        plan: &mut Plan,
    ) {
        let held = held(new);
        let owner = format!("{}/{}", metadata::text(new, "namespace"), metadata::text(new, "name"));
        for (key, path) in held.iter().filter(|(k, _)| !old.contains_key(*k)) {
            let shared: Arc<str> = key.as_str().into();
            plan.txn.conditions.push(Condition { key: shared.clone(), expect: Expect::Absent });
            plan.txn.ops.push(Op::Put(shared.clone(), Bytes::from(owner.clone())));
            if asked.contains_key(key) {
                plan.wanted.push((shared, self.taken(new, key, path)));
            }
        }
        for key in old.keys().filter(|k| !held.contains_key(*k)) {
            plan.txn.ops.push(Op::Delete(key.as_str().into()));
        }
    }

    fn taken(&self, service: &Value, key: &str, path: &str) -> Status {
        let name = key.rsplit('/').next().unwrap_or_default();
        let error = if path.starts_with("spec.clusterIPs") {
            let detail = format!("failed to allocate IP {name}: provided IP is already allocated");
            FieldError::invalid("spec.clusterIPs", service["spec"]["clusterIPs"].clone(), detail)
        } else {
            let number: u16 = name.parse().unwrap_or_default();
            FieldError::invalid(path, number, "provided port is already allocated")
        };
        self.invalid(service, error)
    }
}

#[async_trait]
impl Hooks for Services {
    fn subresources(&self) -> &'static [Subresource] {
        &[Subresource {
            name: "proxy",
            kind: ("", "v1", "ServiceProxyOptions"),
            verbs: super::pods::PROXY_VERBS,
        }]
    }

    async fn serve(&self, request: SubresourceRequest) -> Result<Response, Status> {
        streaming::proxy::serve(request).await
    }

    fn create(&self, _cx: &Cx<'_>, object: &mut Value, plan: &mut Plan) -> Result<(), Status> {
        let nothing = BTreeMap::new();
        let asked = held(object);
        self.choose_addresses(object, None)?;
        self.check_ranges(object, &nothing)?;
        self.choose_ports(object)?;
        self.exchange(object, &nothing, &asked, plan);
        Ok(())
    }

    fn update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value, plan: &mut Plan) -> Result<(), Status> {
        let (before, asked) = (held(old), held(new));
        self.choose_addresses(new, Some(old))?;
        self.check_ranges(new, &before)?;
        self.choose_ports(new)?;
        self.exchange(new, &before, &asked, plan);
        Ok(())
    }

    fn remove(&self, old: &Value, plan: &mut Plan) {
        plan.txn.ops.extend(held(old).into_keys().map(|key| Op::Delete(key.into())));
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_holds_is_read_off_the_service() {
        let service = json!({"spec": {
            "type": "NodePort", "clusterIPs": ["10.0.0.5"],
            "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 53, "nodePort": 30053}, {"port": 1}],
        }});
        let keys: Vec<String> = held(&service).into_keys().collect();
        assert_eq!(
            keys,
            [
                "/registry/allocations/ip/10.0.0.5",
                "/registry/allocations/port/TCP/30053",
                "/registry/allocations/port/UDP/30053",
            ]
        );
        assert!(held(&json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"]}})).is_empty());
        assert!(held(&json!({"spec": {"type": "ExternalName"}})).is_empty());
    }
}
